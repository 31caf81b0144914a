/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unwind tables: from a pc to its row, with a memory. Stacks are looked at while every thread of
 * the target stands still, and the same few call sites come up again and again: what was found for
 * a pc is kept. Equal rows, and there are few different ones, are kept once.
 *
 * How a function's record is found: by the binary search table of PT_GNU_EH_FRAME (LSB 5.0 core,
 * "The .eh_frame_hdr section"), else by an index made from the section itself.
 */
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elf/cache.h"
#include "elf/cfi.h"
#include "elf/eh_frame_search.h"

enum { HEADER_MAX = 64, SECTION_MAX = 1 << 30, BLOB_BUCKETS = 512, PCS_MAX = 1 << 20 };

/* Bytes kept once: rows, expressions. */
struct blob {
	struct blob *next;
	uint64_t hash;
	size_t size;
	_Alignas(16) uint8_t data[];
};

struct known {
	remote_addr pc;
	const struct unwind_row *row; /* NULL: no information */
	bool used;
};

/* Open addressing; `room` is a power of two. */
struct knowledge {
	struct known *at;
	size_t n, room;
};

struct unwind_table {
	struct cache cache;
	struct cfi_section section;
	/* The table of .eh_frame_hdr: pairs of 4-byte offsets from `header`. n 0: use `index`. */
	remote_addr header, pairs;
	uint64_t n_pairs;
	VEC(struct cfi_range) index; /* ascending by start */

	struct blob *blobs[BLOB_BUCKETS];
	struct knowledge known;
};

/* ---- what is kept ---- */

static uint64_t hash_bytes(const uint8_t *data, size_t size)
{
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ data[i]) * 0x100000001b3;
	return hash;
}

static const uint8_t *keep(void *arg, const uint8_t *data, size_t size)
{
	struct unwind_table *t = arg;
	uint64_t hash = hash_bytes(data, size);
	struct blob **bucket = &t->blobs[hash % BLOB_BUCKETS];

	for (struct blob *b = *bucket; b; b = b->next)
		if (b->hash == hash && b->size == size && memcmp(b->data, data, size) == 0)
			return b->data;
	struct blob *b = malloc(sizeof(*b) + size);
	if (!b)
		return NULL;
	b->next = *bucket;
	b->hash = hash;
	b->size = size;
	memcpy(b->data, data, size);
	*bucket = b;
	return b->data;
}

static struct known *known_slot(const struct knowledge *k, remote_addr pc)
{
	for (size_t i = (pc * 0x9e3779b97f4a7c15) >> 20;; i++) {
		struct known *slot = &k->at[i & (k->room - 1)];

		if (!slot->used || slot->pc == pc)
			return slot;
	}
}

/* Room for one more, at most half full. false: remember no more. */
static bool known_reserve(struct knowledge *k)
{
	struct knowledge bigger = {.n = k->n, .room = k->room ? k->room * 2 : 256};

	if (k->n < k->room / 2)
		return true;
	if (bigger.room > PCS_MAX)
		return false;
	bigger.at = calloc(bigger.room, sizeof(*bigger.at));
	if (!bigger.at)
		return false;
	for (size_t i = 0; i < k->room; i++)
		if (k->at[i].used)
			*known_slot(&bigger, k->at[i].pc) = k->at[i];
	free(k->at);
	*k = bigger;
	return true;
}

static void known_add(struct knowledge *k, remote_addr pc, const struct unwind_row *row)
{
	if (!known_reserve(k))
		return;
	*known_slot(k, pc) = (struct known){.pc = pc, .row = row, .used = true};
	k->n++;
}

/* ---- from pc to record ---- */

static struct suture_error *read_pair(
	struct unwind_table *t, uint64_t i, remote_addr *ret_start, remote_addr *ret_fde)
{
	int32_t pair[2];

	TRY(reader_read(&t->cache.reader, t->pairs + i * sizeof(pair), pair, sizeof(pair)));
	*ret_start = t->header + (int64_t)pair[0];
	*ret_fde = t->header + (int64_t)pair[1];
	return NULL;
}

/* The last entry that starts at or below pc. *ret_fde 0: none. */
static struct suture_error *search_pairs(
	struct unwind_table *t, remote_addr pc, remote_addr *ret_fde)
{
	uint64_t low = 0, high = t->n_pairs;

	*ret_fde = 0;
	while (low < high) {
		uint64_t mid = low + (high - low) / 2;
		remote_addr start, fde;

		TRY(read_pair(t, mid, &start, &fde));
		if (start <= pc) {
			*ret_fde = fde;
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	return NULL;
}

static remote_addr search_index(const struct unwind_table *t, remote_addr pc)
{
	size_t low = 0, high = t->index.n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (t->index.at[mid].start <= pc)
			low = mid + 1;
		else
			high = mid;
	}
	return low ? t->index.at[low - 1].fde : 0;
}

static struct suture_error *find_row(
	struct unwind_table *t, remote_addr pc, const struct unwind_row **ret)
{
	struct unwind_row row;
	remote_addr fde;
	bool found;

	*ret = NULL;
	if (t->n_pairs)
		TRY(search_pairs(t, pc, &fde));
	else
		fde = search_index(t, pc);
	if (!fde)
		return NULL;
	TRY(cfi_row(&t->section, fde, pc, keep, t, &row, &found));
	if (!found)
		return NULL;
	*ret = (const struct unwind_row *)keep(t, (const uint8_t *)&row, sizeof(row));
	return *ret ? NULL : error_nomem();
}

const struct unwind_row *unwind_table_row(struct unwind_table *t, remote_addr pc)
{
	const struct unwind_row *row;

	if (t->known.n) {
		const struct known *known = known_slot(&t->known, pc);

		if (known->used)
			return known->row;
	}
	struct suture_error *err = find_row(t, pc, &row);
	if (err)
		row = NULL;
	suture_error_destroy(err);
	known_add(&t->known, pc, row);
	return row;
}

/* ---- making tables ---- */

static struct suture_error *index_add(const struct cfi_range *range, void *arg)
{
	struct unwind_table *t = arg;

	return vec_push(&t->index, *range) ? NULL : error_nomem();
}

static int by_start(const void *a, const void *b)
{
	const struct cfi_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static struct suture_error *make_index(struct unwind_table *t)
{
	TRY(cfi_walk(&t->section, index_add, t));
	if (t->index.n)
		qsort(t->index.at, t->index.n, sizeof(*t->index.at), by_start);
	return NULL;
}

static struct suture_error *table_create(const struct reader *reader, struct unwind_table **ret)
{
	struct unwind_table *t = calloc(1, sizeof(*t));

	if (!t)
		return error_nomem();
	cache_init(&t->cache, reader);
	t->section.reader = &t->cache.reader;
	*ret = t;
	return NULL;
}

struct suture_error *unwind_table_from_eh_frame(
	const struct reader *reader, remote_addr eh_frame, size_t size, struct unwind_table **ret)
{
	_cleanup_(unwind_table_destroyp) struct unwind_table *t = NULL;

	if (eh_frame == 0 || size > SECTION_MAX || eh_frame + size < eh_frame)
		return error_create(SUTURE_ERROR_INPUT, ".eh_frame of %zu bytes at 0x%llx", size,
			(unsigned long long)eh_frame);
	TRY(table_create(reader, &t));
	t->section.start = eh_frame;
	t->section.size = size;
	TRY(error_wrap(make_index(t), ".eh_frame at 0x%llx", (unsigned long long)eh_frame));
	*ret = take(t);
	return NULL;
}

/* No header says how long .eh_frame is: at most to the end of its segment. */
static bool section_in_segment(const struct module *m, remote_addr start, uint64_t *ret_size)
{
	vec_foreach (ph, &m->phdrs) {
		remote_addr low = ph->p_vaddr + m->bias;

		if (ph->p_type != PT_LOAD || start < low || start - low >= ph->p_memsz)
			continue;
		*ret_size = ph->p_memsz - (start - low);
		return true;
	}
	return false;
}

static struct suture_error *read_header(
	struct unwind_table *t, const struct module *m, remote_addr header, uint64_t size)
{
	uint8_t bytes[HEADER_MAX], encodings[4];

	if (size > sizeof(bytes))
		size = sizeof(bytes);
	if (size < 8)
		return error_create(
			SUTURE_ERROR_INPUT, "header of %llu bytes", (unsigned long long)size);
	TRY(reader_read(&t->cache.reader, header, bytes, size));
	struct cursor c = {.at = bytes, .end = bytes + size, .addr = header + size};
	for (unsigned i = 0; i < 4; i++)
		encodings[i] = cursor_fixed(&c, 1);
	t->section.start = cursor_pointer(&c, encodings[1], header);
	if (encodings[0] != 1 || c.bad)
		return error_create(SUTURE_ERROR_INPUT, "malformed header");
	if (!section_in_segment(m, t->section.start, &t->section.size))
		return error_create(SUTURE_ERROR_INPUT, ".eh_frame outside the image");
	/* All linkers write this encoding of the table; without one there is the long way. */
	if (encodings[3] != (DW_EH_PE_datarel | DW_EH_PE_sdata4))
		return NULL;
	t->n_pairs = cursor_pointer(&c, encodings[2], 0);
	t->pairs = header + (c.at - bytes);
	t->header = header;
	return c.bad ? error_create(SUTURE_ERROR_INPUT, "malformed header") : NULL;
}

static struct suture_error *from_header(
	struct unwind_table *t, const struct module *m, const Elf64_Phdr *ph)
{
	remote_addr header = ph->p_vaddr + m->bias;

	if (header < m->low || header > m->high || ph->p_memsz > m->high - header)
		return error_create(SUTURE_ERROR_INPUT, "outside the image");
	TRY(read_header(t, m, header, ph->p_memsz));
	if (t->n_pairs == 0)
		return make_index(t);
	if (t->n_pairs > (ph->p_memsz - (t->pairs - header)) / 8)
		return error_create(SUTURE_ERROR_INPUT, "table of %llu entries",
			(unsigned long long)t->n_pairs);
	return NULL;
}

static struct suture_error *from_module(struct unwind_table *t, const struct module *m)
{
	bool found;

	vec_foreach (ph, &m->phdrs)
		if (ph->p_type == PT_GNU_EH_FRAME)
			return error_wrap(from_header(t, m, ph), ".eh_frame_hdr");
	TRY(eh_frame_search(m, &t->cache.reader, &t->section.start, &t->section.size, &found));
	return found ? make_index(t) : NULL;
}

struct suture_error *unwind_table_from_module(const struct module *m, struct unwind_table **ret)
{
	_cleanup_(unwind_table_destroyp) struct unwind_table *t = NULL;

	TRY(table_create(m->reader, &t));
	TRY(error_wrap(from_module(t, m), "%s: unwind information", m->path));
	*ret = take(t);
	return NULL;
}

void unwind_table_destroy(struct unwind_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < BLOB_BUCKETS; i++) {
		for (struct blob *b = t->blobs[i], *next; b; b = next) {
			next = b->next;
			free(b);
		}
	}
	cache_deinit(&t->cache);
	vec_free(&t->index);
	free(t->known.at);
	free(t);
}
