/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stack, unwound: is a function among the frames? Answers from call-frame information; where
 * that ends, the answer ends too, and says at which stack address.
 */
#ifndef APPLY_STACK_H
#define APPLY_STACK_H

#include <sys/user.h>

#include "apply/target.h"

/* Code that nobody may be inside of. */
struct hot_range {
	const char *name;
	remote_addr address;	       /* of the function, for messages */
	remote_addr low, high;	       /* a pc in [low, high) is inside */
	remote_addr ret_low, ret_high; /* a return address in [ret_low, ret_high] is */
};
struct hot_ranges {
	VEC(struct hot_range) v;
	bool entries; /* a function's first byte is in its range: who is about to be called counts
		       */
};
const struct hot_range *hot_find_pc(const struct hot_ranges *ranges, remote_addr pc);
const struct hot_range *hot_find_return(const struct hot_ranges *ranges, remote_addr address);

/* Unwind tables of all images and payloads, made before the freeze. */
struct unwind_range {
	remote_addr low, high;
	struct unwind_table *table;
	bool owned;
};
struct unwind_ranges {
	VEC(struct unwind_range) v;
};
struct suture_error *unwind_ranges_init(
	struct unwind_ranges *ranges, struct target *target) MUST_USE;
void unwind_ranges_deinit(struct unwind_ranges *ranges);

/* Part of a stack, copied; what is not in it is read from the process in larger steps. */
struct stack_copy {
	struct reader reader; /* first member */
	struct process *process;
	remote_addr base;
	uint8_t *data; /* owned */
	size_t size;
	remote_addr window_at; /* 0: none */
	uint8_t window[1024];
};
void stack_copy_init(struct stack_copy *copy, struct process *process);
void stack_copy_deinit(struct stack_copy *copy);

enum { STACK_FRAMES_MAX = 64, STACK_DEPTH_MAX = 65536 };

struct stack_walk {
	const struct hot_range *hit; /* innermost frame that is inside; NULL: none found */
	size_t hit_depth;	     /* 0: the thread executes it right now */
	bool complete;		     /* the outermost frame was reached */
	remote_addr end;	     /* the stack pointer where the walk ended */
	size_t n_frames;
	remote_addr frames[STACK_FRAMES_MAX]; /* innermost first; return addresses minus one */
};
void stack_walk(const struct unwind_ranges *tables, const struct hot_ranges *ranges,
	const struct user_regs_struct *regs, const struct stack_copy *copy, struct stack_walk *ret);

#endif
