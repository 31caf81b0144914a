/* SPDX-License-Identifier: Apache-2.0 */
/* Finding where the diff's paths start: see root.h. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/path.h"
#include "build/root.h"
#include "build/strmap.h"

struct candidate {
	const char *dir;
	unsigned level;
	size_t found; /* files of the diff that exist there */
};

struct search {
	const struct diff *diff;
	struct strings dirs;
	VEC(struct candidate) best; /* all with the most files found */
};

static void search_deinit(struct search *search)
{
	strings_deinit(&search->dirs);
	vec_free(&search->best);
}

void root_deinit(struct source_root *root)
{
	free(root->path);
	root->path = NULL;
}

/* dir/path without `level` components exists; *ret is its name below dir. */
static bool exists_at(const char *dir, const char *path, unsigned level, const char **ret)
{
	const char *below = diff_strip(path, level);
	_cleanup_free_ char *full = below ? path_join(dir, below) : NULL;

	*ret = below;
	return full && path_is_file(full);
}

static bool find_file(
	const char *dir, const struct diff_file *file, unsigned level, const char **ret)
{
	if (exists_at(dir, file->new_path, level, ret) && !file->renamed && !file->copied)
		return true;
	return exists_at(dir, file->old_path, level, ret);
}

struct suture_error *root_path(
	const struct source_root *root, const struct diff_file *file, const char **ret)
{
	const char *path = file->deleted ? file->old_path : file->new_path;

	if (!file->created && !file->deleted && !file->renamed && !file->copied &&
		find_file(root->path, file, root->level, ret))
		return NULL;
	*ret = diff_strip(path, root->level);
	if (*ret)
		return NULL;
	return error_create(SUTURE_ERROR_DIFF,
		"line %zu of the diff: \"%s\" (%u leading components stripped) is no path below "
		"the source root",
		file->line, path, root->level);
}

/* ---- candidates ---- */

/* dir and everything above it, but for "/". */
static struct suture_error *add_ancestors(
	struct search *search, struct strmap *seen, const char *dir)
{
	_cleanup_free_ char *at = strdup(dir);

	while (at && strcmp(at, "/") != 0) {
		size_t before = seen->n;

		if (!strmap_add(seen, at, 0))
			return error_nomem();
		if (seen->n == before)
			return NULL;
		TRY(strings_add(&search->dirs, at));
		char *up = path_dirname(at);
		free(at);
		at = up;
	}
	return at ? NULL : error_nomem();
}

static struct suture_error *add_candidates(struct search *search, const struct compdb *db)
{
	_cleanup_strmap_ struct strmap seen = {}, asked = {};

	vec_foreach (cmd, &db->commands) {
		_cleanup_free_ char *dir = path_dirname(cmd->physical);
		size_t before = asked.n;

		if (!dir || !strmap_add(&asked, cmd->directory, 0))
			return error_nomem();
		TRY(add_ancestors(search, &seen, dir));
		if (asked.n == before)
			continue;
		_cleanup_free_ char *where = path_physical(cmd->directory);
		if (!where)
			return error_nomem();
		TRY(add_ancestors(search, &seen, where));
	}
	return NULL;
}

static size_t count_found(const struct diff *diff, const char *dir, unsigned level)
{
	size_t n = 0;
	const char *below;

	vec_foreach (file, &diff->files)
		n += find_file(dir, file, level, &below);
	return n;
}

static unsigned deepest(const struct diff *diff)
{
	unsigned n = 0;

	vec_foreach (file, &diff->files) {
		unsigned depth = diff_depth(file->new_path);

		n = depth > n ? depth : n;
	}
	return n;
}

/* Both mean the same existing files. */
static bool same_files(
	const struct diff *diff, const struct candidate *a, const struct candidate *b)
{
	vec_foreach (file, &diff->files) {
		const char *below_a, *below_b;
		bool in_a = find_file(a->dir, file, a->level, &below_a);
		bool in_b = find_file(b->dir, file, b->level, &below_b);

		if (in_a != in_b)
			return false;
		if (!in_a)
			continue;
		_cleanup_free_ char *path_a = path_join(a->dir, below_a);
		_cleanup_free_ char *path_b = path_join(b->dir, below_b);
		_cleanup_free_ char *real_a = path_a ? realpath(path_a, NULL) : NULL;
		_cleanup_free_ char *real_b = path_b ? realpath(path_b, NULL) : NULL;
		if (!real_a || !real_b || strcmp(real_a, real_b) != 0)
			return false;
	}
	return true;
}

static struct suture_error *consider(struct search *search, const struct candidate *new)
{
	if (search->best.n && new->found < search->best.at[0].found)
		return NULL;
	if (search->best.n && new->found > search->best.at[0].found)
		search->best.n = 0;
	vec_foreach (old, &search->best) {
		if (!same_files(search->diff, old, new))
			continue;
		/* a/lib/x.c in /s and in /s/lib: fewer components stripped says more. */
		if (new->level < old->level)
			*old = *new;
		return NULL;
	}
	return vec_push(&search->best, *new) ? NULL : error_nomem();
}

static struct suture_error *consider_all(struct search *search)
{
	unsigned max = deepest(search->diff);

	vec_foreach (dir, &search->dirs.v) {
		for (unsigned level = 0; level <= max; level++) {
			struct candidate new = {
				*dir, level, count_found(search->diff, *dir, level)};

			if (new.found)
				TRY(consider(search, &new));
		}
	}
	return NULL;
}

/* ---- telling candidates apart ---- */

static bool applies(const struct candidate *candidate, const struct diff_file *file)
{
	const char *below;
	_cleanup_free_ char *data = NULL, *path = NULL;
	struct text text = {};
	size_t size;

	if (!find_file(candidate->dir, file, candidate->level, &below))
		return true;
	path = path_join(candidate->dir, below);
	struct suture_error *err =
		path ? path_read_file(path, DIFF_MAX_SIZE, &data, &size) : error_nomem();
	if (!err)
		err = text_parse(data, size, &text);
	if (!err)
		err = text_apply(&text, file, false, NULL);
	text_deinit(&text);
	bool ok = !err;
	suture_error_destroy(err);
	return ok;
}

static bool all_apply(const struct candidate *candidate, const struct diff *diff)
{
	vec_foreach (file, &diff->files) {
		if (!applies(candidate, file))
			return false;
	}
	return true;
}

static void keep_those_that_apply(struct search *search)
{
	size_t n = 0;

	if (search->best.n < 2)
		return;
	for (size_t i = 0; i < search->best.n; i++) {
		if (all_apply(&search->best.at[i], search->diff))
			search->best.at[n++] = search->best.at[i];
	}
	if (n)
		search->best.n = n;
}

/* ---- messages ---- */

static char *list_dirs(const struct search *search)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < search->dirs.v.n && i < 6; i++)
		fprintf(f, "%s%s", i ? ", " : "", search->dirs.v.at[i]);
	if (search->dirs.v.n > 6)
		fprintf(f, " and %zu more", search->dirs.v.n - 6);
	fclose(f);
	return text;
}

static struct suture_error *nothing_found(const struct search *search)
{
	_cleanup_free_ char *dirs = list_dirs(search);
	size_t n = search->diff->files.n;

	return error_hint(error_create(SUTURE_ERROR_DIFF,
				  "none of the %zu file%s that the diff changes (%s%s) is below %s",
				  n, n == 1 ? "" : "s", search->diff->files.at[0].new_path,
				  n == 1 ? "" : ", ...", dirs ? dirs : "?"),
		"say where the diff's paths start (--source)");
}

static struct suture_error *ambiguous(const struct search *search)
{
	const struct candidate *a = &search->best.at[0], *b = &search->best.at[1];

	return error_hint(error_create(SUTURE_ERROR_DIFF,
				  "the diff fits at %zu places, among them %s and %s (stripping "
				  "%u and %u components)",
				  search->best.n, a->dir, b->dir, a->level, b->level),
		"say where the diff's paths start (--source)");
}

static struct suture_error *find(
	struct search *search, const struct compdb *db, const char *given, struct source_root *ret)
{
	if (given) {
		char *real = realpath(given, NULL);

		if (!real)
			return error_errno(errno, "source root %s", given);
		TRY(strings_take(&search->dirs, real));
	} else {
		TRY(add_candidates(search, db));
	}
	TRY(consider_all(search));
	keep_those_that_apply(search);
	if (!search->best.n)
		return nothing_found(search);
	if (search->best.n > 1)
		return ambiguous(search);
	ret->path = strdup(search->best.at[0].dir);
	ret->level = search->best.at[0].level;
	return ret->path ? NULL : error_nomem();
}

struct suture_error *root_find(const struct diff *diff, const struct compdb *db, const char *given,
	struct source_root *ret)
{
	struct search search = {.diff = diff};
	struct suture_error *err = find(&search, db, given, ret);

	search_deinit(&search);
	return err;
}
