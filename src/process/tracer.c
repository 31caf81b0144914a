/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that holds the ptrace relation: see tracer.h. */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "process/tracer.h"

enum {
	STACK_SIZE = 256 * 1024,
	SPINS = 2000, /* some 20 us of looking before sleeping: a frozen target waits for us */
};

struct tracer {
	pthread_t thread;
	sem_t request, done;
	void (*fn)(void *arg); /* NULL: end */
	void *arg;
	bool hurried;	   /* the caller's scheduling was changed */
	int caller_policy; /* what it was */
	struct sched_param caller_param;
};

static void wait_for(sem_t *sem, int spins)
{
	for (int i = 0; i < spins; i++) {
		if (sem_trywait(sem) == 0)
			return;
		__builtin_ia32_pause();
	}
	while (sem_wait(sem) < 0)
		; /* EINTR */
}

static void *run(void *arg)
{
	struct tracer *t = arg;

	/* Short sleeps while threads stop: without this the kernel adds 50 us to each. */
	prctl(PR_SET_TIMERSLACK, 1);
	for (;;) {
		wait_for(&t->request, SPINS);
		if (!t->fn)
			return NULL;
		t->fn(t->arg);
		sem_post(&t->done);
	}
}

/*
 * Signals are for the caller's threads. SIGCHLD, sent for every stop, would wake one of them each
 * time if it was blocked here and merely ignored there: where it is ignored, leave it so.
 */
static void signal_mask(sigset_t *set)
{
	struct sigaction chld;

	sigfillset(set);
	if (sigaction(SIGCHLD, NULL, &chld) == 0 &&
		(chld.sa_handler == SIG_DFL || chld.sa_handler == SIG_IGN))
		sigdelset(set, SIGCHLD);
}

static int start(struct tracer *t)
{
	sigset_t blocked, before;
	pthread_attr_t attr;
	int err = pthread_attr_init(&attr);

	if (err)
		return err;
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	signal_mask(&blocked);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	err = pthread_create(&t->thread, &attr, run, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return err;
}

struct suture_error *tracer_create(struct tracer **ret)
{
	struct tracer *t = calloc(1, sizeof(*t));

	if (!t)
		return error_nomem();
	sem_init(&t->request, 0, 0);
	sem_init(&t->done, 0, 0);
	int err = start(t);
	if (err) {
		free(t);
		return error_errno(err, "cannot start the tracer thread");
	}
	*ret = t;
	return NULL;
}

void tracer_destroy(struct tracer *t)
{
	if (!t)
		return;
	tracer_relax(t);
	t->fn = NULL;
	sem_post(&t->request);
	pthread_join(t->thread, NULL);
	sem_destroy(&t->request);
	sem_destroy(&t->done);
	free(t);
}

void tracer_call(struct tracer *t, void (*fn)(void *arg), void *arg)
{
	t->fn = fn;
	t->arg = arg;
	sem_post(&t->request);
	wait_for(&t->done, 0);
}

/* SCHED_RESET_ON_FORK: nothing that the caller starts meanwhile inherits it. */
static const int hurry_policy = SCHED_FIFO | SCHED_RESET_ON_FORK;

void tracer_hurry(struct tracer *t)
{
	struct sched_param param = {.sched_priority = 1};

	if (t->hurried)
		return;
	t->caller_policy = sched_getscheduler(0);
	if (t->caller_policy < 0 || sched_getparam(0, &t->caller_param) < 0)
		return;
	/* Already real-time, or not permitted: leave both as they are. */
	if (t->caller_policy == SCHED_FIFO || t->caller_policy == SCHED_RR ||
		sched_setscheduler(0, hurry_policy, &param) < 0)
		return;
	t->hurried = true;
	pthread_setschedparam(t->thread, SCHED_FIFO, &param);
}

void tracer_relax(struct tracer *t)
{
	struct sched_param param = {.sched_priority = 0};

	if (!t->hurried)
		return;
	t->hurried = false;
	pthread_setschedparam(t->thread, SCHED_OTHER, &param);
	sched_setscheduler(0, t->caller_policy, &t->caller_param);
}
