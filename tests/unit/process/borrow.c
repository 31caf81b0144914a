/* SPDX-License-Identifier: Apache-2.0 */
/* A borrowed thread makes system calls and does not notice. */
#include "process/borrow.h"
#include "victim.h"

static void blocked_victim(void *arg)
{
	int fds[2];
	char c;

	(void)arg;
	if (pipe(fds) < 0)
		_exit(1);
	atomic_fetch_add(&shared->ready, 1);
	ssize_t n = read(fds[0], &c, 1);
	noticed("read returned", n < 0 ? errno : n);
	_exit(0);
}

/* Map, write, read, unmap; the same memory every time. */
static void map_and_unmap(struct process *p, int rounds)
{
	struct borrow *b;
	int64_t got;

	assert_ok(borrow_begin(p, &b));
	for (int i = 0; i < rounds; i++) {
		const uint64_t map[6] = {0, 8192, PROT_READ | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0};
		uint64_t word = 0;
		struct maps maps;

		assert_ok(borrow_syscall(b, SYS_mmap, map, &got));
		assert_true(got > 0);
		remote_addr at = (remote_addr)got;
		assert_ok(process_maps(p, &maps));
		const struct map *m = maps_find(&maps, at);
		assert_non_null(m);
		assert_true(m->r && m->x && !m->w && m->end >= at + 8192);
		maps_deinit(&maps);
		assert_ok(process_write(p, at + 4092, "abcdefgh", 8));
		assert_ok(process_read(p, at + 4092, &word, 8));
		assert_memory_equal(&word, "abcdefgh", 8);
		const uint64_t unmap[6] = {at, 8192};
		assert_ok(borrow_syscall(b, SYS_munmap, unmap, &got));
		assert_int_equal(got, 0);
		assert_error(process_read(p, at, &word, 8), SUTURE_ERROR_INPUT, "no such memory");
	}
	assert_ok(borrow_end(b));
}

static void blocked_in_read(void **state)
{
	(void)state;
	struct process *p;

	NEEDS_PTRACE();
	pid_t pid = victim_start(blocked_victim, NULL);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	map_and_unmap(p, 10);
	process_close(p);
	sleep_ms(2);
	assert_int_equal(task_state(pid), 'S');
	victim_undisturbed();
	victim_kill(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocked_in_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
