/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the module code share. Everything is bounded once, in module.c. */
#ifndef ELF_MODULE_PRIVATE_H
#define ELF_MODULE_PRIVATE_H

#include "elf/cache.h"
#include "elf/module.h"

enum {
	MODULE_STRING_MAX = 16 * 1024, /* names of symbols (C++ ones are long), libraries */
	MODULE_PHDRS_MAX = 512,
	MODULE_DYNAMIC_MAX = 64 * 1024, /* bytes */
};

/* A table in the module's memory: all of it lies in [low, high). size 0: there is none. */
struct module_table {
	remote_addr addr;
	uint64_t size; /* bytes */
};

/* The function symbols by address, for module_symbolize(). */
struct module_function {
	uint64_t value, size;
	uint32_t index;
	char *name; /* read when asked for */
};

struct module_private {
	struct cache cache;
	struct module_table strtab, rela, jmprel, relr;
	/* Where these end is told by others: up to the end of the span is what can be said here. */
	remote_addr symtab, hash, gnu_hash, versym, verdef, verneed;
	uint64_t verdef_n, verneed_n;
	uint64_t symbol_count;

	/* DT_HASH; n_chains 0: none */
	uint32_t hash_n_buckets, hash_n_chains;
	/* DT_GNU_HASH; n_buckets 0: none */
	uint32_t gnu_n_buckets, gnu_first, gnu_bloom_words, gnu_bloom_shift;

	bool versions_read, functions_read, relocs_read;
	VEC(char *) versions; /* by index without the hidden bit; NULL: base or unused */
	VEC(struct module_function) functions;
};

static inline struct module_private *module_private(const struct module *m)
{
	return m->private_;
}

/* Reads through the page cache. */
static inline MUST_USE struct suture_error *module_read(
	const struct module *m, remote_addr addr, void *buf, size_t len)
{
	return reader_read(&module_private(m)->cache.reader, addr, buf, len);
}

/* [addr, addr + size) lies in the module's span. */
static inline bool module_spans(const struct module *m, remote_addr addr, uint64_t size)
{
	return addr >= m->low && addr <= m->high && size <= m->high - addr;
}

/* SUTURE_ERROR_INPUT. The path is put in front by the public functions. */
#define module_bad(...) error_create(SUTURE_ERROR_INPUT, __VA_ARGS__)

/* A string of the dynamic string table; malloc'ed. */
struct suture_error *module_string(const struct module *m, uint64_t offset, char **ret) MUST_USE;
/* Read the hash headers and set symbol_count. Called when the module is opened. */
struct suture_error *module_symbols_init(struct module *m) MUST_USE;
/* Release what module_symbols.c and module_versions.c allocated. */
void module_symbols_deinit(struct module *m);
/* One dynsym entry; its index must be below symbol_count. */
struct suture_error *module_sym(const struct module *m, uint32_t index, Elf64_Sym *ret) MUST_USE;
/* The raw versym entry; 1 (VER_NDX_GLOBAL) in a module without versions. */
struct suture_error *module_versym(const struct module *m, uint32_t index, uint16_t *ret) MUST_USE;
/* Fill `versions`, once. */
struct suture_error *module_versions_read(const struct module *m) MUST_USE;

#endif
