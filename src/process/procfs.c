/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc says about a task: small files read in one go, and parsed from text. */
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "process/internal.h"

ssize_t proc_read_small(int dir_fd, const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;

	if (fd < 0)
		return -errno;
	while (have < size - 1) {
		ssize_t n = read(fd, buf + have, size - 1 - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	buf[have] = '\0';
	return (ssize_t)have;
}

int proc_read_all(int dir_fd, const char *path, char **ret, size_t *ret_size)
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *buf = NULL;
	size_t have = 0, room = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		if (room - have < 2) {
			room = room ? room * 2 : 65536;
			char *bigger = realloc(buf, room);
			if (!bigger)
				return -ENOMEM;
			buf = bigger;
		}
		ssize_t n = read(fd, buf + have, room - 1 - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	buf[have] = '\0';
	*ret = take(buf);
	*ret_size = have;
	return 0;
}

/* Reads the numbers of a stat line from field `first` on; false when it is too short. */
static bool stat_fields(const char *s, int first, int last, uint64_t *fields)
{
	for (int i = first; i <= last; i++) {
		char *end;

		while (*s == ' ')
			s++;
		errno = 0;
		/* Negative numbers (tty_nr, priority) wrap, and are cast back. */
		fields[i] = strtoull(s, &end, 10);
		if (end == s || (*end != ' ' && *end != '\n' && *end != '\0'))
			return false;
		s = end;
	}
	return true;
}

bool proc_stat_parse(const char *text, struct proc_stat *ret)
{
	/* proc(5): field 2 is the name in parentheses, which may hold parentheses itself. */
	enum {
		PPID = 4,
		FLAGS = 9,
		THREADS = 20,
		START = 22,
		VSIZE = 23,
		START_CODE = 26,
		END_CODE = 27,
		START_STACK = 28,
		START_DATA = 45
	};
	uint64_t field[START_DATA + 1];
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	struct proc_stat stat = {};

	if (!open || !close || close < open || close[1] != ' ' || !close[2] || close[3] != ' ')
		return false;
	size_t len = (size_t)(close - open - 1);
	if (len > sizeof(stat.comm) - 1)
		len = sizeof(stat.comm) - 1;
	memcpy(stat.comm, open + 1, len);
	stat.state = close[2];
	if (!stat_fields(close + 3, PPID, START_DATA, field))
		return false;
	stat.ppid = (pid_t)field[PPID];
	stat.flags = (uint32_t)field[FLAGS];
	stat.num_threads = (long)field[THREADS];
	stat.start_time = field[START];
	stat.vsize = field[VSIZE];
	stat.image = (struct process_image){
		.start_code = field[START_CODE],
		.end_code = field[END_CODE],
		.start_stack = field[START_STACK],
		.start_data = field[START_DATA],
	};
	*ret = stat;
	return true;
}

int proc_stat_read(int dir_fd, pid_t tid, struct proc_stat *ret)
{
	char path[64] = "stat", text[PROC_SMALL];

	if (tid)
		snprintf(path, sizeof(path), "task/%d/stat", tid);
	ssize_t n = proc_read_small(dir_fd, path, text, sizeof(text));
	if (n < 0)
		return (int)n;
	return proc_stat_parse(text, ret) ? 0 : -EPROTO;
}

bool proc_status_number(const char *text, const char *name, int base, uint64_t *ret)
{
	size_t len = strlen(name);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		char *end;

		if (*line == '\n')
			line++;
		if (strncmp(line, name, len) != 0 || line[len] != ':')
			continue;
		const char *s = line + len + 1 + strspn(line + len + 1, " \t");
		errno = 0;
		uint64_t value = strtoull(s, &end, base);
		if (end == s || errno)
			return false;
		*ret = value;
		return true;
	}
	return false;
}

void proc_comm(pid_t pid, char comm[16])
{
	char path[64], text[64];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	ssize_t n = proc_read_small(AT_FDCWD, path, text, sizeof(text));
	if (n > 0)
		text[strcspn(text, "\n")] = '\0';
	snprintf(comm, 16, "%.15s", n > 0 ? text : "?");
}

static bool auxv_entry(const void *auxv, size_t i, int bits, uint64_t *type, uint64_t *value)
{
	if (bits == 64) {
		Elf64_auxv_t v;
		memcpy(&v, (const char *)auxv + i * sizeof(v), sizeof(v));
		*type = v.a_type;
		*value = v.a_un.a_val;
	} else {
		Elf32_auxv_t v;
		memcpy(&v, (const char *)auxv + i * sizeof(v), sizeof(v));
		*type = v.a_type;
		*value = v.a_un.a_val;
	}
	return *type < 0x10000; /* read at the wrong width, types and values mix */
}

static bool auxv_is(const void *auxv, size_t size, int bits)
{
	size_t n = size / (bits == 64 ? sizeof(Elf64_auxv_t) : sizeof(Elf32_auxv_t));
	bool page_size = false;

	for (size_t i = 0; i < n; i++) {
		uint64_t type, value;

		if (!auxv_entry(auxv, i, bits, &type, &value))
			return false;
		if (type == AT_PAGESZ)
			page_size = value >= 4096 && (value & (value - 1)) == 0;
		if (type == AT_NULL)
			return page_size;
	}
	return false;
}

int auxv_bits(const void *auxv, size_t size)
{
	if (auxv_is(auxv, size, 64))
		return 64;
	return auxv_is(auxv, size, 32) ? 32 : 0;
}

struct linux_dirent64 {
	uint64_t d_ino;
	int64_t d_off;
	uint16_t d_reclen;
	uint8_t d_type;
	char d_name[];
};

int proc_each_tid(int task_fd, bool (*fn)(void *arg, pid_t tid), void *arg)
{
	_Alignas(struct linux_dirent64) char buf[32768];

	if (lseek(task_fd, 0, SEEK_SET) < 0)
		return -errno;
	for (;;) {
		long n = syscall(SYS_getdents64, task_fd, buf, sizeof(buf));
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		for (long at = 0; at < n;) {
			const struct linux_dirent64 *d = (const void *)(buf + at);

			at += d->d_reclen;
			if (d->d_name[0] < '1' || d->d_name[0] > '9')
				continue;
			if (!fn(arg, (pid_t)strtol(d->d_name, NULL, 10)))
				return 0;
		}
	}
}

static int compare_pids(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

static bool push_pid(void *arg, pid_t pid)
{
	struct pids *pids = arg;

	return vec_push(&pids->v, pid);
}

struct suture_error *process_list_pids(struct pids *ret)
{
	_cleanup_close_ int fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct pids pids = {};

	if (fd < 0)
		return error_errno(errno, "cannot open /proc");
	int err = proc_each_tid(fd, push_pid, &pids);
	if (err < 0) {
		vec_free(&pids.v);
		return error_errno(-err, "cannot list /proc");
	}
	if (!pids.v.n)
		return error_create(SUTURE_ERROR_SYSTEM, "no process is visible in /proc");
	qsort(pids.v.at, pids.v.n, sizeof(*pids.v.at), compare_pids);
	*ret = pids;
	return NULL;
}
