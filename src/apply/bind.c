/* SPDX-License-Identifier: Apache-2.0 */
/* Functions and data: see bind.h. */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "apply/bind.h"
#include "base/cleanup.h"

enum { SCAN_STEP = 64 << 10 };

struct suture_error *binder_init(struct binder *binder, struct target *target,
	const struct patch *patch, struct target_image **images)
{
	*binder = (struct binder){.target = target, .patch = patch, .images = images};
	binder->imports = calloc(target->images.n ?: 1, sizeof(binder->imports[0]));
	return binder->imports ? NULL : error_nomem();
}

void binder_deinit(struct binder *binder)
{
	for (size_t i = 0; binder->imports && i < binder->target->images.n; i++) {
		vec_foreach (import, &binder->imports[i].v)
			free(import->name);
		vec_free(&binder->imports[i].v);
	}
	free(binder->imports);
	scope_destroy(binder->scope);
}

/* ---- slots ---- */

static bool binds_name(const struct module_reloc *reloc)
{
	switch (reloc->type) {
	case R_X86_64_GLOB_DAT:
	case R_X86_64_JUMP_SLOT:
	case R_X86_64_TPOFF64:
	case R_X86_64_DTPMOD64:
	case R_X86_64_TLSDESC:
		return true;
	default:
		return false;
	}
}

static struct suture_error *add_import(
	const struct module *m, const struct module_reloc *reloc, struct imports *imports)
{
	struct module_symbol symbol = {};

	if (reloc->symbol)
		TRY(module_symbol(m, reloc->symbol, &symbol));
	struct import *import = vec_add(&imports->v);
	if (!import) {
		free(symbol.name);
		return error_nomem();
	}
	*import = (struct import){
		.name = symbol.name, /* NULL: the image itself */
		.type = reloc->type,
		.slot = reloc->offset + m->bias,
		.addend = reloc->addend,
	};
	return NULL;
}

struct suture_error *binder_imports(
	struct binder *binder, struct target_image *image, struct imports **ret)
{
	struct imports *imports = &binder->imports[image - binder->target->images.at];

	*ret = imports;
	if (imports->ready)
		return NULL;
	TRY(target_module(binder->target, image));
	TRY(module_relocs(image->module));
	vec_foreach (reloc, &image->module->relocs) {
		if (binds_name(reloc))
			TRY(add_import(image->module, reloc, imports));
	}
	imports->ready = true;
	return NULL;
}

static struct suture_error *read_slot(struct binder *binder, remote_addr slot, uint64_t *ret)
{
	return error_wrap(process_read(binder->target->process, slot, ret, sizeof(*ret)),
		"slot at 0x%llx", (unsigned long long)slot);
}

static bool is_code(const struct binder *binder, remote_addr address)
{
	const struct map *map = maps_find(&binder->target->maps, address);

	return map && map->x;
}

static bool in_span(const struct target_image *image, remote_addr address)
{
	return address >= image->module->low && address < image->module->high;
}

/* What the image's own slots of one type say about a name. *found false: no such slot. */
static struct suture_error *own_slot(struct binder *binder, struct target_image *image,
	const char *name, uint32_t type, uint64_t *ret, bool *found)
{
	struct imports *imports;

	*found = false;
	TRY(binder_imports(binder, image, &imports));
	vec_foreach (import, &imports->v) {
		if (import->type != type || !import->name || strcmp(import->name, name))
			continue;
		*found = true;
		return read_slot(binder, import->slot, ret);
	}
	return NULL;
}

/* ---- IFUNC ---- */

/* The slot of an IRELATIVE relocation holds what the resolver chose. */
static struct suture_error *irelative_choice(struct binder *binder, struct target_image *image,
	remote_addr resolver, remote_addr *ret, bool *found)
{
	const struct module *m = image->module;

	TRY(module_relocs(image->module));
	vec_foreach (reloc, &m->relocs) {
		if (reloc->type != R_X86_64_IRELATIVE || m->bias + reloc->addend != resolver)
			continue;
		TRY(read_slot(binder, reloc->offset + m->bias, ret));
		*found = is_code(binder, *ret) && *ret != resolver;
		if (*found)
			return NULL;
	}
	return NULL;
}

/* An entry of a static executable's table of IRELATIVE relocations, which no header points at. */
static struct suture_error *check_entry(struct binder *binder, struct target_image *image,
	const Elf64_Rela *rela, remote_addr resolver, remote_addr *ret, bool *found)
{
	const struct module *m = image->module;
	remote_addr slot = rela->r_offset + m->bias;

	if (rela->r_info != ELF64_R_INFO(0, R_X86_64_IRELATIVE) ||
		m->bias + rela->r_addend != resolver || slot % 8 || !in_span(image, slot))
		return NULL;
	TRY(read_slot(binder, slot, ret));
	*found = is_code(binder, *ret) && in_span(image, *ret) && *ret != resolver;
	return NULL;
}

static struct suture_error *scan_segment(struct binder *binder, struct target_image *image,
	const Elf64_Phdr *ph, remote_addr resolver, remote_addr *ret, bool *found)
{
	_cleanup_free_ uint8_t *buf = malloc(SCAN_STEP);
	remote_addr start = ph->p_vaddr + image->module->bias;
	Elf64_Rela rela;

	if (!buf)
		return error_nomem();
	/* Pieces overlap by one entry, which may lie across their border. */
	for (uint64_t at = 0; at + sizeof(rela) <= ph->p_filesz && !*found;) {
		uint64_t n = ph->p_filesz - at < SCAN_STEP ? ph->p_filesz - at : SCAN_STEP;

		TRY(process_read(binder->target->process, start + at, buf, n));
		for (size_t i = 0; i + sizeof(rela) <= n && !*found; i += 8) {
			memcpy(&rela, buf + i, sizeof(rela));
			TRY(check_entry(binder, image, &rela, resolver, ret, found));
		}
		if (n < SCAN_STEP)
			break;
		at += n - sizeof(rela);
	}
	return NULL;
}

static struct suture_error *static_choice(struct binder *binder, struct target_image *image,
	remote_addr resolver, remote_addr *ret, bool *found)
{
	vec_foreach (ph, &image->module->phdrs) {
		if (ph->p_type == PT_LOAD && !(ph->p_flags & PF_W) && !*found)
			TRY(scan_segment(binder, image, ph, resolver, ret, found));
	}
	return NULL;
}

/* A slot of anybody that is bound to this very definition. */
static struct suture_error *foreign_choice(struct binder *binder, const struct definition *def,
	const char *name, remote_addr *ret, bool *found)
{
	for (size_t i = 0; i < binder->scope->order.n && !*found; i++) {
		struct target_image *image = &binder->target->images.at[binder->scope->order.at[i]];
		struct imports *imports;

		TRY(binder_imports(binder, image, &imports));
		vec_foreach (import, &imports->v) {
			if ((import->type != R_X86_64_GLOB_DAT &&
				    import->type != R_X86_64_JUMP_SLOT) ||
				!import->name || strcmp(import->name, name))
				continue;
			TRY(read_slot(binder, import->slot, ret));
			/* An unbound slot points into its own image. */
			*found = image != def->image && in_span(def->image, *ret) &&
				 is_code(binder, *ret);
			if (*found)
				return NULL;
		}
	}
	return NULL;
}

static struct suture_error *ifunc_choice(
	struct binder *binder, const struct definition *def, const char *name, struct binding *ret)
{
	remote_addr resolver = def->symbol.value + def->image->module->bias, choice;
	bool found = false;

	TRY(irelative_choice(binder, def->image, resolver, &choice, &found));
	if (!found && !def->image->module->dynamic)
		TRY(static_choice(binder, def->image, resolver, &choice, &found));
	if (!found && binder->scope)
		TRY(foreign_choice(binder, def, name, &choice, &found));
	if (!found && !is_code(binder, resolver))
		return error_create(
			SUTURE_ERROR_SYMBOL, "the IFUNC resolver of %s is not code", name);
	ret->value = ret->call = found ? choice : 0;
	ret->resolver = found ? 0 : resolver;
	return NULL;
}

/* ---- by address ---- */

static struct suture_error *bind_address(
	struct binder *binder, const struct patch_symbol *symbol, struct binding *ret)
{
	struct target_image *image = binder->images[symbol->image];
	const struct module *m = image->module;
	struct definition def = {.image = image, .symbol = {.value = symbol->value}};

	*ret = (struct binding){.image = image->name};
	ret->value = ret->call = symbol->value + m->bias;
	/* One past the end is an address too: _end and the like. */
	if (ret->value < m->low || ret->value > m->high)
		return error_create(SUTURE_ERROR_SYMBOL, "%s: 0x%llx is outside of %s",
			symbol->name, (unsigned long long)symbol->value, image->name);
	if (symbol->elf_type == STT_GNU_IFUNC)
		return ifunc_choice(binder, &def, symbol->name, ret);
	return NULL;
}

/* ---- by name ---- */

struct suture_error *binder_lookup(struct binder *binder, const struct patch_symbol *symbol,
	struct definition *ret, bool *found)
{
	if (!binder->scope)
		TRY(scope_create(binder->target, &binder->scope));
	return scope_lookup(binder->scope, binder->images[symbol->image], symbol->name,
		symbol->version, ret, found);
}

/*
 * In an executable that is not position independent a function of a library may be known by the
 * address of the executable's PLT entry: an undefined symbol with a value (psABI, "Function
 * Addresses"). That address is the function's identity in the whole process.
 */
static struct suture_error *canonical_plt(
	struct binder *binder, const char *name, remote_addr *ret, bool *found)
{
	const struct target_image *exe = &binder->target->images.at[binder->scope->order.at[0]];
	const struct module *m = exe->module;

	*found = false;
	if (m->type != ET_EXEC)
		return NULL;
	for (uint32_t i = 1; i < module_symbol_count(m) && !*found; i++) {
		struct module_symbol s;

		TRY(module_symbol(m, i, &s));
		*found = !s.defined && s.value && s.type == STT_FUNC && !strcmp(s.name, name);
		if (*found)
			*ret = s.value + m->bias;
		free(s.name);
	}
	return NULL;
}

static struct suture_error *bind_definition(struct binder *binder,
	const struct patch_symbol *symbol, const struct definition *def, struct binding *ret)
{
	remote_addr plt;
	bool found;

	ret->image = def->image->name;
	if (def->symbol.type == STT_TLS)
		return error_create(SUTURE_ERROR_SYMBOL,
			"%s is a thread-local variable in %s, the patch takes it for another kind",
			symbol->name, def->image->name);
	ret->value = ret->call = def->symbol.value + def->image->module->bias;
	if (def->symbol.type == STT_GNU_IFUNC)
		TRY(ifunc_choice(binder, def, symbol->name, ret));
	TRY(canonical_plt(binder, symbol->name, &plt, &found));
	if (found && def->image != &binder->target->images.at[binder->scope->order.at[0]])
		ret->value = plt;
	return NULL;
}

/*
 * The slots of the referring image have the last word: another lookup than ours may have filled
 * them (RTLD_DEEPBIND, an audit module), and the old code uses them.
 */
static struct suture_error *prefer_slots(
	struct binder *binder, const struct patch_symbol *symbol, struct binding *ret)
{
	struct target_image *image = binder->images[symbol->image];
	uint64_t data, jump;
	bool has_data, has_jump;

	TRY(own_slot(binder, image, symbol->name, R_X86_64_GLOB_DAT, &data, &has_data));
	TRY(own_slot(binder, image, symbol->name, R_X86_64_JUMP_SLOT, &jump, &has_jump));
	/* Not bound yet: it points to its own PLT, or (lld, before relocation) to nothing. */
	if (has_jump && (!is_code(binder, jump) || (in_span(image, jump) && jump != ret->call)))
		has_jump = false;
	if (has_jump || (has_data && data)) {
		ret->call = has_jump ? jump : data;
		ret->resolver = 0;
	}
	if (has_data && data)
		ret->value = data;
	else if (has_jump && !ret->value)
		ret->value = jump;
	return NULL;
}

static struct suture_error *bind_dynamic(
	struct binder *binder, const struct patch_symbol *symbol, struct binding *ret)
{
	struct definition def;
	bool found;

	*ret = (struct binding){};
	TRY(binder_lookup(binder, symbol, &def, &found));
	if (found)
		TRY(bind_definition(binder, symbol, &def, ret));
	TRY(prefer_slots(binder, symbol, ret));
	if (ret->value || ret->resolver || symbol->weak)
		return NULL;
	return error_hint(
		error_create(SUTURE_ERROR_SYMBOL,
			"nothing in process %d defines %s%s%s, which %s "
			"refers to",
			binder->target->process->pid, symbol->name, symbol->version ? "@" : "",
			symbol->version ?: "", binder->images[symbol->image]->name),
		"the fix uses a library that this program does not load");
}

struct suture_error *bind_symbol(
	struct binder *binder, const struct patch_symbol *symbol, struct binding *ret)
{
	switch (symbol->kind) {
	case PATCH_SYMBOL_ADDRESS:
		return bind_address(binder, symbol, ret);
	case PATCH_SYMBOL_DYNAMIC:
		return bind_dynamic(binder, symbol, ret);
	default:
		return error_create(SUTURE_ERROR_INPUT,
			"%s: a thread-local variable is used like another one", symbol->name);
	}
}
