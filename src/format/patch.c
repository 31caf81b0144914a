/* SPDX-License-Identifier: Apache-2.0 */
/* A patch in memory, its way from and to a file, and its seal. */
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "format/format.h"

struct patch *patch_create(void)
{
	return calloc(1, sizeof(struct patch));
}

static void function_deinit(struct patch_function *f)
{
	free(f->name);
	free(f->old_bytes);
	free(f->unit);
	free(f->reason);
	vec_free(&f->parts);
}

void patch_destroy(struct patch *patch)
{
	if (!patch)
		return;
	vec_foreach (text, &patch->references)
		free(*text);
	vec_foreach (image, &patch->images)
		free(image->name);
	vec_foreach (section, &patch->sections) {
		free(section->name);
		free(section->data);
		vec_free(&section->relocs);
	}
	vec_foreach (symbol, &patch->symbols) {
		free(symbol->name);
		free(symbol->version);
	}
	vec_foreach (function, &patch->functions)
		function_deinit(function);
	vec_foreach (expect, &patch->expects)
		free(expect->name);
	vec_free(&patch->references);
	vec_free(&patch->images);
	vec_free(&patch->sections);
	vec_free(&patch->symbols);
	vec_free(&patch->functions);
	vec_free(&patch->expects);
	free(patch->name);
	free(patch->version);
	free(patch->description);
	free(patch->created_by);
	free(patch->compiler);
	free(patch->manifest);
	free(patch);
}

void hex_encode(char *ret, const uint8_t *bytes, size_t size)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < size; i++) {
		ret[2 * i] = digits[bytes[i] >> 4];
		ret[2 * i + 1] = digits[bytes[i] & 15];
	}
	ret[2 * size] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

bool hex_decode(const char *hex, uint8_t *ret, size_t max, size_t *ret_size)
{
	size_t n = strlen(hex);

	if (n % 2 || n / 2 > max)
		return false;
	for (size_t i = 0; i < n; i += 2) {
		int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);

		if (high < 0 || low < 0)
			return false;
		ret[i / 2] = high << 4 | low;
	}
	*ret_size = n / 2;
	return true;
}

/* ---- seal ---- */

/*
 * Quotes inside JSON strings are escaped and no object of the schema but the outermost has a key
 * "id", so this text stands in a manifest once.
 */
static const char id_key[] = "\"id\": \"";

static bool find_id(const uint8_t *manifest, size_t size, size_t *ret)
{
	const size_t key = sizeof(id_key) - 1;
	const uint8_t *at = memmem(manifest, size, id_key, key);

	if (!at)
		return false;
	size_t pos = at - manifest + key;
	if (size - pos < ID_HEX_SIZE + 1 || manifest[pos + ID_HEX_SIZE] != '"')
		return false;
	for (size_t i = 0; i < ID_HEX_SIZE; i++)
		if (hex_digit(manifest[pos + i]) < 0)
			return false;
	*ret = pos;
	return !memmem(manifest + pos, size - pos, id_key, key);
}

struct suture_error *seal_compute(const uint8_t *file, size_t size, size_t manifest_at,
	size_t manifest_size, uint8_t ret[PATCH_DIGEST_SIZE], size_t *ret_id_at)
{
	static const uint8_t zeros[ID_HEX_SIZE] = {[0 ... ID_HEX_SIZE - 1] = '0'};
	crypto_hash_sha256_state state;
	size_t id;

	if (!find_id(file + manifest_at, manifest_size, &id))
		return bad("manifest: \"id\" is missing or is not 64 lower-case hex digits");
	id += manifest_at;
	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, file, id);
	crypto_hash_sha256_update(&state, zeros, ID_HEX_SIZE);
	crypto_hash_sha256_update(&state, file + id + ID_HEX_SIZE, size - id - ID_HEX_SIZE);
	crypto_hash_sha256_final(&state, ret);
	*ret_id_at = id;
	return NULL;
}

/* ---- files ---- */

static struct suture_error *read_all(int fd, const char *path, uint8_t *buf, size_t size)
{
	size_t have = 0;

	while (have < size) {
		ssize_t n = read(fd, buf + have, size - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(errno, "cannot read %s", path);
		if (n == 0)
			return bad("%s became shorter while it was read", path);
		have += n;
	}
	return NULL;
}

struct suture_error *patch_read(const char *path, struct patch **ret)
{
	/* O_NONBLOCK: a FIFO in place of a patch must not hang us. */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return error_errno(errno, "cannot open %s", path);
	if (fstat(fd, &st) < 0)
		return error_errno(errno, "cannot stat %s", path);
	if (!S_ISREG(st.st_mode))
		return bad("%s is not a regular file", path);
	if ((uint64_t)st.st_size > MAX_FILE)
		return bad("%s is too large for a patch file (%lld bytes)", path,
			(long long)st.st_size);

	/* A copy, not a mapping: somebody may truncate the file while we look. */
	_cleanup_free_ uint8_t *data = malloc(st.st_size + 1);
	if (!data)
		return error_nomem();
	TRY(read_all(fd, path, data, st.st_size));
	return patch_parse(data, st.st_size, path, ret);
}

static struct suture_error *write_all(int fd, const char *path, const uint8_t *buf, size_t size)
{
	while (size) {
		ssize_t n = write(fd, buf, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(errno, "cannot write %s", path);
		buf += n;
		size -= n;
	}
	if (fsync(fd) < 0)
		return error_errno(errno, "cannot write %s", path);
	return NULL;
}

/* Opened with mode 0666 so that the caller's umask decides, which mkstemp() would not let it. */
static struct suture_error *open_temporary(const char *path, char **ret_name, int *ret)
{
	uint64_t suffix;

	if (getrandom(&suffix, sizeof(suffix), 0) != sizeof(suffix))
		return error_errno(errno, "getrandom");
	if (asprintf(ret_name, "%s.%016llx.tmp", path, (unsigned long long)suffix) < 0) {
		*ret_name = NULL;
		return error_nomem();
	}
	*ret = open(*ret_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (*ret < 0)
		return error_errno(errno, "cannot create %s", *ret_name);
	return NULL;
}

/* The new name must survive a power failure too. */
static struct suture_error *sync_directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir =
		slash ? strndup(path, slash == path ? 1 : slash - path) : strdup(".");

	if (!dir)
		return error_nomem();
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* Some filesystems cannot sync a directory: the file is there all the same. */
	if (fd >= 0 && fsync(fd) < 0 && errno != EINVAL)
		return error_errno(errno, "cannot sync %s", dir);
	return NULL;
}

struct suture_error *patch_write(struct patch *patch, const char *path)
{
	_cleanup_free_ void *data = NULL;
	_cleanup_free_ char *temporary = NULL;
	_cleanup_close_ int fd = -1;
	size_t size;

	TRY(patch_serialize(patch, &data, &size));
	TRY(open_temporary(path, &temporary, &fd));
	struct suture_error *err = write_all(fd, path, data, size);
	if (!err && rename(temporary, path) < 0)
		err = error_errno(errno, "cannot rename %s to %s", temporary, path);
	if (err) {
		unlink(temporary);
		return err;
	}
	return sync_directory_of(path);
}
