/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that can be asked of hostile ELF input, once: for the fuzzers, and for the unit test
 * that feeds deterministic damage to the same code. Returns nothing: not crashing is the answer.
 */
#ifndef FUZZ_EXERCISE_ELF_H
#define FUZZ_EXERCISE_ELF_H

#include <string.h>

#include "elf/cfi.h"
#include "elf/image.h"
#include "elf/module.h"

static inline void exercise_rows(
	struct unwind_table *t, const struct reader *memory, uint64_t low, uint64_t high)
{
	uint64_t stride = (high - low) / 64 + 1;

	for (uint64_t pc = low; pc < high && high - pc > stride; pc += stride) {
		const struct unwind_row *row = unwind_table_row(t, pc);
		uint64_t regs[UNWIND_REGS];
		uint32_t valid = (1u << UNWIND_REGS) - 1;
		bool outermost;

		if (!row)
			continue;
		for (int i = 0; i < UNWIND_REGS; i++)
			regs[i] = low + 64 * i;
		regs[16] = pc;
		suture_error_destroy(unwind_step(row, memory, regs, &valid, &outermost));
	}
}

static inline void exercise_symbols(struct module *m)
{
	static const char *const names[] = {"", "foo", "plain", "puts", "malloc", "only_old"};
	static const char *const versions[] = {NULL, "V1", "GLIBC_2.2.5"};
	size_t count = module_symbol_count(m);
	struct module_symbol s;
	const char *version;
	uint64_t offset;
	bool found;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		for (size_t j = 0; j < sizeof(versions) / sizeof(versions[0]); j++)
			suture_error_destroy(module_lookup(m, names[i], versions[j], &s, &found));
	for (size_t i = 0; i < count && i < 64; i++) {
		struct suture_error *err = module_symbol(m, i, &s);

		if (!err) {
			err = module_version_name(m, s.version_index, &version);
			free(s.name);
		}
		suture_error_destroy(err);
	}
	for (int i = 0; i < 8; i++)
		module_symbolize(m, m->low + (m->high - m->low) / 8 * i, &offset);
}

/* `data` as if it were mapped at `base`. */
static inline void exercise_module(const uint8_t *data, size_t size, uint64_t base)
{
	struct reader_buffer memory;
	struct unwind_table *t;
	struct module *m;
	uint8_t id[64];
	size_t id_size;

	reader_buffer_init(&memory, data, size, base);
	suture_error_destroy(module_build_id(&memory.reader, base, id, &id_size));
	struct suture_error *err = module_open(&memory.reader, base, "x", &m);
	if (err) {
		suture_error_destroy(err);
		return;
	}
	exercise_symbols(m);
	suture_error_destroy(module_relocs(m));
	err = unwind_table_from_module(m, &t);
	if (!err) {
		exercise_rows(t, &memory.reader, base, base + size);
		unwind_table_destroy(t);
	}
	suture_error_destroy(err);
	module_close(m);
}

/* `data` as a bare .eh_frame at `base`; its functions may be anywhere around. */
static inline void exercise_eh_frame(const uint8_t *data, size_t size, uint64_t base)
{
	struct reader_buffer memory;
	struct unwind_table *t;

	reader_buffer_init(&memory, data, size, base);
	struct suture_error *err = unwind_table_from_eh_frame(&memory.reader, base, size, &t);
	if (!err) {
		exercise_rows(t, &memory.reader, base, base + size + 4096);
		unwind_table_destroy(t);
	}
	suture_error_destroy(err);
}

/* A file, by its path. */
static inline void exercise_image(const char *path)
{
	struct image *image;
	uint64_t slot, word;
	size_t n;

	struct suture_error *err = image_open_with(path, "/nonexistent", &image);
	if (err) {
		suture_error_destroy(err);
		return;
	}
	for (size_t i = 0; i < image->symbols.n && i < 256; i++) {
		uint64_t at = image->symbols.at[i].value;

		image_symbol_at(image, at + 1);
		image_plt_slot(image, at, &slot);
		suture_error_destroy(image_read(image, at, &word, sizeof(word)));
	}
	const Elf64_Rela *relocs = image_relocs(image, &n);
	for (size_t i = 0; i < n && i < 256; i++)
		image_reloc_at(image, relocs[i].r_offset);
	image_close(image);
}

#endif
