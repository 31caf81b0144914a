/* SPDX-License-Identifier: Apache-2.0 */
/* Which line of the old code is which of the new: a longest common subsequence by key. */
#include <string.h>

#include "base/cleanup.h"
#include "format/listing.h"

/* Cells of the table; two functions that differ in more than this are shown one after the other. */
enum { MAX_CELLS = 4 << 20 };

static bool same_key(const struct listing *a, size_t i, const struct listing *b, size_t k)
{
	return !strcmp(a->lines.at[i].key, b->lines.at[k].key);
}

/* What remains between a common beginning and a common end. */
struct middle {
	const struct listing *a, *b;
	size_t from, n, m;
};

static size_t cell(const struct middle *d, size_t i, size_t k)
{
	return i * (d->m + 1) + k;
}

/* length[i][k]: of the longest common subsequence of a[i..] and b[k..]. */
static uint16_t *make_table(const struct middle *d)
{
	uint16_t *length = calloc((d->n + 1) * (d->m + 1), sizeof(*length));

	if (!length)
		return NULL;
	for (size_t i = d->n; i-- > 0;) {
		for (size_t k = d->m; k-- > 0;) {
			uint16_t down = length[cell(d, i + 1, k)];
			uint16_t right = length[cell(d, i, k + 1)];

			if (same_key(d->a, d->from + i, d->b, d->from + k))
				length[cell(d, i, k)] = length[cell(d, i + 1, k + 1)] + 1;
			else
				length[cell(d, i, k)] = down > right ? down : right;
		}
	}
	return length;
}

static struct suture_error *align_middle(const struct middle *d, uint32_t *match)
{
	/* Both sides fit 16 bits: the shorter one has at most sqrt(MAX_CELLS) lines. */
	if (d->n == 0 || d->m == 0 || (d->n + 1) * (d->m + 1) > MAX_CELLS)
		return NULL;
	_cleanup_free_ uint16_t *length = make_table(d);
	if (!length)
		return error_nomem();
	for (size_t i = 0, k = 0; i < d->n && k < d->m;) {
		if (same_key(d->a, d->from + i, d->b, d->from + k))
			match[d->from + i++] = d->from + k++;
		else if (length[cell(d, i + 1, k)] >= length[cell(d, i, k + 1)])
			i++;
		else
			k++;
	}
	return NULL;
}

struct suture_error *listing_align(const struct listing *a, const struct listing *b, uint32_t **ret)
{
	size_t n = a->lines.n, m = b->lines.n, head = 0, tail = 0;
	_cleanup_free_ uint32_t *match = malloc((n + 1) * sizeof(*match));

	if (!match)
		return error_nomem();
	memset(match, 0xff, (n + 1) * sizeof(*match));
	while (head < n && head < m && same_key(a, head, b, head)) {
		match[head] = head;
		head++;
	}
	while (tail < n - head && tail < m - head && same_key(a, n - 1 - tail, b, m - 1 - tail)) {
		match[n - 1 - tail] = m - 1 - tail;
		tail++;
	}
	struct middle d = {a, b, head, n - head - tail, m - head - tail};
	TRY(align_middle(&d, match));
	*ret = take(match);
	return NULL;
}

/* The line that starts at this offset, or LINE_UNMATCHED. */
static uint32_t line_at(const struct listing *l, uint64_t offset)
{
	size_t low = 0, high = l->lines.n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (l->lines.at[middle].offset < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low < l->lines.n && l->lines.at[low].offset == offset ? low : LINE_UNMATCHED;
}

static bool same_local(const struct listing *a, const struct line *x, const struct listing *b,
	const struct line *y, const uint32_t *match)
{
	uint32_t i = line_at(a, x->target), k = line_at(b, y->target);

	return i != LINE_UNMATCHED && match[i] == k;
}

enum line_verdict listing_compare(
	const struct listing *a, size_t i, const struct listing *b, const uint32_t *match)
{
	const struct line *x = &a->lines.at[i], *y = &b->lines.at[match[i]];

	if (x->ref == REF_NUMBER && y->ref == REF_NAMED)
		return y->exact ? LINE_DIFFERS : LINE_UNKNOWN;
	if (x->ref != y->ref)
		return LINE_DIFFERS;
	switch (x->ref) {
	case REF_LOCAL:
		return same_local(a, x, b, y, match) ? LINE_SAME : LINE_DIFFERS;
	case REF_NAMED:
		return strcmp(x->name, y->name) ? LINE_DIFFERS : LINE_SAME;
	case REF_NUMBER:
		return x->target == y->target ? LINE_SAME : LINE_DIFFERS;
	default:
		return LINE_SAME;
	}
}
