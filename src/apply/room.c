/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing the address of a payload: see room.h.
 *
 * Of all gaps between mappings the nearest one is taken. Directly below the image is best: nothing
 * grows there. Elsewhere the payload goes to the bottom of the gap, away from the mapping above,
 * which may be a stack that grows down; and a distance is kept from what grows up: the heap, or,
 * where there is none yet, the huge gap above an executable, in which the kernel will start it.
 */
#include <stdlib.h>
#include <string.h>

#include "apply/room.h"
#include "base/cleanup.h"

#define PAGE	     4096ULL
#define REACH	     ((1ULL << 31) - (64 << 10)) /* of a signed 32-bit displacement, with slack */
#define LOW_2G	     (1ULL << 31)
#define SPACE_END    (1ULL << 47)
#define LOWEST	     (64ULL << 10)  /* null pointers with an offset must keep faulting */
#define STACK_GROWTH (128ULL << 20) /* what the kernel itself leaves at least, mmap_base() */
#define HUGE_GAP     (1ULL << 40)

/* How much the heap may still grow: generous at first, less when there is no room otherwise. */
static const uint64_t heap_growth[] = {1ULL << 30, 128ULL << 20};

enum {
	N_GROWTHS = sizeof(heap_growth) / sizeof(heap_growth[0]),
	MARK_EVERY = 64, /* pages */
	MARK = 42,
};

struct gap {
	remote_addr start, end;
	const struct map *below, *above; /* NULL: none */
};

static uint64_t up(uint64_t x)
{
	return (x + PAGE - 1) & -PAGE;
}

static uint64_t sub(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Cut off of a gap what belongs to the heap below, the stack above, and one guard page. */
static void trim(struct gap *gap, uint64_t growth)
{
	bool heap = gap->below && !strcmp(gap->below->path, "[heap]");

	if (gap->below && (heap || gap->end - gap->start >= HUGE_GAP))
		gap->start = min(gap->end, gap->start + growth);
	if (gap->above && !strncmp(gap->above->path, "[stack", 6))
		gap->end = max(gap->start, sub(gap->end, STACK_GROWTH));
	if (gap->below)
		gap->start += PAGE;
	if (gap->above)
		gap->end = sub(gap->end, PAGE);
}

bool room_is_marked(remote_addr address)
{
	return address / PAGE % MARK_EVERY == MARK;
}

/* The nearest marked page at or below (at or above) an address. */
static remote_addr marked_below(remote_addr address)
{
	return address - (address / PAGE + MARK_EVERY - MARK) % MARK_EVERY * PAGE;
}

static remote_addr marked_above(remote_addr address)
{
	return marked_below(address + (MARK_EVERY - 1) * PAGE);
}

/* The address in this gap; false when it does not fit. */
static bool fit(const struct gap *gap, const struct room_request *r, bool marked, remote_addr *ret)
{
	/* Every byte of the payload reaches every byte of the image. */
	uint64_t low = max(gap->start, up(sub(r->high, REACH)));
	uint64_t high = min(gap->end, r->low + REACH);

	if (r->fixed)
		high = min(high, LOW_2G - PAGE);
	high &= -PAGE;
	if (low >= high || high - low < r->size)
		return false;
	/* Directly below the image: at the top; above it, or far away: at the bottom. */
	bool below_image = gap->above && gap->above->start == r->low;
	remote_addr at = below_image ? high - r->size : low;
	if (marked)
		at = below_image ? marked_below(at) : marked_above(at);
	if (at < low || at > high - r->size)
		return false;
	*ret = at;
	return true;
}

static uint64_t distance(const struct room_request *r, remote_addr at)
{
	return at < r->low ? r->low - at : at - r->low;
}

static bool search(const struct maps *maps, const struct room_request *r, uint64_t growth,
	bool marked, remote_addr *ret)
{
	remote_addr from = max(up(r->mmap_min_addr), LOWEST);
	const struct map *below = NULL;
	bool found = false;

	for (size_t i = 0; i <= maps->v.n && from < SPACE_END; i++) {
		const struct map *above = i < maps->v.n ? &maps->v.at[i] : NULL;
		struct gap gap = {
			.start = from,
			.end = above ? min(above->start, SPACE_END) : SPACE_END - PAGE,
			.below = below,
			.above = above,
		};
		remote_addr at;

		if (gap.start < gap.end) {
			trim(&gap, growth);
			if (gap.start < gap.end && fit(&gap, r, marked, &at) &&
				(!found || distance(r, at) < distance(r, *ret))) {
				*ret = at;
				found = true;
			}
		}
		if (above) {
			from = max(from, above->end);
			below = above;
		}
	}
	return found;
}

struct suture_error *room_find(
	const struct maps *maps, const struct room_request *r, remote_addr *ret)
{
	for (size_t i = 0; i < 2 * N_GROWTHS; i++) {
		if (search(maps, r, heap_growth[i % N_GROWTHS], i < N_GROWTHS, ret))
			return NULL;
	}
	return error_hint(
		error_create(SUTURE_ERROR_NO_ROOM,
			"no free range of %llu KiB for the payload of %s (0x%llx-0x%llx): searched "
			"0x%llx to 0x%llx%s",
			(unsigned long long)r->size / 1024, r->image, (unsigned long long)r->low,
			(unsigned long long)r->high,
			(unsigned long long)max(max(r->mmap_min_addr, LOWEST), sub(r->high, REACH)),
			(unsigned long long)(r->fixed ? LOW_2G : min(r->low + REACH, SPACE_END)),
			r->fixed ? ", the part that 32-bit absolute addresses reach" : ""),
		"the address space around the image is full; only a restart gives a new layout");
}

static int by_start(const void *a, const void *b)
{
	const struct map *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

struct suture_error *room_take(struct maps *maps, remote_addr start, remote_addr end)
{
	char *path = strdup("");
	struct map *map = path ? vec_add(&maps->v) : NULL;

	if (!map) {
		free(path);
		return error_nomem();
	}
	*map = (struct map){.start = start, .end = end, .path = path};
	qsort(maps->v.at, maps->v.n, sizeof(maps->v.at[0]), by_start);
	return NULL;
}

uint64_t room_mmap_min_addr(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/sys/vm/mmap_min_addr", "re");
	unsigned long long value;

	/* Not readable in some sandboxes: Debian's default. */
	return f && fscanf(f, "%llu", &value) == 1 ? value : 65536;
}
