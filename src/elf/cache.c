/* SPDX-License-Identifier: Apache-2.0 */
/* A page cache in front of a reader: see cache.h. */
#include <stdlib.h>
#include <string.h>

#include "elf/cache.h"

#define NO_PAGE UINT64_MAX /* no page starts there */

/* The page at `addr`, or NULL when it cannot be had as a whole. */
static const uint8_t *cache_page(struct cache *c, uint64_t addr)
{
	size_t slot = addr / CACHE_PAGE % CACHE_PAGES;

	if (c->pages[slot].addr == addr)
		return c->pages[slot].data;
	c->pages[slot].addr = NO_PAGE;
	if (!c->pages[slot].data)
		c->pages[slot].data = malloc(CACHE_PAGE);
	if (!c->pages[slot].data)
		return NULL;
	struct suture_error *err = reader_read(c->under, addr, c->pages[slot].data, CACHE_PAGE);
	if (err) {
		suture_error_destroy(err);
		return NULL;
	}
	c->pages[slot].addr = addr;
	return c->pages[slot].data;
}

static struct suture_error *cache_read(const struct reader *r, uint64_t addr, void *buf, size_t len)
{
	struct cache *c = r->arg;

	/* What is long is read once, and would only push out the rest. */
	if (len >= 2 * CACHE_PAGE || addr + len < addr)
		return reader_read(c->under, addr, buf, len);
	while (len > 0) {
		size_t at = addr % CACHE_PAGE, step = CACHE_PAGE - at;
		const uint8_t *page = cache_page(c, addr - at);

		if (!page)
			return reader_read(c->under, addr, buf, len);
		if (step > len)
			step = len;
		memcpy(buf, page + at, step);
		buf = (uint8_t *)buf + step;
		addr += step;
		len -= step;
	}
	return NULL;
}

void cache_init(struct cache *c, const struct reader *under)
{
	*c = (struct cache){.reader = {.read = cache_read, .arg = c}, .under = under};
	for (size_t i = 0; i < CACHE_PAGES; i++)
		c->pages[i].addr = NO_PAGE;
}

void cache_deinit(struct cache *c)
{
	for (size_t i = 0; i < CACHE_PAGES; i++)
		free(c->pages[i].data);
}
