/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The context and its log: the library never prints, it hands messages to the caller. Whoever logs
 * must not hold a target stopped: the caller's terminal may block for as long as it likes.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <signal.h>

#include "base/error.h"

struct suture {
	volatile sig_atomic_t cancelled; /* set by suture_cancel(), from a signal handler */
	enum suture_log_level level;
	suture_log_fn log;
	void *log_arg;
};

/* CANCELLED when the caller wants no more waiting. For loops, where the target is as it was. */
struct suture_error *check_cancelled(const struct suture *ctx) MUST_USE;

void log_at(const struct suture *ctx, enum suture_log_level level, const char *fmt, ...)
	PRINTF(3, 4);
#define log_warning(ctx, ...) log_at(ctx, SUTURE_LOG_WARNING, __VA_ARGS__)
#define log_info(ctx, ...)    log_at(ctx, SUTURE_LOG_INFO, __VA_ARGS__)
#define log_debug(ctx, ...)   log_at(ctx, SUTURE_LOG_DEBUG, __VA_ARGS__)

#endif
