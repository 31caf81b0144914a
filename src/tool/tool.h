/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line, a user of the library like any other: it includes the public header and no
 * other of this project. One file per subcommand; what they share is declared here.
 *
 * What goes where: results to standard output (text, or one JSON document with --json), errors and
 * warnings to standard error, progress to standard error when that is a terminal.
 */
#ifndef TOOL_TOOL_H
#define TOOL_TOOL_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "suture/suture.h"

#define PRINTF(f, a) __attribute__((format(printf, f, a)))
#define N_OF(array)  (sizeof(array) / sizeof((array)[0]))

/* ---- options ---- */

/* Which commands an option belongs to: bits. */
enum {
	FOR_BUILD = 1 << 0,
	FOR_SHOW = 1 << 1,
	FOR_CHECK = 1 << 2,
	FOR_APPLY = 1 << 3,
	FOR_LIST = 1 << 4,
	FOR_REVERT = 1 << 5,
	FOR_HELP = 1 << 6,
	FOR_VERSION = 1 << 7,
};

struct words {
	const char **at;
	size_t n;
};

struct args {
	bool json, quiet, all, diff;
	int verbose;
	double timeout; /* negative: not given */
	const char *patch, *compdb, *source, *output, *name, *version, *description;
	struct words targets, references;
	struct words rest; /* what is not an option */
	pid_t *pids;
	size_t n_pids;
};

struct command {
	const char *name;
	unsigned bit;
	const char *synopsis; /* behind "suture NAME" */
	const char *summary;
	const char *details; /* help text; may be NULL */
	int (*run)(struct suture *ctx, struct args *args);
};
extern const struct command commands[]; /* ends with a NULL name */
const struct command *command_find(const char *name);

/*
 * Fills args and applies the options that concern output. Wrong usage is said and ends the program
 * with status 2; --help prints and ends it with status 0.
 */
void args_parse(const struct command *command, int argc, char **argv, struct args *args);
void args_deinit(struct args *args);
void words_add(struct words *words, const char *word);
/* The arguments from number `first` on are process ids. */
void rest_to_pids(const struct command *command, struct args *args, size_t first);
void print_help(void);
void print_command_help(const struct command *command);
/* "suture COMMAND: text", where to find help, exit 2. */
void usage(const struct command *command, const char *fmt, ...) PRINTF(2, 3)
	__attribute__((noreturn));

int run_build(struct suture *ctx, struct args *args);
int run_show(struct suture *ctx, struct args *args);
int run_check(struct suture *ctx, struct args *args);
int run_apply(struct suture *ctx, struct args *args);
int run_list(struct suture *ctx, struct args *args);
int run_revert(struct suture *ctx, struct args *args);
int run_help(struct suture *ctx, struct args *args);
int run_version(struct suture *ctx, struct args *args);

/* ---- output ---- */

enum color_mode { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };
enum color { PLAIN, BOLD, RED, GREEN, YELLOW, CYAN };

void output_set_color(enum color_mode mode);
/* Messages of the library, as many as -v and -q ask for. */
void output_attach(struct suture *ctx, const struct args *args);

/*
 * printf, except that control characters out of patches and processes are shown as \xNN: they must
 * not reach a terminal. Newlines and tabs pass.
 */
void out(const char *fmt, ...) PRINTF(1, 2);
void err_out(const char *fmt, ...) PRINTF(1, 2);
/* The same in a colour, when the stream takes colours. */
void out_color(enum color color, const char *fmt, ...) PRINTF(2, 3);
void err_color(enum color color, const char *fmt, ...) PRINTF(2, 3);
/* A line that the next output replaces; nothing unless standard error is a terminal. */
void progress(const char *fmt, ...) PRINTF(1, 2);
void progress_clear(void);

/* "suture: message", "hint: ..." */
void print_error(const struct suture_error *err, const char *context);
void print_hint(const struct suture_error *err);

/* "84 us", "7.9 ms", "1.2 s" in a buffer of the caller. */
struct duration {
	char text[32];
};
struct duration duration_of(uint64_t ns);
/* "" for one, "s" for any other number */
const char *plural(uint64_t n);

/* Memory errors of the tool itself: said, and the end. Never inside a call of the library. */
void *must(void *memory);

/* ---- JSON ---- */

/* Text out of a patch or a process: null for NULL, bytes that are no UTF-8 replaced. */
json_t *json_text(const char *text);
json_t *json_address(uint64_t address);
/* {"code", "message", "hint"}, or null. */
json_t *json_error(const struct suture_error *err);
/*
 * Print the document: {"command", "status", "error", members of `more`}. Takes `more` (may be
 * NULL).
 */
void json_print(const char *command, int status, const struct suture_error *err, json_t *more);

/*
 * The end of a command that failed before it came to any process: prints err as text or JSON,
 * destroys it, returns its exit status.
 */
int fail(const char *command, const struct args *args, struct suture_error *err);
/* Flushes standard output; a status of 0 becomes 1 when that did not take all. */
int output_finish(int status);

/* ---- processes ---- */

/* The worse of two exit statuses: 1 (failed), 4 (busy), 3 (nothing to do), 0. */
int worse_status(int a, int b);

/* What check, apply and revert have in common: the same done to process after process. */
struct job {
	const char *command;
	const char *done; /* "applied" */
	struct suture_error *(*run)(
		struct suture *ctx, const struct job *job, pid_t pid, struct suture_report **ret);
	/* One line on a process for which it went well. */
	void (*print)(const struct suture_report *report);
	struct suture_patch *patch; /* NULL: revert */
	const char *name;	    /* of the patch */
	struct suture_apply_options options;
};
/*
 * The first argument of check, apply and revert (`what`: for the message when it is missing); the
 * others are process ids as after -p. Wrong usage ends the program.
 */
const char *job_arguments(const char *command, const char *what, struct args *args);
/* Reads the patch file named first on the command line into job->patch and job->name. */
SUTURE_MUST_USE struct suture_error *open_job_patch(
	struct suture *ctx, struct job *job, struct args *args);
/* Finds the processes (-p or --all), works on each, reports. Returns the exit status. */
int job_run(struct suture *ctx, const struct job *job, struct args *args);

/* "2 functions in 1 image, 9 threads frozen for 84 us, 1 attempt, 7.9 ms in all" */
void print_report(const struct suture_report *report);
/* print_error(), with the process in front unless the message names it. */
void print_process_error(const struct suture_error *err, pid_t pid, const char *comm);
void print_blockers(const struct suture_report *report);
json_t *json_report(const struct suture_report *report);
/* Each pid once, in order. */
void pids_unique(pid_t *pids, size_t *n);
/* "4711 (heartbeatd)" in a buffer of the caller. comm may be "". */
struct process_name {
	char text[64];
};
struct process_name process_name(pid_t pid, const char *comm);

/* ---- signals ---- */

/*
 * From begin to end SIGINT, SIGTERM and SIGHUP do not end the tool: they cancel what `ctx` waits
 * for. With `freezes` also stop signals wait (a stopped tool would keep its target stopped), and
 * SIGPIPE is an error of the write.
 */
void signals_begin(struct suture *ctx, bool freezes);
/* Signals that wait have their effect here: between two processes. */
void signals_breathe(void);
bool signals_came(void);
/* If a signal came, the tool ends by it, as its parent expects. */
void signals_end(void);

#endif
