/* SPDX-License-Identifier: Apache-2.0 */
/* Work on several processes: one's failure does not stop the others, the worst status counts. */
#include "tool.h"

int worse_status(int a, int b)
{
	static const int rank[] = {[SUTURE_STATUS_OK] = 0,
		[SUTURE_STATUS_NOTHING] = 1,
		[SUTURE_STATUS_BUSY] = 2,
		[SUTURE_STATUS_FAILED] = 3,
		[SUTURE_STATUS_USAGE] = 4};

	return rank[a] >= rank[b] ? a : b;
}

void pids_unique(pid_t *pids, size_t *n)
{
	size_t kept = 0;

	for (size_t i = 0; i < *n; i++) {
		size_t k = 0;

		while (k < kept && pids[k] != pids[i])
			k++;
		if (k == kept)
			pids[kept++] = pids[i];
	}
	*n = kept;
}

struct process_name process_name(pid_t pid, const char *comm)
{
	struct process_name name;

	if (*comm)
		snprintf(name.text, sizeof(name.text), "%d (%.15s)", (int)pid, comm);
	else
		snprintf(name.text, sizeof(name.text), "%d", (int)pid);
	return name;
}

/* ---- arguments ---- */

const char *job_arguments(const char *name, const char *what, struct args *args)
{
	const struct command *command = command_find(name);

	if (!args->rest.n)
		usage(command, "%s is missing", what);
	rest_to_pids(command, args, 1);
	if (args->all && args->n_pids)
		usage(command, "--all and process ids exclude each other");
	if (!args->all && !args->n_pids)
		usage(command, "which processes? -p PID or --all");
	return args->rest.at[0];
}

struct suture_error *open_job_patch(struct suture *ctx, struct job *job, struct args *args)
{
	const char *path = job_arguments(job->command, "the patch file", args);
	struct suture_error *err = suture_patch_open(ctx, path, &job->patch);

	if (!err)
		job->name = suture_patch_name(job->patch);
	return err;
}

/* ---- one process ---- */

void print_report(const struct suture_report *r)
{
	out("%zu function%s in %zu image%s, %zu thread%s frozen for %s, %u attempt%s, %s in all\n",
		r->n_functions, plural(r->n_functions), r->n_images, plural(r->n_images),
		r->threads, plural(r->threads), duration_of(r->freeze_ns).text, r->attempts,
		plural(r->attempts), duration_of(r->total_ns).text);
}

static void print_frame(const struct suture_blocker *b, size_t i)
{
	const struct suture_frame *f = &b->frames[i];

	err_out("    #%-2zu 0x%012llx ", i, (unsigned long long)f->address);
	if (f->symbol)
		err_out("%s+0x%llx", f->symbol, (unsigned long long)f->offset);
	else
		err_out("?");
	if (f->image)
		err_out(" (%s)", f->image);
	err_out(i == b->depth ? "  <- being replaced\n" : "\n");
}

void print_blockers(const struct suture_report *r)
{
	for (size_t i = 0; i < r->n_blockers; i++) {
		const struct suture_blocker *b = &r->blockers[i];

		err_out("  thread %d (%.15s) is inside %s", (int)b->tid, b->comm,
			b->function ? b->function : "a replaced function");
		if (b->depth)
			err_out(", %zu frame%s up", b->depth, plural(b->depth));
		err_out("\n");
		for (size_t k = 0; k < b->n_frames; k++)
			print_frame(b, k);
	}
}

static json_t *json_frame(const struct suture_frame *f)
{
	return must(json_pack("{s:o, s:o, s:I, s:o}", "address", json_address(f->address), "symbol",
		json_text(f->symbol), "offset", (json_int_t)f->offset, "image",
		json_text(f->image)));
}

static json_t *json_blocker(const struct suture_blocker *b)
{
	char comm[sizeof(b->comm) + 1];
	json_t *frames = must(json_array());

	for (size_t i = 0; i < b->n_frames; i++)
		json_array_append_new(frames, json_frame(&b->frames[i]));
	snprintf(comm, sizeof(comm), "%.*s", (int)sizeof(b->comm), b->comm);
	return must(json_pack("{s:i, s:o, s:o, s:I, s:o}", "tid", (int)b->tid, "comm",
		json_text(comm), "function", json_text(b->function), "depth", (json_int_t)b->depth,
		"frames", frames));
}

json_t *json_report(const struct suture_report *r)
{
	json_t *blockers = must(json_array()), *plan = must(json_array());

	for (size_t i = 0; i < r->n_blockers; i++)
		json_array_append_new(blockers, json_blocker(&r->blockers[i]));
	for (size_t i = 0; i < r->n_plan; i++)
		json_array_append_new(plan, json_text(r->plan[i]));
	return must(json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}",
		"comm", json_text(r->comm), "patch", json_text(r->patch), "version",
		json_text(r->version), "images", (json_int_t)r->n_images, "functions",
		(json_int_t)r->n_functions, "threads", (json_int_t)r->threads, "attempts",
		(json_int_t)r->attempts, "freeze_ns", (json_int_t)r->freeze_ns, "longest_freeze_ns",
		(json_int_t)r->longest_freeze_ns, "total_ns", (json_int_t)r->total_ns,
		"payload_bytes", (json_int_t)r->payload_bytes, "blockers", blockers, "plan", plan));
}

/* ---- the loop ---- */

/* What each exit status of one process is called in the report. */
static const char *result_word(const struct job *job, int status)
{
	switch (status) {
	case SUTURE_STATUS_OK:
		return job->done;
	case SUTURE_STATUS_NOTHING:
		return "nothing to do";
	case SUTURE_STATUS_BUSY:
		return "busy";
	default:
		return "failed";
	}
}

/* The library says "process 4711 (heartbeatd)" where it matters; once is enough. */
static bool names_process(const struct suture_error *err, pid_t pid)
{
	char words[32];
	int n = snprintf(words, sizeof(words), "process %d", (int)pid);
	const char *at = strstr(suture_error_message(err), words);

	return at && (at[n] < '0' || at[n] > '9');
}

void print_process_error(const struct suture_error *err, pid_t pid, const char *comm)
{
	print_error(err, names_process(err, pid) ? NULL : process_name(pid, comm).text);
}

static void print_result(const struct job *job, pid_t pid, const struct suture_report *report,
	const struct suture_error *err, bool quiet)
{
	const char *comm = report ? report->comm : "";

	if (err) {
		print_process_error(err, pid, comm);
		if (report)
			print_blockers(report);
		print_hint(err);
	} else if (!quiet) {
		out("%s: ", process_name(pid, comm).text);
		job->print(report);
	}
}

static json_t *json_result(const struct job *job, pid_t pid, const struct suture_report *report,
	const struct suture_error *err, int status)
{
	json_t *json = must(json_pack("{s:i, s:s, s:i, s:o}", "pid", (int)pid, "result",
		result_word(job, status), "status", status, "error", json_error(err)));

	if (report) {
		json_t *more = json_report(report);

		if (json_object_update_missing(json, more) < 0)
			must(NULL);
		json_decref(more);
	}
	return json;
}

struct tally {
	int status;
	size_t done, nothing, busy, failed;
	json_t *list;
};

static void tally_add(struct tally *tally, int status)
{
	size_t *of[] = {[SUTURE_STATUS_OK] = &tally->done,
		[SUTURE_STATUS_FAILED] = &tally->failed,
		[SUTURE_STATUS_USAGE] = &tally->failed,
		[SUTURE_STATUS_NOTHING] = &tally->nothing,
		[SUTURE_STATUS_BUSY] = &tally->busy};

	++*of[status];
	tally->status = worse_status(tally->status, status);
}

static void run_one(struct suture *ctx, const struct job *job, const struct args *args, pid_t pid,
	struct tally *tally)
{
	struct suture_report *report = NULL;

	if (!args->json && !args->quiet)
		progress("%s: process %d ...", job->command, (int)pid);
	struct suture_error *err = job->run(ctx, job, pid, &report);
	progress_clear();
	/* One that --all found and that has ended meanwhile does not need the patch any more. */
	if (err && args->all && suture_error_code(err) == SUTURE_ERROR_NO_PROCESS) {
		suture_error_destroy(err);
		suture_report_destroy(report);
		return;
	}
	int status = suture_error_status(err);
	tally_add(tally, status);
	if (args->json)
		json_array_append_new(tally->list, json_result(job, pid, report, err, status));
	else
		print_result(job, pid, report, err, args->quiet);
	suture_error_destroy(err);
	suture_report_destroy(report);
}

static void print_tally(const struct job *job, const struct tally *t, size_t left)
{
	out("%zu processes: %zu %s", t->done + t->nothing + t->busy + t->failed + left, t->done,
		job->done);
	if (t->nothing)
		out(", %zu had nothing to do", t->nothing);
	if (t->busy)
		out(", %zu busy", t->busy);
	if (t->failed)
		out(", %zu failed", t->failed);
	if (left)
		out(", %zu not tried", left);
	out("\n");
}

static int nothing_found(const struct job *job, const struct args *args)
{
	if (args->json)
		json_print(job->command, SUTURE_STATUS_NOTHING, NULL,
			json_pack("{s:s, s:[], s:i}", "patch", job->name, "processes", "not_tried",
				0));
	else if (job->patch)
		err_out("suture: no process that we may look into maps an image of %s\n",
			job->name);
	else
		err_out("suture: no process that we may look into carries %s\n", job->name);
	return SUTURE_STATUS_NOTHING;
}

static struct suture_error *find_pids(struct suture *ctx, const struct job *job, struct args *args)
{
	if (!args->all)
		return NULL;
	return suture_find_processes(
		ctx, job->patch, job->patch ? NULL : job->name, &args->pids, &args->n_pids);
}

int job_run(struct suture *ctx, const struct job *job, struct args *args)
{
	struct suture_error *err = find_pids(ctx, job, args);

	if (err)
		return fail(job->command, args, err);
	struct tally tally = {.list = must(json_array())};
	size_t i = 0;
	pids_unique(args->pids, &args->n_pids);

	signals_begin(ctx, true);
	for (; i < args->n_pids && !signals_came(); i++) {
		run_one(ctx, job, args, args->pids[i], &tally);
		signals_breathe();
	}
	size_t tried = tally.done + tally.nothing + tally.busy + tally.failed;
	size_t left = args->n_pids - i;
	if (tried == 0 && left == 0)
		tally.status = nothing_found(job, args);
	else if (args->json)
		json_print(job->command, tally.status, NULL,
			json_pack("{s:s, s:O, s:I}", "patch", job->name, "processes", tally.list,
				"not_tried", (json_int_t)left));
	else if (tried + left > 1 && !args->quiet)
		print_tally(job, &tally, left);
	json_decref(tally.list);
	signals_end();
	return tally.status;
}
