/* SPDX-License-Identifier: Apache-2.0 */
/* Byte readers: see reader.h. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/reader.h"

static struct suture_error *buffer_read(
	const struct reader *r, uint64_t addr, void *buf, size_t len)
{
	const struct reader_buffer *rb = (const struct reader_buffer *)r;

	if (addr < rb->base || addr - rb->base > rb->size || len > rb->size - (addr - rb->base))
		return error_create(SUTURE_ERROR_INPUT, "no %zu bytes at 0x%llx", len,
			(unsigned long long)addr);
	memcpy(buf, rb->data + (addr - rb->base), len);
	return NULL;
}

void reader_buffer_init(struct reader_buffer *rb, const void *data, size_t size, uint64_t base)
{
	*rb = (struct reader_buffer){
		.reader = {.read = buffer_read},
		.data = data,
		.size = size,
		.base = base,
	};
}

struct suture_error *reader_string(const struct reader *r, uint64_t addr, size_t max, char **ret)
{
	_cleanup_free_ char *buf = malloc(max + 1);
	size_t have = 0;

	if (!buf)
		return error_nomem();
	while (have < max) {
		/* Never cross a 64-byte line: the string may end right before an unmapped page. */
		size_t step = 64 - (addr + have) % 64;

		if (step > max - have)
			step = max - have;
		TRY(reader_read(r, addr + have, buf + have, step));
		char *end = memchr(buf + have, '\0', step);
		if (end) {
			*ret = take(buf);
			return NULL;
		}
		have += step;
	}
	return error_create(SUTURE_ERROR_INPUT, "string at 0x%llx is longer than %zu bytes",
		(unsigned long long)addr, max);
}
