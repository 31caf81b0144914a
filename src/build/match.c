/* SPDX-License-Identifier: Apache-2.0 */
/* Run-pre matching: see match.h. The processor's part, instruction by instruction, is arch's. */
#include <string.h>

#include "base/cleanup.h"
#include "build/match.h"

static const struct arch *const arch = &arch_x86_64;

void match_deinit(struct match *match)
{
	vec_free(&match->solved);
	vec_free(&match->map);
	free(match->why);
	match->why = NULL;
}

/* ---- state of one comparison ---- */

/* Larger than any function; a symbol table may say anything. */
#define MAX_FUNCTION (64ull << 20)

struct walk {
	const struct target *target;
	const struct span *span;
	const uint8_t *run; /* the image's bytes */
	uint64_t run_size, address;
	uint64_t pre_at, run_at;
	struct code_field *fields; /* of span->refs, same order */
	size_t field;		   /* first not yet passed */
	bool exact;		   /* run_size is the function's own size */
	struct match *ret;
	/* Branches inside the function, checked at the end. */
	VEC(struct moved) branches;
};

static struct suture_error *differs(struct walk *walk)
{
	char pre[96], run[96];

	arch->format(walk->span->data + walk->pre_at, walk->span->size - walk->pre_at, walk->pre_at,
		pre, sizeof(pre));
	arch->format(walk->run + walk->run_at, walk->run_size - walk->run_at,
		walk->address + walk->run_at, run, sizeof(run));
	if (asprintf(&walk->ret->why, "at +0x%llx the source gives \"%s\", the target has \"%s\"",
		    (unsigned long long)walk->pre_at, pre, run) < 0) {
		walk->ret->why = NULL;
		return error_nomem();
	}
	return NULL;
}

static MUST_USE PRINTF(2, 3) struct suture_error *explain(struct match *match, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&match->why, fmt, ap);
	va_end(ap);
	if (n >= 0)
		return NULL;
	match->why = NULL;
	return error_nomem();
}

/* ---- padding ---- */

static void skip_pre_nops(struct walk *walk)
{
	const struct span *span = walk->span;
	struct insn insn;

	while (walk->pre_at < span->size &&
		arch->decode(span->data + walk->pre_at, span->size - walk->pre_at, 0, &insn) &&
		insn.is_nop)
		walk->pre_at += insn.length;
}

static bool skip_run_nops(struct walk *walk)
{
	uint64_t from = walk->run_at;
	struct insn insn;

	while (walk->run_at < walk->run_size &&
		arch->decode(walk->run + walk->run_at, walk->run_size - walk->run_at, 0, &insn) &&
		insn.is_nop)
		walk->run_at += insn.length;
	return walk->run_at != from;
}

/* ---- one step ---- */

static bool try_step(struct walk *walk, struct code_step *step)
{
	struct code_field *fields = walk->fields + walk->field;
	size_t n = walk->span->refs.n - walk->field;

	/* Fields of the next instructions, counted from this one; eight are more than a step has */
	if (n > 8)
		n = 8;
	struct code_field near[8];
	for (size_t i = 0; i < n; i++)
		near[i] = (struct code_field){fields[i].offset - walk->pre_at, fields[i].type};
	*step = (struct code_step){
		.pre = walk->span->data + walk->pre_at,
		.pre_size = walk->span->size - walk->pre_at,
		.run = walk->run + walk->run_at,
		.run_size = walk->run_size - walk->run_at,
		.run_address = walk->address + walk->run_at,
		.fields = near,
		.n_fields = n,
	};
	bool same = arch->match(step);
	step->fields = NULL;
	return same;
}

static struct suture_error *solve(struct walk *walk, const struct code_step *step)
{
	for (size_t i = 0; i < step->n_values; i++) {
		const struct ref *ref = &walk->span->refs.at[walk->field + step->values[i].field];
		struct solved solved = {.ref = ref};

		if (!target_code_value(walk->target, step->values[i].form, step->values[i].value,
			    &solved.value))
			return differs(walk);
		solved.value.number -= ref->addend;
		if (solved.value.kind != VALUE_NONE && !vec_push(&walk->ret->solved, solved))
			return error_nomem();
	}
	return NULL;
}

static struct suture_error *take_step(struct walk *walk, const struct code_step *step)
{
	struct moved here = {walk->pre_at, walk->address + walk->run_at};
	struct moved branch = {walk->pre_at + step->pre_target, step->run_target};

	if (!vec_push(&walk->ret->map, here) ||
		(step->has_target && !vec_push(&walk->branches, branch)))
		return error_nomem();
	TRY(solve(walk, step));
	if (walk->ret->why)
		return NULL;
	walk->pre_at += step->pre_length;
	walk->run_at += step->run_length;
	while (walk->field < walk->span->refs.n && walk->fields[walk->field].offset < walk->pre_at)
		walk->field++;
	return NULL;
}

static struct suture_error *walk_code(struct walk *walk)
{
	struct code_step step;

	for (;;) {
		skip_pre_nops(walk);
		if (walk->pre_at >= walk->span->size)
			break;
		bool same = try_step(walk, &step);
		if (!same && skip_run_nops(walk))
			same = try_step(walk, &step);
		if (!same)
			return differs(walk);
		TRY(take_step(walk, &step));
		if (walk->ret->why)
			return NULL;
	}
	walk->ret->size = walk->run_at;
	if (!walk->exact)
		return NULL;
	skip_run_nops(walk);
	return walk->run_at < walk->run_size ? differs(walk) : NULL;
}

/* ---- branches inside the function ---- */

/* The first instruction at or behind an offset: what stands between is padding. */
static const struct moved *map_at(const struct match *match, uint64_t offset)
{
	size_t low = 0, high = match->map.n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (match->map.at[middle].from < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low < match->map.n ? &match->map.at[low] : NULL;
}

/* Padding may lie between the address reached and the instruction. */
static bool lands_on(const struct walk *walk, uint64_t reached, uint64_t want)
{
	struct insn insn;
	uint64_t at = reached - walk->address;

	if (reached == want)
		return true;
	if (reached < walk->address || reached > want || want - walk->address > walk->run_size)
		return false;
	while (at < want - walk->address) {
		if (!arch->decode(walk->run + at, walk->run_size - at, 0, &insn) || !insn.is_nop)
			return false;
		at += insn.length;
	}
	return at == want - walk->address;
}

static bool same_destination(const struct walk *walk, uint64_t from, uint64_t reached)
{
	const struct moved *to = map_at(walk->ret, from);

	if (to)
		return lands_on(walk, reached, to->to);
	/* Behind the last instruction: a call that does not return, or a loop that never ends. */
	return from == walk->span->size && reached >= walk->address + walk->ret->size;
}

static struct suture_error *check_branches(struct walk *walk)
{
	for (size_t i = 0; i < walk->branches.n; i++) {
		const struct moved *b = &walk->branches.at[i];

		if (!same_destination(walk, b->from, b->to))
			return explain(walk->ret,
				"a branch to +0x%llx goes to 0x%llx in the target",
				(unsigned long long)b->from, (unsigned long long)b->to);
	}
	return NULL;
}

uint64_t match_address(const struct match *match, uint64_t offset)
{
	const struct moved *m = map_at(match, offset);

	return m ? m->to : 0;
}

/* ---- constants without a name ---- */

/* The beginning of a text, for messages. */
static void quote(const uint8_t *text, uint64_t size, char *ret, size_t len)
{
	size_t n = 0;

	for (uint64_t i = 0; i < size && text[i] && n + 2 < len; i++)
		ret[n++] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '.';
	ret[n] = '\0';
}

static bool is_text(const struct span *span)
{
	for (uint64_t i = 0; i < 3; i++)
		if (span->size < 3 || span->data[i] < 0x20 || span->data[i] >= 0x7f)
			return false;
	return span->anonymous && !span->refs.n;
}

static struct suture_error *content_differs(
	const struct span *span, const uint8_t *run, uint64_t address, struct match *ret)
{
	char pre[48], now[48];

	if (!is_text(span))
		return explain(ret, "%s has another content at 0x%llx of the target",
			SPAN_NAME(span), (unsigned long long)address);
	quote(span->data, span->size, pre, sizeof(pre));
	quote(run, span->size, now, sizeof(now));
	return explain(ret, "the target has \"%s\" for \"%s\"", now, pre);
}

static struct suture_error *solve_data(const struct target *target, const struct span *span,
	const struct ref *ref, uint64_t address, struct match *ret)
{
	struct solved solved = {.ref = ref};

	if (!target_data_value(target, ref->type, address + ref->offset, ref->bias, &solved.value))
		return explain(ret, "%s+0x%llx refers to nothing known in the target",
			SPAN_NAME(span), (unsigned long long)ref->offset);
	solved.value.number -= ref->addend;
	return vec_push(&ret->solved, solved) ? NULL : error_nomem();
}

/* What `span` holds from offset `from` on; it begins at `address`. */
static struct suture_error *match_span_data(const struct target *target, const struct span *span,
	uint64_t address, uint64_t from, struct match *ret)
{
	_cleanup_free_ uint8_t *run = calloc(1, span->size + 1);
	uint64_t at = from;

	if (!span->data || from >= span->size)
		return NULL;
	if (!run)
		return error_nomem();
	if (!target_read(target, address + from, run + from, span->size - from))
		return explain(ret, "%s is not at 0x%llx of the target", SPAN_NAME(span),
			(unsigned long long)address);
	for (size_t i = 0; i <= span->refs.n && !ret->why; i++) {
		const struct ref *ref = i < span->refs.n ? &span->refs.at[i] : NULL;
		uint64_t end = ref ? ref->offset : span->size;

		if (end > at && memcmp(run + at, span->data + at, end - at))
			return content_differs(span, run, address, ret);
		if (!ref || ref->offset < from)
			continue;
		at = ref->offset + arch->reloc_size(ref->type);
		TRY(solve_data(target, span, ref, address, ret));
	}
	return NULL;
}

/*
 * Trailing zeroes of an anonymous constant may be padding that the target does not have; texts
 * end at their NUL.
 */
static uint64_t significant_size(const struct span *span)
{
	uint64_t size = span->size;

	if (span->refs.n)
		return size;
	while (size > 1 && !span->data[size - 1] && !span->data[size - 2])
		size--;
	return size;
}

static struct suture_error *match_anonymous(
	const struct target *target, const struct solved *solved, struct match *ret)
{
	const struct span *target_span = solved->ref->target;
	struct span part = *target_span;
	int64_t addend = solved->ref->addend;

	if (solved->value.kind != VALUE_ADDRESS)
		return explain(ret, "the target refers to a symbol for %s", SPAN_NAME(target_span));
	if (addend < 0 || (uint64_t)addend >= part.size || !part.data)
		return NULL; /* a pointer to the end of something */
	part.size = significant_size(target_span);
	if (solved->ref->access && (uint64_t)addend + solved->ref->access <= target_span->size &&
		!part.refs.n)
		part.size = addend + solved->ref->access;
	return match_span_data(target, &part, solved->value.number, addend, ret);
}

/* The list grows while constants refer to further constants; bounded, for they may do so in
 * circles. */
static struct suture_error *match_constants(const struct target *target, struct match *ret)
{
	for (size_t i = 0; i < ret->solved.n && !ret->why; i++) {
		struct solved solved = ret->solved.at[i];

		if (!solved.ref->target || !solved.ref->target->anonymous)
			continue;
		if (ret->solved.n > 1000000)
			return explain(ret, "its constants refer to each other in circles");
		TRY(match_anonymous(target, &solved, ret));
	}
	return NULL;
}

/* Jump tables: entries reach the same instructions. */
static struct suture_error *check_tables(const struct walk *walk)
{
	vec_foreach (solved, &walk->ret->solved) {
		const struct ref *ref = solved->ref;

		if (ref->target != walk->span || !ref->addend)
			continue;
		uint64_t reached = solved->value.number + ref->addend;
		if (solved->value.kind != VALUE_ADDRESS ||
			!same_destination(walk, ref->addend, reached))
			return explain(walk->ret,
				"a jump table entry for +0x%llx goes to 0x%llx in the target",
				(unsigned long long)ref->addend, (unsigned long long)reached);
		/* The image's function may be laid out a little differently. */
		solved->value.number = walk->address;
	}
	return NULL;
}

/* ---- all of it ---- */

static struct suture_error *run_walk(struct walk *walk)
{
	TRY(walk_code(walk));
	if (!walk->ret->why)
		TRY(check_branches(walk));
	if (!walk->ret->why)
		TRY(match_constants(walk->target, walk->ret));
	if (!walk->ret->why)
		TRY(check_tables(walk));
	return NULL;
}

static struct code_field *copy_fields(const struct span *span)
{
	struct code_field *fields = calloc(span->refs.n + 1, sizeof(*fields));

	for (size_t i = 0; fields && i < span->refs.n; i++)
		fields[i] = (struct code_field){span->refs.at[i].offset, span->refs.at[i].type};
	return fields;
}

struct suture_error *match_code(const struct target *target, const struct span *span,
	uint64_t address, uint64_t size, struct match *ret)
{
	uint64_t next = target_next(target, address);
	struct walk walk = {
		.target = target,
		.span = span,
		.address = address,
		.run_size = size ? size : span->size + span->size / 4 + 64,
		.exact = size != 0,
		.ret = ret,
	};

	/* Labels may lie inside of a function whose size is known. */
	if (!size && next - address < walk.run_size)
		walk.run_size = next - address;
	if (walk.run_size > MAX_FUNCTION)
		return explain(ret, "its size in the target makes no sense");
	_cleanup_free_ uint8_t *run = malloc(walk.run_size + 1);
	_cleanup_free_ struct code_field *fields = copy_fields(span);
	if (!run || !fields)
		return error_nomem();
	walk.run = run;
	walk.fields = fields;
	if (!span->data || !target_read(target, address, run, walk.run_size))
		return explain(ret, "there is no code at 0x%llx in the target",
			(unsigned long long)address);
	struct suture_error *err = run_walk(&walk);
	vec_free(&walk.branches);
	return err;
}

struct suture_error *match_data(
	const struct target *target, const struct span *span, uint64_t address, struct match *ret)
{
	ret->size = span->size;
	TRY(match_span_data(target, span, address, 0, ret));
	return ret->why ? NULL : match_constants(target, ret);
}
