/* SPDX-License-Identifier: Apache-2.0 */
/* The input is a target file. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "exercise_elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	char path[64];

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	exercise_image(path);
	close(fd);
	return 0;
}
