/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine for tests of the command line: what happens to a process is decided by its number, so
 * that every outcome can be had at will and in any mixture. Patch files are read for real.
 *
 *	1000-1099	done
 *	1100-1199	already applied, or not applied
 *	1200-1299	busy
 *	1300-1399	refused: no permission
 *	1400-1499	no such process
 *	1500-1599	waits until it is cancelled, one minute at most
 *	1600-1699	done, a second after the engine said so on standard error
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

static char *text(const char *s)
{
	char *copy = strdup(s);

	if (!copy)
		abort();
	return copy;
}

static void *zeroed(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		abort();
	return p;
}

static struct suture_report *make_report(pid_t pid)
{
	struct suture_report *r = zeroed(1, sizeof(*r));

	r->pid = pid;
	/* A process may call itself what it likes. */
	strcpy(r->comm, pid == 1007 ? "\033[2Jevil\xff" : "heartbeatd");
	r->patch = text("CVE-2014-0160");
	r->version = text("1");
	r->n_images = 1;
	r->n_functions = 2;
	r->threads = pid == 1001 ? 1 : 9;
	r->attempts = 1;
	r->freeze_ns = r->longest_freeze_ns = 84000;
	r->total_ns = 7900000;
	r->payload_bytes = 8192;
	return r;
}

static void add_blocker(struct suture_report *r)
{
	struct suture_blocker *b = zeroed(1, sizeof(*b));
	static const struct suture_frame frames[] = {
		{0x7f0000001234, (char *)"epoll_wait", 0x1e, (char *)"libc.so.6"},
		{0x401234, (char *)"parse_header", 0x34, (char *)"heartbeatd"},
		{0x409999, NULL, 0, NULL},
	};

	r->blockers = b;
	r->n_blockers = 1;
	b->tid = r->pid + 1;
	strcpy(b->comm, "io-3");
	b->function = text("parse_header");
	b->depth = 1;
	b->n_frames = 3;
	b->frames = zeroed(3, sizeof(*b->frames));
	for (int i = 0; i < 3; i++) {
		b->frames[i] = frames[i];
		b->frames[i].symbol = frames[i].symbol ? text(frames[i].symbol) : NULL;
		b->frames[i].image = frames[i].image ? text(frames[i].image) : NULL;
	}
}

void suture_report_destroy(struct suture_report *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n_blockers; i++) {
		for (size_t k = 0; k < r->blockers[i].n_frames; k++) {
			free(r->blockers[i].frames[k].symbol);
			free(r->blockers[i].frames[k].image);
		}
		free(r->blockers[i].frames);
		free(r->blockers[i].function);
	}
	for (size_t i = 0; i < r->n_plan; i++)
		free(r->plan[i]);
	free(r->plan);
	free(r->blockers);
	free(r->patch);
	free(r->version);
	free(r);
}

static struct suture_error *wait_for_cancel(const struct suture *ctx)
{
	fprintf(stderr, "engine: waiting\n");
	for (int i = 0; i < 6000; i++) {
		struct suture_error *err = check_cancelled(ctx);

		if (err)
			return err;
		usleep(10000);
	}
	return error_create(SUTURE_ERROR_BUSY, "nobody cancelled");
}

static struct suture_error *work(
	struct suture *ctx, pid_t pid, enum suture_error_code already, struct suture_report **ret)
{
	*ret = make_report(pid);
	switch (pid / 100) {
	case 10:
		return NULL;
	case 11:
		return error_create(already, "process %d: nothing to do", (int)pid);
	case 12:
		add_blocker(*ret);
		return error_hint(error_create(SUTURE_ERROR_BUSY, "busy after 2.0 s"),
			"give it more time with --timeout");
	case 13:
		suture_report_destroy(*ret);
		*ret = NULL;
		return error_hint(
			error_create(SUTURE_ERROR_PERMISSION, "no permission"), "run as root");
	case 15:
		return wait_for_cancel(ctx);
	case 16:
		fprintf(stderr, "engine: working\n");
		/* Not one sleep(): a signal would end that. */
		for (int i = 0; i < 100; i++)
			usleep(10000);
		return NULL;
	default:
		suture_report_destroy(*ret);
		*ret = NULL;
		return error_create(SUTURE_ERROR_NO_PROCESS, "no such process");
	}
}

struct suture_error *suture_check(
	struct suture *ctx, const struct suture_patch *patch, pid_t pid, struct suture_report **ret)
{
	(void)patch;
	struct suture_error *err = work(ctx, pid, SUTURE_ERROR_ALREADY, ret);

	if (!err) {
		(*ret)->plan = zeroed(1, sizeof(char *));
		(*ret)->plan[0] = text("detour parse_header at 0x401200");
		(*ret)->n_plan = 1;
	}
	return err;
}

struct suture_error *suture_apply(struct suture *ctx, const struct suture_patch *patch, pid_t pid,
	const struct suture_apply_options *options, struct suture_report **ret)
{
	(void)patch;
	log_info(ctx, "timeout %.3f", options->timeout);
	log_debug(ctx, "a detail");
	if (pid == 1002)
		log_warning(ctx, "something odd");
	return work(ctx, pid, SUTURE_ERROR_ALREADY, ret);
}

struct suture_error *suture_revert(struct suture *ctx, const char *name, pid_t pid,
	const struct suture_apply_options *options, struct suture_report **ret)
{
	log_info(ctx, "name %s timeout %.3f", name, options->timeout);
	return work(ctx, pid, SUTURE_ERROR_NOT_APPLIED, ret);
}

struct suture_error *suture_list(struct suture *ctx, pid_t pid, struct suture_listing **ret)
{
	struct suture_report *report = NULL;
	struct suture_error *err = work(ctx, pid, SUTURE_ERROR_PERMISSION, &report);

	suture_report_destroy(report);
	if (err)
		return err;
	struct suture_listing *l = zeroed(1, sizeof(*l));
	l->pid = pid;
	strcpy(l->comm, "heartbeatd");
	*ret = l;
	if (pid == 1000)
		return NULL;
	l->patches = zeroed(1, sizeof(*l->patches));
	l->n_patches = 1;
	struct suture_applied *p = l->patches;
	p->name = text("CVE-2014-0160");
	p->version = text("1");
	p->id = text("00ff");
	p->description = text("check the length");
	p->state = text(pid == 1001 ? "interrupted" : "applied");
	p->applied_at = 1700000000;
	p->payload_bytes = 8192;
	p->functions = zeroed(1, sizeof(*p->functions));
	p->n_functions = 1;
	p->functions[0] = (struct suture_applied_function){
		text("parse_header"), text("heartbeatd"), 0x401200, 0x7f0000};
	return NULL;
}

void suture_listing_destroy(struct suture_listing *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->n_patches; i++) {
		struct suture_applied *p = &l->patches[i];

		free(p->functions[0].name);
		free(p->functions[0].image);
		free(p->functions);
		free(p->name);
		free(p->version);
		free(p->id);
		free(p->description);
		free(p->state);
	}
	free(l->patches);
	free(l);
}

/* The processes of $ENGINE_PIDS. */
struct suture_error *suture_find_processes(struct suture *ctx, const struct suture_patch *patch,
	const char *name, pid_t **ret, size_t *ret_n)
{
	const char *list = getenv("ENGINE_PIDS");

	(void)ctx;
	(void)patch;
	(void)name;
	*ret = zeroed(100, sizeof(**ret));
	*ret_n = 0;
	while (list && *list && *ret_n < 100) {
		char *end;

		(*ret)[(*ret_n)++] = strtol(list, &end, 10);
		list = *end ? end + 1 : end;
	}
	return NULL;
}

/* The report repeats what was asked for. */
struct suture_error *suture_build(
	struct suture *ctx, const struct suture_build_options *o, struct suture_build_report **ret)
{
	if (!strcmp(o->diff, "wait.diff"))
		return wait_for_cancel(ctx);
	if (!strcmp(o->diff, "none.diff"))
		return error_create(SUTURE_ERROR_NO_CHANGE, "no functional change");

	struct suture_build_report *r = zeroed(1, sizeof(*r));
	r->output = text(o->output);
	r->notes = zeroed(20, sizeof(char *));
	const char *const words[] = {o->diff, o->compdb, o->name, o->version, o->description,
		o->source_root, o->targets[0], o->targets[o->n_targets - 1],
		o->n_references ? o->references[o->n_references - 1] : NULL};
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		r->notes[r->n_notes++] = text(words[i] ? words[i] : "-");
	r->units = zeroed(1, sizeof(char *));
	r->units[r->n_units++] = text("src/hb.c");
	r->functions = zeroed(2, sizeof(*r->functions));
	r->n_functions = 2;
	r->functions[0] = (struct suture_build_function){
		text("parse"), text("src/hb.c"), text("heartbeatd"), text("changed"), 312, 330};
	r->functions[1] = (struct suture_build_function){
		text("helper"), text("src/hb.c"), text("heartbeatd"), text("new"), 0, 40};
	r->compile_seconds = 0.5;
	r->total_seconds = 1.25;
	r->bytes = 12345;
	*ret = r;
	return NULL;
}

void suture_build_report_destroy(struct suture_build_report *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n_notes; i++)
		free(r->notes[i]);
	for (size_t i = 0; i < r->n_functions; i++) {
		free(r->functions[i].name);
		free(r->functions[i].unit);
		free(r->functions[i].image);
		free(r->functions[i].reason);
	}
	free(r->units[0]);
	free(r->units);
	free(r->notes);
	free(r->functions);
	free(r->output);
	free(r);
}
