/* SPDX-License-Identifier: Apache-2.0 */
/* Finding things in a target image: see target.h. */
#include <stdlib.h>
#include <string.h>

#include "build/target.h"

/* ---- names and addresses ---- */

size_t symbol_name_length(const char *name)
{
	return strcspn(name, "@");
}

static int compare_spelling(const char *a, size_t na, const char *b, size_t nb)
{
	int order = memcmp(a, b, na < nb ? na : nb);

	return order ? order : na < nb ? -1 : na > nb;
}

static int by_name(const void *a, const void *b, void *arg)
{
	const struct image_symbol *symbols = arg;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	const char *nx = symbols[x].name, *ny = symbols[y].name;
	int order = compare_spelling(nx, symbol_name_length(nx), ny, symbol_name_length(ny));

	return order ? order : x < y ? -1 : x > y;
}

static int by_address(const void *a, const void *b, void *arg)
{
	const struct image_symbol *symbols = arg;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	if (symbols[x].value != symbols[y].value)
		return symbols[x].value < symbols[y].value ? -1 : 1;
	return x < y ? -1 : x > y;
}

static bool is_definition(const struct image_symbol *s)
{
	return s->shndx != SHN_UNDEF && s->type != STT_FILE && s->type != STT_SECTION && s->name[0];
}

struct suture_error *target_init(struct target *target, struct image *image)
{
	*target = (struct target){
		.image = image,
		.by_name = calloc(image->symbols.n + 1, sizeof(uint32_t)),
		.by_address = calloc(image->symbols.n + 1, sizeof(uint32_t)),
	};
	if (!target->by_name || !target->by_address) {
		target_deinit(target);
		return error_nomem();
	}
	for (size_t i = 0; i < image->symbols.n; i++) {
		const struct image_symbol *s = &image->symbols.at[i];

		if (!is_definition(s))
			continue;
		target->by_name[target->n_names++] = i;
		/* Labels that somebody kept begin nothing. */
		if (s->type != STT_TLS && s->shndx != SHN_ABS && strncmp(s->name, ".L", 2))
			target->by_address[target->n_addresses++] = i;
	}
	qsort_r(target->by_name, target->n_names, sizeof(uint32_t), by_name, image->symbols.at);
	qsort_r(target->by_address, target->n_addresses, sizeof(uint32_t), by_address,
		image->symbols.at);
	return NULL;
}

void target_deinit(struct target *target)
{
	free(target->by_name);
	free(target->by_address);
	target->by_name = target->by_address = NULL;
}

static int compare_at(const struct target *target, size_t i, const char *name, size_t n)
{
	const char *have = target->image->symbols.at[target->by_name[i]].name;

	return compare_spelling(have, symbol_name_length(have), name, n);
}

const struct image_symbol *target_find(const struct target *target, const char *name, size_t *at)
{
	size_t n = symbol_name_length(name), low = 0, high = target->n_names;

	if (!*at) { /* kept as index + 1 */
		while (low < high) {
			size_t middle = low + (high - low) / 2;

			if (compare_at(target, middle, name, n) < 0)
				low = middle + 1;
			else
				high = middle;
		}
		*at = low + 1;
	}
	size_t i = *at - 1;
	if (i >= target->n_names || compare_at(target, i, name, n))
		return NULL;
	++*at;
	return &target->image->symbols.at[target->by_name[i]];
}

uint32_t target_dynsym(const struct target *target, const char *name)
{
	size_t n = symbol_name_length(name);

	for (size_t i = 1; i < target->image->dynsyms.n; i++) {
		const char *have = target->image->dynsyms.at[i].name;

		if (!strncmp(have, name, n) && !have[n])
			return i;
	}
	return 0;
}

uint64_t target_next(const struct target *target, uint64_t address)
{
	const struct image *image = target->image;
	size_t low = 0, high = target->n_addresses;
	uint64_t next = UINT64_MAX;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (image->symbols.at[target->by_address[middle]].value <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < target->n_addresses)
		next = image->symbols.at[target->by_address[low]].value;
	vec_foreach (ph, &image->phdrs)
		if (ph->p_type == PT_LOAD && address >= ph->p_vaddr &&
			address - ph->p_vaddr < ph->p_filesz && next - ph->p_vaddr > ph->p_filesz)
			next = ph->p_vaddr + ph->p_filesz;
	return next;
}

bool target_read(const struct target *target, uint64_t address, void *buf, size_t len)
{
	struct suture_error *err = image_read(target->image, address, buf, len);

	suture_error_destroy(err);
	return !err;
}

bool target_preemptible(const struct target *target, uint32_t dynsym)
{
	const struct image_symbol *s = &target->image->dynsyms.at[dynsym];

	if (s->shndx == SHN_UNDEF)
		return true;
	return target->image->is_library && !target->image->symbolic &&
	       s->visibility == STV_DEFAULT;
}

/* ---- values ---- */

static uint64_t tls_end(const struct image *image)
{
	uint64_t align = image->tls_align ? image->tls_align : 1;

	return (image->tls_size + align - 1) & ~(align - 1);
}

static bool set_value(struct value *ret, enum value_kind kind, uint64_t number, uint32_t dynsym)
{
	*ret = (struct value){kind, number, dynsym};
	return true;
}

/* What the dynamic linker puts into a slot; without relocation, what the file has there. */
static bool slot_value(const struct target *target, uint64_t slot, struct value *ret)
{
	const Elf64_Rela *r = image_reloc_at(target->image, slot);
	uint64_t word;

	if (!r)
		return target_read(target, slot, &word, sizeof(word)) &&
		       set_value(ret, VALUE_ADDRESS, word, 0);
	switch (ELF64_R_TYPE(r->r_info)) {
	case R_X86_64_JUMP_SLOT:
	case R_X86_64_GLOB_DAT:
		return set_value(ret, VALUE_DYNAMIC, 0, ELF64_R_SYM(r->r_info));
	case R_X86_64_64:
		return set_value(ret, VALUE_DYNAMIC, r->r_addend, ELF64_R_SYM(r->r_info));
	case R_X86_64_RELATIVE:
	case R_X86_64_IRELATIVE: /* the resolver stands for the function */
		return set_value(ret, VALUE_ADDRESS, r->r_addend, 0);
	default:
		return false;
	}
}

/* Calls go through stubs, which mean what their slot means. */
static bool address_value(const struct target *target, uint64_t address, struct value *ret)
{
	uint64_t slot;

	if (image_plt_slot(target->image, address, &slot))
		return slot_value(target, slot, ret);
	return set_value(ret, VALUE_ADDRESS, address, 0);
}

static bool tpoff_value(const struct target *target, uint64_t tpoff, struct value *ret)
{
	return set_value(ret, VALUE_TLS, tpoff + tls_end(target->image), 0);
}

static bool tls_slot_value(
	const struct target *target, uint64_t slot, uint32_t type, struct value *ret)
{
	const Elf64_Rela *r = image_reloc_at(target->image, slot);
	uint64_t word;

	if (!r)
		return type == R_X86_64_TPOFF64 && target_read(target, slot, &word, sizeof(word)) &&
		       tpoff_value(target, word, ret);
	if (ELF64_R_TYPE(r->r_info) != type)
		return false;
	if (ELF64_R_SYM(r->r_info))
		return set_value(ret, VALUE_TLS_DYNAMIC, 0, ELF64_R_SYM(r->r_info));
	if (type == R_X86_64_DTPMOD64) /* this module: the offset stands in the second word */
		return target_read(target, slot + 8, &word, sizeof(word)) &&
		       set_value(ret, VALUE_TLS, word, 0);
	return set_value(ret, VALUE_TLS, r->r_addend, 0);
}

bool target_code_value(
	const struct target *target, enum code_form form, uint64_t raw, struct value *ret)
{
	switch (form) {
	case CODE_ADDRESS:
		return address_value(target, raw, ret);
	case CODE_GOT:
		return slot_value(target, raw, ret);
	case CODE_TPOFF:
		return tpoff_value(target, raw, ret);
	case CODE_DTPOFF:
		return (int64_t)raw < 0 ? tpoff_value(target, raw, ret)
					: set_value(ret, VALUE_TLS, raw, 0);
	case CODE_GOT_TPOFF:
		return tls_slot_value(target, raw, R_X86_64_TPOFF64, ret);
	case CODE_GOT_TLSGD:
		return tls_slot_value(target, raw, R_X86_64_DTPMOD64, ret);
	case CODE_TLSDESC:
		return tls_slot_value(target, raw, R_X86_64_TLSDESC, ret);
	case CODE_GOT_TLSLD:
	case CODE_NOTHING:
		return set_value(ret, VALUE_NONE, 0, 0);
	}
	return false;
}

bool target_data_value(const struct target *target, uint32_t type, uint64_t address, int64_t bias,
	struct value *ret)
{
	int32_t word;

	if (arch_x86_64.reloc_size(type) == 8 && !arch_x86_64.reloc_is_pcrel(type))
		return slot_value(target, address, ret) &&
		       (ret->kind != VALUE_ADDRESS || address_value(target, ret->number, ret));
	if (arch_x86_64.reloc_size(type) != 4 || !target_read(target, address, &word, 4))
		return false;
	uint64_t reached = (int64_t)word;
	if (arch_x86_64.reloc_is_pcrel(type))
		reached += address + bias;
	return address_value(target, reached, ret);
}
