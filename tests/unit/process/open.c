/* SPDX-License-Identifier: Apache-2.0 */
/* Each target that cannot be patched is refused in its own words; memory is read and written. */
#include <sys/uio.h>

#include "victim.h"

static void idle(void *arg)
{
	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop))
		sleep_ms(2);
}

static void cannot_open(pid_t pid, bool write, enum suture_error_code code, const char *text)
{
	struct process *p = NULL;

	assert_error(process_open(pid, write, &p), code, text);
	assert_null(p);
}

static void no_such_process(void **state)
{
	(void)state;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	cannot_open(pid, true, SUTURE_ERROR_NO_PROCESS, "no process");
	cannot_open(0, true, SUTURE_ERROR_NO_PROCESS, "not a process id");
	cannot_open(-1, true, SUTURE_ERROR_NO_PROCESS, "not a process id");
	cannot_open(INT32_MAX, false, SUTURE_ERROR_NO_PROCESS, "no process");
}

static void ourselves(void **state)
{
	(void)state;
	cannot_open(getpid(), true, SUTURE_ERROR_NOT_PATCHABLE, "cannot patch itself");
}

static void zombie(void **state)
{
	(void)state;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	wait_state(pid, 'Z');
	cannot_open(pid, true, SUTURE_ERROR_NOT_PATCHABLE, "zombie");
	cannot_open(pid, false, SUTURE_ERROR_NOT_PATCHABLE, "zombie");
	waitpid(pid, NULL, 0);
}

static void kernel_thread(void **state)
{
	(void)state;
	char comm[16];

	proc_comm(2, comm);
	if (strcmp(comm, "kthreadd") != 0) {
		print_message("SKIP: kernel threads are not visible\n");
		skip();
	}
	cannot_open(2, true, SUTURE_ERROR_NOT_PATCHABLE, "process 2 (kthreadd) is a kernel thread");
}

/* ---- a thread is not a process ---- */

static void *report_tid(void *arg)
{
	atomic_store(&shared->count[0], syscall(SYS_gettid));
	idle(arg);
	_exit(0);
}

static void two_threads(void *arg)
{
	pthread_t thread;

	(void)arg;
	pthread_create(&thread, NULL, report_tid, NULL);
	idle(NULL);
	pthread_join(thread, NULL);
}

static void thread_id(void **state)
{
	(void)state;
	char text[64];
	pid_t pid = victim_start(two_threads, NULL);

	victim_ready(2);
	snprintf(text, sizeof(text), "belongs to process %d", pid);
	cannot_open((pid_t)atomic_load(&shared->count[0]), true, SUTURE_ERROR_NO_PROCESS, text);
	victim_end(pid);
}

/* ---- the main thread has exited ---- */

static void leaderless_victim(void *arg)
{
	pthread_t thread;

	(void)arg;
	pthread_create(&thread, NULL, report_tid, NULL);
	pthread_exit(NULL);
}

static void leader_has_exited(void **state)
{
	(void)state;
	struct process *p;
	struct maps maps;
	long word = 0;
	pid_t pid = victim_start(leaderless_victim, NULL);

	victim_ready(1);
	wait_state(pid, 'Z');
	assert_ok(process_open(pid, true, &p));
	assert_int_equal(p->mm_tid, atomic_load(&shared->count[0]));
	assert_ok(process_maps(p, &maps));
	assert_non_null(maps_find(&maps, (remote_addr)(uintptr_t)leaderless_victim));
	maps_deinit(&maps);
	assert_ok(process_read(p, (remote_addr)(uintptr_t)shared, &word, sizeof(word)));
	int fd = process_openat(p, "exe", O_RDONLY);
	assert_true(fd >= 0);
	close(fd);
	assert_ok(process_alive(p));
	victim_end(pid);
	assert_error(process_alive(p), SUTURE_ERROR_NO_PROCESS, "has exited");
	process_close(p);
}

/* ---- a 32-bit process ---- */

static void thirty_two_bits(void **state)
{
	(void)state;
	char dir[] = "/tmp/suture-test-XXXXXX", cmd[512], path[64];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/v", dir);
	snprintf(cmd, sizeof(cmd),
		"printf '.globl _start\\n_start: mov $29,%%%%eax\\nint $0x80\\njmp _start\\n' >%s/v.s &&"
		"cc -m32 -nostdlib -static -o %s %s/v.s >/dev/null 2>&1",
		dir, path, dir);
	bool built = system(cmd) == 0;
	pid_t pid = built ? fork() : 0;
	if (built && pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(path, path, (char *)NULL);
		_exit(127);
	}
	bool runs = false;
	for (int i = 0; built && i < 500 && !runs; i++) {
		char comm[16];
		proc_comm(pid, comm);
		runs = strcmp(comm, "v") == 0 && task_state(pid) == 'S';
		sleep_ms(1);
	}
	if (runs) {
		cannot_open(pid, true, SUTURE_ERROR_NOT_PATCHABLE, "is a 32-bit process");
		cannot_open(pid, false, SUTURE_ERROR_NOT_PATCHABLE, "is a 32-bit process");
	}
	if (built)
		victim_kill(pid);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
	if (!runs) {
		print_message("SKIP: 32-bit programs cannot be built or run here\n");
		skip();
	}
}

/* ---- permission and tracers ---- */

/* Run as another user than the victim's; 0 when the error is as it should be. */
static int open_as(uid_t uid, pid_t pid, const char *want)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct process *p;
		if (setgid(uid) < 0 || setuid(uid) < 0)
			_exit(10);
		struct suture_error *err = process_open(pid, true, &p);
		if (!err)
			_exit(11);
		if (suture_error_code(err) != SUTURE_ERROR_PERMISSION)
			_exit(12);
		if (!strstr(suture_error_message(err), want) || !suture_error_hint(err)) {
			fprintf(stderr, "%s\n", suture_error_message(err));
			_exit(13);
		}
		_exit(0);
	}
	waitpid(child, &status, 0);
	return status;
}

static void undumpable(void *arg)
{
	const uid_t *uid = arg;

	if (*uid && (setgid(*uid) < 0 || setuid(*uid) < 0))
		_exit(1);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* forgotten by setuid */
	prctl(PR_SET_DUMPABLE, 0);
	idle(NULL);
}

static void permission(void **state)
{
	(void)state;
	static const uid_t nobody = 65534, daemon_uid = 1;

	if (getuid() != 0) {
		print_message("SKIP: needs root, to be two other users\n");
		skip();
	}
	pid_t pid = victim_start(idle, NULL);
	victim_ready(1);
	assert_int_equal(open_as(nobody, pid, "belongs to root (uid 0)"), 0);
	victim_end(pid);

	uid_t uid = nobody;
	pid = victim_start(undumpable, &uid);
	victim_ready(1);
	assert_int_equal(open_as(nobody, pid, "not dumpable"), 0);
	assert_int_equal(open_as(daemon_uid, pid, "belongs to nobody (uid 65534)"), 0);
	victim_end(pid);
}

static void traced(void **state)
{
	(void)state;
	char text[128];
	int ready[2];
	struct process *p;

	NEEDS_PTRACE();
	pid_t pid = victim_start(idle, NULL);
	victim_ready(1);
	assert_return_code(pipe(ready), errno);
	pid_t tracer = fork();
	if (tracer == 0) {
		prctl(PR_SET_NAME, "a debugger");
		if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], text, 1), 1);
	close(ready[0]);
	snprintf(text, sizeof(text), "is traced by process %d (a debugger)", tracer);
	cannot_open(pid, true, SUTURE_ERROR_TRACED, text);
	/* Looking is allowed. */
	assert_ok(process_open(pid, false, &p));
	assert_error(process_write(p, (remote_addr)(uintptr_t)shared, "x", 1),
		SUTURE_ERROR_INTERNAL, "for reading only");
	process_close(p);
	victim_kill(tracer);
	assert_ok(process_open(pid, true, &p));
	process_close(p);
	victim_end(pid);
}

/* ---- who it is ---- */

static void execs_itself(void *arg)
{
	(void)arg;
	idle(NULL);
	execl("/bin/sleep", "sleep", "1000", (char *)NULL);
	_exit(1);
}

static void exec_is_noticed(void **state)
{
	(void)state;
	struct process *p;
	char byte;
	struct piece piece = {(remote_addr)(uintptr_t)shared, &byte, 1, 9};

	pid_t pid = victim_start(execs_itself, NULL);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	assert_ok(process_alive(p));
	assert_ok(process_read_pieces(p, &piece, 1));
	assert_int_equal(piece.got, 1);
	atomic_store(&shared->stop, 1);
	char comm[16] = "";
	for (int i = 0; i < 2000 && strcmp(comm, "sleep") != 0; i++) {
		sleep_ms(1);
		proc_comm(pid, comm);
	}
	assert_error(process_alive(p), SUTURE_ERROR_NO_PROCESS, "executed another program");
	assert_error(process_read(p, (remote_addr)(uintptr_t)shared, &byte, 1),
		SUTURE_ERROR_NO_PROCESS, "");
	assert_error(process_write(p, (remote_addr)(uintptr_t)shared, "x", 1),
		SUTURE_ERROR_NO_PROCESS, "");
	assert_error(process_read_pieces(p, &piece, 1), SUTURE_ERROR_NO_PROCESS, "");
	victim_kill(pid);
	assert_error(process_alive(p), SUTURE_ERROR_NO_PROCESS, "has exited");
	process_close(p);
}

/* ---- memory ---- */

enum { PAGE = 4096 };

/* With a hole behind the third of four pages. */
static void holed(void *arg)
{
	munmap((uint8_t *)arg + 3 * PAGE, PAGE);
	idle(NULL);
}

static void memory(void **state)
{
	(void)state;
	struct process *p;
	uint8_t *own =
		mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t buf[64];

	assert_ptr_not_equal(own, MAP_FAILED);
	memset(own, 'a', 4 * PAGE);
	mprotect(own + 2 * PAGE, PAGE, PROT_NONE);
	mprotect(own, PAGE, PROT_READ | PROT_EXEC);
	pid_t pid = victim_start(holed, own);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	remote_addr at = (remote_addr)(uintptr_t)own;

	/* Into pages that nobody may write, across pages; ours stay as they are. */
	assert_ok(process_write(p, at + PAGE - 4, "12345678", 8));
	assert_ok(reader_read(&p->reader, at + PAGE - 6, buf, 12));
	assert_memory_equal(buf, "aa12345678aa", 12);
	assert_int_equal(own[PAGE - 4], 'a');
	assert_ok(process_write(p, at + 2 * PAGE, "x", 1));
	assert_ok(process_write(p, at, NULL, 0));
	assert_error(process_write(p, at + 3 * PAGE - 1, "12", 2), SUTURE_ERROR_INPUT, "no such");
	assert_error(process_read(p, at + 3 * PAGE - 1, buf, 2), SUTURE_ERROR_INPUT, "no such");
	assert_error(process_read(p, 0, buf, 1), SUTURE_ERROR_INPUT, "no such");
	assert_error(process_read(p, UINT64_MAX - 1, buf, 8), SUTURE_ERROR_INPUT, "no such");
	assert_error(process_read(p, 0xffffffffff600000, buf, 8), SUTURE_ERROR_INPUT, "no such");
	process_close(p);
	victim_end(pid);
	munmap(own, 4 * PAGE);
}

/* Thousands of pieces, bad ones between the good ones. */
static void pieces(void **state)
{
	(void)state;
	enum { N = 3000 };
	struct process *p;
	static struct piece list[N];
	static uint8_t bufs[N][16];
	uint8_t *own =
		mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int i = 0; i < 2 * PAGE; i++)
		own[i] = (uint8_t)(i * 7);
	mprotect(own + PAGE, PAGE, PROT_NONE); /* process_vm_readv refuses it, mem does not */
	pid_t pid = victim_start(holed, own - PAGE);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	for (size_t i = 0; i < N; i++) {
		remote_addr at = (remote_addr)(uintptr_t)own + i;
		if (i % 100 == 7)
			at = 64; /* not mapped */
		if (i % 100 == 8)
			at = (remote_addr)(uintptr_t)own + 2 * PAGE - 5; /* half of it */
		if (i % 100 == 9)
			at = UINT64_MAX - 3;
		if (i % 100 == 10)
			at = (remote_addr)(uintptr_t)own + PAGE; /* PROT_NONE */
		list[i] = (struct piece){at, bufs[i], i % 100 == 11 ? 0 : 16, 99};
	}
	assert_ok(process_read_pieces(p, list, N));
	mprotect(own + PAGE, PAGE, PROT_READ);
	for (size_t i = 0; i < N; i++) {
		size_t want = 16;
		if (i % 100 == 7 || i % 100 == 9 || i % 100 == 11)
			want = 0;
		if (i % 100 == 8)
			want = 5;
		assert_int_equal(list[i].got, want);
		if (want)
			assert_memory_equal(bufs[i], (void *)(uintptr_t)list[i].addr, want);
	}
	assert_ok(process_read_pieces(p, NULL, 0));
	process_close(p);
	victim_end(pid);
	munmap(own, 2 * PAGE);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_such_process),
		cmocka_unit_test(ourselves),
		cmocka_unit_test(zombie),
		cmocka_unit_test(kernel_thread),
		cmocka_unit_test(thread_id),
		cmocka_unit_test(leader_has_exited),
		cmocka_unit_test(thirty_two_bits),
		cmocka_unit_test(permission),
		cmocka_unit_test(traced),
		cmocka_unit_test(exec_is_noticed),
		cmocka_unit_test(memory),
		cmocka_unit_test(pieces),
	};
	cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
