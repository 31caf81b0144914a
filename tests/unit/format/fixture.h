/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A patch that uses everything the format has: two images, every kind of section and symbol, split
 * parts, a new function. Not applicable to anything; good enough to be written and read.
 */
#ifndef TESTS_FORMAT_FIXTURE_H
#define TESTS_FORMAT_FIXTURE_H

#include <elf.h>

#include "../unit.h"
#include "format/patch.h"

static inline char *text(const char *s)
{
	char *copy = s ? strdup(s) : NULL;

	assert_true(!s || copy);
	return copy;
}

static inline void add_image(struct patch *p, const char *name, uint8_t fill, bool fixed)
{
	struct patch_image *image = vec_add(&p->images);

	assert_non_null(image);
	image->name = text(name);
	memset(image->build_id, fill, 20);
	image->build_id_size = 20;
	image->fixed = fixed;
}

static inline struct patch_section *add_section(struct patch *p, const char *name, uint32_t image,
	uint32_t type, uint64_t flags, uint64_t align, const void *data, uint64_t size)
{
	struct patch_section *s = vec_add(&p->sections);

	assert_non_null(s);
	s->name = text(name);
	s->image = image;
	s->type = type;
	s->flags = SHF_ALLOC | flags;
	s->align = align;
	s->size = size;
	if (type == SHT_NOBITS || !size)
		return s;
	s->data = malloc(size);
	assert_non_null(s->data);
	memcpy(s->data, data, size);
	return s;
}

static inline uint32_t add_symbol(struct patch *p, struct patch_symbol symbol)
{
	struct patch_symbol *s = vec_add(&p->symbols);

	assert_non_null(s);
	*s = symbol;
	s->name = text(symbol.name);
	s->version = text(symbol.version);
	return p->symbols.n - 1;
}

static inline void add_reloc(
	struct patch_section *s, uint64_t offset, uint32_t type, uint32_t symbol, int64_t addend)
{
	struct patch_reloc *r = vec_add(&s->relocs);

	assert_non_null(r);
	*r = (struct patch_reloc){offset, type, symbol, addend};
}

static inline struct patch_function *add_function(
	struct patch *p, const char *name, uint32_t image, uint32_t symbol, uint64_t new_size)
{
	struct patch_function *f = vec_add(&p->functions);

	assert_non_null(f);
	f->name = text(name);
	f->image = image;
	f->symbol = symbol;
	f->new_size = new_size;
	f->unit = text("src/parse.c");
	f->reason = text("changed");
	return f;
}

static inline void set_old(
	struct patch_function *f, uint64_t address, const void *bytes, uint64_t size, uint32_t site)
{
	f->address = address;
	f->size = size;
	f->site = site;
	f->site_size = 5;
	f->old_bytes = malloc(size);
	assert_non_null(f->old_bytes);
	memcpy(f->old_bytes, bytes, size);
}

enum { TEXT_PARSE, TEXT_HELPER, RODATA, DATA, BSS, EH_FRAME, TEXT_LIBRARY };
enum {
	SYM_RODATA,
	SYM_HELPER,
	SYM_COUNTER,
	SYM_PARSE,
	SYM_INFLATE,
	SYM_LOG,
	SYM_TABLE,
	SYM_MEMCPY,
	SYM_ERRNO,
	SYM_STATE,
	SYM_STRLEN,
	SYM_OLD_PARSE,
	SYM_HOOK,
	SYM_EXTERN_TLS
};

static inline void add_code(struct patch *p)
{
	/* endbr64; call X; lea X(%rip),%rdi; mov X@gottpoff(%rip),%rax; ret */
	static const uint8_t parse[] = {0xf3, 0x0f, 0x1e, 0xfa, 0xe8, 0, 0, 0, 0, 0x48, 0x8d, 0x3d,
		0, 0, 0, 0, 0x48, 0x8b, 0x05, 0, 0, 0, 0, 0xc3};
	/* push %rbx; mov %edi,%ebx; call X; pop %rbx; ret */
	static const uint8_t helper[] = {0x53, 0x89, 0xfb, 0xe8, 0, 0, 0, 0, 0x5b, 0xc3};
	static const uint8_t counter[16] = {1, 2, 3};
	static const uint8_t eh_frame[40] = {0x14};

	add_section(p, ".text.parse", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, parse, sizeof(parse));
	add_section(p, ".text.helper", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, helper, sizeof(helper));
	add_section(p, ".rodata.str", 0, SHT_PROGBITS, 0, 1, "too long\0%s", 12);
	add_section(p, ".data.counter", 0, SHT_PROGBITS, SHF_WRITE, 8, counter, sizeof(counter));
	add_section(p, ".bss.seen", 0, SHT_NOBITS, SHF_WRITE, 32, NULL, 1 << 20);
	add_section(p, ".eh_frame", 0, SHT_X86_64_UNWIND, 0, 8, eh_frame, sizeof(eh_frame));
	add_section(p, ".text.inflate", 1, SHT_PROGBITS, SHF_EXECINSTR, 64, parse, sizeof(parse));
}

static inline void add_symbols(struct patch *p)
{
	struct patch_symbol all[] = {
		[SYM_RODATA] = {.name = (char *)"",
			.elf_type = STT_SECTION,
			.local = true,
			.section = RODATA},
		[SYM_HELPER] = {.name = (char *)"helper",
			.elf_type = STT_FUNC,
			.local = true,
			.section = TEXT_HELPER,
			.size = 10},
		[SYM_COUNTER] = {.name = (char *)"counter.0",
			.elf_type = STT_OBJECT,
			.local = true,
			.section = DATA,
			.value = 8,
			.size = 8},
		[SYM_PARSE] = {.name = (char *)"parse",
			.elf_type = STT_FUNC,
			.section = TEXT_PARSE,
			.size = 24},
		[SYM_INFLATE] = {.name = (char *)"inflate",
			.elf_type = STT_FUNC,
			.section = TEXT_LIBRARY,
			.size = 24},
		[SYM_LOG] = {.name = (char *)"log_line",
			.kind = PATCH_SYMBOL_ADDRESS,
			.elf_type = STT_FUNC,
			.value = 0x401230,
			.size = 77},
		[SYM_TABLE] = {.name = (char *)"table",
			.kind = PATCH_SYMBOL_ADDRESS,
			.elf_type = STT_OBJECT,
			.image = 1,
			.value = 0x5000,
			.size = 4096},
		[SYM_MEMCPY] = {.name = (char *)"memcpy",
			.kind = PATCH_SYMBOL_DYNAMIC,
			.elf_type = STT_FUNC,
			.version = (char *)"GLIBC_2.14"},
		[SYM_ERRNO] = {.name = (char *)"errno_like",
			.kind = PATCH_SYMBOL_TLS,
			.elf_type = STT_TLS,
			.value = 0x10,
			.size = 4},
		[SYM_STATE] = {.name = (char *)"state",
			.kind = PATCH_SYMBOL_ADDRESS,
			.elf_type = STT_NOTYPE,
			.value = UINT64_C(0xffffffffffffff00)},
		[SYM_STRLEN] = {.name = (char *)"strlen",
			.kind = PATCH_SYMBOL_ADDRESS,
			.elf_type = STT_GNU_IFUNC,
			.value = 0x401500,
			.size = 16},
		[SYM_OLD_PARSE] = {.name = (char *)"parse",
			.kind = PATCH_SYMBOL_ADDRESS,
			.elf_type = STT_FUNC,
			.value = 0x401000,
			.size = 32},
		[SYM_HOOK] = {.name = (char *)"__gmon_start__",
			.kind = PATCH_SYMBOL_DYNAMIC,
			.elf_type = STT_NOTYPE,
			.weak = true},
		[SYM_EXTERN_TLS] = {.name = (char *)"lib_state",
			.kind = PATCH_SYMBOL_TLS_DYNAMIC,
			.elf_type = STT_TLS,
			.image = 1},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		add_symbol(p, all[i]);
}

static inline void add_relocs(struct patch *p)
{
	add_reloc(&p->sections.at[TEXT_PARSE], 5, R_X86_64_PLT32, SYM_HELPER, -4);
	add_reloc(&p->sections.at[TEXT_PARSE], 12, R_X86_64_PC32, SYM_RODATA, 5);
	add_reloc(&p->sections.at[TEXT_PARSE], 19, R_X86_64_GOTTPOFF, SYM_ERRNO, -4);
	add_reloc(&p->sections.at[TEXT_HELPER], 4, R_X86_64_PLT32, SYM_LOG, -4);
	add_reloc(&p->sections.at[DATA], 0, R_X86_64_64, SYM_OLD_PARSE, 0);
	add_reloc(&p->sections.at[DATA], 8, R_X86_64_64, SYM_STATE, INT64_MIN);
	add_reloc(&p->sections.at[EH_FRAME], 0x20, R_X86_64_PC32, SYM_PARSE, 0);
	add_reloc(&p->sections.at[TEXT_LIBRARY], 5, R_X86_64_PLT32, SYM_MEMCPY, -4);
	add_reloc(&p->sections.at[TEXT_LIBRARY], 12, R_X86_64_PC32, SYM_TABLE, 60);
	add_reloc(&p->sections.at[TEXT_LIBRARY], 19, R_X86_64_GOTTPOFF, SYM_EXTERN_TLS, -4);
}

static inline void add_functions(struct patch *p)
{
	/* endbr64; sub $8,%rsp; call .+0x22c; add $8,%rsp; ret; NOPs */
	static const uint8_t old[32] = {0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08, 0xe8, 0x2c,
		0x02, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0xc3, 0x66, 0x90};
	struct patch_function *f = add_function(p, "parse", 0, SYM_PARSE, 24);
	struct patch_range *part = vec_add(&f->parts);

	set_old(f, 0x401000, old, sizeof(old), 4);
	assert_non_null(part);
	*part = (struct patch_range){0x400800, 60};
	add_function(p, "helper", 0, SYM_HELPER, 10);
	f = add_function(p, "inflate", 1, SYM_INFLATE, 24);
	set_old(f, 0x2000, old, 18, 4);
	free(f->reason);
	f->reason = text("refers to changed constant \"too long\"");
}

static inline struct patch *make_patch(void)
{
	struct patch *p = patch_create();

	assert_non_null(p);
	p->name = text("CVE-2014-0160");
	p->version = text("1");
	p->description = text("Heartbeat: check the length.\nSecond line: \xc3\xa9\t\"quoted\"");
	p->created_by = text("suture 0.1.0");
	p->compiler = text("GNU C17 12.2.0 -O2");
	assert_true(vec_push(&p->references, text("CVE-2014-0160")));
	assert_true(vec_push(&p->references, text("https://example.org/?a=\"b\"")));
	add_image(p, "heartbeatd", 0xab, true);
	add_image(p, "libz.so.1", 0x01, false);
	add_code(p);
	add_symbols(p);
	add_relocs(p);
	add_functions(p);
	struct patch_expect *e = vec_add(&p->expects);
	assert_non_null(e);
	*e = (struct patch_expect){.name = text("log_line"), .address = 0x401230, .size = 77};
	memset(e->digest, 0x5a, sizeof(e->digest));
	return p;
}

#endif
