/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a fix and a recorded build to the units that the fix reaches, each compiled without and
 * with it: capture_units() of unit.h. Candidates are found by looking at #include lines; the
 * compiler then says which of them really read a changed file. What no unit reads is set aside
 * with a note, but never a file that a target is known to be made from.
 */
#include <dirent.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "build/capture.h"
#include "build/path.h"

void unit_deinit(struct unit *unit)
{
	free(unit->source);
	free(unit->name);
	free(unit->directory);
	free(unit->output);
	free(unit->compiler);
	free(unit->before);
	free(unit->after);
	*unit = (struct unit){};
}

static void units_clear(struct units *units)
{
	vec_foreach (unit, &units->v)
		unit_deinit(unit);
	vec_free(&units->v);
}

void units_deinit(struct units *units)
{
	units_clear(units);
	vec_foreach (note, &units->notes)
		free(*note);
	vec_free(&units->notes);
	if (units->work_dir)
		path_remove_tree(units->work_dir);
	free(units->work_dir);
	*units = (struct units){};
}

static void capture_deinit(struct capture *cap)
{
	free(cap->temp_dir);
	free(cap->object_dir);
	changes_deinit(&cap->changes);
	diff_deinit(&cap->diff);
	compdb_deinit(&cap->db);
	root_deinit(&cap->root);
	strings_deinit(&cap->changed);
	coverage_deinit(&cap->coverage);
	shadow_deinit(&cap->shadow);
	vec_foreach (tree, &cap->trees)
		tree_deinit(tree);
	vec_free(&cap->trees);
	vec_free(&cap->unit_commands);
	free(cap->in_target);
	free(cap->affected);
}

struct suture_error *capture_note(struct capture *cap, const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return error_nomem();
	log_info(cap->ctx, "%s", text);
	if (vec_push(&cap->units->notes, text))
		return NULL;
	free(text);
	return error_nomem();
}

/* ---- reading ---- */

/* A fix without any change is nothing to do; text without a diff is a mistake. */
static struct suture_error *read_diff(struct capture *cap)
{
	TRY(diff_read(cap->options->diff, &cap->diff));
	if (cap->diff.files.n)
		return NULL;
	if (!cap->diff.n_lines)
		return error_create(
			SUTURE_ERROR_NO_CHANGE, "%s is empty: nothing to do", cap->options->diff);
	return error_create(SUTURE_ERROR_DIFF, "%s holds no unified diff", cap->options->diff);
}

static struct suture_error *collect_changes(struct capture *cap)
{
	TRY(changes_collect(&cap->diff, &cap->root, &cap->changes));
	vec_foreach (change, &cap->changes.v) {
		if (change->parts.n || change->deleted)
			TRY(strings_add(&cap->changed, change->physical));
	}
	if (!cap->changed.v.n)
		return error_create(SUTURE_ERROR_NO_CHANGE, "%s changes no content of any file",
			cap->options->diff);
	return NULL;
}

static bool in_trees(const struct capture *cap, const char *path)
{
	vec_foreach (tree, &cap->trees) {
		if (path_under(path, tree->root))
			return true;
	}
	return false;
}

static struct suture_error *add_tree(struct capture *cap, const char *root)
{
	struct tree tree;

	TRY(tree_read(root, &tree));
	log_debug(cap->ctx, "%s: %zu files", root, tree.entries.n);
	if (vec_push(&cap->trees, tree))
		return NULL;
	tree_deinit(&tree);
	return error_nomem();
}

static int by_length(const void *a, const void *b)
{
	size_t la = strlen(*(char *const *)a), lb = strlen(*(char *const *)b);

	return la < lb ? -1 : la > lb;
}

/* The source root, and every directory outside it where a compiler ran (outermost ones). */
static struct suture_error *read_trees(struct capture *cap)
{
	_cleanup_strmap_ struct strmap seen = {};
	_cleanup_strings_ struct strings dirs = {};

	TRY(add_tree(cap, cap->root.path));
	vec_foreach (cmd, &cap->db.commands) {
		size_t before = seen.n;

		if (!strmap_add(&seen, cmd->directory, 0))
			return error_nomem();
		if (seen.n != before)
			TRY(strings_take(&dirs, path_physical(cmd->directory)));
	}
	if (dirs.v.n)
		qsort(dirs.v.at, dirs.v.n, sizeof(*dirs.v.at), by_length);
	vec_foreach (dir, &dirs.v) {
		if (!in_trees(cap, *dir))
			TRY(add_tree(cap, *dir));
	}
	return NULL;
}

static struct suture_error *read_all(struct capture *cap)
{
	const struct capture_options *options = cap->options;

	TRY(read_diff(cap));
	TRY(compdb_read(options->compdb, &cap->db));
	TRY(root_find(&cap->diff, &cap->db, options->source_root, &cap->root));
	log_info(cap->ctx, "source root %s, stripping %u components", cap->root.path,
		cap->root.level);
	TRY(collect_changes(cap));
	cap->in_target = calloc(cap->db.commands.n, sizeof(bool));
	cap->affected = calloc(cap->db.commands.n, sizeof(bool));
	if (!cap->in_target || !cap->affected)
		return error_nomem();
	TRY(read_trees(cap));
	TRY(coverage_read(options->targets, options->n_targets, &cap->coverage));
	return coverage_match(&cap->coverage, &cap->db, cap->root.path, cap->in_target);
}

/* ---- where the work is done ---- */

static size_t count_affected(const struct capture *cap)
{
	size_t n = 0;

	for (size_t i = 0; i < cap->db.commands.n; i++)
		n += cap->affected[i];
	return n;
}

#define UNIT_SPACE (4u << 20) /* bytes that two objects of a unit take, with debug information */

/*
 * The copy is a thousand links, which a disk may take a second for: in memory it is nothing. Only
 * where TMPDIR does not say otherwise, and the objects have plenty of room.
 */
static bool memory_is_fine(const char *dir, size_t n_units)
{
	struct statfs fs;

	return statfs(dir, &fs) == 0 && fs.f_type == TMPFS_MAGIC && access(dir, W_OK | X_OK) == 0 &&
	       fs.f_bavail / 4 > (n_units + 8) * UNIT_SPACE / fs.f_bsize;
}

static struct suture_error *make_work_dir(struct capture *cap)
{
	const char *tmp = getenv("TMPDIR");
	_cleanup_free_ char *template = NULL;

	if (!tmp || !*tmp)
		tmp = memory_is_fine("/dev/shm", count_affected(cap)) ? "/dev/shm" : "/tmp";
	if (asprintf(&template, "%s/suture-build-XXXXXX", tmp) < 0) {
		template = NULL;
		return error_nomem();
	}
	if (!mkdtemp(template))
		return error_errno(errno, "cannot create a directory like %s", template);
	/* The compiler must see one name for it. */
	cap->units->work_dir = realpath(template, NULL);
	if (!cap->units->work_dir)
		cap->units->work_dir = take(template);
	cap->temp_dir = path_join(cap->units->work_dir, "tmp");
	cap->object_dir = path_join(cap->units->work_dir, "obj");
	if (!cap->temp_dir || !cap->object_dir)
		return error_nomem();
	TRY(path_make_directory(cap->temp_dir));
	return path_make_directory(cap->object_dir);
}

/* ---- what the fix reaches ---- */

static bool is_changed_source(const struct capture *cap, size_t command)
{
	return changes_find(&cap->changes, cap->db.commands.at[command].physical) != NULL;
}

/*
 * Units that may read what the fix touches. One that a target is made from and that nobody can
 * compile must not be missed; which header it really reads cannot be asked then.
 */
static struct suture_error *find_candidates(struct capture *cap)
{
	_cleanup_strings_ struct strings others = {};
	_cleanup_free_ bool *reached = NULL, *read = NULL;

	TRY(coverage_unrecorded(&cap->coverage, &others));
	reached = calloc(others.v.n + 1, sizeof(bool));
	read = calloc(cap->changed.v.n, sizeof(bool));
	if (!reached || !read)
		return error_nomem();
	TRY(includes_find(&cap->db, &others, cap->trees.at, cap->trees.n, &cap->changed,
		cap->affected, reached, read));
	for (size_t i = 0; i < others.v.n; i++) {
		if (reached[i])
			return coverage_missing(others.v.at[i], cap->changes.v.at[0].below);
	}
	for (size_t i = 0; i < cap->changed.v.n; i++) {
		struct change *change = changes_find(&cap->changes, cap->changed.v.at[i]);

		/* What the scan does not see, the fixed sources may include. */
		change->may_be_read = read[i] || capture_can_be_included(change->below);
	}
	return NULL;
}

/* The same source is compiled into a target by another command. */
static bool has_other_command(const struct capture *cap, size_t command)
{
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		if (cap->in_target[i] && strcmp(cap->db.commands.at[i].physical,
						 cap->db.commands.at[command].physical) == 0)
			return true;
	}
	return false;
}

/* Units that no target holds: their tests and tools. */
static struct suture_error *drop_foreign_units(struct capture *cap)
{
	size_t n = 0;
	const char *first = NULL;

	for (size_t i = 0; i < cap->db.commands.n; i++) {
		if (!cap->affected[i] || cap->in_target[i])
			continue;
		cap->affected[i] = false;
		log_debug(cap->ctx, "%s is part of no target", cap->db.commands.at[i].file);
		if (!is_changed_source(cap, i) || has_other_command(cap, i))
			continue;
		n++;
		first = first ? first : cap->db.commands.at[i].file;
	}
	if (!n)
		return NULL;
	return capture_note(
		cap, "%s%s: part of no target, left out", first, n > 1 ? " and other units" : "");
}

/* The directories in which the copy differs from the original, or in which a compiler runs. */
static struct suture_error *real_directories(const struct capture *cap, struct strings *ret)
{
	vec_foreach (change, &cap->changes.v) {
		if (change->may_be_read)
			TRY(strings_take(ret, path_dirname(change->physical)));
	}
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		if (!cap->affected[i])
			continue;
		TRY(strings_take(ret, path_physical(cap->db.commands.at[i].directory)));
		TRY(strings_take(ret, path_dirname(cap->db.commands.at[i].physical)));
	}
	return NULL;
}

/* The trees that the affected units need. */
static struct suture_error *build_shadow(struct capture *cap)
{
	_cleanup_strings_ struct strings real = {};

	shadow_deinit(&cap->shadow);
	TRY(shadow_init(&cap->shadow, cap->units->work_dir, cap->whole_copy));
	TRY(real_directories(cap, &real));
	for (size_t t = 0; t < cap->trees.n; t++) {
		bool needed = t == 0;

		for (size_t i = 0; i < real.v.n && !needed; i++)
			needed = path_under(real.v.at[i], cap->trees.at[t].root);
		if (needed)
			TRY(shadow_add(&cap->shadow, &cap->trees.at[t]));
	}
	return shadow_build(&cap->shadow, cap->whole_copy ? NULL : &real);
}

/* A command that cannot be run must not be asked, and not be left out in silence either. */
static struct suture_error *check_broken(const struct capture *cap)
{
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		struct command *cmd = &cap->db.commands.at[i];

		if (!cap->affected[i] || !cmd->broken)
			continue;
		struct suture_error *err = cmd->broken;
		cmd->broken = NULL;
		return error_wrap(err, "the fix may reach %s", cmd->file);
	}
	return NULL;
}

static bool only_sources_changed(const struct capture *cap)
{
	vec_foreach (change, &cap->changes.v) {
		if (!change->reached && change->existed)
			return false;
	}
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		if (cap->affected[i] && !is_changed_source(cap, i))
			return false;
	}
	return true;
}

/* Which candidates do read what the fix touches? No compiler runs when sources say it all. */
static struct suture_error *confirm_candidates(struct capture *cap)
{
	_cleanup_free_ bool *ask = calloc(cap->db.commands.n, sizeof(bool));

	if (!ask)
		return error_nomem();
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		struct change *change =
			changes_find(&cap->changes, cap->db.commands.at[i].physical);

		if (cap->affected[i] && change)
			change->reached = true;
		/* Not preprocessed: it includes nothing. */
		if (strcmp(path_extension(cap->db.commands.at[i].file), ".s") == 0)
			cap->affected[i] = false;
	}
	if (only_sources_changed(cap))
		return NULL;
	memcpy(ask, cap->affected, cap->db.commands.n * sizeof(bool));
	return capture_confirm(cap, SHADOW_BEFORE, ask);
}

/* ---- what cannot be compiled into a live patch ---- */

static struct suture_error *check_supported(const struct command *cmd)
{
	if (cmd->lto)
		return error_hint(
			error_create(SUTURE_ERROR_UNSUPPORTED,
				"%s was built with link-time optimization (-flto), which is not "
				"supported yet",
				cmd->file),
			"the running code came out of the linker: there is no object to compare "
			"it with");
	switch (cmd->language) {
	case LANGUAGE_C:
		return NULL;
	case LANGUAGE_CXX:
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s is C++, which is not supported yet", cmd->file);
	case LANGUAGE_ASSEMBLER:
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s is assembler source, which is not supported", cmd->file);
	case LANGUAGE_OTHER:
		break;
	}
	return error_create(SUTURE_ERROR_UNSUPPORTED, "%s is not C source", cmd->file);
}

/* All affected units, or (early) only those whose own source is changed. */
static struct suture_error *check_all_supported(const struct capture *cap, bool early)
{
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		if (cap->affected[i] && (!early || is_changed_source(cap, i)))
			TRY(check_supported(&cap->db.commands.at[i]));
	}
	return NULL;
}

/* ---- all of it ---- */

static struct suture_error *nothing_reached(struct capture *cap)
{
	TRY(capture_account(cap));
	return error_create(SUTURE_ERROR_NO_CHANGE,
		"the fix reaches no unit of the target: nothing to patch (first file: %s)",
		cap->changes.v.at[0].below);
}

/* A header that the fix brings. */
static bool brings_headers(const struct capture *cap)
{
	vec_foreach (change, &cap->changes.v) {
		if (change->brought && !change->existed && change->may_be_read &&
			!capture_is_new_source(change))
			return true;
	}
	return false;
}

/*
 * A header that the fix brings may be read by units that nothing else in the fix touches, where it
 * takes the place of another one of that name.
 */
static struct suture_error *confirm_new_headers(struct capture *cap, const bool *candidates)
{
	_cleanup_free_ bool *ask = calloc(cap->db.commands.n, sizeof(bool));

	if (!ask)
		return error_nomem();
	if (!brings_headers(cap))
		return NULL;
	memcpy(ask, candidates, cap->db.commands.n * sizeof(bool));
	return capture_confirm(cap, SHADOW_AFTER, ask);
}

/* Which candidates the fix does reach, and the fix applied for them. */
static struct suture_error *apply_to_copy(struct capture *cap)
{
	size_t n = cap->db.commands.n;
	_cleanup_free_ bool *candidates = calloc(n, sizeof(bool));

	if (!candidates)
		return error_nomem();
	memcpy(candidates, cap->affected, n * sizeof(bool));
	/* A path that leads out of the copy would miss a new file without a trace. */
	cap->whole_copy = brings_headers(cap);
	TRY(build_shadow(cap));
	TRY(confirm_candidates(cap));
	TRY(changes_apply(&cap->changes));
	TRY(changes_write(&cap->changes, &cap->shadow));
	return confirm_new_headers(cap, candidates);
}

static struct suture_error *compile_all(struct capture *cap)
{
	TRY(capture_compile(cap));
	TRY(capture_choose_variants(cap));
	return capture_new_sources(cap);
}

static struct suture_error *compile(struct capture *cap)
{
	struct suture_error *err = compile_all(cap);

	if (!err || cap->whole_copy || !cap->escaped)
		return err;
	log_info(cap->ctx, "again, in a whole copy of the sources: %s", suture_error_message(err));
	suture_error_destroy(err);
	cap->whole_copy = true;
	vec_foreach (change, &cap->changes.v)
		change->may_be_read = true;
	units_clear(cap->units);
	cap->unit_commands.n = 0;
	TRY(build_shadow(cap));
	TRY(changes_write(&cap->changes, &cap->shadow));
	return compile_all(cap);
}

static struct suture_error *run(struct capture *cap)
{
	TRY(read_all(cap));
	TRY(check_cancelled(cap->ctx));
	TRY(find_candidates(cap));
	TRY(drop_foreign_units(cap));
	log_info(cap->ctx, "%zu of %zu recorded units may be reached", count_affected(cap),
		cap->db.commands.n);
	if (!count_affected(cap))
		return nothing_reached(cap);
	TRY(check_broken(cap));
	TRY(check_all_supported(cap, true));
	TRY(check_cancelled(cap->ctx));
	TRY(make_work_dir(cap));
	TRY(apply_to_copy(cap));
	if (!count_affected(cap))
		return nothing_reached(cap);
	TRY(capture_account(cap));
	TRY(check_all_supported(cap, false));
	return compile(cap);
}

struct suture_error *capture_units(
	struct suture *ctx, const struct capture_options *options, struct units *ret)
{
	struct units units = {};
	struct capture cap = {.ctx = ctx, .options = options, .units = &units};
	struct suture_error *err = run(&cap);

	capture_deinit(&cap);
	if (err) {
		units_deinit(&units);
		return err;
	}
	*ret = units;
	return NULL;
}
