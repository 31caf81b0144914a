/* SPDX-License-Identifier: Apache-2.0 */
/* The test's own process as if it were another one: a reader over /proc/self/mem, and its images.
 */
#ifndef TESTS_ELF_SELF_H
#define TESTS_ELF_SELF_H

#include <fcntl.h>
#include <link.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "../unit.h"
#include "base/reader.h"

static struct suture_error *self_read(const struct reader *r, uint64_t addr, void *buf, size_t len)
{
	static int fd = -1;

	(void)r;
	if (fd < 0)
		fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	if (addr > INT64_MAX || pread(fd, buf, len, (off_t)addr) != (ssize_t)len)
		return error_create(SUTURE_ERROR_INPUT, "no %zu bytes at 0x%llx", len,
			(unsigned long long)addr);
	return NULL;
}

static const struct reader self_reader = {.read = self_read};

struct self_image {
	const char *name; /* wanted: end of the path; "" is the program */
	uint64_t bias, base;
};

static int self_image_cb(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct self_image *want = arg;
	size_t n = strlen(info->dlpi_name), w = strlen(want->name);

	(void)size;
	if (n < w || (w == 0 && n > 0) || strcmp(info->dlpi_name + n - w, want->name) != 0)
		return 0;
	want->bias = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_offset == 0)
			want->base = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
	return 1;
}

static inline struct self_image self_image(const char *name)
{
	struct self_image image = {.name = name};

	assert_int_equal(dl_iterate_phdr(self_image_cb, &image), 1);
	assert_int_not_equal(image.base, 0);
	return image;
}

#endif
