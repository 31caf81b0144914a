/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mapping payloads: see stage.h.
 *
 * This tool may be killed between any two of its steps, and the next one must find and undo what
 * was done, without ever unmapping what is somebody else's. So the reservation that a payload
 * begins with is of a kind that nobody makes: private anonymous memory that can be written and not
 * read, with MAP_NORESERVE, at an address of a certain form. As long as nothing was ever stored in
 * it, it is a reservation of ours (is_orphan()). The very next step is to store the record or the
 * tag, which says whose it is from then on. Then each area gets its protection: by mprotect(2), but
 * for code, which MemoryDenyWriteExecute lets nobody make executable later: that is mapped anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "apply/room.h"
#include "apply/stage.h"
#include "base/cleanup.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define PAGE 4096ULL

enum { SETTLE_NS = 500000000, REPEATS = 5 };

/* A run of system calls in the target. */
struct stager {
	struct process *process;
	struct borrow *borrow;
	bool unsettled; /* a call may still be made, later: nothing can be undone safely */
};

/* ---- calls ---- */

static struct suture_error *call_failed(
	const struct process *p, const char *what, uint64_t size, int errnum)
{
	struct suture_error *err =
		error_errno(errnum, "process %d (%s) cannot %s %llu KiB for the payload", p->pid,
			p->comm, what, (unsigned long long)size / 1024);

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

/* The call failed for a reason that may pass, and is not under way any more. */
static bool may_repeat(const struct stager *s, const struct suture_error *err, int i)
{
	return err && suture_error_code(err) == SUTURE_ERROR_BUSY && !s->unsettled && i < REPEATS;
}

/* For calls that may be made twice. */
static struct suture_error *call_repeat(
	struct stager *s, long nr, const uint64_t args[6], int64_t *ret)
{
	for (int i = 0;; i++) {
		struct suture_error *err = call(s, nr, args, ret);

		if (!may_repeat(s, err, i))
			return err;
		suture_error_destroy(err);
	}
}

/* ---- reservations ---- */

static bool is_bare(const struct map *map)
{
	return map->w && !map->r && !map->x && !map->shared && !map->inode && !map->path[0] &&
	       room_is_marked(map->start);
}

static bool is_zero_page(struct process *process, remote_addr at)
{
	static const uint8_t zero[PAGE];
	uint8_t page[PAGE];

	struct suture_error *err = process_read(process, at, page, sizeof(page));
	suture_error_destroy(err);
	return !err && !memcmp(page, zero, sizeof(page));
}

/*
 * No page of it is there or swapped out (bits 63 and 62 of /proc/PID/pagemap), but for those that
 * the search for records has read.
 */
static bool never_used(struct process *process, const struct map *map)
{
	_cleanup_close_ int fd = process_openat(process, "pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t pages[512];

	for (remote_addr at = map->start; at < map->end;) {
		size_t n = (map->end - at) / PAGE;

		n = n < 512 ? n : 512;
		if (fd < 0 || pread(fd, pages, n * 8, at / PAGE * 8) != (ssize_t)(n * 8))
			return false;
		for (size_t i = 0; i < n; i++, at += PAGE) {
			if (pages[i] >> 62 && !is_zero_page(process, at))
				return false;
		}
	}
	return true;
}

/* MAP_NORESERVE was given: "nr" among the VmFlags of proc_pid_smaps(5). */
static bool has_no_reserve(struct process *process, const struct map *map)
{
	_cleanup_fclose_ FILE *f = NULL;
	unsigned long long start, end;
	bool here = false;
	char line[512];

	int fd = process_openat(process, "smaps", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	f = fdopen(fd, "r");
	if (!f) {
		close(fd);
		return false;
	}
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx-%llx ", &start, &end) == 2)
			here = start == map->start && end == map->end;
		else if (here && !strncmp(line, "VmFlags:", 8))
			return strstr(line, " nr ") != NULL;
	}
	return false;
}

/* A reservation of ours that nothing was put into. */
static bool is_orphan(struct process *process, const struct map *map)
{
	return is_bare(map) && never_used(process, map) && has_no_reserve(process, map);
}

/* After a call that nobody saw return. */
static bool is_reserved(struct process *process, remote_addr start, uint64_t size)
{
	struct maps maps = {};

	struct suture_error *err = process_maps(process, &maps);
	const struct map *map = err ? NULL : maps_find(&maps, start);
	bool found = map && map->start == start && map->end == start + size && is_bare(map);
	suture_error_destroy(err);
	maps_deinit(&maps);
	return found;
}

static struct suture_error *remote_mmap(
	struct stager *s, remote_addr at, uint64_t size, int prot, int flags, int64_t *ret)
{
	const uint64_t args[6] = {
		at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, (uint64_t)-1, 0};

	return flags & MAP_FIXED ? call_repeat(s, SYS_mmap, args, ret)
				 : call(s, SYS_mmap, args, ret);
}

/* Of memory that is ours beyond doubt. */
static struct suture_error *remote_munmap(struct stager *s, remote_addr at, uint64_t size)
{
	const uint64_t args[6] = {at, size};
	int64_t ret;

	TRY(call(s, SYS_munmap, args, &ret));
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
		s, p->start, p->size, PROT_WRITE, MAP_FIXED_NOREPLACE | MAP_NORESERVE, &at);
	if (may_repeat(s, err, 0) && is_reserved(s->process, p->start, p->size)) {
		suture_error_destroy(err);
		return NULL;
	}
	TRY(err);
	if (at == (int64_t)p->start)
		return NULL;
	if (at < 0 && at != -EEXIST)
		return call_failed(process, "map", p->size, -at);
	*taken = true;
	if (at > 0)
		TRY(remote_munmap(s, at, p->size));
	return error_create(SUTURE_ERROR_NO_ROOM,
		"process %d (%s) keeps taking the addresses chosen for the payload", process->pid,
		process->comm);
}

/* ---- areas ---- */

static struct suture_error *protect(struct stager *s, remote_addr at, uint64_t size, int prot)
{
	const uint64_t args[6] = {at, size, prot};
	int64_t ret;

	if (!size)
		return NULL;
	TRY(call_repeat(s, SYS_mprotect, args, &ret));
	return ret ? call_failed(s->process, "protect", size, -ret) : NULL;
}

static struct suture_error *map_text(struct stager *s, remote_addr at, uint64_t size)
{
	int64_t ret;

	if (!size)
		return NULL;
	TRY(remote_mmap(s, at, size, PROT_READ | PROT_EXEC, MAP_FIXED, &ret));
	return ret == (int64_t)at ? NULL : call_failed(s->process, "map", size, -ret);
}

static struct suture_error *give_access(struct stager *s, const struct payload *p)
{
	const struct link_area *a = p->areas;

	TRY(protect(s, payload_area(p, AREA_RO), a[AREA_RO].size, PROT_READ));
	TRY(map_text(s, payload_area(p, AREA_TEXT), a[AREA_TEXT].size));
	TRY(protect(s, payload_area(p, AREA_DATA), a[AREA_DATA].size, PROT_READ | PROT_WRITE));
	TRY(protect(s, p->start, PAGE, PROT_NONE));
	return protect(s, p->start + p->size - PAGE, PAGE, PROT_NONE);
}

/* From here on the target tells what this mapping is. */
static struct suture_error *mark(struct plan *plan, const struct payload *p)
{
	struct process *process = plan->target->process;
	_cleanup_free_ void *record = NULL;
	uint8_t tag[LEDGER_TAG_SIZE];
	size_t size;

	if (p != plan->link->payloads.at) {
		ledger_tag(tag, payload_area(p, AREA_RO), plan->ledger->address);
		return process_write(process, payload_area(p, AREA_RO), tag, sizeof(tag));
	}
	TRY(ledger_encode(plan->ledger, &record, &size));
	return process_write(process, plan->ledger->address, record, size);
}

/* What follows the record or the tag, which are there already. */
static struct suture_error *write_payload(struct plan *plan, const struct payload *p)
{
	uint64_t mark_size = p == plan->link->payloads.at ? plan->ledger_size : LEDGER_TAG_SIZE;

	for (int i = 0; i < N_AREAS; i++) {
		const struct link_area *area = &p->areas[i];
		uint64_t from = i == AREA_RO ? mark_size : 0;

		if (area->filled > from)
			TRY(process_write(plan->target->process, payload_area(p, i) + from,
				area->bytes + from, area->filled - from));
	}
	return NULL;
}

static struct suture_error *map_payload(
	struct plan *plan, struct stager *s, const struct payload *p, bool *taken)
{
	TRY(reserve(s, p, taken));
	struct suture_error *err = mark(plan, p);
	if (err) {
		suture_error_destroy(remote_munmap(s, p->start, p->size));
		return err;
	}
	TRY(give_access(s, p));
	return write_payload(plan, p);
}

/* ---- the whole ---- */

/* The first error counts; the other one would hide it. */
static struct suture_error *first_of(struct suture_error *a, struct suture_error *b)
{
	if (!a)
		return b;
	suture_error_destroy(b);
	return a;
}

static struct suture_error *unmap_payload(struct stager *s, const struct ledger *ledger, size_t i)
{
	const struct ledger_image *image = &ledger->images.at[i];

	for (int n = 0;; n++) {
		bool mapped;

		/* Asked again each time: a call that seemed to fail may have been made. */
		TRY(ledger_is_mapped(s->process, ledger, i, &mapped));
		if (!mapped)
			return NULL;
		struct suture_error *err =
			remote_munmap(s, image->start, image->end - image->start);
		if (!may_repeat(s, err, n))
			return err;
		suture_error_destroy(err);
	}
}

static struct suture_error *unmap_all(struct stager *s, const struct ledger *ledger)
{
	for (size_t i = ledger->images.n; i--;)
		TRY(unmap_payload(s, ledger, i));
	return NULL;
}

struct suture_error *stage(struct plan *plan, bool *taken)
{
	struct stager s = {.process = plan->target->process};
	struct suture_error *err = NULL;

	*taken = false;
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

/* An error that is not BUSY, which would invite to try at once. */
static struct suture_error *not_settled(struct suture_error *err)
{
	struct suture_error *final = error_create(SUTURE_ERROR_SYSTEM, "%s",
		err ? suture_error_message(err) : "a system call in the target has not ended");

	suture_error_destroy(err);
	return final;
}

struct suture_error *unstage(struct process *process, const struct ledger *ledger)
{
	struct stager s = {.process = process};

	TRY(borrow_begin(process, &s.borrow));
	struct suture_error *err = unmap_all(&s, ledger);
	err = first_of(err, borrow_end(s.borrow));
	return s.unsettled ? not_settled(err) : err;
}

struct suture_error *unstage_orphans(struct target *target)
{
	struct stager s = {.process = target->process};
	struct suture_error *err = NULL;

	vec_foreach (map, &target->maps.v) {
		if (!is_orphan(target->process, map))
			continue;
		log_info(target->ctx, "process %d (%s): unmapping an unused reservation at 0x%llx",
			target->process->pid, target->process->comm,
			(unsigned long long)map->start);
		if (!s.borrow)
			TRY(borrow_begin(target->process, &s.borrow));
		err = remote_munmap(&s, map->start, map->end - map->start);
		if (err)
			break;
	}
	if (s.borrow)
		err = first_of(err, borrow_end(s.borrow));
	return s.unsettled ? not_settled(err) : err;
}
