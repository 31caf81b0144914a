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

static struct suture_error *remote_mmap(
	struct borrow *b, remote_addr at, uint64_t size, int prot, int flags, int64_t *ret)
{
	const uint64_t args[6] = {
		at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, (uint64_t)-1, 0};

	return borrow_syscall(b, SYS_mmap, args, ret);
}

static struct suture_error *remote_munmap(struct borrow *b, remote_addr at, uint64_t size)
{
	const uint64_t args[6] = {at, size};
	int64_t ret;

	TRY(borrow_syscall(b, SYS_munmap, args, &ret));
	if (ret)
		return error_errno(
			-ret, "cannot unmap the payload at 0x%llx", (unsigned long long)at);
	return NULL;
}

/* Linux before 4.17 takes MAP_FIXED_NOREPLACE for a hint and may map somewhere else. */
static struct suture_error *reserve(
	struct process *process, struct borrow *b, const struct payload *p, bool *taken)
{
	int64_t at;

	TRY(remote_mmap(b, p->start, p->size, PROT_NONE, MAP_FIXED_NOREPLACE | MAP_NORESERVE, &at));
	if (at == (int64_t)p->start)
		return NULL;
	if (at < 0 && at != -EEXIST)
		return map_failed(process, p->size, -at);
	*taken = true;
	if (at > 0)
		TRY(remote_munmap(b, at, p->size));
	return error_create(SUTURE_ERROR_NO_ROOM,
		"process %d (%s) keeps taking the addresses chosen for the payload", process->pid,
		process->comm);
}

static struct suture_error *map_area(
	struct process *process, struct borrow *b, const struct payload *p, int i)
{
	const struct link_area *area = &p->areas[i];
	int64_t at;

	if (!area->size)
		return NULL;
	TRY(remote_mmap(b, p->start + area->at, area->size, area_prot[i], MAP_FIXED, &at));
	return at == (int64_t)(p->start + area->at) ? NULL : map_failed(process, area->size, -at);
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
	struct plan *plan, struct borrow *b, const struct payload *p, bool *taken)
{
	struct process *process = plan->target->process;
	size_t index = p - plan->link->payloads.at;

	TRY(reserve(process, b, p, taken));
	struct suture_error *err = map_area(process, b, p, AREA_RO);
	if (!err)
		err = note_mapped(plan, index + 1);
	for (int i = AREA_RO + 1; i < N_AREAS && !err; i++)
		err = map_area(process, b, p, i);
	if (err) {
		plan->ledger->mapped = index;
		suture_error_destroy(remote_munmap(b, p->start, p->size));
	}
	return err;
}

static struct suture_error *unmap_all(
	struct process *process, struct borrow *b, const struct ledger *ledger)
{
	uint64_t n = 0, mapped = ledger->mapped;

	vec_foreach (image, &ledger->images)
		n += image->start != 0;
	for (size_t i = ledger->images.n; i--;) {
		const struct ledger_image *image = &ledger->images.at[i];

		if (!image->start || --n >= mapped)
			continue;
		if (n)
			TRY(ledger_set_mapped(process, ledger->address, n));
		TRY(remote_munmap(b, image->start, image->end - image->start));
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
	struct process *process = plan->target->process;
	struct suture_error *err = NULL;
	struct borrow *b;

	TRY(borrow_begin(process, &b));
	vec_foreach (p, &plan->link->payloads) {
		err = map_payload(plan, b, p, taken);
		if (err)
			break;
	}
	if (err)
		err = first_of(err, unmap_all(process, b, plan->ledger));
	return first_of(err, borrow_end(b));
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
	struct borrow *b;

	TRY(borrow_begin(process, &b));
	struct suture_error *err = unmap_all(process, b, ledger);
	return first_of(err, borrow_end(b));
}
