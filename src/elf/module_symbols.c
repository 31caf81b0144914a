/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dynamic symbols of a mapped image: by index, by name through the hash tables, by address. Lookup
 * follows glibc's elf/dl-lookup.c (do_lookup_x, check_match), so that a name means here what it
 * means to the program: musl's rules agree wherever it has versions at all.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elf/module_private.h"

enum {
	HIDDEN = 0x8000,     /* versym: not the default version */
	CHAIN_MAX = 1 << 20, /* symbols in one bucket */
	BUCKETS_MAX = 1 << 24,
	SYMS_AT_ONCE = 1024,
};

/* ---- entries ---- */

struct suture_error *module_sym(const struct module *m, uint32_t index, Elf64_Sym *ret)
{
	const struct module_private *p = module_private(m);

	if (index >= p->symbol_count)
		return module_bad("symbol %u of %llu", index, (unsigned long long)p->symbol_count);
	return module_read(m, p->symtab + (uint64_t)index * sizeof(*ret), ret, sizeof(*ret));
}

struct suture_error *module_versym(const struct module *m, uint32_t index, uint16_t *ret)
{
	const struct module_private *p = module_private(m);
	remote_addr addr = p->versym + (uint64_t)index * sizeof(*ret);

	if (!p->versym) {
		*ret = VER_NDX_GLOBAL;
		return NULL;
	}
	if (!module_spans(m, addr, sizeof(*ret)))
		return module_bad("symbol versions reach outside the image");
	return module_read(m, addr, ret, sizeof(*ret));
}

static struct suture_error *to_symbol(
	const struct module *m, uint32_t index, const Elf64_Sym *sym, struct module_symbol *ret)
{
	*ret = (struct module_symbol){
		.value = sym->st_value,
		.size = sym->st_size,
		.type = ELF64_ST_TYPE(sym->st_info),
		.bind = ELF64_ST_BIND(sym->st_info),
		.visibility = ELF64_ST_VISIBILITY(sym->st_other),
		.defined = sym->st_shndx != SHN_UNDEF,
	};
	return module_versym(m, index, &ret->version_index);
}

struct suture_error *module_symbol(
	const struct module *m, uint32_t index, struct module_symbol *ret)
{
	struct module_symbol s;
	Elf64_Sym sym;

	struct suture_error *err = module_sym(m, index, &sym);
	if (!err)
		err = to_symbol(m, index, &sym, &s);
	if (!err)
		err = module_string(m, sym.st_name, &s.name);
	if (err)
		return error_wrap(err, "%s: symbol %u", m->path, index);
	*ret = s;
	return NULL;
}

size_t module_symbol_count(const struct module *m)
{
	return module_private(m)->symbol_count;
}

/* ---- how many there are ---- */

/* No tag says how long .dynsym is; it ends where the next table starts. */
static uint64_t count_by_neighbour(const struct module *m)
{
	const struct module_private *p = module_private(m);
	const remote_addr tables[] = {p->strtab.addr, p->rela.addr, p->jmprel.addr, p->relr.addr,
		p->hash, p->gnu_hash, p->versym, p->verdef, p->verneed};
	remote_addr end = m->high;

	vec_foreach (ph, &m->phdrs) {
		remote_addr start = ph->p_vaddr + m->bias;

		if (ph->p_type == PT_LOAD && start <= p->symtab && p->symtab - start < ph->p_memsz)
			end = start + ph->p_memsz;
	}
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (tables[i] > p->symtab && tables[i] < end)
			end = tables[i];
	return (end - p->symtab) / sizeof(Elf64_Sym);
}

static remote_addr gnu_buckets(const struct module *m)
{
	const struct module_private *p = module_private(m);

	return p->gnu_hash + 16 + (uint64_t)p->gnu_bloom_words * 8;
}

static struct suture_error *gnu_chain_word(const struct module *m, uint32_t index, uint32_t *ret)
{
	const struct module_private *p = module_private(m);
	remote_addr addr = gnu_buckets(m) + (uint64_t)p->gnu_n_buckets * 4 +
			   (uint64_t)(index - p->gnu_first) * 4;

	if (index < p->gnu_first || !module_spans(m, addr, 4))
		return module_bad("GNU hash chain leaves the table");
	return module_read(m, addr, ret, 4);
}

/* The highest index in any bucket, then to the end of its chain. 0: the table is empty. */
static struct suture_error *gnu_count(const struct module *m, uint64_t *ret)
{
	const struct module_private *p = module_private(m);
	uint32_t buf[4096], last = 0, word = 0;

	for (uint32_t i = 0; i < p->gnu_n_buckets;) {
		uint32_t n = p->gnu_n_buckets - i;

		if (n > sizeof(buf) / sizeof(buf[0]))
			n = sizeof(buf) / sizeof(buf[0]);
		TRY(module_read(m, gnu_buckets(m) + (uint64_t)i * 4, buf, n * sizeof(buf[0])));
		for (uint32_t j = 0; j < n; j++)
			if (buf[j] > last)
				last = buf[j];
		i += n;
	}
	if (last == 0) {
		*ret = 0;
		return NULL;
	}
	for (uint32_t i = 0; !(word & 1); i++, last++) {
		if (i == CHAIN_MAX || last == UINT32_MAX)
			return module_bad("GNU hash chain has no end");
		TRY(gnu_chain_word(m, last, &word));
	}
	*ret = last;
	return NULL;
}

static struct suture_error *gnu_init(struct module *m)
{
	struct module_private *p = module_private(m);
	uint32_t header[4];

	if (!module_spans(m, p->gnu_hash, sizeof(header)))
		return module_bad("GNU hash table outside the image");
	TRY(error_wrap(module_read(m, p->gnu_hash, header, sizeof(header)), "GNU hash table"));
	p->gnu_n_buckets = header[0];
	p->gnu_first = header[1];
	p->gnu_bloom_words = header[2];
	p->gnu_bloom_shift = header[3];
	if (header[0] == 0 || header[0] > BUCKETS_MAX || header[2] == 0 ||
		header[2] > BUCKETS_MAX || (header[2] & (header[2] - 1)) || header[3] > 63)
		return module_bad("malformed GNU hash table: %u buckets, %u words, shift %u",
			header[0], header[2], header[3]);
	if (!module_spans(m, gnu_buckets(m), (uint64_t)header[0] * 4))
		return module_bad("GNU hash table reaches outside the image");
	return NULL;
}

static struct suture_error *hash_init(struct module *m)
{
	struct module_private *p = module_private(m);
	uint32_t header[2];

	if (!module_spans(m, p->hash, sizeof(header)))
		return module_bad("hash table outside the image");
	TRY(error_wrap(module_read(m, p->hash, header, sizeof(header)), "hash table"));
	p->hash_n_buckets = header[0];
	p->hash_n_chains = header[1];
	if (header[0] == 0 || !module_spans(m, p->hash + 8, ((uint64_t)header[0] + header[1]) * 4))
		return module_bad(
			"malformed hash table: %u buckets, %u symbols", header[0], header[1]);
	return NULL;
}

struct suture_error *module_symbols_init(struct module *m)
{
	struct module_private *p = module_private(m);
	uint64_t n = 0;

	if (!p->symtab)
		return NULL;
	if (p->hash)
		TRY(hash_init(m));
	if (p->gnu_hash)
		TRY(gnu_init(m));
	if (p->hash)
		n = p->hash_n_chains;
	else if (p->gnu_hash)
		TRY(error_wrap(gnu_count(m, &n), "GNU hash table"));
	/* An image that defines nothing has an empty GNU hash table, and still symbols. */
	if (n == 0)
		n = count_by_neighbour(m);
	if (n > UINT32_MAX || !module_spans(m, p->symtab, n * sizeof(Elf64_Sym)))
		return module_bad("%llu symbols do not fit into the image", (unsigned long long)n);
	p->symbol_count = n;
	return NULL;
}

void module_symbols_deinit(struct module *m)
{
	struct module_private *p = module_private(m);

	vec_foreach (f, &p->functions)
		free(f->name);
	vec_free(&p->functions);
	vec_foreach (version, &p->versions)
		free(*version);
	vec_free(&p->versions);
}

/* ---- by name ---- */

struct lookup {
	const struct module *m;
	const char *name, *version;
	size_t len; /* of name, with its NUL */
	bool found;
	uint32_t index; /* of the match */
	/* Without a version asked for: default versions seen, and the first of them. */
	unsigned n_default;
	uint32_t first_default;
};

static struct suture_error *name_is(const struct lookup *l, uint32_t offset, bool *ret)
{
	const struct module_table *t = &module_private(l->m)->strtab;
	char buf[256];

	*ret = false;
	if (offset >= t->size || l->len > t->size - offset)
		return NULL;
	for (size_t at = 0; at < l->len;) {
		size_t step = l->len - at < sizeof(buf) ? l->len - at : sizeof(buf);

		TRY(module_read(l->m, t->addr + offset + at, buf, step));
		if (memcmp(buf, l->name + at, step) != 0)
			return NULL;
		at += step;
	}
	*ret = true;
	return NULL;
}

/* The symbol is a definition of code or data that others can be bound to. */
static bool is_definition(const Elf64_Sym *sym)
{
	unsigned type = ELF64_ST_TYPE(sym->st_info);

	if (sym->st_shndx == SHN_UNDEF)
		return false;
	if (sym->st_value == 0 && sym->st_shndx != SHN_ABS && type != STT_TLS)
		return false;
	return type == STT_NOTYPE || type == STT_OBJECT || type == STT_FUNC || type == STT_COMMON ||
	       type == STT_TLS || type == STT_GNU_IFUNC;
}

/* check_match() of ld.so: *ret says that symbol `index`, whose name is right, is the one. */
static struct suture_error *version_matches(struct lookup *l, uint32_t index, bool *ret)
{
	const char *have;
	uint16_t raw;

	*ret = true;
	if (!module_private(l->m)->versym)
		return NULL; /* nothing is known: anything matches */
	TRY(module_versym(l->m, index, &raw));
	if (l->version) {
		TRY(module_version_name(l->m, raw, &have));
		*ret = have ? strcmp(have, l->version) == 0 : !(raw & HIDDEN);
		return NULL;
	}
	/* As dlsym() does (DL_LOOKUP_RETURN_NEWEST). */
	if ((raw & ~HIDDEN) < 2)
		return NULL;
	*ret = false;
	if (!(raw & HIDDEN) && l->n_default++ == 0)
		l->first_default = index;
	return NULL;
}

static struct suture_error *consider(struct lookup *l, uint32_t index)
{
	Elf64_Sym sym;
	bool match;

	TRY(module_sym(l->m, index, &sym));
	if (!is_definition(&sym))
		return NULL;
	TRY(name_is(l, sym.st_name, &match));
	if (match)
		TRY(version_matches(l, index, &match));
	if (match) {
		l->found = true;
		l->index = index;
	}
	return NULL;
}

static struct suture_error *lookup_gnu(struct lookup *l)
{
	const struct module_private *p = module_private(l->m);
	uint64_t hash = 5381, bloom;
	uint32_t index, word = 0;

	for (const char *s = l->name; *s; s++)
		hash = (hash * 33 + (unsigned char)*s) & UINT32_MAX;
	TRY(module_read(l->m, p->gnu_hash + 16 + (hash / 64 & (p->gnu_bloom_words - 1)) * 8, &bloom,
		sizeof(bloom)));
	if (!(bloom >> (hash & 63) & bloom >> (hash >> p->gnu_bloom_shift & 63) & 1))
		return NULL;
	TRY(module_read(l->m, gnu_buckets(l->m) + hash % p->gnu_n_buckets * 4, &index, 4));
	if (index == 0)
		return NULL;
	for (unsigned i = 0; i < CHAIN_MAX && !l->found && !(word & 1); i++, index++) {
		TRY(gnu_chain_word(l->m, index, &word));
		if ((word | 1) == (hash | 1))
			TRY(consider(l, index));
	}
	return NULL;
}

static struct suture_error *lookup_sysv(struct lookup *l)
{
	const struct module_private *p = module_private(l->m);
	remote_addr buckets = p->hash + 8, chains = buckets + (uint64_t)p->hash_n_buckets * 4;
	uint32_t hash = 0, index;

	for (const char *s = l->name; *s; s++) {
		hash = (hash << 4) + (unsigned char)*s;
		hash = (hash ^ (hash >> 24 & 0xf0)) & 0x0fffffff;
	}
	TRY(module_read(l->m, buckets + hash % p->hash_n_buckets * 4, &index, 4));
	for (unsigned i = 0; i < CHAIN_MAX && !l->found && index != STN_UNDEF; i++) {
		TRY(consider(l, index));
		if (index >= p->hash_n_chains)
			return module_bad("hash chain leaves the table");
		TRY(module_read(l->m, chains + (uint64_t)index * 4, &index, 4));
	}
	return NULL;
}

static struct suture_error *lookup(struct lookup *l, struct module_symbol *ret, bool *found)
{
	const struct module_private *p = module_private(l->m);
	struct module_symbol s;
	Elf64_Sym sym;

	if (p->symbol_count && p->gnu_n_buckets)
		TRY(lookup_gnu(l));
	else if (p->symbol_count && p->hash_n_buckets)
		TRY(lookup_sysv(l));
	if (!l->found && l->n_default == 1) {
		l->found = true;
		l->index = l->first_default;
	}
	*found = false;
	if (!l->found)
		return NULL;
	TRY(module_sym(l->m, l->index, &sym));
	TRY(to_symbol(l->m, l->index, &sym, &s));
	/* ld.so goes on to the next object of the scope for these. */
	if (s.bind == STB_LOCAL || s.visibility == STV_HIDDEN || s.visibility == STV_INTERNAL)
		return NULL;
	*ret = s;
	*found = true;
	return NULL;
}

struct suture_error *module_lookup(const struct module *m, const char *name, const char *version,
	struct module_symbol *ret, bool *found)
{
	struct lookup l = {.m = m, .name = name, .version = version, .len = strlen(name) + 1};

	return error_wrap(lookup(&l, ret, found), "%s: symbol %s", m->path, name);
}

/* ---- by address ---- */

static int by_value(const void *a, const void *b)
{
	const struct module_function *x = a, *y = b;

	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

static struct suture_error *functions_read(struct module *m)
{
	struct module_private *p = module_private(m);
	_cleanup_free_ Elf64_Sym *syms = malloc(SYMS_AT_ONCE * sizeof(*syms));

	if (!syms)
		return error_nomem();
	for (uint32_t i = 0, n; i < p->symbol_count; i += n) {
		n = p->symbol_count - i < SYMS_AT_ONCE ? p->symbol_count - i : SYMS_AT_ONCE;
		TRY(module_read(
			m, p->symtab + (uint64_t)i * sizeof(*syms), syms, n * sizeof(*syms)));
		for (uint32_t j = 0; j < n; j++) {
			unsigned type = ELF64_ST_TYPE(syms[j].st_info);
			struct module_function f = {
				.value = syms[j].st_value, .size = syms[j].st_size, .index = i + j};

			if ((type == STT_FUNC || type == STT_GNU_IFUNC) &&
				syms[j].st_shndx != SHN_UNDEF && !vec_push(&p->functions, f))
				return error_nomem();
		}
	}
	if (p->functions.n)
		qsort(p->functions.at, p->functions.n, sizeof(*p->functions.at), by_value);
	return NULL;
}

/* The last function that starts at or below value. */
static struct module_function *function_at(struct module_private *p, uint64_t value)
{
	size_t low = 0, high = p->functions.n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (p->functions.at[mid].value <= value)
			low = mid + 1;
		else
			high = mid;
	}
	return low ? &p->functions.at[low - 1] : NULL;
}

const char *module_symbolize(struct module *m, remote_addr pc, uint64_t *ret_offset)
{
	struct module_private *p = module_private(m);
	Elf64_Sym sym;

	if (!module_spans(m, pc, 1))
		return NULL;
	/* A report does without names when they cannot be had. */
	if (!p->functions_read)
		suture_error_destroy(functions_read(m));
	p->functions_read = true;
	struct module_function *f = function_at(p, pc - m->bias);
	/* Behind its end is another function, one without a dynamic symbol. */
	if (!f || (f->size && pc - m->bias - f->value >= f->size))
		return NULL;
	if (!f->name) {
		struct suture_error *err = module_sym(m, f->index, &sym);

		if (!err)
			err = module_string(m, sym.st_name, &f->name);
		suture_error_destroy(err);
	}
	*ret_offset = pc - m->bias - f->value;
	return f->name;
}
