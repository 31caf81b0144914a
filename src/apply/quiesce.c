/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stack check: see quiesce.h. Nothing is computed or allocated in the freeze that could have
 * been before; only a suspect costs more.
 *
 * Where a stack is: the live part of a thread created by pthread_create lies between its stack
 * pointer and its thread pointer, because the C libraries put the thread descriptor on top of the
 * stack (glibc nptl/allocatestack.c, musl pthread_create.c); of the main thread, between stack
 * pointer and the end of [stack]. Neither bound can change while the thread lives, so maps that
 * were read before the freeze will do. Any other stack pointer makes the thread a suspect.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "apply/quiesce.h"
#include "base/cleanup.h"

enum {
	FIRST_PIECE = 8 << 10, /* of each stack, in one system call for all */
	NEXT_PIECE = 16 << 10, /* of deeper stacks */
	COPY_MAX = 256 << 10,  /* kept of a suspect's stack */
	USUAL_MAX = 16 << 20,  /* a stack deeper than this is left to the unwinder */
	USUAL_PIECE = 2048,    /* of most threads */
	DESCRIPTOR = 2560,     /* above the thread pointer: start routine, cleanup handlers */
	CLUSTER_GAP = 1 << 20, /* hot ranges closer than this are scanned for as one */
	SLACK_THREADS = 64,
};

/* The live part of one thread's stack. */
struct extent {
	remote_addr low, high;
	bool unusual;
};

/* ---- spans ---- */

static int by_low(const void *a, const void *b)
{
	const struct scan_span *x = a, *y = b;

	return x->low < y->low ? -1 : x->low > y->low;
}

/* Few spans that cover all hot ranges: the scan compares every word with each. */
static struct suture_error *make_spans(struct quiesce *q)
{
	size_t n = 0;

	q->spans = calloc(q->ranges->v.n ?: 1, sizeof(q->spans[0]));
	if (!q->spans)
		return error_nomem();
	vec_foreach (range, &q->ranges->v)
		q->spans[n++] =
			(struct scan_span){range->ret_low, range->ret_high - range->ret_low + 1};
	qsort(q->spans, n, sizeof(q->spans[0]), by_low);
	q->n_spans = 0;
	for (size_t i = 0; i < n; i++) {
		struct scan_span *last = q->n_spans ? &q->spans[q->n_spans - 1] : NULL;
		remote_addr end = q->spans[i].low + q->spans[i].size;

		if (last && q->spans[i].low < last->low + last->size + CLUSTER_GAP) {
			if (end > last->low + last->size)
				last->size = end - last->low;
		} else {
			q->spans[q->n_spans++] = q->spans[i];
		}
	}
	return NULL;
}

struct suture_error *quiesce_init(
	struct quiesce *q, struct target *target, const struct hot_ranges *ranges)
{
	*q = (struct quiesce){.target = target, .ranges = ranges};
	return make_spans(q);
}

static void clear_suspects(struct quiesce *q)
{
	vec_foreach (s, &q->suspects)
		stack_copy_deinit(&s->copy);
	q->suspects.n = 0;
}

void quiesce_deinit(struct quiesce *q)
{
	clear_suspects(q);
	vec_free(&q->suspects);
	unwind_ranges_deinit(&q->tables);
	free(q->spans);
	free(q->pieces);
	free(q->extents);
	free(q->words);
}

/* ---- scanning ---- */

/* Some word lies in the span. Without branches: this loop is most of the time in a freeze. */
static bool any_in_span(const uint64_t *words, size_t n, const struct scan_span *span)
{
	uint64_t found = 0;

	for (size_t i = 0; i < n; i++)
		found |= words[i] - span->low < span->size;
	return found;
}

/* Index of the last hot word of n, or -1. */
static ssize_t scan_words(const struct quiesce *q, const uint64_t *words, size_t n)
{
	ssize_t last = -1;

	for (size_t s = 0; s < q->n_spans; s++) {
		const struct scan_span *span = &q->spans[s];

		if (!any_in_span(words, n, span))
			continue;
		for (ssize_t i = n; --i > last;) {
			if (words[i] - span->low < span->size &&
				hot_find_return(q->ranges, words[i]))
				last = i;
		}
	}
	return last;
}

/* ---- before the freeze ---- */

static size_t count_threads(const struct process *p)
{
	struct stat st;

	/* A directory has a link for each subdirectory, and two more. */
	if (fstatat(p->dir_fd, "task", &st, 0) || st.st_nlink < 3)
		return 1;
	return st.st_nlink - 2;
}

static struct suture_error *reserve_threads(struct quiesce *q, size_t n)
{
	if (n <= q->n_room)
		return NULL;
	struct piece *pieces = reallocarray(q->pieces, n, sizeof(pieces[0]));
	if (!pieces)
		return error_nomem();
	q->pieces = pieces;
	struct extent *extents = reallocarray(q->extents, n, sizeof(extents[0]));
	if (!extents)
		return error_nomem();
	q->extents = extents;
	q->n_room = n;
	return NULL;
}

static struct suture_error *reserve_words(struct quiesce *q, size_t size)
{
	if (size <= q->words_size)
		return NULL;
	uint64_t *words = realloc(q->words, size);
	if (!words)
		return error_nomem();
	q->words = words;
	q->words_size = size;
	return NULL;
}

static struct suture_error *verdicts(struct quiesce *q, bool *quiet);

/* Unwind the last suspects once more from their copies: rules that the freeze needs are warm then.
 */
static struct suture_error *make_tables(struct quiesce *q)
{
	bool quiet;

	if (!q->undecided)
		return NULL;
	if (!q->have_tables) {
		TRY(unwind_ranges_init(&q->tables, q->target));
		q->have_tables = true;
	}
	return verdicts(q, &quiet);
}

struct suture_error *quiesce_prepare(struct quiesce *q)
{
	size_t n = count_threads(q->target->process) + SLACK_THREADS;

	TRY(make_tables(q));
	TRY(target_reread_maps(q->target));
	q->stack = (struct map){};
	vec_foreach (map, &q->target->maps.v) {
		if (!strcmp(map->path, "[stack]"))
			q->stack = *map;
	}
	n += n / 8;
	TRY(reserve_threads(q, n));
	/* Most threads block with far less than a page of stack in use. */
	TRY(reserve_words(q, n * (q->ranges->entries ? 2 : 1) * USUAL_PIECE + NEXT_PIECE));
	memset(q->words, 0, q->words_size);
	scan_words(q, q->words, 64); /* so that its code is in memory */
	memset(q->pieces, 0, q->n_room * sizeof(q->pieces[0]));
	memset(q->extents, 0, q->n_room * sizeof(q->extents[0]));
	return NULL;
}

/* ---- where the stacks are ---- */

static bool on_main_stack(const struct quiesce *q, remote_addr rsp)
{
	return rsp >= q->stack.start && rsp < q->stack.end && q->stack.end - rsp <= USUAL_MAX;
}

/* The part of a mapping around `address` as the maps before the freeze had it. */
static struct extent mapping(const struct quiesce *q, remote_addr address)
{
	const struct map *map = maps_find(&q->target->maps, address);

	return map ? (struct extent){address, map->end, false} : (struct extent){};
}

static struct extent find_extent(const struct quiesce *q, const struct thread *t)
{
	remote_addr rsp = t->regs.rsp & -8ULL, top = t->regs.fs_base;

	if (t->tid == q->target->process->pid)
		return on_main_stack(q, rsp) ? (struct extent){rsp, q->stack.end, false}
					     : (struct extent){rsp, 0, true};
	struct extent all = mapping(q, rsp);
	if (top > rsp && top < all.high && top - rsp <= USUAL_MAX) {
		remote_addr end = top;
		/* The start routine of a thread that has not begun is in there. */
		if (q->ranges->entries)
			end = all.high - top < DESCRIPTOR ? all.high : top + DESCRIPTOR;
		return (struct extent){rsp, end & -8ULL, false};
	}
	return (struct extent){rsp, 0, true};
}

static remote_addr extent_first(const struct extent *e)
{
	return e->high - e->low < FIRST_PIECE ? e->high : e->low + FIRST_PIECE;
}

/*
 * The highest hot word in [low, high), 0: none. What cannot be read counts as hot: the memory is
 * not what we take it for.
 */
static remote_addr scan_memory(struct quiesce *q, remote_addr low, remote_addr high)
{
	remote_addr last = 0;

	for (remote_addr at = low; at < high;) {
		uint64_t buf[NEXT_PIECE / 8];
		size_t n = high - at < sizeof(buf) ? high - at : sizeof(buf);

		struct suture_error *err = process_read(q->target->process, at, buf, n);
		suture_error_destroy(err);
		if (err)
			return high;
		ssize_t hit = scan_words(q, buf, n / 8);
		if (hit >= 0)
			last = at + hit * 8;
		at += n;
	}
	return last;
}

/* Address of the highest suspicious word of a usual stack, 0: none. */
static remote_addr scan_stack(struct quiesce *q, const struct extent *e, const struct piece *piece)
{
	if (piece->got < piece->len)
		return e->high;
	ssize_t hit = scan_words(q, piece->buf, piece->len / 8);
	remote_addr deeper = scan_memory(q, e->low + piece->len, e->high);
	return deeper ? deeper : hit >= 0 ? e->low + hit * 8 : 0;
}

/* ---- suspects ---- */

/* Another thread has the same thread pointer: it is nobody's own (raw clone). */
static bool shares_thread_pointer(const struct freeze *freeze, const struct thread *t)
{
	vec_foreach (other, &freeze->threads) {
		if (other != t && other->regs.fs_base == t->regs.fs_base)
			return true;
	}
	return false;
}

/* Where the frames below an alternate stack or a coroutine are. */
static void find_home(const struct quiesce *q, const struct freeze *freeze, const struct thread *t,
	struct suspect *s)
{
	if (t->tid == q->target->process->pid) {
		s->home = q->stack.start;
		s->home_end = q->stack.end;
		return;
	}
	const struct map *map = maps_find(&q->target->maps, t->regs.fs_base);
	if (!map || shares_thread_pointer(freeze, t))
		return;
	s->home = map->start;
	s->home_end = t->regs.fs_base & -8ULL;
}

static struct suture_error *add_suspect(struct quiesce *q, const struct freeze *freeze,
	const struct thread *t, const struct extent *e, remote_addr last_hit)
{
	struct suspect *s = vec_add(&q->suspects);

	if (!s)
		return error_nomem();
	s->tid = t->tid;
	s->regs = t->regs;
	s->live = e->low;
	s->live_end = e->high;
	s->last_hit = last_hit;
	s->unusual = e->unusual;
	stack_copy_init(&s->copy, q->target->process);
	s->copy.base = e->low;
	if (e->unusual) {
		find_home(q, freeze, t, s);
		s->live_end = mapping(q, e->low).high;
	}
	size_t size = s->live_end > s->live ? s->live_end - s->live : 0;
	if (size > COPY_MAX)
		size = COPY_MAX;
	s->copy.data = malloc(size ?: 1);
	if (!s->copy.data)
		return error_nomem();
	struct piece piece = {e->low, s->copy.data, size, 0};
	TRY(process_read_pieces(q->target->process, &piece, 1));
	s->copy.size = piece.got;
	return NULL;
}

/* What a suspicious word at a stack address points into. */
static const struct hot_range *range_of_word(struct quiesce *q, remote_addr at)
{
	static const struct hot_range unknown = {.name = "unknown code"};
	uint64_t word = 0;

	struct suture_error *err = process_read(q->target->process, at, &word, sizeof(word));
	suture_error_destroy(err);
	return hot_find_return(q->ranges, word) ?: &unknown;
}

/* The walk ended in the middle: what lies further out is decided by scanning. */
static const struct hot_range *scan_rest(struct quiesce *q, const struct suspect *s)
{
	remote_addr from = s->walk.end & -8ULL, hit = 0;

	if (from < s->live || from >= s->live_end) {
		/* On another stack than it began, or on none. */
		struct extent e = mapping(q, from);
		hit = e.high ? scan_memory(q, from, e.high) : from ?: 1;
	} else if (!s->unusual) {
		hit = s->last_hit >= from ? s->last_hit : 0;
	} else {
		hit = scan_memory(q, from, s->live_end);
	}
	return hit ? range_of_word(q, hit) : NULL;
}

/* Frames of the home stack that the walk has not come by. */
static const struct hot_range *scan_home(struct quiesce *q, const struct suspect *s)
{
	bool walked = s->walk.end >= s->home && s->walk.end <= s->home_end;

	if (!s->unusual || !s->home || walked)
		return NULL;
	remote_addr hit = scan_memory(q, s->home, s->home_end);
	return hit ? range_of_word(q, hit) : NULL;
}

/* What the thread descriptor on top of the stack points to is no frame, but will run. */
static const struct hot_range *in_descriptor(struct quiesce *q, const struct suspect *s)
{
	remote_addr top = s->regs.fs_base & -8ULL;

	if (s->unusual || top <= s->live || top >= s->live_end || s->last_hit < top)
		return NULL;
	return range_of_word(q, s->last_hit);
}

static void decide(struct quiesce *q, struct suspect *s)
{
	stack_walk(&q->tables, q->ranges, &s->regs, &s->copy, &s->walk);
	s->busy = s->walk.hit;
	if (!s->busy)
		s->busy = in_descriptor(q, s);
	if (!s->busy && !s->walk.complete)
		s->busy = scan_rest(q, s);
	if (!s->busy)
		s->busy = scan_home(q, s);
}

static struct suture_error *verdicts(struct quiesce *q, bool *quiet)
{
	*quiet = true;
	vec_foreach (s, &q->suspects) {
		decide(q, s);
		*quiet = *quiet && !s->busy;
	}
	return NULL;
}

/* ---- in the freeze ---- */

static struct suture_error *find_extents(struct quiesce *q, const struct freeze *freeze)
{
	size_t need = 0;

	TRY(reserve_threads(q, freeze->threads.n));
	for (size_t i = 0; i < freeze->threads.n; i++) {
		q->extents[i] = find_extent(q, &freeze->threads.at[i]);
		if (!q->extents[i].unusual)
			need += extent_first(&q->extents[i]) - q->extents[i].low;
	}
	return reserve_words(q, need);
}

/* One reading of all usual stacks; pieces[i] belongs to thread i. */
static struct suture_error *read_stacks(struct quiesce *q, const struct freeze *freeze)
{
	uint8_t *to = (uint8_t *)q->words;

	for (size_t i = 0; i < freeze->threads.n; i++) {
		const struct extent *e = &q->extents[i];
		size_t len = e->unusual ? 0 : extent_first(e) - e->low;

		q->pieces[i] = (struct piece){e->low, to, len, 0};
		to += len;
	}
	return process_read_pieces(q->target->process, q->pieces, freeze->threads.n);
}

static struct suture_error *look_at(struct quiesce *q, const struct freeze *freeze, size_t i)
{
	const struct thread *t = &freeze->threads.at[i];
	const struct extent *e = &q->extents[i];
	bool pc_hot = hot_find_pc(q->ranges, t->regs.rip) != NULL;
	remote_addr hit = e->unusual ? 0 : scan_stack(q, e, &q->pieces[i]);

	if (!pc_hot && !hit && !e->unusual)
		return NULL;
	return add_suspect(q, freeze, t, e, hit);
}

struct suture_error *quiesce_check(struct quiesce *q, const struct freeze *freeze, bool *quiet)
{
	*quiet = true;
	clear_suspects(q);
	q->undecided = false;
	TRY(find_extents(q, freeze));
	TRY(read_stacks(q, freeze));
	for (size_t i = 0; i < freeze->threads.n; i++)
		TRY(look_at(q, freeze, i));
	if (!q->suspects.n)
		return NULL;
	q->undecided = !q->have_tables;
	if (q->have_tables)
		return verdicts(q, quiet);
	*quiet = false;
	return NULL;
}
