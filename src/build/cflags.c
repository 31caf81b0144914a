/* SPDX-License-Identifier: Apache-2.0 */
/* Understanding and rewriting compiler commands: see cflags.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/cflags.h"
#include "build/path.h"
#include "build/shadow.h"

enum kind {
	KEEP,
	DROP,	/* writes files, stops early, or makes warnings fatal */
	PATH,	/* the value is a file or directory that is read */
	DIR,	/* ... a directory to search for headers */
	HEADER, /* ... a header to include first */
	MAP,	/* OLD=NEW: what paths are recorded as */
	WP,	/* -Wp,...: options for the preprocessor */
	INPUT,	/* not an option */
};

enum form {
	ALONE,	/* -c */
	NEXT,	/* -MF FILE */
	JOINED, /* --sysroot=DIR, -Werror=X */
	EITHER, /* -I DIR, -IDIR */
};

struct spec {
	const char *name;
	enum form form;
	enum kind kind;
};

/* Options with a value that is not simply kept. First match counts. */
static const struct spec specs[] = {
	{"-o", EITHER, DROP},
	{"--output=", JOINED, DROP},
	{"--output", NEXT, DROP},
	{"-c", ALONE, DROP},
	{"-S", ALONE, DROP},
	{"-E", ALONE, DROP},
	{"-fsyntax-only", ALONE, DROP},
	{"-MF", EITHER, DROP},
	{"-MT", EITHER, DROP},
	{"-MQ", EITHER, DROP},
	{"-MJ", EITHER, DROP},
	{"-M", JOINED, DROP}, /* -M -MM -MD -MMD -MP -MG -MV */
	{"-save-temps", JOINED, DROP},
	{"--save-temps", JOINED, DROP},
	{"-aux-info", NEXT, DROP},
	{"-dumpdir", NEXT, DROP},
	{"-dumpbase-ext", NEXT, DROP},
	{"-dumpbase", NEXT, DROP},
	{"-fdump-", JOINED, DROP},
	{"-gsplit-dwarf", JOINED, DROP}, /* keep it in the object: it is read there */
	{"-Werror", JOINED, DROP},
	{"-Wp,", JOINED, WP},
	{"-W", JOINED, KEEP},
	{"-include-pch", NEXT, PATH},
	{"-include", EITHER, HEADER},
	{"-imacros", EITHER, HEADER},
	{"-isystem", EITHER, DIR},
	{"-iquote", EITHER, DIR},
	{"-idirafter", EITHER, DIR},
	{"-isysroot", EITHER, PATH},
	{"-iprefix", EITHER, PATH},
	{"-I", EITHER, DIR},
	{"-B", EITHER, PATH},
	{"--sysroot", NEXT, PATH},
	{"-ffile-prefix-map=", JOINED, MAP},
	{"-fdebug-prefix-map=", JOINED, MAP},
	{"-fmacro-prefix-map=", JOINED, MAP},
	{"-fdebug-compilation-dir", JOINED, KEEP},
	{"-D", EITHER, KEEP},
	{"-U", EITHER, KEEP},
	{"-A", EITHER, KEEP},
	{"-x", EITHER, KEEP},
	{"-l", EITHER, KEEP},
	{"-L", EITHER, KEEP},
	{"-Xlinker", NEXT, KEEP},
	{"-Xpreprocessor", NEXT, KEEP},
	{"-Xassembler", NEXT, KEEP},
	{"-Xclang", NEXT, KEEP},
	{"-T", EITHER, KEEP},
	{"-u", EITHER, KEEP},
	{"-z", EITHER, KEEP},
	{"-e", EITHER, KEEP},
	{"-V", NEXT, KEEP},
	{"-b", NEXT, KEEP},
	{"--param", NEXT, KEEP},
	{"-target", NEXT, KEEP},
	{"-arch", NEXT, KEEP},
	{"-mllvm", NEXT, KEEP},
	{"-iwithprefixbefore", EITHER, KEEP},
	{"-iwithprefix", EITHER, KEEP},
	{"-imultilib", NEXT, KEEP},
	{"-wrapper", NEXT, KEEP},
	{"-gcc-toolchain", NEXT, PATH},
};

/* One option, or input, of a command. */
struct option {
	enum kind kind;
	size_t at, n;	   /* arguments argv[at .. at+n) */
	size_t name_size;  /* joined: bytes of argv[at] in front of the value */
	const char *name;  /* the table's, or "" */
	const char *value; /* NULL: none */
};

static bool spec_matches(const struct spec *spec, const char *arg)
{
	size_t n;

	if (arg[1] != spec->name[1])
		return false;
	n = strlen(spec->name);
	if (strncmp(arg, spec->name, n) != 0)
		return false;
	return spec->form == JOINED || spec->form == EITHER || arg[n] == '\0';
}

/* An option that is not in the table: -fprofile-use=/abs/dir names a path all the same. */
static void unknown_option(const char *arg, struct option *opt)
{
	const char *equals = strchr(arg, '=');

	if (equals && equals[1] == '/') {
		opt->kind = PATH;
		opt->name_size = equals + 1 - arg;
		opt->value = equals + 1;
	}
}

/* The option at argv[at]; false behind the last. */
static bool next_option(const struct command *cmd, size_t at, struct option *opt)
{
	if (at >= cmd->argv.v.n)
		return false;
	const char *arg = cmd->argv.v.at[at];
	*opt = (struct option){.kind = KEEP, .at = at, .n = 1, .name = ""};
	if (arg[0] != '-' || arg[1] == '\0') {
		opt->kind = INPUT;
		opt->value = arg;
		return true;
	}
	for (const struct spec *s = specs; s < specs + sizeof(specs) / sizeof(specs[0]); s++) {
		if (!spec_matches(s, arg))
			continue;
		size_t n = strlen(s->name);
		bool next = s->form == NEXT || (s->form == EITHER && arg[n] == '\0');

		opt->kind = s->kind;
		opt->name = s->name;
		opt->name_size = next ? 0 : n;
		opt->n = next && at + 1 < cmd->argv.v.n ? 2 : 1;
		opt->value = !next ? arg + n : opt->n == 2 ? cmd->argv.v.at[at + 1] : NULL;
		return true;
	}
	unknown_option(arg, opt);
	return true;
}

#define option_foreach(opt, cmd) \
	for (struct option opt = {.n = first_option(cmd)}; next_option(cmd, opt.at + opt.n, &opt);)

/* Something that a linker or another compile would take: not part of the compiler's own name. */
static bool is_input_name(const char *arg)
{
	static const char *const objects[] = {".o", ".a", ".so", ".lo", ".la", ".obj"};
	enum language language;

	for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++) {
		if (strcmp(path_extension(arg), objects[i]) == 0)
			return true;
	}
	return compdb_language_of(arg, &language);
}

/* Behind the compiler, and behind a wrapper in front of it ("ccache gcc"). */
static size_t first_option(const struct command *cmd)
{
	size_t i = 1;

	while (i < cmd->argv.v.n && cmd->argv.v.at[i][0] != '-' &&
		!is_input_name(cmd->argv.v.at[i]))
		i++;
	return i;
}

/* ---- examining ---- */

static bool is_source(const struct command *cmd, const char *arg)
{
	_cleanup_free_ char *path = path_join(cmd->directory, arg);

	if (!path || strcmp(path_basename(path), path_basename(cmd->file)) != 0)
		return false;
	if (strcmp(path, cmd->file) == 0)
		return true;
	_cleanup_free_ char *physical = path_physical(path);
	return physical && strcmp(physical, cmd->physical) == 0;
}

static void examine_debug(struct command *cmd, const char *arg)
{
	const char *g = arg + 2;

	if (strncmp(arg, "-g", 2) != 0)
		return;
	if (strncmp(g, "gdb", 3) == 0)
		g += 3;
	if (g[0] == '0' && g[1] == '\0')
		cmd->debug_info = false;
	else if (*g == '\0' || isdigit((unsigned char)*g) || strncmp(g, "dwarf", 5) == 0)
		cmd->debug_info = true;
}

static void examine_flag(struct command *cmd, const char *arg)
{
	if (strncmp(arg, "-flto", 5) == 0)
		cmd->lto = true;
	else if (strcmp(arg, "-fno-lto") == 0)
		cmd->lto = false;
	examine_debug(cmd, arg);
}

static enum language named_language(const char *name)
{
	if (strcmp(name, "c") == 0 || strcmp(name, "cpp-output") == 0)
		return LANGUAGE_C;
	if (strncmp(name, "c++", 3) == 0)
		return LANGUAGE_CXX;
	if (strncmp(name, "assembler", 9) == 0)
		return LANGUAGE_ASSEMBLER;
	return LANGUAGE_OTHER;
}

static enum language language_of(const struct command *cmd, const char *explicit_language)
{
	const char *compiler = path_basename(cmd->argv.v.at[first_option(cmd) - 1]);
	enum language language = LANGUAGE_OTHER;

	if (explicit_language && strcmp(explicit_language, "none") != 0)
		return named_language(explicit_language);
	compdb_language_of(cmd->file, &language);
	if (language == LANGUAGE_C && strstr(compiler, "++"))
		return LANGUAGE_CXX;
	return language;
}

static struct suture_error *examine_options(struct command *cmd, const char **ret_language)
{
	option_foreach(opt, cmd)
	{
		if (opt.kind == INPUT && !cmd->source_at && is_source(cmd, opt.value))
			cmd->source_at = opt.at;
		if (strcmp(opt.name, "-x") == 0 && !cmd->source_at)
			*ret_language = opt.value;
		if (strcmp(opt.name, "-o") == 0 && opt.value && !cmd->output) {
			cmd->output = strdup(opt.value);
			if (!cmd->output)
				return error_nomem();
		}
		if (opt.kind != INPUT)
			examine_flag(cmd, cmd->argv.v.at[opt.at]);
	}
	return NULL;
}

struct suture_error *cflags_examine(struct command *cmd)
{
	const char *language = NULL;

	if (!cmd->argv.v.n)
		return error_create(SUTURE_ERROR_COMPDB, "the command is empty");
	for (size_t i = 0; i < first_option(cmd); i++) {
		if (strstr(path_basename(cmd->argv.v.at[i]), "libtool"))
			return error_hint(error_create(SUTURE_ERROR_UNSUPPORTED,
						  "the command is libtool's, not the compiler's"),
				"record what libtool runs: bear -- make");
	}
	TRY(examine_options(cmd, &language));
	if (!cmd->source_at)
		return error_create(
			SUTURE_ERROR_COMPDB, "no argument of its command is this source");
	cmd->language = language_of(cmd, language);
	return NULL;
}

struct suture_error *cflags_identity(const struct command *cmd, struct strings *ret)
{
	for (size_t i = 0; i < first_option(cmd); i++)
		TRY(strings_add(ret, cmd->argv.v.at[i]));
	option_foreach(opt, cmd)
	{
		if (opt.kind == DROP)
			continue;
		for (size_t i = 0; i < opt.n; i++)
			TRY(strings_add(ret, cmd->argv.v.at[opt.at + i]));
	}
	return NULL;
}

struct suture_error *cflags_includes(const struct command *cmd, struct strings *files,
	struct strings *dirs, struct strings *defines)
{
	option_foreach(opt, cmd)
	{
		if (opt.kind == HEADER && opt.value)
			TRY(strings_add(files, opt.value));
		if (opt.kind == DIR && opt.value)
			TRY(strings_add(dirs, opt.value));
		if (strcmp(opt.name, "-D") == 0 && opt.value)
			TRY(strings_add(defines, opt.value));
	}
	return NULL;
}

char *cflags_debug_path(const struct command *cmd, const char *path)
{
	const char *old = NULL;
	size_t size = 0;
	char *out;

	option_foreach(opt, cmd)
	{
		if (opt.kind != MAP || strcmp(opt.name, "-fmacro-prefix-map=") == 0)
			continue;
		const char *equals = strchr(opt.value, '=');
		size_t n = equals ? (size_t)(equals - opt.value) : 0;

		if (equals && strncmp(path, opt.value, n) == 0) {
			old = opt.value;
			size = n;
		}
	}
	if (!old)
		return strdup(path);
	return asprintf(&out, "%s%s", old + size + 1, path + size) < 0 ? NULL : out;
}

/* ---- rewriting ---- */

/* The option again, its value replaced. */
static struct suture_error *add_option(
	const struct command *cmd, const struct option *opt, const char *value, struct strings *ret)
{
	char *arg;

	if (opt->n == 2) {
		TRY(strings_add(ret, cmd->argv.v.at[opt->at]));
		return strings_add(ret, value);
	}
	if (asprintf(&arg, "%.*s%s", (int)opt->name_size, cmd->argv.v.at[opt->at], value) < 0)
		return error_nomem();
	return strings_take(ret, arg);
}

static struct suture_error *add_path(const struct command *cmd, const struct option *opt,
	const struct cflags_job *job, struct strings *ret)
{
	_cleanup_free_ char *path = NULL;

	if (opt->value[0] != '/')
		return add_option(cmd, opt, opt->value, ret);
	TRY(shadow_path(job->shadow, job->side, opt->value, &path));
	return add_option(cmd, opt, path, ret);
}

/* The recorded map must match paths in the private copy. */
static struct suture_error *add_map(const struct command *cmd, const struct option *opt,
	const struct cflags_job *job, struct strings *ret)
{
	const char *equals = strchr(opt->value, '=');
	_cleanup_free_ char *old = NULL, *value = NULL;

	if (opt->value[0] != '/' || !equals)
		return add_option(cmd, opt, opt->value, ret);
	old = strndup(opt->value, equals - opt->value);
	if (!old)
		return error_nomem();
	/* An ancestor of what is copied maps as well, so this is prefixed always. */
	if (asprintf(&value, "%s%s%s", shadow_side(job->shadow, job->side), old, equals) < 0)
		return error_nomem();
	return add_option(cmd, opt, value, ret);
}

/* -Wp,-MD,FILE and the like are taken out, the rest stays. */
static struct suture_error *add_wp(const struct option *opt, struct strings *ret)
{
	_cleanup_free_ char *value = strdup(opt->value), *out = strdup("-Wp");
	char *save = NULL;
	bool skip_next = false, any = false;

	if (!value)
		return error_nomem();
	for (char *s = strtok_r(value, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
		bool skip = skip_next || strncmp(s, "-M", 2) == 0;
		char *more;

		skip_next = !skip_next && (strcmp(s, "-MD") == 0 || strcmp(s, "-MMD") == 0 ||
						  strcmp(s, "-MF") == 0 || strcmp(s, "-MT") == 0 ||
						  strcmp(s, "-MQ") == 0);
		if (skip)
			continue;
		if (!out || asprintf(&more, "%s,%s", out, s) < 0)
			return error_nomem();
		free(out);
		out = more;
		any = true;
	}
	return any ? strings_take(ret, take(out)) : NULL;
}

static struct suture_error *add_input(const struct command *cmd, const struct option *opt,
	const struct cflags_job *job, struct strings *ret)
{
	_cleanup_free_ char *path = NULL;
	const char *source = opt->value;

	if (opt->at != cmd->source_at)
		return is_input_name(source) ? NULL : strings_add(ret, source);
	if (job->source)
		source = job->source;
	if (source[0] != '/')
		return strings_add(ret, source);
	TRY(shadow_path(job->shadow, job->side, source, &path));
	return strings_take(ret, take(path));
}

static struct suture_error *add_recorded(const struct command *cmd, const struct option *opt,
	const struct cflags_job *job, struct strings *ret)
{
	switch (opt->kind) {
	case DROP:
		return NULL;
	case PATH:
	case DIR:
	case HEADER:
		if (opt->value)
			return add_path(cmd, opt, job, ret);
		break;
	case MAP:
		return add_map(cmd, opt, job, ret);
	case WP:
		return add_wp(opt, ret);
	case INPUT:
		return add_input(cmd, opt, job, ret);
	case KEEP:
		break;
	}
	for (size_t i = 0; i < opt->n; i++)
		TRY(strings_add(ret, cmd->argv.v.at[opt->at + i]));
	return NULL;
}

/* Paths in the object lose the private copy's root. */
static struct suture_error *add_root_map(const struct cflags_job *job, struct strings *ret)
{
	char *map;

	if (asprintf(&map, "-ffile-prefix-map=%s=", shadow_side(job->shadow, job->side)) < 0)
		return error_nomem();
	return strings_take(ret, map);
}

/*
 * Clang tries maps in the order of their text, GCC the last one first. With a recorded map, ours
 * would win under Clang (it is a prefix of the others), so there it is left out when a recorded
 * map covers the source.
 */
static bool needs_root_map(const struct command *cmd)
{
	const char *compiler = path_basename(cmd->argv.v.at[first_option(cmd) - 1]);

	if (!strstr(compiler, "clang"))
		return true;
	option_foreach(opt, cmd)
	{
		const char *equals = opt.kind == MAP ? strchr(opt.value, '=') : NULL;

		if (equals && strncmp(cmd->file, opt.value, equals - opt.value) == 0)
			return false;
	}
	return true;
}

/*
 * What the objects are compared by: every function and variable in a section of its own. Local
 * labels tell where one anonymous constant ends and the next begins; in mergeable sections (at -O0
 * the compiler makes none by itself) references keep them, too.
 */
static const char *const our_flags[] = {
	"-ffunction-sections", "-fdata-sections", "-fmerge-constants", "-Wa,-L"};

bool cflags_is_ours(const char *flag)
{
	for (size_t i = 0; i < sizeof(our_flags) / sizeof(our_flags[0]); i++) {
		if (strcmp(flag, our_flags[i]) == 0)
			return true;
	}
	/* Debug information does not change code. */
	return strncmp(flag, "-g", 2) == 0;
}

static struct suture_error *add_ours(
	const struct command *cmd, const struct cflags_job *job, struct strings *ret)
{
	/* Warnings were the original build's business. */
	TRY(strings_add(ret, "-w"));
	if (!job->object) {
		TRY(strings_add(ret, "-M"));
	} else {
		/* Types are compared through debug information. */
		if (!cmd->debug_info)
			TRY(strings_add(ret, "-g"));
		for (size_t i = 0; i < sizeof(our_flags) / sizeof(our_flags[0]); i++)
			TRY(strings_add(ret, our_flags[i]));
		TRY(strings_add(ret, "-c"));
		TRY(strings_add(ret, "-MD"));
		TRY(strings_add(ret, "-o"));
		TRY(strings_add(ret, job->object));
	}
	TRY(strings_add(ret, "-MF"));
	return strings_add(ret, job->dep_file);
}

struct suture_error *cflags_make(
	const struct command *cmd, const struct cflags_job *job, struct strings *ret)
{
	for (size_t i = 0; i < first_option(cmd); i++)
		TRY(strings_add(ret, cmd->argv.v.at[i]));
	if (needs_root_map(cmd))
		TRY(add_root_map(job, ret));
	option_foreach(opt, cmd) TRY(add_recorded(cmd, &opt, job, ret));
	return add_ours(cmd, job, ret);
}
