/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Separate debug files, searched where gdb searches ("Debugging Information in Separate Files" of
 * its manual): DIR/.build-id/xx/yyyy.debug, then the name in .gnu_debuglink beside the image, in
 * .debug/ beside it, and under DIR followed by the image's directory. What is found must prove
 * that it belongs to the image. Every place looked at is remembered with the reason why it did not
 * do, for the error message.
 */
#include <elfutils/libdwelf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "elf/image_private.h"

#define SYSTEM_DIR "/usr/lib/debug"

struct search {
	struct image *image;
	const char *link; /* file name from .gnu_debuglink, or NULL */
	uint32_t crc;
	char *tried; /* " PATH: reason; PATH: reason" */
	bool found;
};

Dwarf *image_dwarf(Elf *elf)
{
	Dwarf *dwarf = dwarf_begin_elf(elf, DWARF_C_READ, NULL);
	Dwarf_CU *cu = NULL;

	/* Line tables or frames alone make a Dwarf, too. */
	if (dwarf && dwarf_get_units(dwarf, NULL, &cu, NULL, NULL, NULL, NULL) != 0) {
		dwarf_end(dwarf);
		return NULL;
	}
	return dwarf;
}

/* CRC-32 of the whole file (the one of zlib, IEEE 802.3), as .gnu_debuglink has it. */
static struct suture_error *file_crc(int fd, uint32_t *ret)
{
	uint32_t table[256], crc = UINT32_MAX;
	uint8_t buf[16384];
	off_t at = 0;
	ssize_t n;

	for (uint32_t i = 0; i < 256; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
	}
	while ((n = pread(fd, buf, sizeof(buf), at)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			crc = crc >> 8 ^ table[(crc ^ buf[i]) & 0xff];
		at += n;
	}
	if (n < 0)
		return error_errno(errno, "read");
	*ret = ~crc;
	return NULL;
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static struct suture_error *check_belongs(const struct search *s, int fd, Elf *elf, bool by_link)
{
	const struct image *image = s->image;
	const void *id;
	uint32_t crc;

	ssize_t size = dwelf_elf_gnu_build_id(elf, &id);
	if (same_file(fd, image_private(image)->fd))
		return image_bad("the image itself");
	if (image->build_id_size && size <= 0)
		return image_bad("no build-id");
	if (image->build_id_size &&
		((size_t)size != image->build_id_size || memcmp(id, image->build_id, size) != 0))
		return image_bad("another build-id");
	if (!by_link)
		return NULL;
	TRY(file_crc(fd, &crc));
	if (crc != s->crc)
		return image_bad("CRC %08x instead of %08x", crc, s->crc);
	return NULL;
}

/*
 * `strip -g` leaves the image its symbols without the names of the files they are from: the debug
 * file's table is taken when it has more.
 */
static struct suture_error *adopt_symbols(struct image *image, Elf *elf)
{
	struct image own = {.symbols = {image->symbols.at, image->symbols.n, image->symbols.room}};

	image->symbols.at = NULL;
	image->symbols.n = image->symbols.room = 0;
	struct suture_error *err = image_read_symbols(image, elf);
	if (!err && image->symbols.n > own.symbols.n) {
		vec_free(&own.symbols);
		return NULL;
	}
	vec_free(&image->symbols);
	image->symbols.at = own.symbols.at;
	image->symbols.n = own.symbols.n;
	image->symbols.room = own.symbols.room;
	return err;
}

/* Takes from the debug file what the image lacks; nothing of use is an error. */
static struct suture_error *adopt(struct image *image, Elf *elf, Dwarf **ret)
{
	size_t had = image->symbols.n;

	TRY(adopt_symbols(image, elf));
	if (image->symbols.n == 0)
		return image_bad("no symbols");
	if (!image->dwarf)
		*ret = image_dwarf(elf);
	if (image->symbols.n == had && !*ret)
		return image_bad("nothing that the image lacks");
	return NULL;
}

static struct suture_error *use(struct search *s, const char *path, bool by_link)
{
	struct image_private *p = image_private(s->image);
	_cleanup_free_ char *copy = strdup(path);
	Dwarf *dwarf = NULL;
	Elf *elf = NULL;
	int fd = -1;

	if (!copy)
		return error_nomem();
	TRY(image_open_elf(path, &fd, &elf));
	struct suture_error *err = check_belongs(s, fd, elf, by_link);
	if (!err)
		err = adopt(s->image, elf, &dwarf);
	if (err) {
		elf_end(elf);
		close(fd);
		return err;
	}
	s->image->debug_path = take(copy);
	s->image->debug_elf = elf;
	p->debug_fd = fd;
	if (dwarf)
		s->image->dwarf = dwarf;
	s->found = true;
	return NULL;
}

/* Looks at one place. An error is for what ends the search, not for a file that does not do. */
static struct suture_error *try_path(struct search *s, char *path, bool by_link)
{
	_cleanup_free_ char *owned = path;
	_cleanup_error_ struct suture_error *err = NULL;
	char *tried;

	if (!path)
		return error_nomem();
	if (s->found)
		return NULL;
	err = use(s, path, by_link);
	if (!err)
		return NULL;
	if (suture_error_code(err) == SUTURE_ERROR_NOMEM)
		return take(err);
	if (asprintf(&tried, "%s%s%s: %s", s->tried ? s->tried : "", s->tried ? "; " : " ", owned,
		    suture_error_message(err)) < 0)
		return error_nomem();
	free(s->tried);
	s->tried = tried;
	return NULL;
}

PRINTF(1, 2)
static char *format(const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : text;
}

static struct suture_error *try_build_id(struct search *s, const char *dir)
{
	const struct image *image = s->image;
	char hex[2 * sizeof(image->build_id) + 1] = "";

	if (!dir || image->build_id_size < 2)
		return NULL;
	for (size_t i = 1; i < image->build_id_size; i++)
		sprintf(hex + 2 * (i - 1), "%02x", image->build_id[i]);
	return try_path(
		s, format("%s/.build-id/%02x/%s.debug", dir, image->build_id[0], hex), false);
}

static struct suture_error *try_link(struct search *s, const char *debug_dir)
{
	_cleanup_free_ char *real = realpath(s->image->path, NULL);

	if (!real)
		return error_errno(errno, "resolve the path");
	*strrchr(real, '/') = '\0';
	TRY(try_path(s, format("%s/%s", real, s->link), true));
	TRY(try_path(s, format("%s/.debug/%s", real, s->link), true));
	if (debug_dir) {
		TRY(try_path(s, format("%s%s/%s", debug_dir, real, s->link), true));
		TRY(try_path(s, format("%s/%s", debug_dir, s->link), true));
	}
	return try_path(s, format("%s%s/%s", SYSTEM_DIR, real, s->link), true);
}

static struct suture_error *search_all(struct search *s, const char *debug_dir)
{
	GElf_Word crc = 0;

	TRY(try_build_id(s, debug_dir));
	TRY(try_build_id(s, SYSTEM_DIR));
	s->link = dwelf_elf_gnu_debuglink(s->image->elf, &crc);
	s->crc = crc;
	if (s->link && strrchr(s->link, '/'))
		s->link = strrchr(s->link, '/') + 1;
	if (s->link && s->link[0])
		TRY(try_link(s, debug_dir));
	return NULL;
}

struct suture_error *image_find_debug(struct image *image, const char *debug_dir)
{
	struct search s = {.image = image};

	if (debug_dir && !debug_dir[0])
		debug_dir = NULL;
	struct suture_error *err = search_all(&s, debug_dir);
	if (!err && !s.found && image->symbols.n == 0) {
		err = error_create(SUTURE_ERROR_NO_SYMBOLS,
			"stripped, and no separate debug file was found; looked at:%s",
			s.tried ? s.tried : " nothing, it names none");
		err = error_hint(err, "install its debug package, or point SUTURE_DEBUG_DIR at the "
				      "directory that holds its debug file");
	}
	free(s.tried);
	return err;
}
