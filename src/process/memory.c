/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Remote memory. One range goes through /proc/PID/mem: the kernel writes private copies of file
 * pages there whatever their protection, so code needs no mprotect and the file stays untouched.
 * Many ranges go through process_vm_readv, 1024 in one call.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "process/internal.h"

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* `done` of `len` bytes went well, then `err` (0: the memory is gone). */
static struct suture_error *failed(const struct process *p, const char *verb, remote_addr addr,
	size_t len, size_t done, int err)
{
	if (err == 0 || err == ESRCH)
		return process_gone(p);
	return error_create(SUTURE_ERROR_INPUT,
		"cannot %s %zu bytes at 0x%llx of process %d (%s): %s at 0x%llx", verb, len,
		(unsigned long long)addr, p->pid, p->comm,
		err == EIO || err == EINVAL ? "no such memory" : strerror(err),
		(unsigned long long)(addr + done));
}

/* pread takes a signed offset; nothing of a user's is in the upper half. */
static bool is_user_range(remote_addr addr, size_t len)
{
	return addr <= INT64_MAX && len <= (uint64_t)INT64_MAX - addr;
}

struct suture_error *process_read(struct process *p, remote_addr addr, void *buf, size_t len)
{
	size_t done = 0;

	if (len && !is_user_range(addr, len))
		return failed(p, "read", addr, len, 0, EIO);
	while (done < len) {
		ssize_t n = pread(p->mem_fd, (char *)buf + done, len - done, (off_t)(addr + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return failed(p, "read", addr, len, done, n < 0 ? errno : 0);
		done += (size_t)n;
	}
	return NULL;
}

struct suture_error *process_write(struct process *p, remote_addr addr, const void *buf, size_t len)
{
	size_t done = 0;

	if (!p->writable)
		return error_create(SUTURE_ERROR_INTERNAL,
			"process %d (%s) is open for reading only", p->pid, p->comm);
	if (len && !is_user_range(addr, len))
		return failed(p, "write", addr, len, 0, EIO);
	while (done < len) {
		ssize_t n = pwrite(
			p->mem_fd, (const char *)buf + done, len - done, (off_t)(addr + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return failed(p, "write", addr, len, done, n < 0 ? errno : 0);
		done += (size_t)n;
	}
	return NULL;
}

/* What of one piece can be read: up to the first page that cannot. -ESRCH when the memory is gone.
 */
static ssize_t read_piece(const struct process *p, struct piece *piece)
{
	while (piece->got < piece->len && is_user_range(piece->addr, piece->len)) {
		ssize_t n = pread(p->mem_fd, (char *)piece->buf + piece->got,
			piece->len - piece->got, (off_t)(piece->addr + piece->got));
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			return -ESRCH;
		if (n < 0)
			break;
		piece->got += (size_t)n;
	}
	return (ssize_t)piece->got;
}

/*
 * One process_vm_readv of n pieces. Returns how many pieces, counted from the first, were read
 * whole, or negative errno. The kernel stops at the first piece that fails.
 */
static ssize_t read_batch(const struct process *p, struct piece *pieces, size_t n)
{
	struct iovec local[IOV_MAX], remote[IOV_MAX];
	size_t whole = 0;

	for (size_t i = 0; i < n; i++) {
		local[i] = (struct iovec){pieces[i].buf, pieces[i].len};
		remote[i] = (struct iovec){(void *)(uintptr_t)pieces[i].addr, pieces[i].len};
	}
	ssize_t got = process_vm_readv(p->mm_tid, local, n, remote, n, 0);
	if (got < 0)
		return -errno;
	for (; whole < n && (size_t)got >= pieces[whole].len; whole++) {
		got -= (ssize_t)pieces[whole].len;
		pieces[whole].got = pieces[whole].len;
	}
	return (ssize_t)whole;
}

struct suture_error *process_read_pieces(struct process *p, struct piece *pieces, size_t n)
{
	bool batches = true;

	for (size_t i = 0; i < n; i++)
		pieces[i].got = 0;
	for (size_t at = 0; at < n;) {
		size_t count = n - at < IOV_MAX ? n - at : IOV_MAX;

		if (batches) {
			ssize_t whole = read_batch(p, &pieces[at], count);
			/*
			 * EFAULT: the first piece is bad. Anything else (seccomp, a security
			 * module, a thread that is gone) will not get better: one by one then.
			 */
			batches = whole >= 0 || whole == -EFAULT;
			at += whole > 0 ? (size_t)whole : 0;
			if (whole == (ssize_t)count)
				continue;
		}
		if (read_piece(p, &pieces[at++]) == -ESRCH)
			return process_gone(p);
	}
	/* process_vm_readv goes by number: whoever has it now, it was ours if ours is still there.
	 */
	return process_memory_alive(p) ? NULL : process_gone(p);
}
