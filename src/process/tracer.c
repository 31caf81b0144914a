/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that holds the ptrace relation: see tracer.h. */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "process/tracer.h"

enum {
	STACK_SIZE = 256 * 1024,
	SPINS = 2000, /* some 20 us of looking before sleeping: a frozen target waits for us */
};

struct tracer {
	pthread_t thread;
	bool started;
	atomic_bool late;  /* the deadline of this call has passed */
	atomic_bool hasty; /* it has a deadline to meet yet */
	int kick;	   /* signal that ends its sleep; 0: none was free */
	sem_t request, done;
	void (*fn)(void *arg); /* NULL: end */
	void *arg;
	bool hurried;	   /* the caller's scheduling was changed */
	int caller_policy; /* what it was */
	struct sched_param caller_param;
};

/* ---- in the tracer ---- */

static _Thread_local struct tracer *self;

bool tracer_is_late(void)
{
	return atomic_load(&self->late);
}

void tracer_in_time(void)
{
	atomic_store(&self->hasty, false);
}

static void wait_for_request(struct tracer *t)
{
	for (int i = 0; i < SPINS; i++) {
		if (sem_trywait(&t->request) == 0)
			return;
		__builtin_ia32_pause();
	}
	while (sem_wait(&t->request) < 0)
		; /* EINTR */
}

static void *run(void *arg)
{
	struct tracer *t = arg;

	self = t;
	/* Short sleeps while threads stop: without this the kernel adds 50 us to each. */
	prctl(PR_SET_TIMERSLACK, 1);
	for (;;) {
		wait_for_request(t);
		if (!t->fn)
			return NULL;
		t->fn(t->arg);
		sem_post(&t->done);
	}
}

/* ---- its life ---- */

/*
 * A real-time signal without a handler that is not blocked (a blocked one may be waited for): if it
 * came from elsewhere it would end the program, with this thread or without.
 */
static int free_signal(const sigset_t *blocked)
{
	struct sigaction sa;

	for (int sig = SIGRTMAX; sig >= SIGRTMIN; sig--)
		if (!sigismember(blocked, sig) && sigaction(sig, NULL, &sa) == 0 &&
			!(sa.sa_flags & SA_SIGINFO) && sa.sa_handler == SIG_DFL)
			return sig;
	return 0;
}

/*
 * Signals are for the caller's threads. SIGCHLD, sent for every stop, would wake one of them each
 * time if it was blocked here and merely ignored there: where it is ignored, leave it so.
 */
static void signal_mask(int kick, sigset_t *set)
{
	struct sigaction chld;

	sigfillset(set);
	if (kick)
		sigdelset(set, kick);
	if (sigaction(SIGCHLD, NULL, &chld) == 0 &&
		(chld.sa_handler == SIG_DFL || chld.sa_handler == SIG_IGN))
		sigdelset(set, SIGCHLD);
}

static void set_priority(struct tracer *t, bool high)
{
	struct sched_param param = {.sched_priority = high ? 1 : 0};

	if (t->started)
		pthread_setschedparam(t->thread, high ? SCHED_FIFO : SCHED_OTHER, &param);
}

static struct suture_error *start(struct tracer *t)
{
	sigset_t blocked, before;
	pthread_attr_t attr;

	if (t->started)
		return NULL;
	int err = pthread_attr_init(&attr);
	if (!err) {
		pthread_attr_setstacksize(&attr, STACK_SIZE);
		pthread_sigmask(SIG_SETMASK, NULL, &before);
		t->kick = free_signal(&before);
		signal_mask(t->kick, &blocked);
		pthread_sigmask(SIG_SETMASK, &blocked, NULL);
		err = pthread_create(&t->thread, &attr, run, t);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		pthread_attr_destroy(&attr);
	}
	if (err)
		return error_errno(err, "cannot start the tracer thread");
	t->started = true;
	if (t->hurried)
		set_priority(t, true);
	return NULL;
}

struct suture_error *tracer_create(struct tracer **ret)
{
	struct tracer *t = calloc(1, sizeof(*t));

	if (!t)
		return error_nomem();
	sem_init(&t->request, 0, 0);
	sem_init(&t->done, 0, 0);
	struct suture_error *err = start(t);
	if (err)
		tracer_destroy(t);
	else
		*ret = t;
	return err;
}

void tracer_renew(struct tracer *t)
{
	if (!t->started)
		return;
	t->fn = NULL;
	sem_post(&t->request);
	pthread_join(t->thread, NULL);
	t->started = false;
}

void tracer_destroy(struct tracer *t)
{
	if (!t)
		return;
	tracer_relax(t);
	tracer_renew(t);
	sem_destroy(&t->request);
	sem_destroy(&t->done);
	free(t);
}

/* ---- calls ---- */

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool done_by(struct tracer *t, uint64_t deadline_ns)
{
	const struct timespec deadline = {
		.tv_sec = (time_t)(deadline_ns / 1000000000u),
		.tv_nsec = (long)(deadline_ns % 1000000000u),
	};

	while (sem_clockwait(&t->done, CLOCK_MONOTONIC, &deadline) < 0)
		if (errno == ETIMEDOUT)
			return false;
	return true;
}

static void nothing(int sig)
{
	(void)sig;
}

/* On return from any system call pending signals are taken. */
static void enter_kernel(void *arg)
{
	(void)arg;
	sched_yield();
}

/* Wake it from whatever it sleeps in, again and again: it may have been about to fall asleep. */
static void kick_until_done(struct tracer *t)
{
	enum { AGAIN_NS = 1000000 };
	struct sigaction wake = {.sa_handler = nothing}, before;

	if (!t->kick || sigaction(t->kick, &wake, &before) < 0) {
		done_by(t, UINT64_MAX);
		return;
	}
	do {
		if (atomic_load(&t->hasty))
			pthread_kill(t->thread, t->kick);
	} while (!done_by(t, now() + AGAIN_NS));
	/* The last one may not have reached it yet, and without a handler it would kill us all. */
	t->fn = enter_kernel;
	sem_post(&t->request);
	done_by(t, UINT64_MAX);
	sigaction(t->kick, &before, NULL);
}

struct suture_error *tracer_call(
	struct tracer *t, void (*fn)(void *arg), void *arg, uint64_t deadline_ns)
{
	TRY(start(t));
	t->fn = fn;
	t->arg = arg;
	atomic_store(&t->late, false);
	atomic_store(&t->hasty, true);
	sem_post(&t->request);
	if (done_by(t, deadline_ns))
		return NULL;
	atomic_store(&t->late, true);
	kick_until_done(t);
	return NULL;
}

/* ---- priority ---- */

void tracer_hurry(struct tracer *t)
{
	struct sched_param param = {.sched_priority = 1};

	if (t->hurried)
		return;
	t->caller_policy = sched_getscheduler(0);
	if (t->caller_policy < 0 || sched_getparam(0, &t->caller_param) < 0)
		return;
	/* Real-time already, or not permitted: leave both as they are. */
	int policy = t->caller_policy & ~SCHED_RESET_ON_FORK;
	if ((policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE) ||
		sched_setscheduler(0, SCHED_FIFO, &param) < 0)
		return;
	t->hurried = true;
	set_priority(t, true);
}

void tracer_relax(struct tracer *t)
{
	if (!t->hurried)
		return;
	t->hurried = false;
	set_priority(t, false);
	sched_setscheduler(0, t->caller_policy, &t->caller_param);
}
