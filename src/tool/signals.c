/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the first and the last thread that it stops the tool must not stop or end: its target
 * would hang with it. So Ctrl-C sets a flag that waiting loops of the library look at, Ctrl-Z waits
 * until the library returns, and the tool ends by the signal when its report is out.
 */
#include <signal.h>

#include "tool.h"

static struct suture *cancel_ctx;
static volatile sig_atomic_t came;
static sigset_t old_mask;
static bool holds_stops;

static void on_signal(int sig)
{
	came = sig;
	suture_cancel(cancel_ctx);
}

/* Who started us may have it ignored (nohup): it stays so. */
static void catch_signal(int sig)
{
	struct sigaction old, action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	sigaction(sig, NULL, &old);
	if (old.sa_handler != SIG_IGN)
		sigaction(sig, &action, NULL);
}

static void block_stops(void)
{
	sigset_t stops;

	sigemptyset(&stops);
	sigaddset(&stops, SIGTSTP);
	sigaddset(&stops, SIGTTIN);
	sigaddset(&stops, SIGTTOU);
	sigprocmask(SIG_BLOCK, &stops, &old_mask);
}

void signals_begin(struct suture *ctx, bool freezes)
{
	cancel_ctx = ctx;
	catch_signal(SIGINT);
	catch_signal(SIGTERM);
	catch_signal(SIGHUP);
	holds_stops = freezes;
	if (!freezes)
		return;
	signal(SIGPIPE, SIG_IGN);
	block_stops();
}

void signals_breathe(void)
{
	if (!holds_stops)
		return;
	sigprocmask(SIG_SETMASK, &old_mask, NULL);
	block_stops();
}

bool signals_came(void)
{
	return came;
}

void signals_end(void)
{
	if (holds_stops)
		sigprocmask(SIG_SETMASK, &old_mask, NULL);
	if (!came)
		return;
	fflush(stdout);
	progress_clear();
	signal(came, SIG_DFL);
	raise(came);
}
