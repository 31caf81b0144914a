/* SPDX-License-Identifier: Apache-2.0 */
/* The private copy of the sources: see shadow.h. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "build/path.h"
#include "build/shadow.h"
#include "build/strmap.h"

struct suture_error *shadow_init(struct shadow *shadow, const char *work_dir, bool second)
{
	/* Names of one length: nothing in an object can differ because of them. */
	const char *const names[] = {second ? "c" : "a", second ? "d" : "b"};

	*shadow = (struct shadow){};
	for (int i = 0; i < SHADOW_SIDES; i++) {
		shadow->side[i] = path_join(work_dir, names[i]);
		if (!shadow->side[i])
			return error_nomem();
		TRY(path_make_directory(shadow->side[i]));
	}
	return NULL;
}

void shadow_deinit(struct shadow *shadow)
{
	for (int i = 0; i < SHADOW_SIDES; i++)
		free(shadow->side[i]);
	vec_free(&shadow->trees);
	*shadow = (struct shadow){};
}

const char *shadow_side(const struct shadow *shadow, int side)
{
	return shadow->side[side];
}

static bool covers_physical(const struct shadow *shadow, const char *path)
{
	vec_foreach (tree, &shadow->trees) {
		if (path_under(path, (*tree)->root))
			return true;
	}
	return false;
}

bool shadow_covers(const struct shadow *shadow, const char *path)
{
	_cleanup_free_ char *physical = path_physical(path);

	return physical && covers_physical(shadow, physical);
}

struct suture_error *shadow_add(struct shadow *shadow, const struct tree *tree)
{
	if (strcmp(tree->root, "/") == 0)
		return error_create(SUTURE_ERROR_COMPDB,
			"the root directory cannot be a source or build directory");
	return vec_push(&shadow->trees, tree) ? NULL : error_nomem();
}

/* ---- building ---- */

static struct suture_error *make_link(const char *target, const char *at)
{
	if (symlink(target, at) < 0 && errno != EEXIST)
		return error_errno(errno, "cannot create %s", at);
	return NULL;
}

static char *on_side(const struct shadow *shadow, int side, const char *path)
{
	char *out;

	return asprintf(&out, "%s%s", shadow->side[side], path) < 0 ? NULL : out;
}

/* A link of the original leads to the same place, in the copy if that is copied. */
static struct suture_error *mirror_link(
	const struct shadow *shadow, int side, const char *path, const char *at)
{
	_cleanup_free_ char *target = realpath(path, NULL), *mirrored = NULL;

	if (!target)
		return NULL; /* dangling */
	if (!covers_physical(shadow, target))
		return make_link(target, at);
	mirrored = on_side(shadow, side, target);
	return mirrored ? make_link(mirrored, at) : error_nomem();
}

static struct suture_error *mirror_entry(
	const struct shadow *shadow, int side, const struct tree_entry *entry, bool real)
{
	_cleanup_free_ char *at = on_side(shadow, side, entry->path);

	if (!at)
		return error_nomem();
	if (entry->type == DT_LNK)
		return mirror_link(shadow, side, entry->path, at);
	if (entry->type == DT_REG || !real)
		return make_link(entry->path, at);
	if (mkdir(at, 0700) < 0 && errno != EEXIST)
		return error_errno(errno, "cannot create directory %s", at);
	return NULL;
}

/* `real`: the directories that are not just links; NULL: all. */
static struct suture_error *mirror_tree(
	const struct shadow *shadow, int side, const struct tree *tree, const struct strmap *real)
{
	_cleanup_free_ char *at = on_side(shadow, side, tree->root);
	const char *linked = NULL; /* the directory we are below of, if it is a link */

	if (!at)
		return error_nomem();
	TRY(path_make_directory(at));
	vec_foreach (entry, &tree->entries) {
		if (linked && path_under(entry->path, linked))
			continue;
		bool is_real = !real || strmap_find(real, entry->path);

		linked = entry->type == DT_DIR && !is_real ? entry->path : NULL;
		TRY(mirror_entry(shadow, side, entry, is_real));
	}
	return NULL;
}

/* One link for everything in the original directory that the copy has not got. */
static struct suture_error *link_siblings(
	const struct shadow *shadow, int side, const char *directory)
{
	DIR *dir = opendir(directory);
	struct suture_error *err = NULL;
	struct dirent *entry;

	while (dir && !err && (entry = readdir(dir))) {
		_cleanup_free_ char *path = path_join(directory, entry->d_name);
		_cleanup_free_ char *at = path ? on_side(shadow, side, path) : NULL;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		err = at ? make_link(path, at) : error_nomem();
	}
	if (dir)
		closedir(dir);
	return err;
}

/* What is above a mirrored root, so that "../other" leads somewhere. */
static struct suture_error *link_surroundings(
	const struct shadow *shadow, const char *root, struct strmap *done)
{
	_cleanup_free_ char *dir = path_dirname(root);

	if (!dir)
		return error_nomem();
	size_t before = done->n;
	if (!strmap_add(done, dir, 0))
		return error_nomem();
	if (done->n == before || covers_physical(shadow, dir))
		return NULL;
	for (int side = 0; side < SHADOW_SIDES; side++)
		TRY(link_siblings(shadow, side, dir));
	return strcmp(dir, "/") == 0 ? NULL : link_surroundings(shadow, dir, done);
}

/* Directories and all that they are in. */
static struct suture_error *with_ancestors(const struct strings *directories, struct strmap *ret)
{
	vec_foreach (dir, &directories->v) {
		_cleanup_free_ char *at = strdup(*dir);

		while (at && strcmp(at, "/") != 0) {
			if (!strmap_add(ret, at, 0))
				return error_nomem();
			char *up = path_dirname(at);
			free(at);
			at = up;
		}
		if (!at)
			return error_nomem();
	}
	return NULL;
}

struct suture_error *shadow_build(struct shadow *shadow, const struct strings *directories)
{
	_cleanup_strmap_ struct strmap done = {}, real = {};

	if (directories)
		TRY(with_ancestors(directories, &real));
	vec_foreach (tree, &shadow->trees) {
		for (int side = 0; side < SHADOW_SIDES; side++)
			TRY(mirror_tree(shadow, side, *tree, directories ? &real : NULL));
	}
	vec_foreach (tree, &shadow->trees)
		TRY(link_surroundings(shadow, (*tree)->root, &done));
	return NULL;
}

/* ---- names of the original ---- */

/*
 * If the directory `path` is a symbolic link in the original, have one in the copy, at the place
 * that the directory which holds it has there.
 */
static struct suture_error *mirror_alias(const struct shadow *shadow, int side, const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode))
		return NULL;
	_cleanup_free_ char *dir = path_dirname(path);
	_cleanup_free_ char *holder = dir ? path_physical(dir) : NULL;
	_cleanup_free_ char *at_dir = holder ? on_side(shadow, side, holder) : NULL;
	_cleanup_free_ char *at = at_dir ? path_join(at_dir, path_basename(path)) : NULL;
	_cleanup_free_ char *target = path_physical(path);
	_cleanup_free_ char *mirrored = target ? on_side(shadow, side, target) : NULL;
	if (!at || !mirrored)
		return error_nomem();
	if (covers_physical(shadow, holder))
		return NULL; /* mirrored as it is */
	TRY(path_make_directory(at_dir));
	if (access(mirrored, F_OK) < 0)
		return NULL;
	if (lstat(at, &st) == 0 && S_ISLNK(st.st_mode))
		unlink(at); /* a sibling link into the original */
	return make_link(mirrored, at);
}

/* Every directory on the way that is a link in the original is one in the copy. */
static struct suture_error *mirror_aliases(const struct shadow *shadow, int side, const char *path)
{
	for (const char *p = path; *p; p++) {
		if (*p != '/' || p == path)
			continue;
		_cleanup_free_ char *dir = strndup(path, p - path);

		if (!dir)
			return error_nomem();
		TRY(mirror_alias(shadow, side, dir));
	}
	return mirror_alias(shadow, side, path);
}

struct suture_error *shadow_path(
	const struct shadow *shadow, int side, const char *path, char **ret)
{
	_cleanup_free_ char *physical = path_physical(path);

	if (!physical)
		return error_nomem();
	if (!covers_physical(shadow, physical)) {
		*ret = strdup(path);
		return *ret ? NULL : error_nomem();
	}
	if (strcmp(path, physical) != 0)
		TRY(mirror_aliases(shadow, side, path));
	*ret = on_side(shadow, side, path);
	return *ret ? NULL : error_nomem();
}

/* ---- changing the after side ---- */

/*
 * Where to change `path` on the after side, its directory made. Never through a link: that would
 * change the original.
 */
static struct suture_error *place_of(const struct shadow *shadow, const char *path, char **ret)
{
	_cleanup_free_ char *at = on_side(shadow, SHADOW_AFTER, path);
	_cleanup_free_ char *dir = at ? path_dirname(at) : NULL;
	_cleanup_free_ char *real = dir ? path_physical(dir) : NULL;

	if (!real)
		return error_nomem();
	if (!covers_physical(shadow, path) || strcmp(real, dir) != 0)
		return error_create(SUTURE_ERROR_INTERNAL, "%s is outside the private copy", path);
	TRY(path_make_directory(dir));
	*ret = take(at);
	return NULL;
}

struct suture_error *shadow_remove(const struct shadow *shadow, const char *path)
{
	_cleanup_free_ char *at = NULL;

	TRY(place_of(shadow, path, &at));
	if (unlink(at) < 0 && errno != ENOENT)
		return error_errno(errno, "cannot remove %s", at);
	return NULL;
}

struct suture_error *shadow_put(const struct shadow *shadow, const char *path, const void *data,
	size_t size, struct timespec mtime)
{
	_cleanup_free_ char *at = NULL;
	struct timespec times[2] = {mtime, mtime};

	TRY(shadow_remove(shadow, path));
	TRY(place_of(shadow, path, &at));
	TRY(path_write_file(at, data, size));
	if (utimensat(AT_FDCWD, at, times, 0) < 0)
		return error_errno(errno, "cannot set the time of %s", at);
	return NULL;
}
