/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is not whole is neither written nor, as both directions ask patch_validate(), read: each way
 * to spoil a good patch has its own message.
 */
#include "fixture.h"
#include "format/format.h"

#define TEXT (&p->sections.at[TEXT_PARSE])
#define F    (&p->functions.at[0])

/* code, message, what is done to the patch `p` */
/* clang-format off */
#define SPOILS(X) \
	X(INPUT, "the patch name is malformed", p->name[0] = '-') \
	X(INPUT, "images[1]: libz.so.1 has no build-id", p->images.at[1].build_id_size = 0) \
	X(INPUT, "images[1]: the same build-id as images[0]", memset(p->images.at[1].build_id, 0xab, 20)) \
	X(INPUT, "sections[0] (.text.parse): alignment 24", TEXT->align = 24) \
	X(INPUT, "sections[0] (.text.parse): alignment 8192", TEXT->align = 8192) \
	X(INPUT, "both writable and executable", TEXT->flags |= SHF_WRITE) \
	X(UNSUPPORTED, "new thread-local storage", TEXT->flags |= SHF_TLS) \
	X(INPUT, "larger than 256 MiB", p->sections.at[BSS].size = (256 << 20) + 1) \
	X(INPUT, "relocation 0: offset 0x15 is outside", TEXT->relocs.at[0].offset = 21) \
	X(INPUT, "relocation 0: offset 0xffffffffffffffff", TEXT->relocs.at[0].offset = UINT64_MAX) \
	X(INPUT, "relocation 0: no symbol 99", TEXT->relocs.at[0].symbol = 99) \
	X(UNSUPPORTED, "relocation 0: type 200", TEXT->relocs.at[0].type = 200) \
	X(INPUT, "symbols[3] (parse): reaches beyond", p->symbols.at[SYM_PARSE].value = UINT64_MAX) \
	X(INPUT, "symbols[2] (counter.0): reaches beyond", p->symbols.at[SYM_COUNTER].size = 9) \
	X(INPUT, "symbols[7] (memcpy): a dynamic symbol has no value", p->symbols.at[SYM_MEMCPY].value = 1) \
	X(INPUT, "symbols[5] (log_line): only a dynamic symbol", p->symbols.at[SYM_LOG].weak = true) \
	X(INPUT, "symbols[6] (table): no image 2", p->symbols.at[SYM_TABLE].image = 2) \
	X(INPUT, "symbols[8] (errno_like): ELF type 1", p->symbols.at[SYM_ERRNO].elf_type = STT_OBJECT) \
	X(INPUT, "control character (0x1b)", strcpy(p->symbols.at[SYM_LOG].name, "\x1b[2J")) \
	X(INPUT, "not valid UTF-8", strcpy(p->symbols.at[SYM_LOG].name, "\xc0\x80")) \
	X(INPUT, "functions[0] (parse): the new code is in .data.counter", F->symbol = SYM_COUNTER) \
	X(INPUT, "functions[0] (parse): the new code, log_line, is not in", F->symbol = SYM_LOG) \
	X(INPUT, "site_size 17", F->site_size = 17) \
	X(INPUT, "functions[0] (parse): size 32", F->address = UINT64_MAX - 8) \
	X(INPUT, "near another image", F->image = 1) \
	X(INPUT, "functions[1] (helper): a new function has no old code", p->functions.at[1].site = 4) \
	X(INPUT, "functions parse and inflate overlap", p->functions.at[2].image = 0; p->functions.at[2].symbol = SYM_HELPER; p->functions.at[2].new_size = 10; p->functions.at[2].address = 0x40101f) \
	X(INPUT, "parts[0]", F->parts.at[0].size = 0) \
	X(INPUT, "expects[0] (log_line): size", p->expects.at[0].size = UINT64_MAX) \
	X(INPUT, "the patch has no version", free(p->version); p->version = NULL) \
	X(INPUT, "sections[3] (.data.counter): no image 7", p->sections.at[DATA].image = 7) \
	X(INPUT, "the name .suture.x is reserved", strcpy(p->sections.at[TEXT_PARSE].name, ".suture.x")) \
	X(INPUT, "a section symbol must be local", p->symbols.at[SYM_HELPER].local = p->symbols.at[SYM_RODATA].local = false) \
	X(INPUT, "sections[0] (.text.parse): code without bytes", TEXT->type = SHT_NOBITS) \
	X(INPUT, "images[0]: the name a/b is a path", strcpy(p->images.at[0].name, "a/b")) \
	X(INPUT, "images[0]: build_id is longer", p->images.at[0].build_id_size = 65) \
	X(INPUT, "(.bss.seen): relocations without bytes", add_reloc(&p->sections.at[BSS], 0, R_X86_64_64, SYM_LOG, 0)) \
	X(INPUT, "(.rodata.str): has no data", free(p->sections.at[RODATA].data); p->sections.at[RODATA].data = NULL) \
	X(INPUT, "(.rodata.str): has data where none belongs", p->sections.at[RODATA].size = 0) \
	X(INPUT, "(.eh_frame): type 0xe", p->sections.at[EH_FRAME].type = SHT_INIT_ARRAY) \
	X(INPUT, "(.eh_frame): flags 0x12", p->sections.at[EH_FRAME].flags |= SHF_MERGE) \
	X(INPUT, "symbols[3] (parse): no section 7", p->symbols.at[SYM_PARSE].section = 7) \
	X(UNSUPPORTED, "a new thread-local variable", p->symbols.at[SYM_COUNTER].elf_type = STT_TLS) \
	X(INPUT, "(parse): only a dynamic symbol", p->symbols.at[SYM_PARSE].weak = true) \
	X(INPUT, "(memcpy): version is empty", *p->symbols.at[SYM_MEMCPY].version = 0) \
	X(INPUT, "(log_line): a reference out of the payload", p->symbols.at[SYM_LOG].local = true) \
	X(INPUT, "(state): reaches beyond the end", p->symbols.at[SYM_STATE].size = 0x101) \
	X(INPUT, "(log_line): no kind 9", p->symbols.at[SYM_LOG].kind = 9) \
	X(INPUT, "(parse): no symbol 99", F->symbol = 99) \
	X(INPUT, "(parse): no image 2", F->image = 2) \
	X(INPUT, "(parse): the old bytes are missing", free(F->old_bytes); F->old_bytes = NULL) \
	X(INPUT, "(parse): new_size 25", F->new_size = 25) \
	X(INPUT, "expects[0] (log_line): no image 2", p->expects.at[0].image = 2) \
	X(INPUT, "0 images", p->images.n = 0)
/* clang-format on */

static void spoil(struct patch *p, size_t how)
{
	size_t i = 0;

#define DO(code, message, ...) \
	if (how == i++) {      \
		__VA_ARGS__;   \
	}
	SPOILS(DO)
}

static void broken_patches_are_not_written(void **state)
{
	static const struct {
		enum suture_error_code code;
		const char *message;
	} want[] = {
#define WANT(code, message, ...) {SUTURE_ERROR_##code, message},
		SPOILS(WANT)};

	(void)state;
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		struct patch *p = make_patch();
		size_t images = p->images.n, size;
		void *data;

		spoil(p, i);
		assert_error(patch_serialize(p, &data, &size), want[i].code, want[i].message);
		p->images.n = images;
		patch_destroy(p);
	}
}

static void equal_references_are_refused(void **state)
{
	struct patch *p = make_patch();
	struct patch_symbol again = p->symbols.at[SYM_LOG];

	(void)state;
	/* Two static functions of one name are two different things; one thing twice is not. */
	again.value += 0x100;
	add_symbol(p, again);
	assert_ok(patch_validate(p));
	add_symbol(p, again);
	assert_error(patch_validate(p), SUTURE_ERROR_INPUT, "two equal references to log_line");
	patch_destroy(p);
}

static void an_empty_patch_is_refused(void **state)
{
	struct patch *p = patch_create();

	(void)state;
	assert_error(patch_validate(p), SUTURE_ERROR_INPUT, "no name");
	patch_destroy(p);
	patch_destroy(NULL);
	p = make_patch();
	p->functions.at[0].address = p->functions.at[0].size = 0;
	p->functions.at[0].site = p->functions.at[0].site_size = 0;
	p->functions.at[0].parts.n = 0;
	free(p->functions.at[0].old_bytes);
	p->functions.at[0].old_bytes = NULL;
	assert_ok(patch_validate(p));
	p->functions.n = 2;
	assert_error(patch_validate(p), SUTURE_ERROR_INPUT, "replaces no function");
	p->functions.n = 3;
	patch_destroy(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(broken_patches_are_not_written),
		cmocka_unit_test(equal_references_are_refused),
		cmocka_unit_test(an_empty_patch_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
