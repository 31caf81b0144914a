/* SPDX-License-Identifier: Apache-2.0 */
/* Walking a stack by its unwind rules: see stack.h. */
#include <stdlib.h>
#include <string.h>

#include "apply/stack.h"

const struct hot_range *hot_find_pc(const struct hot_ranges *ranges, remote_addr pc)
{
	vec_foreach (range, &ranges->v) {
		if (pc >= range->low && pc < range->high)
			return range;
	}
	return NULL;
}

const struct hot_range *hot_find_return(const struct hot_ranges *ranges, remote_addr address)
{
	vec_foreach (range, &ranges->v) {
		if (address >= range->ret_low && address <= range->ret_high)
			return range;
	}
	return NULL;
}

/* ---- tables ---- */

static struct suture_error *add_table(struct unwind_ranges *ranges, remote_addr low,
	remote_addr high, struct unwind_table *table, bool owned)
{
	struct unwind_range *range = vec_add(&ranges->v);

	if (!range) {
		if (owned)
			unwind_table_destroy(table);
		return error_nomem();
	}
	*range = (struct unwind_range){low, high, table, owned};
	return NULL;
}

/* Frames of other patches, whose payloads bring their own rules. */
static struct suture_error *add_payload(
	struct unwind_ranges *ranges, struct target *target, const struct ledger_image *image)
{
	struct unwind_table *table;

	if (!image->text || !image->eh_frame_size)
		return NULL;
	struct suture_error *err = unwind_table_from_eh_frame(
		&target->process->reader, image->eh_frame, image->eh_frame_size, &table);
	if (!err)
		return add_table(ranges, image->text, image->text_end, table, true);
	/* Without them the walk ends there, and the scan decides. */
	log_debug(target->ctx, "payload at 0x%llx: %s", (unsigned long long)image->start,
		suture_error_message(err));
	suture_error_destroy(err);
	return NULL;
}

struct suture_error *unwind_ranges_init(struct unwind_ranges *ranges, struct target *target)
{
	*ranges = (struct unwind_ranges){};
	vec_foreach (image, &target->images) {
		struct unwind_table *table = target_unwind(target, image);

		if (table)
			TRY(add_table(
				ranges, image->module->low, image->module->high, table, false));
	}
	vec_foreach (ledger, &target->ledgers.v) {
		vec_foreach (image, &(*ledger)->images)
			TRY(add_payload(ranges, target, image));
	}
	return NULL;
}

void unwind_ranges_deinit(struct unwind_ranges *ranges)
{
	vec_foreach (range, &ranges->v) {
		if (range->owned)
			unwind_table_destroy(range->table);
	}
	vec_free(&ranges->v);
}

static const struct unwind_row *find_row(const struct unwind_ranges *tables, remote_addr pc)
{
	vec_foreach (range, &tables->v) {
		if (pc < range->low || pc >= range->high)
			continue;
		const struct unwind_row *row = unwind_table_row(range->table, pc);
		if (row)
			return row;
	}
	return NULL;
}

/* ---- memory ---- */

static bool in_window(remote_addr at, size_t size, remote_addr addr, size_t len)
{
	return addr >= at && addr - at <= size && len <= size - (addr - at);
}

static struct suture_error *stack_read(
	const struct reader *reader, uint64_t addr, void *buf, size_t len)
{
	struct stack_copy *copy = (struct stack_copy *)reader;

	if (copy->data && in_window(copy->base, copy->size, addr, len)) {
		memcpy(buf, copy->data + (addr - copy->base), len);
		return NULL;
	}
	if (len > sizeof(copy->window))
		return process_read(copy->process, addr, buf, len);
	if (!copy->window_at || !in_window(copy->window_at, sizeof(copy->window), addr, len)) {
		/* Aligned: the end of a stack may be near. */
		remote_addr at = addr & -(uint64_t)sizeof(copy->window);

		if (!in_window(at, sizeof(copy->window), addr, len))
			return process_read(copy->process, addr, buf, len);
		copy->window_at = 0;
		TRY(process_read(copy->process, at, copy->window, sizeof(copy->window)));
		copy->window_at = at;
	}
	memcpy(buf, copy->window + (addr - copy->window_at), len);
	return NULL;
}

void stack_copy_init(struct stack_copy *copy, struct process *process)
{
	*copy = (struct stack_copy){.reader = {.read = stack_read}, .process = process};
}

void stack_copy_deinit(struct stack_copy *copy)
{
	free(copy->data);
}

/* ---- walking ---- */

/* DWARF register numbers of x86-64, psABI figure 3.36. */
static void to_dwarf(const struct user_regs_struct *r, uint64_t regs[UNWIND_REGS])
{
	const uint64_t values[UNWIND_REGS] = {r->rax, r->rdx, r->rcx, r->rbx, r->rsi, r->rdi,
		r->rbp, r->rsp, r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15,
		r->rip};

	memcpy(regs, values, sizeof(values));
}

static void note_frame(struct stack_walk *walk, const struct hot_range *hit, remote_addr pc)
{
	bool first_hit = hit && !walk->hit;

	if (walk->n_frames < STACK_FRAMES_MAX)
		walk->frames[walk->n_frames++] = pc;
	else if (first_hit)
		walk->frames[STACK_FRAMES_MAX - 1] = pc; /* further out than we list */
	if (first_hit) {
		walk->hit = hit;
		walk->hit_depth = walk->n_frames - 1;
	}
}

void stack_walk(const struct unwind_ranges *tables, const struct hot_ranges *ranges,
	const struct user_regs_struct *user_regs, const struct stack_copy *copy,
	struct stack_walk *ret)
{
	uint64_t regs[UNWIND_REGS];
	uint32_t valid = (1u << UNWIND_REGS) - 1;
	/* An interrupted frame's pc is exact; behind a call it is one past the calling insn. */
	bool exact = true;

	*ret = (struct stack_walk){};
	to_dwarf(user_regs, regs);
	for (size_t depth = 0; depth < STACK_DEPTH_MAX; depth++) {
		remote_addr pc = regs[16], at = exact ? pc : pc - 1;
		bool outermost = false;

		note_frame(ret, exact ? hot_find_pc(ranges, pc) : hot_find_return(ranges, pc), at);
		ret->end = regs[7];
		const struct unwind_row *row = find_row(tables, at);
		if (!row)
			break;
		exact = row->signal_frame;
		struct suture_error *err =
			unwind_step(row, &copy->reader, regs, &valid, &outermost);
		bool failed = err != NULL;
		suture_error_destroy(err);
		/* Nobody returns to address 0: hand-made stacks end so. */
		if (!failed && (outermost || !regs[16]))
			ret->complete = true;
		if (failed || ret->complete || !(valid & 1u << 16))
			break;
	}
}
