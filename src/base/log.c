/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts and their log: see log.h and suture.h. */
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"

struct suture *suture_create(void)
{
	return calloc(1, sizeof(struct suture));
}

void suture_destroy(struct suture *ctx)
{
	free(ctx);
}

void suture_set_log(struct suture *ctx, enum suture_log_level level, suture_log_fn fn, void *arg)
{
	ctx->level = level;
	ctx->log = fn;
	ctx->log_arg = arg;
}

void suture_cancel(struct suture *ctx)
{
	ctx->cancelled = 1;
}

struct suture_error *check_cancelled(const struct suture *ctx)
{
	if (!ctx->cancelled)
		return NULL;
	return error_create(SUTURE_ERROR_CANCELLED, "cancelled");
}

const char *suture_version(void)
{
	return SUTURE_VERSION;
}

void log_at(const struct suture *ctx, enum suture_log_level level, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	if (!ctx->log || level > ctx->level)
		return;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	if (text)
		ctx->log(ctx->log_arg, level, text);
}
