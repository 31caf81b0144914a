/* SPDX-License-Identifier: Apache-2.0 */
/* Laying out payloads and writing relocated fields: see link.h. */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "apply/link.h"
#include "base/cleanup.h"

#define PAGE 4096ULL

enum { GOT_ALIGN = 16, STUB_ALIGN = 16 };

struct payload *link_payload(const struct link *link, uint32_t image)
{
	vec_foreach (p, &link->payloads) {
		if (p->image == image)
			return p;
	}
	return NULL;
}

static const struct patch_section *section_of(const struct link *link, uint32_t symbol)
{
	return &link->patch->sections.at[link->patch->symbols.at[symbol].section];
}

remote_addr link_symbol_address(const struct link *link, uint32_t symbol)
{
	const struct patch_symbol *s = &link->patch->symbols.at[symbol];
	const struct payload *p = link_payload(link, section_of(link, symbol)->image);

	return p->start + link->section_at[s->section] + s->value;
}

/* ---- create: what every symbol is ---- */

static bool is_tls(const struct patch_symbol *symbol)
{
	return symbol->kind == PATCH_SYMBOL_TLS || symbol->kind == PATCH_SYMBOL_TLS_DYNAMIC;
}

static struct suture_error *bind_all(struct link *link)
{
	const struct patch *patch = link->patch;

	for (size_t i = 0; i < patch->symbols.n; i++) {
		const struct patch_symbol *symbol = &patch->symbols.at[i];

		if (symbol->kind == PATCH_SYMBOL_PAYLOAD || is_tls(symbol))
			continue;
		TRY(bind_symbol(&link->binder, symbol, &link->bindings[i]));
	}
	return NULL;
}

static bool has_sections(const struct patch *patch, uint32_t image)
{
	vec_foreach (section, &patch->sections) {
		if (section->image == image)
			return true;
	}
	return false;
}

static struct suture_error *add_payloads(struct link *link, struct target_image **images)
{
	for (uint32_t i = 0; i < link->patch->images.n; i++) {
		if (!has_sections(link->patch, i))
			continue;
		struct payload *p = vec_add(&link->payloads);
		if (!p)
			return error_nomem();
		p->image = i;
		p->target = images[i];
	}
	return NULL;
}

struct suture_error *link_create(struct target *target, const struct patch *patch,
	struct target_image **images, struct link **ret)
{
	_cleanup_(link_destroyp) struct link *link = calloc(1, sizeof(*link));

	if (!link)
		return error_nomem();
	link->arch = &arch_x86_64;
	link->patch = patch;
	TRY(binder_init(&link->binder, target, patch, images));
	link->bindings = calloc(patch->symbols.n ?: 1, sizeof(link->bindings[0]));
	link->section_at = calloc(patch->sections.n ?: 1, sizeof(link->section_at[0]));
	if (!link->bindings || !link->section_at)
		return error_nomem();
	TRY(bind_all(link));
	TRY(add_payloads(link, images));
	*ret = take(link);
	return NULL;
}

void link_destroy(struct link *link)
{
	if (!link)
		return;
	vec_foreach (p, &link->payloads) {
		for (int i = 0; i < N_AREAS; i++)
			free(p->areas[i].bytes);
		vec_free(&p->slots);
		vec_free(&p->veneers);
		vec_free(&p->stubs);
	}
	vec_free(&link->payloads);
	vec_free(&link->functions);
	free(link->bindings);
	free(link->section_at);
	if (link->binder.target)
		binder_deinit(&link->binder);
	free(link);
}

static bool is_eh_frame(const struct patch_section *s)
{
	return s->type == SHT_X86_64_UNWIND || !strncmp(s->name, ".eh_frame", 9);
}

/* ---- functions, and who hands out their addresses ---- */

remote_addr link_function_address(const struct link *link, const struct link_function *function)
{
	const struct payload *p =
		link_payload(link, link->patch->sections.at[function->section].image);

	return p->start + link->section_at[function->section] + function->offset;
}

static struct link_function *function_at(struct link *link, uint32_t section, int64_t offset)
{
	vec_foreach (f, &link->functions) {
		if (f->section == section && (int64_t)f->offset == offset)
			return f;
	}
	return NULL;
}

static bool is_code(const struct patch_section *s)
{
	return s->flags & SHF_EXECINSTR;
}

static struct suture_error *add_function(
	struct link *link, const char *name, uint32_t section, uint64_t offset, uint64_t size)
{
	struct link_function function = {name, section, offset, size, false};

	if (function_at(link, section, offset))
		return NULL;
	return vec_push(&link->functions, function) ? NULL : error_nomem();
}

/* With -ffunction-sections a section without a symbol of its own is a function all the same. */
static struct suture_error *list_functions(struct link *link)
{
	const struct patch *patch = link->patch;

	vec_foreach (s, &patch->symbols) {
		if (s->kind == PATCH_SYMBOL_PAYLOAD && s->elf_type == STT_FUNC &&
			is_code(&patch->sections.at[s->section]))
			TRY(add_function(link, s->name, s->section, s->value, s->size));
	}
	for (uint32_t i = 0; i < patch->sections.n; i++) {
		const struct patch_section *s = &patch->sections.at[i];
		const char *name = !strncmp(s->name, ".text.", 6) ? s->name + 6 : s->name;

		if (is_code(s))
			TRY(add_function(link, name, i, 0, s->size));
	}
	return NULL;
}

/*
 * The function whose address this relocation hands out; NULL: none. Only the start of a function
 * counts: jump tables point inside. A PC-relative field is the last of its instruction, so the
 * address is four bytes further than the addend says.
 */
static struct link_function *handed_out(
	struct link *link, const struct patch_section *section, const struct patch_reloc *reloc)
{
	const struct patch_symbol *symbol = &link->patch->symbols.at[reloc->symbol];
	enum reloc_need need = link->arch->reloc_need(reloc->type);
	bool pc_relative = link->arch->reloc_size(reloc->type) == 4 &&
			   !link->arch->reloc_is_abs32(reloc->type);

	if (symbol->kind != PATCH_SYMBOL_PAYLOAD || is_eh_frame(section) ||
		!is_code(section_of(link, reloc->symbol)))
		return NULL;
	if (need == RELOC_NEED_GOT)
		return function_at(link, symbol->section, symbol->value);
	if (need != RELOC_NEED_VALUE)
		return NULL;
	return function_at(link, symbol->section,
		(int64_t)symbol->value + reloc->addend + (pc_relative ? 4 : 0));
}

struct suture_error *link_find_functions(struct link *link)
{
	TRY(list_functions(link));
	vec_foreach (section, &link->patch->sections) {
		vec_foreach (reloc, &section->relocs) {
			struct link_function *f = handed_out(link, section, reloc);

			if (f)
				f->escapes = true;
		}
	}
	return NULL;
}

/* ---- layout ---- */

static uint64_t area_add(struct link_area *area, uint64_t size, uint64_t align)
{
	uint64_t at = (area->used + align - 1) & -align;

	area->used = at + size;
	return at;
}

static int area_of(const struct patch_section *s)
{
	return is_code(s) ? AREA_TEXT : s->flags & SHF_WRITE ? AREA_DATA : AREA_RO;
}

/* Offsets in the area for now; link_layout() adds where the area is. */
static void lay_sections(
	struct link *link, struct payload *p, bool eh_frame, bool nobits, uint64_t align_max)
{
	for (size_t i = 0; i < link->patch->sections.n; i++) {
		const struct patch_section *s = &link->patch->sections.at[i];
		uint64_t align = s->align < align_max ? s->align : align_max;

		if (s->image != p->image || is_eh_frame(s) != eh_frame ||
			(s->type == SHT_NOBITS) != nobits)
			continue;
		link->section_at[i] = area_add(&p->areas[area_of(s)], s->size, align ?: 1);
	}
}

/* Unwind records of several sections form one table: no gap between them, a zero word behind. */
static void lay_eh_frame(struct link *link, struct payload *p)
{
	struct link_area *ro = &p->areas[AREA_RO];

	p->eh_frame = area_add(ro, 0, 8);
	lay_sections(link, p, true, false, 1);
	p->eh_frame_size = ro->used - p->eh_frame;
	if (p->eh_frame_size)
		area_add(ro, 4, 1);
}

static uint64_t slot_size(enum reloc_need need)
{
	bool pair = need == RELOC_NEED_GOT_TLSGD || need == RELOC_NEED_GOT_TLSLD ||
		    need == RELOC_NEED_TLSDESC;

	return pair ? 16 : 8;
}

static struct link_slot *find_slot(struct payload *p, uint32_t symbol, enum reloc_need need)
{
	vec_foreach (slot, &p->slots) {
		if (slot->symbol == symbol && slot->need == need)
			return slot;
	}
	return NULL;
}

static struct suture_error *add_slot(struct payload *p, uint32_t symbol, enum reloc_need need)
{
	if (find_slot(p, symbol, need))
		return NULL;
	struct link_slot *slot = vec_add(&p->slots);
	if (!slot)
		return error_nomem();
	*slot = (struct link_slot){
		symbol, need, area_add(&p->areas[AREA_RO], slot_size(need), slot_size(need))};
	return NULL;
}

static struct link_veneer *find_veneer(struct payload *p, uint32_t symbol)
{
	vec_foreach (veneer, &p->veneers) {
		if (veneer->symbol == symbol)
			return veneer;
	}
	return NULL;
}

/* Every payload reaches all of its own image; a call to anywhere else may need a veneer. */
static bool may_be_far(const struct link *link, const struct payload *p, uint32_t symbol)
{
	if (link->patch->symbols.at[symbol].kind == PATCH_SYMBOL_PAYLOAD)
		return section_of(link, symbol)->image != p->image;
	remote_addr call = link->bindings[symbol].call;
	return call < p->target->module->low || call >= p->target->module->high;
}

static struct suture_error *add_veneer(struct link *link, struct payload *p, uint32_t symbol)
{
	if (!may_be_far(link, p, symbol) || find_veneer(p, symbol))
		return NULL;
	struct link_veneer *veneer = vec_add(&p->veneers);
	if (!veneer)
		return error_nomem();
	*veneer = (struct link_veneer){symbol,
		area_add(&p->areas[AREA_TEXT], link->arch->veneer_size, STUB_ALIGN),
		area_add(&p->areas[AREA_RO], 8, 8)};
	return NULL;
}

static struct link_veneer *find_stub(
	const struct link *link, uint32_t symbol, struct payload **ret_payload)
{
	vec_foreach (p, &link->payloads) {
		vec_foreach (stub, &p->stubs) {
			if (stub->symbol == symbol) {
				*ret_payload = p;
				return stub;
			}
		}
	}
	return NULL;
}

/* One stub for the whole patch: its address is the function's, as far as the patch goes. */
static struct suture_error *add_stub(struct link *link, struct payload *p, uint32_t symbol)
{
	struct payload *other;

	if (!link->bindings[symbol].resolver || find_stub(link, symbol, &other))
		return NULL;
	struct link_veneer *stub = vec_add(&p->stubs);
	if (!stub)
		return error_nomem();
	*stub = (struct link_veneer){symbol,
		area_add(&p->areas[AREA_TEXT], link->arch->resolve_size, STUB_ALIGN),
		area_add(&p->areas[AREA_DATA], 8, 8)};
	return NULL;
}

static struct suture_error *unsupported(const struct link *link, uint32_t type)
{
	return error_create(SUTURE_ERROR_UNSUPPORTED, "relocation type %s is not supported",
		link->arch->reloc_name(type));
}

static struct suture_error *check_kind(
	const struct link *link, const struct patch_symbol *symbol, enum reloc_need need)
{
	switch (need) {
	case RELOC_NEED_TPOFF:
	case RELOC_NEED_GOT_TPOFF:
	case RELOC_NEED_GOT_TLSGD:
	case RELOC_NEED_GOT_TLSLD:
	case RELOC_NEED_DTPOFF:
	case RELOC_NEED_TLSDESC:
		if (symbol->kind == PATCH_SYMBOL_PAYLOAD)
			return error_create(SUTURE_ERROR_UNSUPPORTED,
				"%s is a new thread-local variable, which is not supported",
				symbol->name);
		return NULL;
	default:
		(void)link;
		return NULL;
	}
}

static struct suture_error *lay_reloc(
	struct link *link, struct payload *p, const struct patch_reloc *reloc)
{
	const struct patch_symbol *symbol = &link->patch->symbols.at[reloc->symbol];
	enum reloc_need need = link->arch->reloc_need(reloc->type);

	TRY(check_kind(link, symbol, need));
	switch (need) {
	case RELOC_NEED_GOT:
	case RELOC_NEED_GOT_TPOFF:
	case RELOC_NEED_GOT_TLSGD:
	case RELOC_NEED_GOT_TLSLD:
	case RELOC_NEED_TLSDESC:
		TRY(add_slot(p, reloc->symbol, need));
		break;
	case RELOC_NEED_PLT:
		TRY(add_veneer(link, p, reloc->symbol));
		break;
	case RELOC_UNSUPPORTED:
		return unsupported(link, reloc->type);
	default:
		break;
	}
	return add_stub(link, p, reloc->symbol);
}

static struct suture_error *lay_relocs(struct link *link, struct payload *p)
{
	vec_foreach (section, &link->patch->sections) {
		if (section->image != p->image)
			continue;
		vec_foreach (reloc, &section->relocs)
			TRY(error_wrap(lay_reloc(link, p, reloc), "section %s", section->name));
	}
	return NULL;
}

/* Areas follow each other in whole pages, between the guards. */
static struct suture_error *close_areas(struct payload *p)
{
	uint64_t at = PAGE;

	for (int i = 0; i < N_AREAS; i++) {
		struct link_area *area = &p->areas[i];

		area->at = at;
		area->size = (area->used + PAGE - 1) & -PAGE;
		at += area->size;
		if (i != AREA_DATA)
			area->filled = area->used;
		area->bytes = calloc(area->filled ?: 1, 1);
		if (!area->bytes)
			return error_nomem();
	}
	p->size = at + PAGE;
	return NULL;
}

static void copy_sections(struct link *link, struct payload *p)
{
	for (size_t i = 0; i < link->patch->sections.n; i++) {
		const struct patch_section *s = &link->patch->sections.at[i];

		if (s->image != p->image)
			continue;
		struct link_area *area = &p->areas[area_of(s)];
		if (s->type != SHT_NOBITS && s->size)
			memcpy(area->bytes + link->section_at[i], s->data, s->size);
		link->section_at[i] += area->at;
	}
}

struct suture_error *link_layout(struct link *link, uint64_t first, uint64_t others)
{
	vec_foreach (p, &link->payloads) {
		area_add(&p->areas[AREA_RO], p == link->payloads.at ? first : others, 8);
		lay_eh_frame(link, p);
		lay_sections(link, p, false, false, PAGE);
		area_add(&p->areas[AREA_RO], 0, GOT_ALIGN);
		TRY(lay_relocs(link, p));
		p->areas[AREA_DATA].filled = p->areas[AREA_DATA].used;
		lay_sections(link, p, false, true, PAGE);
		TRY(close_areas(p));
		copy_sections(link, p);
	}
	return NULL;
}

/* ---- relocate ---- */

static struct suture_error *stub_address(const struct link *link, uint32_t symbol, remote_addr *ret)
{
	struct payload *p;
	struct link_veneer *stub = find_stub(link, symbol, &p);

	if (!stub)
		return error_create(SUTURE_ERROR_INTERNAL, "no stub for the IFUNC %s",
			link->patch->symbols.at[symbol].name);
	*ret = payload_area(p, AREA_TEXT) + stub->at;
	return NULL;
}

static struct suture_error *symbol_value(
	const struct link *link, uint32_t symbol, bool call, uint64_t *ret)
{
	const struct binding *b = &link->bindings[symbol];

	if (link->patch->symbols.at[symbol].kind == PATCH_SYMBOL_PAYLOAD) {
		*ret = link_symbol_address(link, symbol);
		return NULL;
	}
	*ret = call ? b->call : b->value;
	if (b->resolver && (call || !b->value))
		return stub_address(link, symbol, ret);
	return NULL;
}

/* The content of a GOT slot. */
static struct suture_error *fill_slot(
	struct link *link, struct payload *p, const struct link_slot *slot)
{
	const struct patch_symbol *symbol = &link->patch->symbols.at[slot->symbol];
	struct binder *binder = &link->binder;
	uint64_t words[2] = {};

	switch (slot->need) {
	case RELOC_NEED_GOT_TPOFF:
		TRY(bind_tpoff(binder, symbol, &words[0]));
		break;
	case RELOC_NEED_GOT_TLSGD:
		TRY(bind_tls_module(binder, symbol, &words[0]));
		TRY(bind_dtpoff(binder, symbol, &words[1]));
		break;
	case RELOC_NEED_GOT_TLSLD:
		TRY(bind_tls_module(binder, symbol, &words[0]));
		break;
	case RELOC_NEED_TLSDESC:
		TRY(bind_tlsdesc(binder, symbol, words));
		break;
	default:
		TRY(symbol_value(link, slot->symbol, false, &words[0]));
	}
	memcpy(p->areas[AREA_RO].bytes + slot->at, words, slot_size(slot->need));
	return NULL;
}

static struct suture_error *fill_veneer(
	struct link *link, struct payload *p, const struct link_veneer *veneer)
{
	uint64_t value;

	TRY(symbol_value(link, veneer->symbol, true, &value));
	memcpy(p->areas[AREA_RO].bytes + veneer->slot, &value, sizeof(value));
	if (!link->arch->veneer_encode(p->areas[AREA_TEXT].bytes + veneer->at,
		    payload_area(p, AREA_TEXT) + veneer->at,
		    payload_area(p, AREA_RO) + veneer->slot))
		return error_create(SUTURE_ERROR_RANGE, "a payload of %llu bytes is too large",
			(unsigned long long)p->size);
	return NULL;
}

static struct suture_error *fill_stub(
	struct link *link, struct payload *p, const struct link_veneer *stub)
{
	/* Until the resolver has been asked the slot points at the part of the stub that asks. */
	uint64_t first = link->arch->resolve_encode(p->areas[AREA_TEXT].bytes + stub->at,
		payload_area(p, AREA_TEXT) + stub->at, payload_area(p, AREA_DATA) + stub->slot,
		link->bindings[stub->symbol].resolver);

	if (!first)
		return error_create(SUTURE_ERROR_RANGE, "a payload of %llu bytes is too large",
			(unsigned long long)p->size);
	memcpy(p->areas[AREA_DATA].bytes + stub->slot, &first, sizeof(first));
	return NULL;
}

/* What the relocation is computed from: a value, or the address of a slot that holds it. */
static struct suture_error *reloc_value(
	struct link *link, struct payload *p, const struct patch_reloc *reloc, uint64_t *ret)
{
	const struct patch_symbol *symbol = &link->patch->symbols.at[reloc->symbol];
	enum reloc_need need = link->arch->reloc_need(reloc->type);

	switch (need) {
	case RELOC_NEED_VALUE:
		return symbol_value(link, reloc->symbol, false, ret);
	case RELOC_NEED_PLT:
		return symbol_value(link, reloc->symbol, true, ret);
	case RELOC_NEED_TPOFF:
		return bind_tpoff(&link->binder, symbol, ret);
	case RELOC_NEED_DTPOFF:
		return bind_dtpoff(&link->binder, symbol, ret);
	case RELOC_NEED_NOTHING:
		*ret = 0;
		return NULL;
	case RELOC_UNSUPPORTED:
		return unsupported(link, reloc->type);
	default:
		*ret = payload_area(p, AREA_RO) + find_slot(p, reloc->symbol, need)->at;
		return NULL;
	}
}

static struct suture_error *out_of_reach(
	struct link *link, const struct patch_symbol *symbol, struct suture_error *err)
{
	if (symbol->kind != PATCH_SYMBOL_DYNAMIC)
		return err;
	(void)link;
	return error_hint(err,
		"the code was compiled to reach %s directly, as only code linked together can; "
		"compile it with -fPIC",
		symbol->name);
}

static struct suture_error *apply_reloc(
	struct link *link, struct payload *p, size_t index, const struct patch_reloc *reloc)
{
	const struct arch *arch = link->arch;
	const struct patch_section *section = &link->patch->sections.at[index];
	const struct patch_symbol *symbol = &link->patch->symbols.at[reloc->symbol];
	const struct link_area *area = &p->areas[area_of(section)];
	uint64_t place = p->start + link->section_at[index] + reloc->offset, value;
	uint8_t *field = area->bytes + (link->section_at[index] - area->at) + reloc->offset;
	size_t avail = section->size - reloc->offset;

	TRY(reloc_value(link, p, reloc, &value));
	struct suture_error *err =
		arch->reloc_apply(reloc->type, field, avail, place, value, reloc->addend);
	if (!err || suture_error_code(err) != SUTURE_ERROR_RANGE)
		return err;
	struct link_veneer *veneer = find_veneer(p, reloc->symbol);
	if (arch->reloc_need(reloc->type) != RELOC_NEED_PLT || !veneer)
		return out_of_reach(link, symbol, err);
	suture_error_destroy(err);
	return arch->reloc_apply(reloc->type, field, avail, place,
		payload_area(p, AREA_TEXT) + veneer->at, reloc->addend);
}

static struct suture_error *relocate_section(struct link *link, struct payload *p, size_t index)
{
	const struct patch_section *section = &link->patch->sections.at[index];

	vec_foreach (reloc, &section->relocs) {
		if (section->type == SHT_NOBITS || reloc->offset > section->size)
			return error_create(SUTURE_ERROR_INPUT,
				"section %s: a relocation outside of its content", section->name);
		TRY(error_wrap(apply_reloc(link, p, index, reloc), "%s+0x%llx refers to %s",
			section->name, (unsigned long long)reloc->offset,
			link->patch->symbols.at[reloc->symbol].name));
	}
	return NULL;
}

struct suture_error *link_relocate(struct link *link)
{
	vec_foreach (p, &link->payloads) {
		vec_foreach (slot, &p->slots)
			TRY(fill_slot(link, p, slot));
		vec_foreach (veneer, &p->veneers)
			TRY(fill_veneer(link, p, veneer));
		vec_foreach (stub, &p->stubs)
			TRY(fill_stub(link, p, stub));
		for (size_t i = 0; i < link->patch->sections.n; i++) {
			if (link->patch->sections.at[i].image == p->image)
				TRY(relocate_section(link, p, i));
		}
	}
	return NULL;
}
