/* SPDX-License-Identifier: Apache-2.0 */
/* Records of .eh_frame and the rules they give: see cfi.h. */
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elf/cfi.h"

enum { RECORD_MAX = 1 << 20, STATES_MAX = 16 };
enum { RSP = 7, RA = 16 };

#define cfi_bad(...) error_create(SUTURE_ERROR_INPUT, __VA_ARGS__)

/* ---- records ---- */

struct record {
	remote_addr start, next;
	remote_addr body_addr; /* behind the length */
	uint8_t *body;	       /* malloc'ed; NULL: the terminator */
	size_t size;
};

static void record_deinit(struct record *r)
{
	free(r->body);
}

static struct suture_error *record_read(
	const struct cfi_section *s, remote_addr addr, struct record *ret)
{
	struct record r = {.start = addr};
	uint64_t left = s->size - (addr - s->start), length;
	uint32_t word;

	if (addr < s->start || addr - s->start > s->size || left < sizeof(word))
		return cfi_bad("record at 0x%llx outside .eh_frame", (unsigned long long)addr);
	TRY(reader_read(s->reader, addr, &word, sizeof(word)));
	length = word;
	r.body_addr = addr + sizeof(word);
	if (word == UINT32_MAX) {
		if (left < 12)
			return cfi_bad("truncated .eh_frame");
		TRY(reader_read(s->reader, r.body_addr, &length, sizeof(length)));
		r.body_addr += sizeof(length);
	}
	if (length > RECORD_MAX || length > left - (r.body_addr - addr))
		return cfi_bad("record at 0x%llx of %llu bytes leaves .eh_frame",
			(unsigned long long)addr, (unsigned long long)length);
	r.next = r.body_addr + length;
	r.size = length;
	if (length > 0) {
		r.body = malloc(length);
		if (!r.body)
			return error_nomem();
		struct suture_error *err = reader_read(s->reader, r.body_addr, r.body, length);
		if (err) {
			free(r.body);
			return err;
		}
	}
	*ret = r;
	return NULL;
}

static struct cursor record_cursor(const struct record *r)
{
	return (struct cursor){
		.at = r->body, .end = r->body + r->size, .addr = r->body_addr + r->size};
}

/* ---- CIE: what the functions of one object have in common ---- */

struct cie {
	struct record record;
	remote_addr at;
	uint64_t code_align;
	int64_t data_align;
	uint8_t encoding; /* of the pointers in FDEs */
	bool augmented, signal_frame;
	const uint8_t *program;
	size_t program_size;
};

static void cie_deinit(struct cie *cie)
{
	record_deinit(&cie->record);
}

static struct suture_error *cie_augmentation(struct cie *cie, struct cursor *c, const char *what)
{
	cie->encoding = DW_EH_PE_absptr;
	if (!what[0])
		return NULL;
	if (what[0] != 'z')
		return cfi_bad("augmentation '%.8s'", what);
	cie->augmented = true;
	uint64_t size = cursor_uleb(c);
	const uint8_t *data = cursor_skip(c, size);
	if (!data)
		return cfi_bad("truncated CIE");
	struct cursor a = {.at = data, .end = data + size, .addr = c->addr - (c->end - c->at)};

	while (*++what) {
		switch (*what) {
		case 'R':
			cie->encoding = cursor_fixed(&a, 1);
			break;
		case 'L':
			cursor_fixed(&a, 1);
			break;
		case 'P': {
			uint8_t encoding = cursor_fixed(&a, 1);

			/* Only its size matters here; "aligned" would have another one. */
			if (encoding == DW_EH_PE_aligned)
				return cfi_bad("aligned pointer");
			if (encoding != DW_EH_PE_omit)
				cursor_pointer(&a, encoding & 0x0f, 0);
			break;
		}
		case 'S':
			cie->signal_frame = true;
			break;
		default:
			return cfi_bad("augmentation '%c'", *what);
		}
	}
	return a.bad ? cfi_bad("truncated augmentation data") : NULL;
}

static struct suture_error *cie_parse(struct cie *cie)
{
	struct cursor c = record_cursor(&cie->record);

	if (cursor_fixed(&c, 4) != 0)
		return cfi_bad("no CIE at 0x%llx", (unsigned long long)cie->record.start);
	uint8_t version = cursor_fixed(&c, 1);
	if (version != 1 && version != 3)
		return cfi_bad("CIE of version %u", version);
	const char *what = (const char *)c.at;
	const uint8_t *end = memchr(c.at, '\0', c.end - c.at);
	if (c.bad || !end)
		return cfi_bad("truncated CIE");
	c.at = end + 1;
	cie->code_align = cursor_uleb(&c);
	cie->data_align = cursor_sleb(&c);
	uint64_t ra = version == 1 ? cursor_fixed(&c, 1) : cursor_uleb(&c);
	TRY(cie_augmentation(cie, &c, what));
	if (c.bad)
		return cfi_bad("truncated CIE");
	if (ra != RA)
		return cfi_bad("return address in register %llu", (unsigned long long)ra);
	cie->program = c.at;
	cie->program_size = c.end - c.at;
	return NULL;
}

static struct suture_error *cie_read(const struct cfi_section *s, remote_addr addr, struct cie *ret)
{
	_cleanup_(cie_deinit) struct cie cie = {.at = addr};

	TRY(record_read(s, addr, &cie.record));
	if (!cie.record.body)
		return cfi_bad("no CIE at 0x%llx", (unsigned long long)addr);
	TRY(cie_parse(&cie));
	cie_deinit(ret);
	*ret = cie;
	cie.record.body = NULL;
	return NULL;
}

/* ---- FDE: one function ---- */

struct fde {
	struct cfi_range range; /* may be empty */
	struct cursor program;
};

static remote_addr fde_cie(const struct record *r)
{
	uint32_t distance;

	memcpy(&distance, r->body, sizeof(distance));
	return r->body_addr - distance;
}

/* A record is a CIE when its second word is 0. */
static bool is_fde(const struct record *r)
{
	uint32_t word = 0;

	if (r->size >= sizeof(word))
		memcpy(&word, r->body, sizeof(word));
	return word != 0;
}

static struct suture_error *fde_parse(
	const struct record *r, const struct cie *cie, struct fde *ret)
{
	struct cursor c = record_cursor(r);

	cursor_fixed(&c, 4);
	uint64_t start = cursor_pointer(&c, cie->encoding, 0);
	uint64_t size = cursor_pointer(&c, cie->encoding & 0x0f, 0);
	if (cie->augmented)
		cursor_skip(&c, cursor_uleb(&c));
	if (c.bad || start + size < start)
		return cfi_bad("malformed FDE at 0x%llx", (unsigned long long)r->start);
	*ret = (struct fde){
		.range = {.start = start, .end = start + size, .fde = r->start},
		.program = c,
	};
	return NULL;
}

static struct suture_error *walk(const struct cfi_section *s, struct cie *cie,
	struct suture_error *(*visit)(const struct cfi_range *range, void *arg), void *arg)
{
	remote_addr addr = s->start;

	while (s->size - (addr - s->start) >= 4) {
		_cleanup_(record_deinit) struct record r = {};
		struct fde fde;

		TRY(record_read(s, addr, &r));
		addr = r.next;
		if (!r.body)
			break;
		if (!is_fde(&r))
			continue;
		if (!cie->record.body || cie->at != fde_cie(&r))
			TRY(cie_read(s, fde_cie(&r), cie));
		TRY(fde_parse(&r, cie, &fde));
		if (fde.range.end > fde.range.start)
			TRY(visit(&fde.range, arg));
	}
	return NULL;
}

struct suture_error *cfi_walk(const struct cfi_section *s,
	struct suture_error *(*visit)(const struct cfi_range *range, void *arg), void *arg)
{
	_cleanup_(cie_deinit) struct cie cie = {};

	return walk(s, &cie, visit, arg);
}

/* ---- the program that makes rows ---- */

struct machine {
	const struct cie *cie;
	remote_addr loc, pc;
	struct unwind_row row, initial;
	struct unwind_row saved[STATES_MAX];
	unsigned n_saved;
	const uint8_t *(*keep)(void *arg, const uint8_t *data, size_t size);
	void *arg;
	bool bad, nomem, done;
};

/* Field by field: padding stays zero. Registers we do not follow (vector ones) are let go. */
static void set_rule(struct machine *m, uint64_t reg, enum unwind_rule_kind kind, int64_t value)
{
	if (reg >= UNWIND_REGS)
		return;
	struct unwind_rule *rule = &m->row.regs[reg];
	memset(rule, 0, sizeof(*rule));
	rule->kind = kind;
	rule->value = value;
}

static void set_cfa(struct machine *m, uint64_t reg, int64_t offset)
{
	if (reg >= UNWIND_REGS)
		m->bad = true;
	m->row.cfa_is_expr = false;
	m->row.cfa_expr = NULL;
	m->row.cfa_expr_size = 0;
	m->row.cfa_reg = reg;
	m->row.cfa_offset = offset;
}

static const uint8_t *take_expression(struct machine *m, struct cursor *c, size_t *ret_size)
{
	uint64_t size = cursor_uleb(c);
	const uint8_t *expr = cursor_skip(c, size);

	*ret_size = size;
	if (!expr)
		return NULL;
	expr = m->keep(m->arg, expr, size);
	m->nomem |= !expr;
	return expr;
}

static void set_expression(struct machine *m, struct cursor *c, bool is_value)
{
	uint64_t reg = cursor_uleb(c);
	size_t size;
	const uint8_t *expr = take_expression(m, c, &size);

	set_rule(m, reg, UNWIND_EXPRESSION, 0);
	if (reg >= UNWIND_REGS)
		return;
	m->row.regs[reg].expr = expr;
	m->row.regs[reg].expr_size = size;
	m->row.regs[reg].expr_is_value = is_value;
}

static void set_cfa_expression(struct machine *m, struct cursor *c)
{
	size_t size;
	const uint8_t *expr = take_expression(m, c, &size);

	set_cfa(m, 0, 0);
	m->row.cfa_is_expr = true;
	m->row.cfa_expr = expr;
	m->row.cfa_expr_size = size;
}

/* What a CIE leaves open: psABI 3.2.1, rbx, rbp, r12-r15 belong to the caller. */
static void set_defaults(struct machine *m)
{
	for (unsigned reg = 0; reg < UNWIND_REGS; reg++) {
		bool saved = reg == 3 || reg == 6 || (reg >= 12 && reg <= RA);

		set_rule(m, reg, saved ? UNWIND_SAME : UNWIND_UNDEFINED, 0);
	}
	set_rule(m, RSP, UNWIND_CFA, 0);
	m->row.signal_frame = m->cie->signal_frame;
}

static void restore_rule(struct machine *m, uint64_t reg)
{
	if (reg < UNWIND_REGS)
		memcpy(&m->row.regs[reg], &m->initial.regs[reg], sizeof(m->row.regs[reg]));
}

static void advance_to(struct machine *m, remote_addr loc)
{
	if (loc > m->pc)
		m->done = true;
	m->loc = loc;
}

static void advance(struct machine *m, uint64_t delta)
{
	uint64_t step;

	if (__builtin_mul_overflow(delta, m->cie->code_align, &step) ||
		__builtin_add_overflow(m->loc, step, &step))
		m->bad = true;
	else
		advance_to(m, step);
}

static int64_t factored(const struct machine *m, uint64_t offset)
{
	return (int64_t)(offset * (uint64_t)m->cie->data_align);
}

static void remember(struct machine *m)
{
	if (m->n_saved == STATES_MAX)
		m->bad = true;
	else
		memcpy(&m->saved[m->n_saved++], &m->row, sizeof(m->row));
}

/* The CFA is part of the state: as GCC's unwinder has it, and its output needs it. */
static void recall(struct machine *m)
{
	if (m->n_saved == 0)
		m->bad = true;
	else
		memcpy(&m->row, &m->saved[--m->n_saved], sizeof(m->row));
}

static void step_cfa(struct machine *m, struct cursor *c, uint8_t op)
{
	uint64_t reg;

	switch (op) {
	case DW_CFA_def_cfa:
		reg = cursor_uleb(c);
		set_cfa(m, reg, cursor_uleb(c));
		break;
	case DW_CFA_def_cfa_sf:
		reg = cursor_uleb(c);
		set_cfa(m, reg, factored(m, cursor_sleb(c)));
		break;
	case DW_CFA_def_cfa_expression:
		set_cfa_expression(m, c);
		break;
	default:
		/* The others change one half of register + offset. */
		m->bad |= m->row.cfa_is_expr;
		if (op == DW_CFA_def_cfa_register)
			set_cfa(m, cursor_uleb(c), m->row.cfa_offset);
		else if (op == DW_CFA_def_cfa_offset)
			m->row.cfa_offset = cursor_uleb(c);
		else
			m->row.cfa_offset = factored(m, cursor_sleb(c));
	}
}

static void step_rule(struct machine *m, struct cursor *c, uint8_t op)
{
	uint64_t reg = cursor_uleb(c);

	switch (op) {
	case DW_CFA_offset_extended:
		set_rule(m, reg, UNWIND_AT_CFA, factored(m, cursor_uleb(c)));
		break;
	case DW_CFA_offset_extended_sf:
		set_rule(m, reg, UNWIND_AT_CFA, factored(m, cursor_sleb(c)));
		break;
	case DW_CFA_GNU_negative_offset_extended:
		set_rule(m, reg, UNWIND_AT_CFA, factored(m, -cursor_uleb(c)));
		break;
	case DW_CFA_val_offset:
		set_rule(m, reg, UNWIND_CFA, factored(m, cursor_uleb(c)));
		break;
	case DW_CFA_val_offset_sf:
		set_rule(m, reg, UNWIND_CFA, factored(m, cursor_sleb(c)));
		break;
	case DW_CFA_restore_extended:
		restore_rule(m, reg);
		break;
	case DW_CFA_undefined:
		set_rule(m, reg, UNWIND_UNDEFINED, 0);
		break;
	case DW_CFA_same_value:
		set_rule(m, reg, UNWIND_SAME, 0);
		break;
	case DW_CFA_register:
		set_rule(m, reg, UNWIND_REGISTER, cursor_uleb(c));
		break;
	}
}

static void step_extended(struct machine *m, struct cursor *c, uint8_t op)
{
	switch (op) {
	case DW_CFA_nop:
		break;
	case DW_CFA_set_loc:
		advance_to(m, cursor_pointer(c, m->cie->encoding, 0));
		break;
	case DW_CFA_advance_loc1:
		advance(m, cursor_fixed(c, 1));
		break;
	case DW_CFA_advance_loc2:
		advance(m, cursor_fixed(c, 2));
		break;
	case DW_CFA_advance_loc4:
		advance(m, cursor_fixed(c, 4));
		break;
	case DW_CFA_offset_extended:
	case DW_CFA_offset_extended_sf:
	case DW_CFA_GNU_negative_offset_extended:
	case DW_CFA_val_offset:
	case DW_CFA_val_offset_sf:
	case DW_CFA_restore_extended:
	case DW_CFA_undefined:
	case DW_CFA_same_value:
	case DW_CFA_register:
		step_rule(m, c, op);
		break;
	case DW_CFA_remember_state:
		remember(m);
		break;
	case DW_CFA_restore_state:
		recall(m);
		break;
	case DW_CFA_def_cfa:
	case DW_CFA_def_cfa_sf:
	case DW_CFA_def_cfa_register:
	case DW_CFA_def_cfa_offset:
	case DW_CFA_def_cfa_offset_sf:
	case DW_CFA_def_cfa_expression:
		step_cfa(m, c, op);
		break;
	case DW_CFA_expression:
		set_expression(m, c, false);
		break;
	case DW_CFA_val_expression:
		set_expression(m, c, true);
		break;
	case DW_CFA_GNU_args_size: /* only matters to exceptions */
		cursor_uleb(c);
		break;
	default:
		m->bad = true;
	}
}

static struct suture_error *run(struct machine *m, struct cursor c)
{
	while (c.at < c.end && !c.bad && !m->bad && !m->nomem && !m->done) {
		uint8_t op = cursor_fixed(&c, 1), low = op & 0x3f;

		switch (op & 0xc0) {
		case DW_CFA_advance_loc:
			advance(m, low);
			break;
		case DW_CFA_offset:
			set_rule(m, low, UNWIND_AT_CFA, factored(m, cursor_uleb(&c)));
			break;
		case DW_CFA_restore:
			restore_rule(m, low);
			break;
		default:
			step_extended(m, &c, op);
		}
	}
	if (m->nomem)
		return error_nomem();
	return c.bad || m->bad ? cfi_bad("malformed call-frame instructions") : NULL;
}

static struct suture_error *make_row(struct machine *m, const struct fde *fde)
{
	const struct cie *cie = m->cie;
	struct cursor c = {.at = cie->program,
		.end = cie->program + cie->program_size,
		.addr = cie->record.body_addr + cie->record.size};

	m->row.cfa_reg = UNWIND_REGS; /* the CIE must say */
	set_defaults(m);
	TRY(run(m, c));
	m->done = false;
	memcpy(&m->initial, &m->row, sizeof(m->row));
	m->loc = fde->range.start;
	TRY(run(m, fde->program));
	if (!m->row.cfa_is_expr && m->row.cfa_reg >= UNWIND_REGS)
		return cfi_bad("no rule for the CFA");
	return NULL;
}

struct suture_error *cfi_row(const struct cfi_section *s, remote_addr fde_addr, remote_addr pc,
	const uint8_t *(*keep)(void *arg, const uint8_t *data, size_t size), void *arg,
	struct unwind_row *ret, bool *found)
{
	_cleanup_(record_deinit) struct record r = {};
	_cleanup_(cie_deinit) struct cie cie = {};
	_cleanup_free_ struct machine *m = NULL;
	struct fde fde;

	TRY(record_read(s, fde_addr, &r));
	if (!is_fde(&r))
		return cfi_bad("no FDE at 0x%llx", (unsigned long long)fde_addr);
	TRY(cie_read(s, fde_cie(&r), &cie));
	TRY(fde_parse(&r, &cie, &fde));
	*found = pc >= fde.range.start && pc < fde.range.end;
	if (!*found)
		return NULL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_nomem();
	m->cie = &cie;
	m->pc = pc;
	m->keep = keep;
	m->arg = arg;
	TRY(make_row(m, &fde));
	memcpy(ret, &m->row, sizeof(*ret));
	return NULL;
}
