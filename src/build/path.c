/* SPDX-License-Identifier: Apache-2.0 */
/* File names as text, whole files as bytes: see path.h. */
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "build/path.h"

/* Append one component to the normalised path of length n in buf; returns the new length. */
static size_t push_component(char *buf, size_t n, const char *s, size_t len)
{
	if (len == 0 || (len == 1 && s[0] == '.'))
		return n;
	if (len == 2 && s[0] == '.' && s[1] == '.') {
		while (n && buf[--n] != '/')
			;
		return n;
	}
	buf[n++] = '/';
	memcpy(buf + n, s, len);
	return n + len;
}

static size_t push_components(char *buf, size_t n, const char *path)
{
	while (*path) {
		size_t len = strcspn(path, "/");

		n = push_component(buf, n, path, len);
		path += len;
		path += *path == '/';
	}
	return n;
}

char *path_join(const char *base, const char *path)
{
	size_t n = 0;
	char *buf = malloc(strlen(base) + strlen(path) + 3);

	if (!buf)
		return NULL;
	if (path[0] != '/')
		n = push_components(buf, n, base);
	n = push_components(buf, n, path);
	if (n == 0)
		buf[n++] = '/';
	buf[n] = '\0';
	return buf;
}

char *path_dirname(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

const char *path_basename(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

const char *path_extension(const char *path)
{
	const char *base = path_basename(path);
	const char *dot = strrchr(base, '.');

	return dot && dot != base ? dot : base + strlen(base);
}

bool path_under(const char *path, const char *root)
{
	size_t n = strlen(root);

	if (n == 1 && root[0] == '/')
		return path[0] == '/';
	return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

const char *path_below(const char *path, const char *root)
{
	path += strlen(root);
	return path + (*path == '/');
}

bool path_ends_with(const char *path, const char *tail)
{
	size_t n = strlen(path), t = strlen(tail);

	if (t == 0 || t > n || strcmp(path + n - t, tail) != 0)
		return false;
	return t == n || path[n - t - 1] == '/' || tail[0] == '/';
}

char *path_physical(const char *path)
{
	char *real = realpath(path, NULL);

	if (real)
		return real;
	if (path[0] != '/' || path[1] == '\0')
		return strdup(path);
	_cleanup_free_ char *dir = path_dirname(path);
	_cleanup_free_ char *parent = dir ? path_physical(dir) : NULL;
	return parent ? path_join(parent, path_basename(path)) : NULL;
}

bool path_is_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool path_is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static struct suture_error *read_exactly(int fd, char *buf, size_t size, const char *path)
{
	for (size_t have = 0; have < size;) {
		ssize_t n = read(fd, buf + have, size - have);

		if (n < 0)
			return error_errno(errno, "cannot read %s", path);
		if (n == 0)
			return error_create(
				SUTURE_ERROR_INPUT, "%s shrinks while it is read", path);
		have += n;
	}
	return NULL;
}

struct suture_error *path_read_file(const char *path, size_t max, char **ret, size_t *ret_size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(errno, "cannot open %s", path);
	if (!S_ISREG(st.st_mode))
		return error_create(SUTURE_ERROR_INPUT, "%s is not a regular file", path);
	if ((uint64_t)st.st_size > max)
		return error_create(SUTURE_ERROR_INPUT, "%s is larger than %zu bytes", path, max);
	_cleanup_free_ char *buf = malloc(st.st_size + 1);
	if (!buf)
		return error_nomem();
	TRY(read_exactly(fd, buf, st.st_size, path));
	buf[st.st_size] = '\0';
	*ret = take(buf);
	*ret_size = st.st_size;
	return NULL;
}

struct suture_error *path_write_file(const char *path, const void *data, size_t size)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_errno(errno, "cannot create %s", path);
	for (size_t done = 0; done < size;) {
		ssize_t n = write(fd, (const char *)data + done, size - done);

		if (n < 0)
			return error_errno(errno, "cannot write %s", path);
		done += n;
	}
	return NULL;
}

struct suture_error *path_make_directory(const char *path)
{
	if (mkdir(path, 0700) == 0 || errno == EEXIST)
		return NULL;
	if (errno != ENOENT)
		return error_errno(errno, "cannot create directory %s", path);
	_cleanup_free_ char *parent = path_dirname(path);
	if (!parent)
		return error_nomem();
	TRY(path_make_directory(parent));
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_errno(errno, "cannot create directory %s", path);
	return NULL;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	remove(path);
	return 0;
}

void path_remove_tree(const char *path)
{
	nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}
