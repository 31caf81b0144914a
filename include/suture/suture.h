/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libsuture: build live patches from source fixes, apply them to running processes, list them,
 * take them out again.
 *
 * A context (`struct suture`) carries the caller's options; there is no process-wide state, so
 * two contexts in one program do not meet. One context is used by one thread at a time.
 *
 * Every call that can fail returns an error object: NULL means success. An error owns its text;
 * release it with suture_error_destroy(). Results come last, are untouched on failure unless the
 * call says otherwise, and belong to the caller.
 */
#ifndef SUTURE_SUTURE_H
#define SUTURE_SUTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SUTURE_API	__attribute__((visibility("default")))
#define SUTURE_MUST_USE __attribute__((warn_unused_result))

/* ---- errors ---- */

struct suture_error;

/*
 * What went wrong, for programs. suture_error_code_name() gives the stable kebab-case name that
 * `--json` prints; suture_error_status() gives the exit status the command line maps it to.
 */
enum suture_error_code {
	SUTURE_ERROR_NOMEM = 1, /* out of memory */
	SUTURE_ERROR_SYSTEM,	/* a system call failed in a way that has no code of its own */
	SUTURE_ERROR_USAGE,	/* the caller asked for something that makes no sense (status 2) */
	SUTURE_ERROR_INPUT,	/* malformed input: patch file, ELF, DWARF, diff, database */
	SUTURE_ERROR_UNSUPPORTED,   /* understood, and not supported (yet) */
	SUTURE_ERROR_NO_PROCESS,    /* no such process, or it has exited */
	SUTURE_ERROR_NOT_PATCHABLE, /* kernel thread, zombie, 32-bit process */
	SUTURE_ERROR_PERMISSION,    /* the kernel does not let us look into the process */
	SUTURE_ERROR_TRACED,	    /* another tracer holds the process */
	SUTURE_ERROR_NO_IMAGE, /* the process maps no image of the patch (status 3 with --all) */
	SUTURE_ERROR_BUILD_ID, /* an image of that name is mapped, with another build-id */
	SUTURE_ERROR_CODE_MISMATCH,   /* live bytes differ from what the patch expects */
	SUTURE_ERROR_SYMBOL,	      /* a reference cannot be resolved, or not uniquely */
	SUTURE_ERROR_RANGE,	      /* a relocation does not reach */
	SUTURE_ERROR_NO_ROOM,	      /* no free address range within 2 GiB of the image */
	SUTURE_ERROR_TOO_SMALL,	      /* a function is too small for a detour */
	SUTURE_ERROR_ALREADY,	      /* already applied (status 3) */
	SUTURE_ERROR_NOT_APPLIED,     /* not applied (status 3) */
	SUTURE_ERROR_NO_CHANGE,	      /* the fix makes no functional change (status 3) */
	SUTURE_ERROR_BUSY,	      /* not quiescent before the deadline (status 4) */
	SUTURE_ERROR_DEPENDENCY,      /* another applied patch is in the way */
	SUTURE_ERROR_DIFF,	      /* the diff does not apply to the source */
	SUTURE_ERROR_COMPDB,	      /* compilation database: missing, malformed, incomplete */
	SUTURE_ERROR_COMPILE,	      /* the compiler failed or is missing */
	SUTURE_ERROR_NO_SYMBOLS,      /* target without symbols and without a debug file */
	SUTURE_ERROR_SOURCE_MISMATCH, /* the target was not built from this source with these flags
				       */
	SUTURE_ERROR_REFUSED,	      /* the change itself cannot be live patched safely */
	SUTURE_ERROR_LEDGER,	      /* the ledger inside the target is damaged */
	SUTURE_ERROR_CANCELLED,	      /* suture_cancel() was called */
	SUTURE_ERROR_INTERNAL,	      /* a bug in suture */
};

/* Exit statuses of the command line; see docs and suture(1). */
enum suture_status {
	SUTURE_STATUS_OK = 0,
	SUTURE_STATUS_FAILED = 1,
	SUTURE_STATUS_USAGE = 2,
	SUTURE_STATUS_NOTHING = 3,
	SUTURE_STATUS_BUSY = 4,
};

SUTURE_API enum suture_error_code suture_error_code(const struct suture_error *err);
SUTURE_API const char *suture_error_code_name(enum suture_error_code code);
SUTURE_API enum suture_status suture_error_status(const struct suture_error *err);
/* The whole message, outermost context first, without trailing newline. Never NULL. */
SUTURE_API const char *suture_error_message(const struct suture_error *err);
/* What the operator can do, or NULL. */
SUTURE_API const char *suture_error_hint(const struct suture_error *err);
/* Accepts NULL. */
SUTURE_API void suture_error_destroy(struct suture_error *err);

/* ---- context ---- */

enum suture_log_level { SUTURE_LOG_WARNING, SUTURE_LOG_INFO, SUTURE_LOG_DEBUG };
typedef void (*suture_log_fn)(void *arg, enum suture_log_level level, const char *message);

struct suture;

/* Returns NULL when out of memory. */
SUTURE_API struct suture *suture_create(void);
SUTURE_API void suture_destroy(struct suture *ctx);
/* Messages above `level` are dropped; fn NULL drops all (the default). */
SUTURE_API void suture_set_log(
	struct suture *ctx, enum suture_log_level level, suture_log_fn fn, void *arg);
/*
 * Ask a call that is under way on this context to stop waiting: it ends with CANCELLED, the target
 * as it was before, unless its work is already done. Never interrupts a change that has begun.
 * Later calls end so too. Safe in a signal handler.
 */
SUTURE_API void suture_cancel(struct suture *ctx);
SUTURE_API const char *suture_version(void);

/* ---- patch files ---- */

struct suture_patch;

/* Read and validate a patch file. The file may be hostile. */
SUTURE_API SUTURE_MUST_USE struct suture_error *suture_patch_open(
	struct suture *ctx, const char *path, struct suture_patch **ret);
SUTURE_API void suture_patch_close(struct suture_patch *patch);
SUTURE_API const char *suture_patch_name(const struct suture_patch *patch);
/* The manifest as JSON text (see docs/FORMAT.md for the schema). Owned by the patch. */
SUTURE_API const char *suture_patch_manifest(const struct suture_patch *patch);
/*
 * What the patch contains, for people: images, functions and why each is in it, references.
 * With `diff`, old against new disassembly of every function. malloc'ed text.
 */
SUTURE_API SUTURE_MUST_USE struct suture_error *suture_patch_describe(
	struct suture *ctx, const struct suture_patch *patch, bool diff, char **ret);

/* ---- building ---- */

struct suture_build_options {
	const char *diff;	    /* path of the unified diff */
	const char *compdb;	    /* directory of compile_commands.json, or the file */
	const char *const *targets; /* paths of ELF files */
	size_t n_targets;
	const char *name;	       /* patch name; NULL: the diff's base name */
	const char *version;	       /* patch version; NULL: "1" */
	const char *description;       /* may be NULL */
	const char *const *references; /* CVE ids and the like */
	size_t n_references;
	const char *source_root; /* where the diff's paths start; NULL: found by looking */
	const char *output;	 /* patch file to write; replaced atomically */
};

struct suture_build_function {
	char *name, *unit, *image;
	char *reason; /* changed | refers to changed constant X | ... | new | split part of X */
	uint64_t old_size, new_size; /* bytes; 0: none */
};

struct suture_build_report {
	char *output;
	struct suture_build_function *functions;
	size_t n_functions;
	char **units; /* sources compiled */
	size_t n_units;
	char **notes; /* hunks set aside and the like, one sentence each */
	size_t n_notes;
	double compile_seconds, total_seconds;
	uint64_t bytes; /* size of the patch file */
};

SUTURE_API SUTURE_MUST_USE struct suture_error *suture_build(struct suture *ctx,
	const struct suture_build_options *options, struct suture_build_report **ret);
SUTURE_API void suture_build_report_destroy(struct suture_build_report *report);

/* ---- applying ---- */

struct suture_frame {
	uint64_t address;
	char *symbol; /* may be NULL */
	uint64_t offset;
	char *image; /* base name; may be NULL */
};

/* A thread that keeps a target from being quiescent. frames[0] is the innermost one. */
struct suture_blocker {
	pid_t tid;
	char comm[16];
	char *function; /* the replaced function it is inside of */
	size_t depth;	/* index into frames of that function */
	struct suture_frame *frames;
	size_t n_frames;
};

struct suture_apply_options {
	double timeout; /* seconds to wait for quiescence; negative: the default, 10 s */
};

/* What check, apply and revert report about one process. Filled as far as the work came. */
struct suture_report {
	pid_t pid;
	char comm[16];
	char *patch, *version;
	size_t n_images, n_functions;
	size_t threads;	    /* in the last freeze */
	unsigned attempts;  /* freezes */
	uint64_t freeze_ns; /* the last freeze: first interrupt to last resume */
	uint64_t longest_freeze_ns;
	uint64_t total_ns;
	uint64_t payload_bytes;		 /* mapped in the target */
	struct suture_blocker *blockers; /* when busy */
	size_t n_blockers;
	char **plan; /* check: what apply would do, one line each */
	size_t n_plan;
};
SUTURE_API void suture_report_destroy(struct suture_report *report);

/*
 * In these three, *ret (when ret is not NULL) is set on failure too, as far as the work came.
 * On failure the target is as it was before.
 */
SUTURE_API SUTURE_MUST_USE struct suture_error *suture_check(struct suture *ctx,
	const struct suture_patch *patch, pid_t pid, struct suture_report **ret);
SUTURE_API SUTURE_MUST_USE struct suture_error *suture_apply(struct suture *ctx,
	const struct suture_patch *patch, pid_t pid, const struct suture_apply_options *options,
	struct suture_report **ret);
SUTURE_API SUTURE_MUST_USE struct suture_error *suture_revert(struct suture *ctx, const char *name,
	pid_t pid, const struct suture_apply_options *options, struct suture_report **ret);

/* ---- listing ---- */

struct suture_applied_function {
	char *name, *image;
	uint64_t old_address, new_address; /* in the target */
};

struct suture_applied {
	char *name, *version, *id, *description;
	/*
	 * applied | interrupted (a tool died half-way) | unloaded (the image was, so nothing of it is
	 * in force); the next apply or revert clears the latter two away
	 */
	char *state;
	int64_t applied_at; /* seconds since the epoch */
	uint64_t payload_bytes;
	struct suture_applied_function *functions;
	size_t n_functions;
};

struct suture_listing {
	pid_t pid;
	char comm[16];
	struct suture_applied *patches; /* in order of application */
	size_t n_patches;
};

/*
 * With LEDGER (a record in the target is damaged) *ret is set all the same: the patches whose records
 * can be read.
 */
SUTURE_API SUTURE_MUST_USE struct suture_error *suture_list(
	struct suture *ctx, pid_t pid, struct suture_listing **ret);
SUTURE_API void suture_listing_destroy(struct suture_listing *listing);

/*
 * Processes to work on: with a patch, those that map one of its images; with a name, those that
 * carry a patch of that name; with neither, those that carry any patch. Processes that may not
 * be looked into are left out. *ret is malloc'ed.
 */
SUTURE_API SUTURE_MUST_USE struct suture_error *suture_find_processes(struct suture *ctx,
	const struct suture_patch *patch, const char *applied_name, pid_t **ret, size_t *ret_n);

#ifdef __cplusplus
}
#endif
#endif
