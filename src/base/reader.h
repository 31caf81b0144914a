/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where bytes come from: a file, a live process, a test buffer. ELF code reads through this and
 * does not know which. All of it is hostile: a reader answers an error for any range it does not
 * have, and the caller checks what it got.
 */
#ifndef BASE_READER_H
#define BASE_READER_H

#include <stdint.h>

#include "base/error.h"

/* An address in another process. An integer on purpose: it cannot be dereferenced by accident. */
typedef uint64_t remote_addr;

struct reader {
	/* Exactly len bytes at addr (file offset or remote address), or an error. */
	struct suture_error *(*read)(
		const struct reader *r, uint64_t addr, void *buf, size_t len)MUST_USE;
	void *arg;
};

static inline MUST_USE struct suture_error *reader_read(
	const struct reader *r, uint64_t addr, void *buf, size_t len)
{
	return r->read(r, addr, buf, len);
}

struct reader_buffer {
	struct reader reader;
	const uint8_t *data;
	size_t size;
	uint64_t base; /* address of data[0] */
};

/* A reader over memory of our own; `data` must outlive it. */
void reader_buffer_init(struct reader_buffer *rb, const void *data, size_t size, uint64_t base);

/* A NUL-terminated string of at most max bytes without the NUL; malloc'ed. */
struct suture_error *reader_string(
	const struct reader *r, uint64_t addr, size_t max, char **ret) MUST_USE;

#endif
