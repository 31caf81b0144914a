/* SPDX-License-Identifier: Apache-2.0 */
/* suture list: what is applied where. Everything comes from the processes themselves. */
#include <time.h>

#include "tool.h"

static void print_time(int64_t seconds)
{
	time_t t = seconds;
	struct tm tm;
	char text[64];

	if (seconds > 0 && localtime_r(&t, &tm) &&
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm))
		out("%s", text);
	else
		out("at an unknown time");
}

static void print_patch(const struct suture_applied *p, const struct args *args)
{
	out("  ");
	out_color(BOLD, "%-24s", p->name);
	out(" %-8s ", p->version);
	out_color(strcmp(p->state, "applied") ? YELLOW : GREEN, "%s", p->state);
	out(" ");
	print_time(p->applied_at);
	out("  %zu function%s, %llu bytes\n", p->n_functions, plural(p->n_functions),
		(unsigned long long)p->payload_bytes);
	if (!args->verbose)
		return;
	out("    id %s\n", p->id);
	if (p->description && *p->description)
		out("    %s\n", p->description);
	for (size_t i = 0; i < p->n_functions; i++) {
		const struct suture_applied_function *f = &p->functions[i];

		out("    %-32s %-20s 0x%012llx -> 0x%012llx\n", f->name, f->image,
			(unsigned long long)f->old_address, (unsigned long long)f->new_address);
	}
}

static void print_listing(const struct suture_listing *l, const struct args *args)
{
	out("%s:%s\n", process_name(l->pid, l->comm).text, l->n_patches ? "" : " no live patches");
	for (size_t i = 0; i < l->n_patches; i++)
		print_patch(&l->patches[i], args);
}

static json_t *json_function(const struct suture_applied_function *f)
{
	return must(json_pack("{s:o, s:o, s:o, s:o}", "name", json_text(f->name), "image",
		json_text(f->image), "old_address", json_address(f->old_address), "new_address",
		json_address(f->new_address)));
}

static json_t *json_patch(const struct suture_applied *p)
{
	json_t *functions = must(json_array());

	for (size_t i = 0; i < p->n_functions; i++)
		json_array_append_new(functions, json_function(&p->functions[i]));
	return must(json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o}", "name",
		json_text(p->name), "version", json_text(p->version), "id", json_text(p->id),
		"description", json_text(p->description), "state", json_text(p->state),
		"applied_at", (json_int_t)p->applied_at, "payload_bytes",
		(json_int_t)p->payload_bytes, "functions", functions));
}

static json_t *json_listing(
	pid_t pid, const struct suture_listing *l, const struct suture_error *err, int status)
{
	json_t *patches = must(json_array());

	for (size_t i = 0; l && i < l->n_patches; i++)
		json_array_append_new(patches, json_patch(&l->patches[i]));
	return must(json_pack("{s:i, s:o, s:i, s:o, s:o}", "pid", (int)pid, "comm",
		json_text(l ? l->comm : NULL), "status", status, "error", json_error(err),
		"patches", patches));
}

/* Returns the status of this process. */
static int list_one(struct suture *ctx, pid_t pid, const struct args *args, bool found, json_t *all)
{
	struct suture_listing *listing = NULL;
	struct suture_error *err = suture_list(ctx, pid, &listing);
	int status = suture_error_status(err);

	if (found && err && suture_error_code(err) == SUTURE_ERROR_NO_PROCESS) {
		status = SUTURE_STATUS_OK; /* ended since it was found */
	} else if (args->json) {
		json_array_append_new(all, json_listing(pid, listing, err, status));
	} else {
		/* Next to a damaged record there may be others. */
		if (listing)
			print_listing(listing, args);
		if (err) {
			print_process_error(err, pid, "");
			print_hint(err);
		}
	}
	suture_error_destroy(err);
	suture_listing_destroy(listing);
	return status;
}

int run_list(struct suture *ctx, struct args *args)
{
	const struct command *command = command_find("list");
	int status = SUTURE_STATUS_OK;

	rest_to_pids(command, args, 0);
	bool find = args->n_pids == 0;
	if (find) {
		struct suture_error *err =
			suture_find_processes(ctx, NULL, NULL, &args->pids, &args->n_pids);

		if (err)
			return fail("list", args, err);
	}
	json_t *all = must(json_array());
	pids_unique(args->pids, &args->n_pids);
	for (size_t i = 0; i < args->n_pids; i++)
		status = worse_status(status, list_one(ctx, args->pids[i], args, find, all));
	if (args->json)
		json_print("list", status, NULL, must(json_pack("{s:O}", "processes", all)));
	else if (args->n_pids == 0 && !args->quiet)
		out("no process that we may look into carries a live patch\n");
	json_decref(all);
	return status;
}
