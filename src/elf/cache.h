/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reader in front of another that keeps a few pages: hash lookups and unwind tables touch the
 * same pages again and again, a few bytes each time, and each read of a process is a system call.
 * Bounded: CACHE_PAGES pages per reader. Only for memory that does not change.
 */
#ifndef ELF_CACHE_H
#define ELF_CACHE_H

#include "base/reader.h"

enum { CACHE_PAGE = 4096, CACHE_PAGES = 32 };

struct cache {
	struct reader reader; /* reads through the cache */
	const struct reader *under;
	struct {
		uint64_t addr;
		uint8_t *data;
	} pages[CACHE_PAGES];
};

/* `under` must outlive the cache; the cache must not move. */
void cache_init(struct cache *c, const struct reader *under);
void cache_deinit(struct cache *c);

#endif
