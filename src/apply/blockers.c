/* SPDX-License-Identifier: Apache-2.0 */
/* Saying who is in the way: thread, function, and the frames above it, by name. */
#include <stdlib.h>
#include <string.h>

#include "apply/quiesce.h"
#include "apply/report.h"
#include "base/cleanup.h"

/* Functions of the patch are known by name even where the image has no symbols. */
static const struct hot_range *hot_around(const struct hot_ranges *ranges, remote_addr pc)
{
	vec_foreach (range, &ranges->v) {
		if (pc >= range->address && pc < range->high)
			return range;
	}
	return NULL;
}

static char *dup_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

static void describe_frame(struct quiesce *q, remote_addr pc, struct suture_frame *ret)
{
	const struct hot_range *hot = hot_around(q->ranges, pc);
	struct target_image *image = target_image_at(q->target, pc);

	ret->address = pc;
	if (image)
		ret->image = dup_or_null(image->name);
	if (hot) {
		ret->symbol = dup_or_null(hot->name);
		ret->offset = pc - hot->address;
	} else if (image) {
		ret->symbol = dup_or_null(module_symbolize(image->module, pc, &ret->offset));
	}
}

static struct suture_error *describe(
	struct quiesce *q, struct freeze *freeze, struct suspect *s, struct suture_blocker *ret)
{
	ret->tid = s->tid;
	vec_foreach (t, &freeze->threads) {
		if (t->tid != s->tid)
			continue;
		freeze_comm(freeze, t);
		memcpy(ret->comm, t->comm, sizeof(ret->comm));
	}
	ret->function = dup_or_null(s->busy->name);
	ret->frames = calloc(s->walk.n_frames ?: 1, sizeof(ret->frames[0]));
	if (!ret->function || !ret->frames)
		return error_nomem();
	ret->n_frames = s->walk.n_frames;
	/* Found by scanning beyond the last frame that could be unwound. */
	ret->depth = s->walk.hit ? s->walk.hit_depth : s->walk.n_frames;
	for (size_t i = 0; i < s->walk.n_frames; i++)
		describe_frame(q, s->walk.frames[i], &ret->frames[i]);
	return NULL;
}

struct suture_error *quiesce_blockers(
	struct quiesce *q, struct freeze *freeze, struct suture_blocker **ret, size_t *ret_n)
{
	size_t n = 0, i = 0;

	vec_foreach (s, &q->suspects)
		n += s->busy != NULL;
	struct suture_blocker *blockers = calloc(n ?: 1, sizeof(blockers[0]));
	if (!blockers)
		return error_nomem();
	vec_foreach (s, &q->suspects) {
		struct suture_error *err = s->busy ? describe(q, freeze, s, &blockers[i++]) : NULL;
		if (err) {
			blockers_destroy(blockers, n);
			return err;
		}
	}
	*ret = blockers;
	*ret_n = n;
	return NULL;
}
