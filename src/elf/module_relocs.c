/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the dynamic linker relocated in a mapped image. DT_RELR is the compact form of relative
 * relocations: an even word is an address, an odd one a bit map of the 63 words behind the last
 * address (gABI, "Relative Relocation Table").
 */
#include <stdlib.h>

#include "base/cleanup.h"
#include "elf/module_private.h"

enum { AT_ONCE = 1024, RELOCS_MAX = 1 << 23 };

static struct suture_error *add(struct module *m, struct module_reloc r)
{
	if (!module_spans(m, r.offset + m->bias, 8))
		return module_bad("relocation of 0x%llx, outside", (unsigned long long)r.offset);
	if (r.symbol && r.symbol >= module_private(m)->symbol_count)
		return module_bad(
			"relocation with symbol %u of %zu", r.symbol, module_symbol_count(m));
	if (m->relocs.n == RELOCS_MAX)
		return module_bad("more than %u of them", RELOCS_MAX);
	if (!vec_push(&m->relocs, r))
		return error_nomem();
	return NULL;
}

static struct suture_error *read_rela(struct module *m, const struct module_table *t, bool plt)
{
	_cleanup_free_ Elf64_Rela *buf = malloc(AT_ONCE * sizeof(*buf));
	uint64_t n = t->size / sizeof(*buf);

	if (!buf)
		return error_nomem();
	for (uint64_t i = 0, step; i < n; i += step) {
		step = n - i < AT_ONCE ? n - i : AT_ONCE;
		TRY(module_read(m, t->addr + i * sizeof(*buf), buf, step * sizeof(*buf)));
		for (uint64_t j = 0; j < step; j++)
			TRY(add(m, (struct module_reloc){
					   .offset = buf[j].r_offset,
					   .type = ELF64_R_TYPE(buf[j].r_info),
					   .symbol = ELF64_R_SYM(buf[j].r_info),
					   .addend = buf[j].r_addend,
					   .plt = plt,
				   }));
	}
	return NULL;
}

static struct suture_error *relr_word(struct module *m, uint64_t word, uint64_t *where)
{
	struct module_reloc r = {.offset = word, .type = R_X86_64_RELATIVE};

	if (!(word & 1)) {
		*where = word + 8;
		return add(m, r);
	}
	for (unsigned i = 0; (word >>= 1) != 0; i++) {
		r.offset = *where + i * 8;
		if (word & 1)
			TRY(add(m, r));
	}
	*where += 63 * 8;
	return NULL;
}

static struct suture_error *read_relr(struct module *m, const struct module_table *t)
{
	_cleanup_free_ uint64_t *buf = malloc(AT_ONCE * sizeof(*buf));
	uint64_t n = t->size / sizeof(*buf), where = 0;

	if (!buf)
		return error_nomem();
	for (uint64_t i = 0, step; i < n; i += step) {
		step = n - i < AT_ONCE ? n - i : AT_ONCE;
		TRY(module_read(m, t->addr + i * sizeof(*buf), buf, step * sizeof(*buf)));
		for (uint64_t j = 0; j < step; j++)
			TRY(relr_word(m, buf[j], &where));
	}
	return NULL;
}

struct suture_error *module_relocs(struct module *m)
{
	struct module_private *p = module_private(m);

	if (p->relocs_read)
		return NULL;
	vec_free(&m->relocs);
	struct suture_error *err = read_rela(m, &p->rela, false);
	if (!err)
		err = read_rela(m, &p->jmprel, true);
	if (!err)
		err = read_relr(m, &p->relr);
	if (err)
		return error_wrap(err, "%s: relocations", m->path);
	p->relocs_read = true;
	return NULL;
}
