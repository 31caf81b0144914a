/* SPDX-License-Identifier: Apache-2.0 */
/*
 * May code be changed now? Looks at every stopped thread: none may execute, or will return into,
 * one of the hot ranges.
 *
 * A scan of the live part of each stack for words that point into a hot range proves absence in
 * about a microsecond per thread. Only a hit, or a thread on an unusual stack (signal handler on an
 * alternate stack, coroutine), needs real unwinding. Unwind tables are made when they are first
 * needed, with the target running; so the first attempt that needs them ends undecided and the next
 * one decides.
 */
#ifndef APPLY_QUIESCE_H
#define APPLY_QUIESCE_H

#include "apply/stack.h"

/* A thread that the scan could not clear. */
struct suspect {
	pid_t tid;
	struct user_regs_struct regs;
	struct stack_copy copy;
	remote_addr live, live_end; /* the part of its stack that was scanned */
	remote_addr last_hit;	    /* highest stack address with a suspicious word; 0: none */
	bool unusual;		    /* its home stack must be looked at as well */
	remote_addr home, home_end; /* 0: it has none that we know of */
	struct stack_walk walk;
	const struct hot_range *busy; /* the verdict: inside of this; NULL: not */
};

struct quiesce {
	struct target *target;
	const struct hot_ranges *ranges;
	VEC(struct suspect) suspects; /* of the last check */
	bool undecided;		      /* the last check wanted tables that were not there */
	/* private */
	bool have_tables;
	struct unwind_ranges tables;
	struct scan_span {
		remote_addr low;
		uint64_t size;
	} * spans;
	size_t n_spans;
	struct piece *pieces;
	struct extent *extents;
	size_t n_room;	   /* threads that there is room for */
	uint64_t *words;   /* of all first pieces */
	size_t words_size; /* bytes */
	struct map stack;  /* of the main thread; path not valid */
};

/* `ranges` must outlive it. */
struct suture_error *quiesce_init(
	struct quiesce *q, struct target *target, const struct hot_ranges *ranges) MUST_USE;
void quiesce_deinit(struct quiesce *q);
/* Before each freeze, the target running: memory, maps, tables if the last check wanted them. */
struct suture_error *quiesce_prepare(struct quiesce *q) MUST_USE;
/* In the freeze. *quiet: nobody is in the way. */
struct suture_error *quiesce_check(
	struct quiesce *q, const struct freeze *freeze, bool *quiet) MUST_USE;
/* Who is in the way, after the last check, the target running. Comm comes from the freeze. */
struct suture_error *quiesce_blockers(struct quiesce *q, struct freeze *freeze,
	struct suture_blocker **ret, size_t *ret_n) MUST_USE;

#endif
