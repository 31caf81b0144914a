/* SPDX-License-Identifier: Apache-2.0 */
/* The fix, file by file: see changes.h. */
#include <string.h>

#include "base/cleanup.h"
#include "build/changes.h"
#include "build/path.h"
#include "build/renumber.h"

void changes_deinit(struct changes *changes)
{
	vec_foreach (change, &changes->v) {
		free(change->below);
		free(change->physical);
		free(change->data);
		free(change->storage);
		text_deinit(&change->text);
		vec_free(&change->parts);
	}
	vec_free(&changes->v);
	strmap_deinit(&changes->by_path);
}

struct change *changes_find(const struct changes *changes, const char *physical)
{
	const size_t *index = strmap_find(&changes->by_path, physical);

	return index ? &changes->v.at[*index] : NULL;
}

/* ---- collecting ---- */

/* The change of root/below, made if need be. */
static struct suture_error *get_change(
	struct changes *changes, const struct source_root *root, const char *below, size_t *ret)
{
	_cleanup_free_ char *full = path_join(root->path, below);
	_cleanup_free_ char *physical = full ? path_physical(full) : NULL;

	if (!physical)
		return error_nomem();
	if (!path_under(physical, root->path) || strcmp(physical, root->path) == 0)
		return error_create(
			SUTURE_ERROR_DIFF, "%s leads out of the source tree %s", below, root->path);
	size_t n = changes->v.n, *index = strmap_add(&changes->by_path, physical, n);
	if (!index)
		return error_nomem();
	*ret = *index;
	if (*index != n)
		return NULL;
	struct change *change = vec_add(&changes->v);
	if (!change)
		return error_nomem();
	change->from = SIZE_MAX;
	change->existed = access(physical, F_OK) == 0;
	change->physical = take(physical);
	change->below = strdup(below);
	return change->below ? NULL : error_nomem();
}

/* The old name of a rename goes away, that of a copy stays; both are where the new file starts. */
static struct suture_error *collect_origin(struct changes *changes, const struct source_root *root,
	const struct diff_file *file, size_t to)
{
	const char *below = diff_strip(file->old_path, root->level);
	size_t from;

	if (!below)
		return error_create(SUTURE_ERROR_DIFF,
			"line %zu of the diff: \"%s\" is no path below the source root", file->line,
			file->old_path);
	TRY(get_change(changes, root, below, &from));
	changes->v.at[to].from = from;
	changes->v.at[from].deleted |= file->renamed;
	return NULL;
}

/* diff -N without time stamps does not say /dev/null. */
static bool brings_file(const struct change *change, const struct diff_file *file)
{
	bool from_nothing = file->hunks.n == 1 && file->hunks.at[0].old_count == 0;

	return file->created || file->renamed || file->copied || (from_nothing && !change->existed);
}

static struct suture_error *collect_file(
	struct changes *changes, const struct source_root *root, const struct diff_file *file)
{
	const char *below;
	size_t at;

	if (!file->hunks.n && !file->binary && !file->created && !file->deleted && !file->renamed &&
		!file->copied)
		return NULL; /* a change of mode */
	TRY(root_path(root, file, &below));
	TRY(get_change(changes, root, below, &at));
	struct change *change = &changes->v.at[at];
	if (!vec_push(&change->parts, file))
		return error_nomem();
	if (change->parts.n == 1)
		change->brought = brings_file(change, file);
	change->deleted = file->deleted;
	change->binary |= file->binary;
	if (file->renamed || file->copied)
		return collect_origin(changes, root, file, at);
	return NULL;
}

struct suture_error *changes_collect(
	const struct diff *diff, const struct source_root *root, struct changes *ret)
{
	struct changes changes = {};

	vec_foreach (file, &diff->files) {
		struct suture_error *err = collect_file(&changes, root, file);

		if (err) {
			changes_deinit(&changes);
			return err;
		}
	}
	*ret = changes;
	return NULL;
}

/* ---- applying ---- */

static struct suture_error *load(struct change *change)
{
	struct stat st;

	if (!change->existed || change->data)
		return NULL;
	if (stat(change->physical, &st) < 0)
		return error_errno(errno, "cannot read %s", change->physical);
	change->mtime = st.st_mtim;
	return path_read_file(change->physical, DIFF_MAX_SIZE, &change->data, &change->size);
}

/* What the first part is applied to. */
static struct suture_error *load_start(struct changes *changes, struct change *change)
{
	struct change *origin = change;

	if (change->from != SIZE_MAX)
		origin = &changes->v.at[change->from];
	if (change->from != SIZE_MAX && !origin->existed)
		return error_create(SUTURE_ERROR_DIFF, "there is no %s", origin->below);
	TRY(load(origin));
	if (change->from != SIZE_MAX)
		change->mtime = origin->mtime;
	text_deinit(&change->text);
	return text_parse(origin->data ? origin->data : "", origin->size, &change->text);
}

static struct suture_error *apply_parts(struct changes *changes, struct change *change)
{
	size_t offset;

	TRY(load_start(changes, change));
	vec_foreach (part, &change->parts) {
		const struct diff_file *file = *part;

		if (file->binary)
			return error_create(SUTURE_ERROR_UNSUPPORTED,
				"line %zu of the diff: a binary change of a source", file->line);
		if (part == change->parts.at && change->brought && change->existed)
			return error_create(
				SUTURE_ERROR_DIFF, "the diff creates it, but it is there already");
		if (part == change->parts.at && !change->brought && !change->existed)
			return error_create(SUTURE_ERROR_DIFF, "there is no such file");
		TRY(text_apply(&change->text, file, false, &offset));
	}
	return text_keep_line_numbers(&change->text, &change->storage);
}

/* Every part can be taken out of what is there: the source has the fix already. */
static bool has_fix(struct change *change)
{
	struct text text = {};
	struct suture_error *err;

	if (change->deleted || change->from != SIZE_MAX)
		return change->deleted ? !change->existed : change->existed;
	err = load(change);
	if (!err)
		err = text_parse(change->data ? change->data : "", change->size, &text);
	for (size_t i = change->parts.n; i-- > 0 && !err;)
		err = text_apply(&text, change->parts.at[i], true, NULL);
	text_deinit(&text);
	bool fixed = !err;
	suture_error_destroy(err);
	return fixed;
}

static bool all_have_fix(struct changes *changes)
{
	vec_foreach (change, &changes->v) {
		if (change->reached && !has_fix(change))
			return false;
	}
	return true;
}

/* `err`, made clearer where the reason is that the fix is in. Takes over err. */
static struct suture_error *explain(
	struct changes *changes, struct change *change, struct suture_error *err)
{
	if (suture_error_code(err) != SUTURE_ERROR_DIFF || !has_fix(change))
		return error_hint(error_wrap(err, "%s: the fix does not apply", change->below),
			"build needs the source that the target was built from");
	suture_error_destroy(err);
	if (all_have_fix(changes))
		err = error_create(SUTURE_ERROR_DIFF,
			"the source tree already contains the fix (%s)", change->below);
	else
		err = error_create(SUTURE_ERROR_DIFF,
			"%s already contains its part of the fix, other files do not",
			change->below);
	return error_hint(err, "build needs the source without the fix: take it out with patch -R");
}

struct suture_error *changes_apply(struct changes *changes)
{
	vec_foreach (change, &changes->v) {
		struct suture_error *err = apply_parts(changes, change);

		change->applied = !err;
		if (!err)
			continue;
		if (change->reached)
			return explain(changes, change, err);
		suture_error_destroy(err);
	}
	return NULL;
}

/* ---- writing ---- */

static struct suture_error *write_change(const struct change *change, const struct shadow *shadow)
{
	_cleanup_free_ char *out = NULL;
	size_t size;

	TRY(text_print(&change->text, &out, &size));
	return shadow_put(shadow, change->physical, out, size, change->mtime);
}

struct suture_error *changes_write(const struct changes *changes, const struct shadow *shadow)
{
	vec_foreach (change, &changes->v) {
		if (!change->applied || !change->may_be_read)
			continue;
		if (change->deleted)
			TRY(shadow_remove(shadow, change->physical));
		else
			TRY(write_change(change, shadow));
	}
	return NULL;
}
