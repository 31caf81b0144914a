/* SPDX-License-Identifier: Apache-2.0 */
/* The context and its log: the library never prints, it hands messages to the caller. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/error.h"

struct suture {
	enum suture_log_level level;
	suture_log_fn log;
	void *log_arg;
};

void log_at(const struct suture *ctx, enum suture_log_level level, const char *fmt, ...)
	PRINTF(3, 4);
#define log_warning(ctx, ...) log_at(ctx, SUTURE_LOG_WARNING, __VA_ARGS__)
#define log_info(ctx, ...)    log_at(ctx, SUTURE_LOG_INFO, __VA_ARGS__)
#define log_debug(ctx, ...)   log_at(ctx, SUTURE_LOG_DEBUG, __VA_ARGS__)

#endif
