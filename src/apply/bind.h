/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the symbols of a patch mean in this process. Existing code and data by address, names by the
 * dynamic linker's rules, IFUNCs by the choice that was made, thread-local variables by the real
 * offset of their module. A slot that the dynamic linker has filled in is the truth; what cannot be
 * known is refused by name.
 */
#ifndef APPLY_BIND_H
#define APPLY_BIND_H

#include "apply/scope.h"
#include "format/patch.h"

/* A slot of an image that the dynamic linker binds to a name (GOT, PLT GOT, TLS). */
struct import {
	char *name;
	uint32_t type; /* R_X86_64_* */
	remote_addr slot;
	int64_t addend;
};
struct imports {
	bool ready;
	VEC(struct import) v;
};

struct binder {
	struct target *target;
	const struct patch *patch;
	struct target_image **images; /* per patch image */
	struct scope *scope;	      /* made when a name has to be looked up */
	struct imports *imports;      /* per target image */
};

/* What a symbol outside of the payload is. */
struct binding {
	remote_addr value; /* the address by which the program knows it */
	remote_addr call;  /* where a call of it goes */
	/* An IFUNC whose choice is not known: its resolver is to be asked at the first use. */
	remote_addr resolver;
	const char *image; /* base name of the image that defines it; NULL: nobody (weak) */
};

struct suture_error *binder_init(struct binder *binder, struct target *target,
	const struct patch *patch, struct target_image **images) MUST_USE;
void binder_deinit(struct binder *binder);

/* Kinds ADDRESS and DYNAMIC. Errors: SYMBOL, UNSUPPORTED. */
struct suture_error *bind_symbol(
	struct binder *binder, const struct patch_symbol *symbol, struct binding *ret) MUST_USE;

/* Kinds TLS and TLS_DYNAMIC. */
/* Offset of the variable from the thread pointer. */
struct suture_error *bind_tpoff(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t *ret) MUST_USE;
/* Offset of the variable in its module's TLS block. */
struct suture_error *bind_dtpoff(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t *ret) MUST_USE;
/* The module id that __tls_get_addr() knows. */
struct suture_error *bind_tls_module(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t *ret) MUST_USE;
/* The two words of a TLS descriptor. */
struct suture_error *bind_tlsdesc(
	struct binder *binder, const struct patch_symbol *symbol, uint64_t ret[2]) MUST_USE;

/* ---- for bind_tls.c ---- */

/* The slots of an image by name, read once. */
struct suture_error *binder_imports(
	struct binder *binder, struct target_image *image, struct imports **ret) MUST_USE;
struct suture_error *binder_lookup(struct binder *binder, const struct patch_symbol *symbol,
	struct definition *ret, bool *found) MUST_USE;

#endif
