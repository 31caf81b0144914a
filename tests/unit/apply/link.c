/* SPDX-License-Identifier: Apache-2.0 */
/* Payloads are laid out in areas of one protection each, and every field reaches what it means. */
#include "apply/link.h"
#include "../unit.h"

#define PROG   0x555555554000ULL
#define LIB    0x7ffff7a00000ULL
#define LINKED 0x1000ULL /* link-time address of things in both images */

struct world {
	struct target target;
	struct module modules[2];
	struct target_image *images[2];
	struct patch *patch;
	struct link *link;
};

static struct world make_world(void)
{
	struct world w = {};

	w.patch = patch_create();
	for (int i = 0; i < 2; i++) {
		struct target_image *image = vec_add(&w.target.images);
		struct patch_image *p = vec_add(&w.patch->images);

		image->name = i ? "lib.so" : "prog";
		p->name = strdup(image->name);
	}
	return w;
}

/* Pointers into the world: after it has its final place. */
static void settle(struct world *w)
{
	static const uint64_t bases[] = {PROG, LIB};

	for (int i = 0; i < 2; i++) {
		w->modules[i] = (struct module){
			.bias = bases[i], .low = bases[i], .high = bases[i] + 0x100000};
		w->images[i] = &w->target.images.at[i];
		w->images[i]->module = &w->modules[i];
	}
}

static void end_world(struct world *w)
{
	link_destroy(w->link);
	patch_destroy(w->patch);
	vec_free(&w->target.images);
}

static uint32_t add_section(struct world *w, const char *name, uint32_t image, uint32_t type,
	uint64_t flags, uint64_t align, uint64_t size)
{
	struct patch_section *s = vec_add(&w->patch->sections);

	s->name = strdup(name);
	s->image = image;
	s->type = type;
	s->flags = SHF_ALLOC | flags;
	s->align = align;
	s->size = size;
	s->data = type == SHT_NOBITS ? NULL : memset(malloc(size), 0xee, size);
	return w->patch->sections.n - 1;
}

static uint32_t add_symbol(struct world *w, struct patch_symbol symbol)
{
	struct patch_symbol *s = vec_add(&w->patch->symbols);

	*s = symbol;
	s->name = strdup(symbol.name);
	return w->patch->symbols.n - 1;
}

static uint32_t address(struct world *w, const char *name, uint32_t image)
{
	return add_symbol(w, (struct patch_symbol){.name = (char *)name,
				     .kind = PATCH_SYMBOL_ADDRESS,
				     .elf_type = STT_FUNC,
				     .image = image,
				     .value = LINKED});
}

static uint32_t defined(
	struct world *w, const char *name, uint8_t type, uint32_t section, uint64_t value)
{
	return add_symbol(w, (struct patch_symbol){.name = (char *)name,
				     .kind = PATCH_SYMBOL_PAYLOAD,
				     .elf_type = type,
				     .section = section,
				     .value = value,
				     .size = 8});
}

static void add_reloc(struct world *w, uint32_t section, uint64_t offset, uint32_t type,
	uint32_t symbol, int64_t addend)
{
	struct patch_reloc *r = vec_add(&w->patch->sections.at[section].relocs);

	*r = (struct patch_reloc){offset, type, symbol, addend};
}

static struct suture_error *lay_out(struct world *w, uint64_t ledger)
{
	settle(w);
	TRY(link_create(&w->target, w->patch, w->images, &w->link));
	TRY(link_find_functions(w->link));
	return link_layout(w->link, ledger, LEDGER_TAG_SIZE);
}

static struct suture_error *link_all(struct world *w)
{
	TRY(lay_out(w, 100));
	vec_foreach (p, &w->link->payloads)
		p->start = (p->image ? LIB : PROG) - 0x200000;
	return link_relocate(w->link);
}

/* The bytes of a section as they will be in the target. */
static const uint8_t *bytes_of(struct world *w, uint32_t section)
{
	struct payload *p = link_payload(w->link, w->patch->sections.at[section].image);
	uint64_t at = w->link->section_at[section];

	for (int i = 0; i < N_AREAS; i++) {
		const struct link_area *a = &p->areas[i];

		if (a->size && at >= a->at && at < a->at + a->size)
			return a->bytes + (at - a->at);
	}
	fail_msg("section %u is nowhere", section);
	return NULL;
}

static uint64_t place_of(struct world *w, uint32_t section, uint64_t offset)
{
	struct payload *p = link_payload(w->link, w->patch->sections.at[section].image);

	return p->start + w->link->section_at[section] + offset;
}

static uint64_t read64(const uint8_t *at)
{
	uint64_t x;

	memcpy(&x, at, sizeof(x));
	return x;
}

/* Where the 32-bit displacement at `offset`, the last of its instruction, leads. */
static uint64_t target_of(struct world *w, uint32_t section, uint64_t offset)
{
	int32_t rel;

	memcpy(&rel, bytes_of(w, section) + offset, sizeof(rel));
	return place_of(w, section, offset) + 4 + rel;
}

static uint64_t slot_content(struct world *w, uint32_t image, uint64_t slot)
{
	struct payload *p = link_payload(w->link, image);
	const struct link_area *ro = &p->areas[AREA_RO];
	uint64_t at = slot - payload_area(p, AREA_RO);

	assert_true(at + 8 <= ro->filled);
	return read64(ro->bytes + at);
}

static void areas(void **state)
{
	(void)state;
	struct world w = make_world();
	uint32_t bss = add_section(&w, ".bss", 0, SHT_NOBITS, SHF_WRITE, 32, 0x3000);
	uint32_t text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 0x1234);
	uint32_t data = add_section(&w, ".data.x", 0, SHT_PROGBITS, SHF_WRITE, 64, 10);
	uint32_t rodata = add_section(&w, ".rodata", 0, SHT_PROGBITS, 0, 4096, 10);
	uint32_t frame1 = add_section(&w, ".eh_frame", 0, SHT_X86_64_UNWIND, 0, 8, 0x2c);
	uint32_t frame2 = add_section(&w, ".eh_frame", 0, SHT_PROGBITS, 0, 8, 0x18);
	const uint64_t ledger = 777;

	assert_ok(lay_out(&w, ledger));
	const struct payload *p = &w.link->payloads.at[0];
	const struct link_area *a = p->areas;
	const uint64_t *at = w.link->section_at;
	assert_int_equal(w.link->payloads.n, 1);
	/* One guard page on each side, whole pages in between, no gap, no overlap. */
	assert_int_equal(a[AREA_RO].at, 4096);
	for (int i = 1; i < N_AREAS; i++) {
		assert_int_equal(a[i].at, a[i - 1].at + a[i - 1].size);
		assert_int_equal(a[i].size % 4096, 0);
	}
	assert_int_equal(p->size, a[AREA_DATA].at + a[AREA_DATA].size + 4096);
	/* Each section is in the area of its access, aligned. */
	const struct {
		uint32_t section;
		int area;
	} where[] = {{bss, AREA_DATA}, {text, AREA_TEXT}, {data, AREA_DATA}, {rodata, AREA_RO},
		{frame1, AREA_RO}, {frame2, AREA_RO}};
	for (size_t i = 0; i < 6; i++) {
		const struct patch_section *s = &w.patch->sections.at[where[i].section];
		const struct link_area *area = &a[where[i].area];

		assert_true(at[where[i].section] >= area->at);
		assert_true(at[where[i].section] + s->size <= area->at + area->used);
		if (s->type != SHT_X86_64_UNWIND && strcmp(s->name, ".eh_frame"))
			assert_int_equal(at[where[i].section] % s->align, 0);
	}
	assert_true(at[rodata] >= a[AREA_RO].at + ledger);
	/* Zeroes are not written: the page has them. */
	assert_true(at[bss] - a[AREA_DATA].at >= a[AREA_DATA].filled);
	assert_memory_equal(bytes_of(&w, data), "\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee", 10);
	/* Unwind records without a gap, and an end. */
	assert_int_equal(at[frame2], at[frame1] + 0x2c);
	assert_int_equal(p->eh_frame_size, 0x2c + 0x18);
	assert_int_equal(a[AREA_RO].at + p->eh_frame, at[frame1]);
	uint32_t end;
	memcpy(&end, a[AREA_RO].bytes + p->eh_frame + p->eh_frame_size, 4);
	assert_int_equal(end, 0);
	end_world(&w);
}

static void references(void **state)
{
	(void)state;
	struct world w = make_world();
	uint32_t text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 64);
	uint32_t data = add_section(&w, ".data.x", 0, SHT_PROGBITS, SHF_WRITE, 8, 32);
	uint32_t near = address(&w, "near", 0), far = address(&w, "far", 1);
	uint32_t x = defined(&w, "x", STT_OBJECT, data, 24);

	add_reloc(&w, text, 4, R_X86_64_PLT32, near, -4);
	add_reloc(&w, text, 8, R_X86_64_PLT32, far, -4);
	add_reloc(&w, text, 12, R_X86_64_PLT32, far, -4);
	add_reloc(&w, text, 16, R_X86_64_PC32, near, -4 + 5);
	add_reloc(&w, text, 20, R_X86_64_GOTPCREL, far, -4);
	add_reloc(&w, text, 24, R_X86_64_REX_GOTPCRELX, far, -4);
	add_reloc(&w, text, 28, R_X86_64_GOTPCREL, x, -4);
	add_reloc(&w, text, 32, R_X86_64_PC32, x, -4);
	add_reloc(&w, data, 0, R_X86_64_64, far, 16);
	add_reloc(&w, data, 8, R_X86_64_64, x, 0);
	assert_ok(link_all(&w));

	assert_int_equal(target_of(&w, text, 4), PROG + LINKED);
	/* Out of reach: one veneer for both calls, a jump through a slot with the address. */
	uint64_t veneer = target_of(&w, text, 8);
	assert_int_equal(target_of(&w, text, 12), veneer);
	struct payload *p = &w.link->payloads.at[0];
	const uint8_t *jump = p->areas[AREA_TEXT].bytes + (veneer - payload_area(p, AREA_TEXT));
	assert_memory_equal(jump, "\xff\x25", 2);
	int32_t rel;
	memcpy(&rel, jump + 2, sizeof(rel));
	assert_int_equal(slot_content(&w, 0, veneer + 6 + rel), LIB + LINKED);
	assert_int_equal(target_of(&w, text, 16), PROG + LINKED + 5);
	/* One GOT slot for one symbol. */
	assert_int_equal(slot_content(&w, 0, target_of(&w, text, 20)), LIB + LINKED);
	assert_int_equal(target_of(&w, text, 24), target_of(&w, text, 20));
	assert_int_equal(slot_content(&w, 0, target_of(&w, text, 28)), place_of(&w, data, 24));
	assert_int_equal(target_of(&w, text, 32), place_of(&w, data, 24));
	assert_int_equal(read64(bytes_of(&w, data)), LIB + LINKED + 16);
	assert_int_equal(read64(bytes_of(&w, data) + 8), place_of(&w, data, 24));

	/* Placed elsewhere, everything is computed anew. */
	p->start += 0x7000;
	assert_ok(link_relocate(w.link));
	assert_int_equal(target_of(&w, text, 4), PROG + LINKED);
	assert_int_equal(read64(bytes_of(&w, data) + 8), place_of(&w, data, 24));
	end_world(&w);
}

static void two_images(void **state)
{
	(void)state;
	struct world w = make_world();
	uint32_t second = add_section(&w, ".text.g", 1, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);
	uint32_t first = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);
	uint32_t g = defined(&w, "g", STT_FUNC, second, 0);

	add_reloc(&w, first, 4, R_X86_64_PLT32, g, -4);
	add_reloc(&w, second, 4, R_X86_64_PLT32, g, -4);
	assert_ok(link_all(&w));
	/* In the order of images: the record is in the payload of the first. */
	assert_int_equal(w.link->payloads.n, 2);
	assert_int_equal(w.link->payloads.at[0].image, 0);
	assert_int_equal(link_symbol_address(w.link, g), place_of(&w, second, 0));
	assert_int_equal(target_of(&w, second, 4), place_of(&w, second, 0));
	uint64_t veneer = target_of(&w, first, 4);
	struct payload *p = link_payload(w.link, 0);
	assert_true(veneer >= payload_area(p, AREA_TEXT) &&
		    veneer < payload_area(p, AREA_TEXT) + p->areas[AREA_TEXT].size);
	end_world(&w);
}

static void out_of_reach(void **state)
{
	(void)state;
	struct world w = make_world();
	uint32_t text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);

	add_reloc(&w, text, 4, R_X86_64_PC32, address(&w, "far", 1), -4);
	assert_error(link_all(&w), SUTURE_ERROR_RANGE, ".text.f+0x4 refers to far: R_X86_64_PC32");
	end_world(&w);

	w = make_world();
	text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);
	add_reloc(&w, text, 4, R_X86_64_32S, address(&w, "near", 0), 0);
	assert_error(link_all(&w), SUTURE_ERROR_RANGE, "R_X86_64_32S");
	end_world(&w);
}

static void refusals(void **state)
{
	(void)state;
	struct world w = make_world();
	uint32_t text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);
	uint32_t data = add_section(&w, ".data.x", 0, SHT_PROGBITS, SHF_WRITE, 16, 32);

	add_reloc(&w, text, 4, R_X86_64_GOTTPOFF, defined(&w, "fresh", STT_OBJECT, data, 0), -4);
	assert_error(lay_out(&w, 0), SUTURE_ERROR_UNSUPPORTED, "fresh is a new thread-local");
	end_world(&w);

	w = make_world();
	text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);
	add_reloc(&w, text, 4, R_X86_64_GOTOFF64, address(&w, "near", 0), 0);
	assert_error(lay_out(&w, 0), SUTURE_ERROR_UNSUPPORTED, "R_X86_64_GOTOFF64");
	end_world(&w);

	w = make_world();
	text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);
	add_reloc(&w, text, 30, R_X86_64_PC32, address(&w, "near", 0), -4);
	assert_error(link_all(&w), SUTURE_ERROR_INPUT, "sticks out");
	end_world(&w);

	w = make_world();
	add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 32);
	w.patch->symbols.n = 0;
	uint32_t s = address(&w, "beyond", 0);
	w.patch->symbols.at[s].value = 0x200000;
	assert_error(lay_out(&w, 0), SUTURE_ERROR_SYMBOL, "beyond");
	end_world(&w);
}

/* Which functions may be called by pointers that the program keeps. */
static void handed_out(void **state)
{
	(void)state;
	struct world w = make_world();
	uint32_t text = add_section(&w, ".text.f", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 64);
	uint32_t called = add_section(&w, ".text.called", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 16);
	uint32_t taken = add_section(&w, ".text.taken", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 16);
	uint32_t table = add_section(&w, ".text.table", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 16);
	uint32_t via_got = add_section(&w, ".text.got", 0, SHT_PROGBITS, SHF_EXECINSTR, 16, 16);
	uint32_t rodata = add_section(&w, ".rodata", 0, SHT_PROGBITS, 0, 8, 32);
	uint32_t frame = add_section(&w, ".eh_frame", 0, SHT_X86_64_UNWIND, 0, 8, 32);
	uint32_t f = defined(&w, "f", STT_FUNC, text, 0);
	uint32_t in_text = defined(&w, "", STT_SECTION, text, 0);
	uint32_t in_called = defined(&w, "", STT_SECTION, called, 0);
	uint32_t in_taken = defined(&w, "", STT_SECTION, taken, 0);
	uint32_t in_table = defined(&w, "", STT_SECTION, table, 0);
	uint32_t got = defined(&w, "through_got", STT_FUNC, via_got, 0);

	(void)f;
	add_reloc(&w, text, 4, R_X86_64_PLT32, in_called, -4);
	add_reloc(&w, text, 8, R_X86_64_PC32, in_taken, -4);
	add_reloc(&w, text, 12, R_X86_64_GOTPCREL, got, -4);
	add_reloc(&w, rodata, 0, R_X86_64_64, in_table, 0);
	add_reloc(&w, rodata, 8, R_X86_64_PC32, in_text, 0x20); /* a jump table */
	add_reloc(&w, frame, 8, R_X86_64_PC32, in_called, 0);
	assert_ok(lay_out(&w, 0));

	static const struct {
		const char *name;
		bool escapes;
	} want[] = {{"f", false}, {"through_got", true}, {"called", false}, {"taken", true},
		{"table", true}};
	assert_int_equal(w.link->functions.n, 5);
	for (size_t i = 0; i < 5; i++) {
		bool found = false;

		vec_foreach (have, &w.link->functions) {
			if (strcmp(have->name, want[i].name))
				continue;
			found = true;
			if (have->escapes != want[i].escapes)
				fail_msg("%s: %d", have->name, have->escapes);
		}
		assert_true(found);
	}
	end_world(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(areas),
		cmocka_unit_test(references),
		cmocka_unit_test(two_images),
		cmocka_unit_test(out_of_reach),
		cmocka_unit_test(refusals),
		cmocka_unit_test(handed_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
