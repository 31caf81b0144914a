/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mapping payloads: see stage.h.
 *
 * The record counts the payloads that are mapped. The count goes up after a payload was mapped and
 * down before it is unmapped: killed in between, this tool leaves an empty reservation behind, but
 * never a record that claims memory which somebody else may have by then.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "apply/stage.h"
#include "base/cleanup.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { SETTLE_NS = 500000000, REPEATS = 5 };

static const int area_prot[N_AREAS] = {
	[AREA_RO] = PROT_READ,
	[AREA_TEXT] = PROT_READ | PROT_EXEC,
	[AREA_DATA] = PROT_READ | PROT_WRITE,
};

static struct suture_error *map_failed(const struct process *p, uint64_t size, int errnum)
{
	struct suture_error *err =
		error_errno(errnum, "process %d (%s) cannot map %llu KiB for the payload", p->pid,
			p->comm, (unsigned long long)size / 1024);

	switch (errnum) {
	case ENOMEM:
		return error_hint(err, "its address space or number of mappings is limited "
				       "(RLIMIT_AS, vm.max_map_count)");
	case EPERM:
	case EACCES:
		return error_hint(err, "a seccomp filter or security module forbids it");
	default:
		return err;
	}
}

/* A run of system calls in the target. */
struct stager {
	struct process *process;
	struct borrow *borrow;
	bool unsettled; /* a call may still be made, later: nothing can be undone safely */
};

/*
 * A borrowed thread that got no processor in time makes its call when it gets one. Unmapping before
 * that is dangerous: somebody else may own the addresses by then. Once every thread has been seen
 * to stop, no call is under way any more.
 */
static void settle(struct stager *s)
{
	_cleanup_(freeze_destroyp) struct freeze *freeze = NULL;

	struct suture_error *err = freeze_create(s->process, &freeze);
	if (!err)
		err = freeze_stop(freeze, monotonic_ns() + SETTLE_NS);
	if (!err)
		err = freeze_resume(freeze);
	s->unsettled = err && suture_error_code(err) != SUTURE_ERROR_NO_PROCESS;
	suture_error_destroy(err);
}

static struct suture_error *call(struct stager *s, long nr, const uint64_t args[6], int64_t *ret)
{
	struct suture_error *err = borrow_syscall(s->borrow, nr, args, ret);

	if (err && suture_error_code(err) == SUTURE_ERROR_BUSY)
		settle(s);
	return err;
}

static struct suture_error *remote_mmap(
	struct stager *s, remote_addr at, uint64_t size, int prot, int flags, int64_t *ret)
{
	const uint64_t args[6] = {
		at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, (uint64_t)-1, 0};

	return call(s, SYS_mmap, args, ret);
}

/*
 * A mapping without access starts at `start`, as every payload does, and (size 0: anything) is as
 * long as that.
 */
static bool guard_at(struct process *process, remote_addr start, uint64_t size)
{
	struct maps maps = {};

	struct suture_error *err = process_maps(process, &maps);
	const struct map *map = err ? NULL : maps_find(&maps, start);
	bool found = map && map->start == start && !map->r && !map->w && !map->x && !map->inode &&
		     (!size || map->end == start + size);
	suture_error_destroy(err);
	maps_deinit(&maps);
	return found;
}

/* The call failed for a reason that may pass, and is not under way any more. */
static bool may_repeat(const struct stager *s, const struct suture_error *err, int i)
{
	return err && suture_error_code(err) == SUTURE_ERROR_BUSY && !s->unsettled && i < REPEATS;
}

static struct suture_error *remote_munmap(struct stager *s, remote_addr at, uint64_t size)
{
	const uint64_t args[6] = {at, size};
	int64_t ret = 0;

	for (int i = 0;; i++) {
		struct suture_error *err = call(s, SYS_munmap, args, &ret);

		if (!may_repeat(s, err, i)) {
			TRY(err);
			break;
		}
		suture_error_destroy(err);
		/* Made after all: the addresses are not ours any more. */
		if (!guard_at(s->process, at, 0))
			break;
	}
	if (ret)
		return error_errno(
			-ret, "cannot unmap the payload at 0x%llx", (unsigned long long)at);
	return NULL;
}

/* Linux before 4.17 takes MAP_FIXED_NOREPLACE for a hint and may map somewhere else. */
static struct suture_error *reserve(struct stager *s, const struct payload *p, bool *taken)
{
	const struct process *process = s->process;
	int64_t at;

	struct suture_error *err = remote_mmap(
		s, p->start, p->size, PROT_NONE, MAP_FIXED_NOREPLACE | MAP_NORESERVE, &at);
	/* Made, although nobody saw it return? */
	if (may_repeat(s, err, 0) && guard_at(s->process, p->start, p->size)) {
		suture_error_destroy(err);
		return NULL;
	}
	TRY(err);
	if (at == (int64_t)p->start)
		return NULL;
	if (at < 0 && at != -EEXIST)
		return map_failed(process, p->size, -at);
	*taken = true;
	if (at > 0)
		TRY(remote_munmap(s, at, p->size));
	return error_create(SUTURE_ERROR_NO_ROOM,
		"process %d (%s) keeps taking the addresses chosen for the payload", process->pid,
		process->comm);
}

static struct suture_error *map_area(struct stager *s, const struct payload *p, int i)
{
	const struct link_area *area = &p->areas[i];
	int64_t at;

	if (!area->size)
		return NULL;
	for (int n = 0;; n++) {
		struct suture_error *err = remote_mmap(
			s, p->start + area->at, area->size, area_prot[i], MAP_FIXED, &at);

		if (!may_repeat(s, err, n)) {
			TRY(err);
			break;
		}
		suture_error_destroy(err);
	}
	return at == (int64_t)(p->start + area->at) ? NULL
						    : map_failed(s->process, area->size, -at);
}

/* In the first payload goes the record: from then on the target tells what is mapped in it. */
static struct suture_error *note_mapped(struct plan *plan, uint64_t mapped)
{
	struct process *process = plan->target->process;
	_cleanup_free_ void *record = NULL;
	size_t size;

	plan->ledger->mapped = mapped;
	if (mapped > 1)
		return ledger_set_mapped(process, plan->ledger->address, mapped);
	TRY(ledger_encode(plan->ledger, &record, &size));
	return process_write(process, plan->ledger->address, record, size);
}

static struct suture_error *map_payload(
	struct plan *plan, struct stager *s, const struct payload *p, bool *taken)
{
	size_t index = p - plan->link->payloads.at;

	TRY(reserve(s, p, taken));
	struct suture_error *err = map_area(s, p, AREA_RO);
	if (!err)
		err = note_mapped(plan, index + 1);
	for (int i = AREA_RO + 1; i < N_AREAS && !err; i++)
		err = map_area(s, p, i);
	if (err && !s->unsettled) {
		plan->ledger->mapped = index;
		suture_error_destroy(remote_munmap(s, p->start, p->size));
	}
	return err;
}

static struct suture_error *unmap_all(struct stager *s, const struct ledger *ledger)
{
	uint64_t n = 0, mapped = ledger->mapped;

	vec_foreach (image, &ledger->images)
		n += image->start != 0;
	for (size_t i = ledger->images.n; i--;) {
		const struct ledger_image *image = &ledger->images.at[i];

		if (!image->start || --n >= mapped)
			continue;
		if (n)
			TRY(ledger_set_mapped(s->process, ledger->address, n));
		TRY(remote_munmap(s, image->start, image->end - image->start));
	}
	return NULL;
}

/* The first error counts; the other one would hide it. */
static struct suture_error *first_of(struct suture_error *a, struct suture_error *b)
{
	if (!a)
		return b;
	suture_error_destroy(b);
	return a;
}

static struct suture_error *map_all(struct plan *plan, bool *taken)
{
	struct stager s = {.process = plan->target->process};
	struct suture_error *err = NULL;

	TRY(borrow_begin(s.process, &s.borrow));
	vec_foreach (p, &plan->link->payloads) {
		err = map_payload(plan, &s, p, taken);
		if (err)
			break;
	}
	/* What cannot be undone now has a record: the next run does it. */
	if (err && !s.unsettled)
		err = first_of(err, unmap_all(&s, plan->ledger));
	return first_of(err, borrow_end(s.borrow));
}

/* What follows the record; the record itself is there already. */
static struct suture_error *write_payload(struct plan *plan, const struct payload *p, uint64_t skip)
{
	for (int i = 0; i < N_AREAS; i++) {
		const struct link_area *area = &p->areas[i];
		uint64_t from = i == AREA_RO ? skip : 0;

		if (area->filled > from)
			TRY(process_write(plan->target->process, payload_area(p, i) + from,
				area->bytes + from, area->filled - from));
	}
	return NULL;
}

static struct suture_error *write_all(struct plan *plan)
{
	vec_foreach (p, &plan->link->payloads)
		TRY(write_payload(plan, p, p == plan->link->payloads.at ? plan->ledger_size : 0));
	return NULL;
}

struct suture_error *stage(struct plan *plan, bool *taken)
{
	*taken = false;
	TRY(map_all(plan, taken));
	struct suture_error *err = write_all(plan);
	if (err)
		err = first_of(err, unstage(plan->target->process, plan->ledger));
	return err;
}

struct suture_error *unstage(struct process *process, const struct ledger *ledger)
{
	struct stager s = {.process = process};

	TRY(borrow_begin(process, &s.borrow));
	struct suture_error *err = unmap_all(&s, ledger);
	err = first_of(err, borrow_end(s.borrow));
	if (!s.unsettled)
		return err;
	/* Not BUSY, which invites to try at once. */
	struct suture_error *final = error_create(SUTURE_ERROR_SYSTEM, "%s",
		err ? suture_error_message(err) : "a system call in the target has not ended");
	suture_error_destroy(err);
	return final;
}
