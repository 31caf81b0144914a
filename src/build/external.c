/* SPDX-License-Identifier: Apache-2.0 */
/* References out of the payload, one symbol for each thing referred to. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/assembly.h"

static const enum patch_symbol_kind kinds[] = {
	[BIND_ADDRESS] = PATCH_SYMBOL_ADDRESS,
	[BIND_DYNAMIC] = PATCH_SYMBOL_DYNAMIC,
	[BIND_TLS] = PATCH_SYMBOL_TLS,
	[BIND_TLS_DYNAMIC] = PATCH_SYMBOL_TLS_DYNAMIC,
};

static bool is_by_name(const struct binding *b)
{
	return b->kind == BIND_DYNAMIC || b->kind == BIND_TLS_DYNAMIC;
}

/* ---- finding one that is there ---- */

static const char *name_of(const struct assembly *as, const struct binding *b)
{
	return is_by_name(b) && b->dynsym ? as->target->image->dynsyms.at[b->dynsym].name : b->name;
}

static const char *version_of(const struct assembly *as, const struct binding *b)
{
	if (!is_by_name(b) || !b->dynsym || b->dynsym >= as->target->image->dynsym_versions.n)
		return NULL;
	return as->target->image->dynsym_versions.at[b->dynsym];
}

static bool same_text(const char *a, const char *b)
{
	return !a || !b ? a == b : !strcmp(a, b);
}

static bool is_same(
	const struct assembly *as, const struct patch_symbol *s, const struct binding *b)
{
	if (s->kind != kinds[b->kind])
		return false;
	if (!is_by_name(b))
		return s->value == b->value &&
		       (s->elf_type == STT_GNU_IFUNC) == (b->elf_type == STT_GNU_IFUNC);
	return !strcmp(s->name, name_of(as, b)) && same_text(s->version, version_of(as, b));
}

static bool name_is_taken(const struct assembly *as, const char *name)
{
	vec_foreach (i, &as->externals)
		if (!strcmp(as->patch->symbols.at[*i].name, name))
			return true;
	return false;
}

/* "name", "name@unit", "name@unit#2". */
static char *unique_name(const struct assembly *as, const struct part *part, const char *name)
{
	char *text = strdup(name);

	for (unsigned n = 1; text && name_is_taken(as, text); n++) {
		free(text);
		int length = n == 1 ? asprintf(&text, "%s@%s", name, part->pair->unit->name)
				    : asprintf(&text, "%s@%s#%u", name, part->pair->unit->name, n);
		if (length < 0)
			return NULL;
	}
	return text;
}

/* ---- what the payload leans on ---- */

static bool has_relocs(const struct target *target, uint64_t start, uint64_t size)
{
	size_t n;
	const Elf64_Rela *relocs = image_relocs(target->image, &n);

	for (size_t i = 0; i < n; i++)
		if (relocs[i].r_offset >= start && relocs[i].r_offset - start < size)
			return true;
	return false;
}

static bool is_replaced_at(struct assembly *as, uint64_t address)
{
	vec_foreach (work, &as->work) {
		const struct place *place = assembly_old_place(as, work->span);

		if (place && place->address == address && assembly_is_replaced(as, work->span))
			return true;
	}
	return false;
}

/* Code that is called without being replaced must be there, byte for byte. */
static struct suture_error *expect(struct assembly *as, const struct binding *b, const char *name)
{
	bool code = b->elf_type == STT_FUNC || b->elf_type == STT_GNU_IFUNC;

	if (b->kind != BIND_ADDRESS || !code || !b->size || is_replaced_at(as, b->value) ||
		has_relocs(as->target, b->value, b->size))
		return NULL;
	_cleanup_free_ uint8_t *bytes = malloc(b->size);
	if (!bytes)
		return error_nomem();
	TRY(image_read(as->target->image, b->value, bytes, b->size));
	struct patch_expect *e = vec_add(&as->patch->expects);
	if (!e || !(e->name = strdup(name)))
		return error_nomem();
	e->image = as->image;
	e->address = b->value;
	e->size = b->size;
	crypto_hash_sha256(e->digest, bytes, b->size);
	return NULL;
}

/* ---- making one ---- */

static uint8_t external_type(const struct assembly *as, const struct binding *b)
{
	uint8_t type = b->elf_type;

	if (b->kind == BIND_TLS || b->kind == BIND_TLS_DYNAMIC)
		return STT_TLS;
	if (b->dynsym)
		type = as->target->image->dynsyms.at[b->dynsym].type;
	return type <= STT_FUNC || type == STT_GNU_IFUNC ? type : STT_NOTYPE;
}

struct suture_error *emit_external(
	struct assembly *as, const struct part *part, const struct binding *b, uint32_t *ret)
{
	const char *version = version_of(as, b);

	vec_foreach (i, &as->externals)
		if (is_same(as, &as->patch->symbols.at[*i], b)) {
			*ret = *i;
			return NULL;
		}
	_cleanup_free_ char *name =
		is_by_name(b) ? strdup(name_of(as, b)) : unique_name(as, part, b->name);
	struct patch_symbol *s = name ? vec_add(&as->patch->symbols) : NULL;
	if (!s || !vec_push(&as->externals, as->patch->symbols.n - 1))
		return error_nomem();
	*ret = as->patch->symbols.n - 1;
	s->kind = kinds[b->kind];
	s->elf_type = external_type(as, b);
	s->weak = is_by_name(b) && b->weak;
	s->image = as->image;
	s->value = is_by_name(b) ? 0 : b->value;
	s->size = is_by_name(b) ? 0 : b->size;
	s->name = take(name);
	if (version && !(s->version = strdup(version)))
		return error_nomem();
	return expect(as, b, s->name);
}
