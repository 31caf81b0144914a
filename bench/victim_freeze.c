/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that is to be frozen, and measures that itself.
 *
 *     victim_freeze THREADS PAGE [tick]
 *
 * THREADS threads, the main one included, all blocked: in futex, epoll_wait and nanosleep by turns.
 * PAGE is a file that becomes `struct page`, where the caller reads along without disturbing.
 *
 * With "tick" one of the threads (the only one, when THREADS is 1) never blocks: it looks at the
 * clock all the time and records every interval between two looks of more than GAP_NS in which it
 * gave up the processor by itself. It never does that: somebody stopped it. Recorded with it is how
 * long of that it was ready to run and had no processor, because others had it: that is the
 * machine's load and not the freeze.
 *
 * version() is what gets patched. The caller asks by request += 1 and reads the answer.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
	GAP_NS = 8000, /* less than any stop, more than look_back() takes */
	GAPS = 1 << 16,
	STACK_SIZE = 64 * 1024, /* glibc's TLS and a few frames */
};

struct page {
	_Atomic uint32_t request, answered;
	_Atomic uint64_t version;
	_Atomic uint64_t looked; /* when the ticker last looked */
	_Atomic uint64_t n_gaps; /* ever recorded; the last GAPS of them are kept */
	struct gap {
		uint64_t start, end; /* CLOCK_MONOTONIC ns */
		uint64_t waited;     /* ns of it for a processor */
	} gaps[GAPS];
};

static struct page *page;

__attribute__((noipa)) static int version(void)
{
	return 1;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void answer(void)
{
	uint32_t request = atomic_load(&page->request);

	if (request == atomic_load_explicit(&page->answered, memory_order_relaxed))
		return;
	atomic_store(&page->version, version());
	atomic_store(&page->answered, request);
}

/* Of this thread: how often it gave up the processor, how long it waited for one (ns). */
struct past {
	long switches;
	uint64_t waited;
};

static struct past look_back(int schedstat)
{
	struct rusage usage;
	char text[128] = "";
	struct past past = {};

	getrusage(RUSAGE_THREAD, &usage);
	past.switches = usage.ru_nvcsw;
	/* proc(5): time on a processor, time waiting for one, times it got one */
	if (pread(schedstat, text, sizeof(text) - 1, 0) > 0)
		sscanf(text, "%*u %" SCNu64, &past.waited);
	return past;
}

static void record(uint64_t start, uint64_t end, uint64_t waited)
{
	uint64_t n = atomic_load_explicit(&page->n_gaps, memory_order_relaxed);

	page->gaps[n % GAPS] = (struct gap){start, end, waited};
	atomic_store(&page->n_gaps, n + 1);
}

static void *tick(void *arg)
{
	int schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	struct past before = look_back(schedstat);
	uint64_t last = now();

	for (;;) {
		uint64_t t = now();

		if (t - last > GAP_NS) {
			struct past past = look_back(schedstat);

			if (past.switches != before.switches)
				record(last, t, past.waited - before.waited);
			before = past;
		}
		last = t;
		atomic_store_explicit(&page->looked, t, memory_order_release);
		answer();
	}
	return arg;
}

/* One of three ways to wait for ever. A call that ends early (EINTR) begins again. */
static void *block(void *arg)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
	struct epoll_event event;
	int epoll;

	switch ((uintptr_t)arg % 3) {
	case 0:
		pthread_mutex_lock(&lock);
		for (;;)
			pthread_cond_wait(&never, &lock);
	case 1:
		epoll = epoll_create1(EPOLL_CLOEXEC);
		for (;;)
			epoll_wait(epoll, &event, 1, -1);
	default:
		for (;;)
			nanosleep(&(struct timespec){.tv_sec = 3600}, NULL);
	}
	return NULL;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void start(void *(*work)(void *), uintptr_t i)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	if (pthread_create(&thread, &attr, work, (void *)i))
		die("pthread_create");
	pthread_attr_destroy(&attr);
}

static void map_page(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, sizeof(*page)))
		die(path);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (page == MAP_FAILED)
		die(path);
	close(fd);
}

int main(int argc, char **argv)
{
	uintptr_t threads = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
	bool ticks = argc > 3 && !strcmp(argv[3], "tick");

	if (!threads) {
		fprintf(stderr, "usage: victim_freeze THREADS PAGE [tick]\n");
		return 2;
	}
	map_page(argv[2]);
	for (uintptr_t i = 1; i < threads; i++)
		start(ticks && i == 1 ? tick : block, i);
	puts("ready");
	fflush(stdout);
	if (ticks && threads == 1)
		tick(NULL);
	for (char c; read(STDIN_FILENO, &c, 1) == 1;)
		answer();
	return 0;
}
