/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thread-local variables that exist already. Where a module's block lies is known to the dynamic
 * linker alone; its data structures differ from version to version, but the slots it filled in
 * tell: a TPOFF64 slot holds value + addend - offset, a DTPMOD64 slot the module id. Only the
 * executable's own offset follows from its program headers (ELF Handling For Thread-Local Storage,
 * variant II).
 */
#include <elf.h>
#include <string.h>

#include "apply/bind.h"

/* A variable: the module it lives in and its offset in the module's TLS segment. */
struct variable {
	struct target_image *image;
	uint64_t value;
};

static struct suture_error *find_variable(
	struct binder *binder, const struct patch_symbol *symbol, struct variable *ret)
{
	struct definition def;
	bool found;

	if (symbol->kind == PATCH_SYMBOL_TLS) {
		*ret = (struct variable){binder->images[symbol->image], symbol->value};
	} else if (symbol->kind == PATCH_SYMBOL_TLS_DYNAMIC) {
		TRY(binder_lookup(binder, symbol, &def, &found));
		if (!found || def.symbol.type != STT_TLS)
			return error_create(SUTURE_ERROR_SYMBOL,
				"nothing in process %d defines the thread-local variable %s",
				binder->target->process->pid, symbol->name);
		*ret = (struct variable){def.image, def.symbol.value};
	} else {
		return error_create(SUTURE_ERROR_INPUT,
			"%s is used as a thread-local variable and is none", symbol->name);
	}
	const struct module *m = ret->image->module;
	if (!m->tls_size || ret->value > m->tls_size)
		return error_create(SUTURE_ERROR_SYMBOL,
			"thread-local variable %s: offset %llu is outside of the TLS segment of %s",
			symbol->name, (unsigned long long)ret->value, ret->image->name);
	return NULL;
}

/* ---- what the slots tell about a module ---- */

/* The module that a TLS slot of `image` is about, and the variable's offset in it. */
static struct suture_error *slot_variable(struct binder *binder, struct target_image *image,
	const struct import *import, struct variable *ret, bool *found)
{
	struct definition def;

	*found = !import->name;
	if (*found) {
		*ret = (struct variable){image, 0};
		return NULL;
	}
	if (!binder->scope)
		TRY(scope_create(binder->target, &binder->scope));
	TRY(scope_lookup(binder->scope, image, import->name, NULL, &def, found));
	*found = *found && def.symbol.type == STT_TLS;
	if (*found)
		*ret = (struct variable){def.image, def.symbol.value};
	return NULL;
}

/* What a slot of this type, of any image, that is about `module` holds. */
static struct suture_error *slot_about(struct binder *binder, struct target_image *module,
	uint32_t type, uint64_t *ret, uint64_t *ret_offset, bool *found)
{
	struct process *p = binder->target->process;

	vec_foreach (image, &binder->target->images) {
		struct imports *imports;

		struct suture_error *err = binder_imports(binder, image, &imports);
		if (err) {
			/* Not an image that the dynamic linker has anything to do with. */
			suture_error_destroy(err);
			continue;
		}
		vec_foreach (import, &imports->v) {
			struct variable v;

			if (import->type != type)
				continue;
			TRY(slot_variable(binder, image, import, &v, found));
			if (!*found || v.image != module)
				continue;
			*ret_offset = v.value + import->addend;
			return process_read(p, import->slot, ret, sizeof(*ret));
		}
	}
	*found = false;
	return NULL;
}

/* The distance from the thread pointer down to the module's block. */
static struct suture_error *block_offset(
	struct binder *binder, const char *name, struct target_image *image, uint64_t *ret)
{
	const struct module *m = image->module;
	uint64_t slot, offset = 0, mask = (m->tls_align ?: 1) - 1;
	bool found = false;

	if (image == scope_executable(binder->target)) {
		*ret = m->tls_size + ((0 - m->tls_vaddr - m->tls_size) & mask);
		return NULL;
	}
	TRY(slot_about(binder, image, R_X86_64_TPOFF64, &slot, &offset, &found));
	if (!found)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"thread-local variable %s: where the variables of %s lie in a thread is not "
			"known from outside",
			name, image->name);
	*ret = offset - slot;
	return NULL;
}

/* ---- answers ---- */

struct suture_error *bind_tpoff(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t *ret)
{
	struct variable v;
	uint64_t offset = 0;

	TRY(find_variable(binder, symbol, &v));
	TRY(block_offset(binder, symbol->name, v.image, &offset));
	*ret = v.value - offset;
	return NULL;
}

struct suture_error *bind_dtpoff(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t *ret)
{
	struct variable v;

	TRY(find_variable(binder, symbol, &v));
	*ret = v.value;
	return NULL;
}

struct suture_error *bind_tls_module(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t *ret)
{
	struct variable v;
	uint64_t offset = 0;
	bool found = false;

	TRY(find_variable(binder, symbol, &v));
	/* The executable's is number 1, in glibc (rtld.c) as in musl (dynlink.c). */
	if (v.image == scope_executable(binder->target)) {
		*ret = 1;
		return NULL;
	}
	TRY(slot_about(binder, v.image, R_X86_64_DTPMOD64, ret, &offset, &found));
	if (!found || !*ret)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"thread-local variable %s: the TLS module id of %s is not known from outside",
			symbol->name, v.image->name);
	return NULL;
}

struct suture_error *bind_tlsdesc(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t ret[2])
{
	struct target_image *image = binder->images[symbol->image];
	struct imports *imports;
	struct variable v;

	TRY(find_variable(binder, symbol, &v));
	TRY(binder_imports(binder, image, &imports));
	vec_foreach (import, &imports->v) {
		struct variable have;
		bool found;

		if (import->type != R_X86_64_TLSDESC)
			continue;
		TRY(slot_variable(binder, image, import, &have, &found));
		if (!found || have.image != v.image || have.value + import->addend != v.value)
			continue;
		TRY(process_read(binder->target->process, import->slot, ret, 2 * sizeof(ret[0])));
		const struct map *map = maps_find(&binder->target->maps, ret[0]);
		/* Not bound yet: its function is the PLT's. */
		if (map && map->x && (ret[0] < image->module->low || ret[0] >= image->module->high))
			return NULL;
	}
	return error_hint(error_create(SUTURE_ERROR_UNSUPPORTED,
				  "thread-local variable %s: %s has no bound TLS descriptor for it",
				  symbol->name, image->name),
		"build the patch with -mtls-dialect=gnu");
}
