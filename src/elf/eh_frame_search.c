/* SPDX-License-Identifier: Apache-2.0 */
/* Finding .eh_frame by its looks: see eh_frame_search.h. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elf/cfi.h"
#include "elf/eh_frame_search.h"

enum {
	CHUNK = 64 * 1024,
	SEARCH_MAX = 64 * 1024 * 1024, /* bytes looked at */
	CIE_MAX = 256,		       /* they have some 20 bytes */
	CIE_HEAD = 12,		       /* length, id, version, "zR", NUL */
	TRIES_MAX = 1000,	       /* sections walked in vain */
};

struct search {
	const struct module *m;
	const struct reader *reader;
	unsigned tries;
	uint64_t looked_at;
	size_t n_ranges; /* in the section at hand */
};

/* The head of a CIE as compilers for x86-64 write them: version 1, "z...". */
static bool looks_like_cie(const uint8_t *p)
{
	uint32_t length, id;

	memcpy(&length, p, 4);
	memcpy(&id, p + 4, 4);
	return id == 0 && length >= 12 && length < CIE_MAX && length % 4 == 0 && p[8] == 1 &&
	       p[9] == 'z' && (p[10] == 'R' || p[10] == 'P');
}

static struct suture_error *check_range(const struct cfi_range *range, void *arg)
{
	struct search *s = arg;

	s->n_ranges++;
	vec_foreach (ph, &s->m->phdrs) {
		remote_addr low = ph->p_vaddr + s->m->bias;

		if (ph->p_type == PT_LOAD && (ph->p_flags & PF_X) && range->start >= low &&
			range->start - low < ph->p_memsz && range->end - low <= ph->p_memsz)
			return NULL;
	}
	return error_create(SUTURE_ERROR_INPUT, "not about this image's code");
}

static bool is_section(struct search *s, remote_addr start, uint64_t size)
{
	struct cfi_section section = {.reader = s->reader, .start = start, .size = size};

	s->n_ranges = 0;
	s->tries++;
	struct suture_error *err = cfi_walk(&section, check_range, s);
	bool good = !err && s->n_ranges > 0;
	suture_error_destroy(err);
	return good;
}

static struct suture_error *search_segment(
	struct search *s, const Elf64_Phdr *ph, remote_addr *ret_start, uint64_t *ret_size)
{
	_cleanup_free_ uint8_t *buf = malloc(CHUNK);
	remote_addr start = ph->p_vaddr + s->m->bias;

	if (!buf)
		return error_nomem();
	for (uint64_t at = 0; at + CIE_HEAD <= ph->p_filesz; at += CHUNK - 16) {
		size_t n = ph->p_filesz - at < CHUNK ? ph->p_filesz - at : CHUNK;

		s->looked_at += n;
		if (s->looked_at > SEARCH_MAX || s->tries > TRIES_MAX)
			return NULL;
		TRY(reader_read(s->reader, start + at, buf, n));
		/* The section is aligned to 8, so is the address of its first record. */
		for (size_t i = -(start + at) % 8; i + CIE_HEAD <= n; i += 8) {
			if (!looks_like_cie(buf + i) || s->tries > TRIES_MAX ||
				!is_section(s, start + at + i, ph->p_filesz - at - i))
				continue;
			*ret_start = start + at + i;
			*ret_size = ph->p_filesz - at - i;
			return NULL;
		}
	}
	return NULL;
}

struct suture_error *eh_frame_search(const struct module *m, const struct reader *reader,
	remote_addr *ret_start, uint64_t *ret_size, bool *found)
{
	struct search s = {.m = m, .reader = reader};

	*found = false;
	*ret_start = 0;
	vec_foreach (ph, &m->phdrs) {
		if (ph->p_type != PT_LOAD || (ph->p_flags & (PF_R | PF_W)) != PF_R)
			continue;
		TRY(search_segment(&s, ph, ret_start, ret_size));
		if (*ret_start) {
			*found = true;
			return NULL;
		}
	}
	return NULL;
}
