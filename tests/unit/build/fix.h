/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fix in a test: small sources before and after, compiled and linked as a program's own build
 * would, then once more as suture does, and put through select_changes().
 */
#ifndef TESTS_BUILD_FIX_H
#define TESTS_BUILD_FIX_H

#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../unit.h"
#include "base/log.h"
#include "build/unit.h"
#include "elf/image.h"
#include "format/patch.h"

#define FIX_FILES   4
#define FIX_TARGETS 3

struct fix_file {
	const char *name;
	const char *before;
	const char *after;   /* NULL: not touched by the fix */
	const char *flags;   /* added to the others' */
	bool is_new;	     /* not in the target */
	bool in_library;     /* linked into libfix.so, which the target uses */
	const char *variant; /* recorded a second time, with these flags */
};
struct fix {
	struct fix_file files[FIX_FILES];
	const char *cc;		/* NULL: gcc */
	const char *flags;	/* NULL: -O2 */
	const char *link;	/* NULL: none */
	const char *rebuild;	/* flags of suture's own compiles; NULL: the same */
	const char *after_link; /* a command run on the linked target */
	bool optional;
	bool own_build; /* the program's objects are compiled as a program's are, not ours linked */
};

static char fix_dir[64];

static inline int fix_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	snprintf(fix_dir, sizeof(fix_dir), "%.40s/suture-fix-XXXXXX", tmp ? tmp : "/tmp");
	return mkdtemp(fix_dir) ? 0 : -1;
}

static inline int fix_teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", fix_dir);
	return getenv("KEEP") ? 0 : system(command);
}

__attribute__((format(printf, 1, 2))) static inline void fix_sh(const char *fmt, ...)
{
	char command[2048];
	int n = snprintf(command, sizeof(command), "cd '%s' && ", fix_dir);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command + n, sizeof(command) - n, fmt, ap);
	va_end(ap);
	if (system(command))
		fail_msg("failed: %s", command);
}

static inline bool have_cc(const char *cc)
{
	char command[128];

	snprintf(command, sizeof(command), "command -v %s >/dev/null", cc);
	return !system(command);
}

static inline char *fix_path(const char *dir, const char *name, const char *ext)
{
	char *path;

	assert_true(asprintf(&path, "%s/%s%s%s%s", fix_dir, dir, *dir ? "/" : "", name, ext) > 0);
	return path;
}

static inline void fix_write(const char *dir, const char *name, const char *text)
{
	char *path = fix_path(dir, name, "");
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	free(path);
}

/* The compiles run side by side: a file of commands, one a line. */
__attribute__((format(printf, 2, 3))) static inline void fix_job(FILE *jobs, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(jobs, fmt, ap);
	va_end(ap);
	fputc('\n', jobs);
}

/* SIDE/NAME.o, and SIDE/NAME.v.o of the variant. */
static inline void fix_compile_side(
	FILE *jobs, const struct fix *fix, const struct fix_file *f, const char *side)
{
	const char *cc = fix->cc ? fix->cc : "gcc", *flags = fix->flags ? fix->flags : "-O2";
	const char *again = fix->rebuild ? fix->rebuild : flags;
	const char *pieces = "-w -g -ffunction-sections -fdata-sections -fmerge-constants -Wa,-L";

	fix_write(side, f->name, strcmp(side, "before") ? f->after : f->before);
	fix_job(jobs, "cd %s && %s %s %s %s -c %s -o %s.o", side, cc, again,
		f->flags ? f->flags : "", pieces, f->name, f->name);
	if (f->variant)
		fix_job(jobs, "cd %s && %s %s %s -c %s -o %s.v.o", side, cc, f->variant, pieces,
			f->name, f->name);
}

/* What the program links: its own compile, or ours from before the fix. */
static inline void fix_compile_program(FILE *jobs, const struct fix *fix, const struct fix_file *f)
{
	const char *cc = fix->cc ? fix->cc : "gcc", *flags = fix->flags ? fix->flags : "-O2";
	const char *where = f->in_library ? "library" : "program";

	if (f->after && !fix->own_build && !fix->rebuild) {
		fix_job(jobs, "ln -s %s/before/%s.o %s/%s.o", fix_dir, f->name, where, f->name);
		return;
	}
	fix_write("", f->name, f->before);
	fix_job(jobs, "%s %s %s -c %s -o %s/%s.o", cc, flags, f->flags ? f->flags : "", f->name,
		where, f->name);
}

static inline void fix_compile_file(FILE *jobs, const struct fix *fix, const struct fix_file *f)
{
	if (strchr(f->name, '/'))
		fix_sh("d=$(dirname %s) && mkdir -p $d before/$d after/$d library/$d program/$d",
			f->name);
	if (f->before && !f->is_new)
		fix_compile_program(jobs, fix, f);
	if (f->after && f->before && !f->is_new)
		fix_compile_side(jobs, fix, f, "before");
	if (f->after)
		fix_compile_side(jobs, fix, f, "after");
}

static inline void fix_compile(const struct fix *fix)
{
	const char *cc = fix->cc ? fix->cc : "gcc", *link = fix->link ? fix->link : "";
	bool library = false;

	fix_sh("rm -rf * && mkdir before after library program");
	char *path = fix_path("", "jobs", "");
	FILE *jobs = fopen(path, "w");
	assert_non_null(jobs);
	free(path);
	for (const struct fix_file *f = fix->files; f < fix->files + FIX_FILES && f->name; f++) {
		library |= f->in_library;
		fix_compile_file(jobs, fix, f);
	}
	assert_int_equal(fclose(jobs), 0);
	fix_sh("xargs -d '\\n' -P 2 -n 1 sh -c < jobs");
	if (library)
		fix_sh("%s -shared -Wl,--build-id $(find library -name '*.o') -o libfix.so", cc);
	fix_sh("%s -Wl,--build-id $(find program -name '*.o' | sort) -o target %s %s", cc,
		library ? "./libfix.so" : "", link);
	if (fix->after_link)
		fix_sh("%s", fix->after_link);
}

static inline void fix_add_unit(
	const struct fix *fix, const struct fix_file *f, const char *ext, struct units *units)
{
	struct unit *unit = vec_add(&units->v);

	assert_non_null(unit);
	unit->name = strdup(f->name);
	unit->source = fix_path("", f->name, "");
	unit->directory = strdup(fix_dir);
	unit->before = f->is_new ? NULL : fix_path("before", f->name, ext);
	unit->after = fix_path("after", f->name, ext);
	unit->optional = fix->optional || f->variant;
}

static inline void fix_units(const struct fix *fix, struct units *units)
{
	for (const struct fix_file *f = fix->files; f < fix->files + FIX_FILES && f->name; f++) {
		if (f->after && f->variant)
			fix_add_unit(fix, f, ".v.o", units);
		if (f->after)
			fix_add_unit(fix, f, ".o", units);
	}
}

static inline void fix_free_units(struct units *units)
{
	vec_foreach (unit, &units->v) {
		free(unit->name);
		free(unit->source);
		free(unit->directory);
		free(unit->before);
		free(unit->after);
	}
	vec_free(&units->v);
}

static inline void fix_log(void *arg, enum suture_log_level level, const char *message)
{
	(void)arg;
	(void)level;
	fprintf(stderr, "# %s\n", message);
}

/* The target, and the library that it uses. */
static inline size_t fix_open(struct image *images[2])
{
	char *path = fix_path("", "target", ""), *library = fix_path("", "libfix.so", "");
	size_t n = 1;

	assert_ok(image_open(path, &images[0]));
	if (!access(library, F_OK)) {
		assert_ok(image_open(library, &images[1]));
		n++;
	}
	free(path);
	free(library);
	return n;
}

/* Everything from sources to a valid patch. */
static inline struct suture_error *fix_build(const struct fix *fix, struct patch **ret)
{
	struct patch *patch = patch_create();
	struct suture *ctx = suture_create();
	struct units units = {};
	struct image *images[2];

	fix_compile(fix);
	fix_units(fix, &units);
	size_t n = fix_open(images);
	if (getenv("VERBOSE"))
		suture_set_log(ctx, SUTURE_LOG_DEBUG, fix_log, NULL);
	struct suture_error *err = select_changes(ctx, &units, images, n, patch);
	if (!err) {
		patch->name = strdup("test");
		patch->version = strdup("1");
		patch->created_by = strdup("test");
		assert_ok(patch_validate(patch));
	}
	if (err && getenv("VERBOSE"))
		fprintf(stderr, "# %s\n", suture_error_message(err));
	while (n)
		image_close(images[--n]);
	fix_free_units(&units);
	suture_destroy(ctx);
	if (err)
		patch_destroy(patch);
	else
		*ret = patch;
	return err;
}

/* ---- looking at the result ---- */

static inline struct patch_function *fix_function(const struct patch *patch, const char *name)
{
	vec_foreach (f, &patch->functions)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

/* Names of the replaced functions, sorted by position, one space between. */
static inline const char *fix_replaced(const struct patch *patch)
{
	static char names[512];

	names[0] = '\0';
	vec_foreach (f, &patch->functions)
		if (f->address) {
			if (names[0])
				strcat(names, " ");
			strcat(names, f->name);
		}
	return names;
}

static inline struct patch_symbol *fix_symbol(const struct patch *patch, const char *name)
{
	vec_foreach (s, &patch->symbols)
		if (!strcmp(s->name, name))
			return s;
	return NULL;
}

static inline const struct patch_section *fix_section(const struct patch *patch, const char *name)
{
	vec_foreach (s, &patch->sections)
		if (!strcmp(s->name, name))
			return s;
	return NULL;
}

/* The payload holds this text somewhere. */
static inline bool fix_holds(const struct patch *patch, const char *text)
{
	vec_foreach (s, &patch->sections)
		if (s->data && memmem(s->data, s->size, text, strlen(text)))
			return true;
	return false;
}

#define FIX_BUILDS(patch, ...) assert_ok(fix_build(&(struct fix){__VA_ARGS__}, patch))
#define FIX_FAILS(code, text, ...)                                                       \
	do {                                                                             \
		struct patch *none_ = NULL;                                              \
		assert_error(fix_build(&(struct fix){__VA_ARGS__}, &none_), code, text); \
	} while (0)

#endif
