/* SPDX-License-Identifier: Apache-2.0 */
/* Listing what a compiler could read below a directory: see shadow.h. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "build/path.h"
#include "build/shadow.h"

#define MAX_ENTRIES 1000000u
#define MAX_DEPTH   128

static bool is_one_of(const char *name, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(name, list[i]) == 0)
			return true;
	}
	return false;
}

/* Nothing that a compile reads, and nothing that it might write through a link. */
static bool is_product(const char *name)
{
	static const char *const products[] = {".o", ".lo", ".a", ".la", ".so", ".d", ".su",
		".gcno", ".gch", ".pch", ".pyc", ".Po", ".Plo"};

	return is_one_of(path_extension(name), products, sizeof(products) / sizeof(products[0]));
}

static bool is_version_control(const char *name)
{
	static const char *const names[] = {".git", ".hg", ".svn", ".bzr", ".pc"};

	return is_one_of(name, names, sizeof(names) / sizeof(names[0]));
}

static unsigned char type_of(int dir_fd, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type;
	if (fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return DT_UNKNOWN;
	return IFTODT(st.st_mode);
}

static void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

static struct suture_error *walk_directory(struct tree *tree, int fd, const char *path, int depth);

static struct suture_error *walk_entry(
	struct tree *tree, int dir_fd, const char *dir, const struct dirent *entry, int depth)
{
	unsigned char type = type_of(dir_fd, entry);
	const char *name = entry->d_name;
	char *path;

	if (type == DT_DIR ? is_version_control(name) : is_product(name))
		return NULL;
	if (type != DT_DIR && type != DT_REG && type != DT_LNK)
		return NULL;
	if (asprintf(&path, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name) < 0)
		return error_nomem();
	struct tree_entry item = {path, type};
	if (!vec_push(&tree->entries, item)) {
		free(path);
		return error_nomem();
	}
	if (tree->entries.n > MAX_ENTRIES)
		return error_create(SUTURE_ERROR_COMPDB, "%s holds more than %u files", tree->root,
			MAX_ENTRIES);
	if (type != DT_DIR)
		return NULL;
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return NULL; /* not ours to read: no compile could */
	return walk_directory(tree, fd, path, depth + 1);
}

/* Takes over fd. `path` stays valid: it is an entry's own, or the root. */
static struct suture_error *walk_directory(struct tree *tree, int fd, const char *path, int depth)
{
	__attribute__((cleanup(closedirp))) DIR *dir = fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		int errnum = errno;

		close(fd);
		return error_errno(errnum, "cannot read directory %s", path);
	}
	if (depth > MAX_DEPTH)
		return error_create(SUTURE_ERROR_COMPDB, "%s: too many directories deep", path);
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		TRY(walk_entry(tree, dirfd(dir), path, entry, depth));
	}
	return NULL;
}

struct suture_error *tree_read(const char *root, struct tree *ret)
{
	struct tree tree = {.root = strdup(root)};

	if (!tree.root)
		return error_nomem();
	int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct suture_error *err = fd < 0 ? error_errno(errno, "cannot read directory %s", root)
					  : walk_directory(&tree, fd, root, 0);
	if (err) {
		tree_deinit(&tree);
		return err;
	}
	*ret = tree;
	return NULL;
}

void tree_deinit(struct tree *tree)
{
	vec_foreach (entry, &tree->entries)
		free(entry->path);
	vec_free(&tree->entries);
	free(tree->root);
	*tree = (struct tree){};
}
