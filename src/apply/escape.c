/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Searching a process for function pointers: see escape.h. Only functions that the patch brings and
 * whose address its code or data takes are looked for; most patches have none and cost nothing
 * here. The search is done with the target running, before the freeze: the only code that can hand
 * out new pointers is the patch's own.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "apply/escape.h"
#include "base/cleanup.h"

enum { STEP = 1 << 20 };

static const struct ledger_escape *find(const struct ledger *ledger, uint64_t word)
{
	vec_foreach (e, &ledger->escapes) {
		if (e->address == word)
			return e;
	}
	return NULL;
}

static bool in_payload(const struct ledger *ledger, remote_addr at)
{
	vec_foreach (image, &ledger->images) {
		if (at >= image->start && at < image->end)
			return true;
	}
	return false;
}

static struct suture_error *held(const struct target *target, const struct ledger *ledger,
	const struct ledger_escape *e, const char *where)
{
	return error_hint(
		error_create(SUTURE_ERROR_BUSY,
			"process %d (%s) holds a pointer to %s of patch %s %s",
			target->process->pid, target->process->comm, e->name, ledger->name, where),
		"the patch can be reverted when the program has dropped that pointer");
}

static struct suture_error *search_piece(const struct target *target, const struct ledger *ledger,
	const struct map *map, remote_addr at, const uint8_t *bytes, size_t size)
{
	char where[128];
	uint64_t word;

	for (size_t i = 0; i + 8 <= size; i += 8) {
		memcpy(&word, bytes + i, sizeof(word));
		const struct ledger_escape *e = find(ledger, word);
		if (!e)
			continue;
		snprintf(where, sizeof(where), "at 0x%llx (%.64s)", (unsigned long long)(at + i),
			map->path[0] ? map->path : "anonymous memory");
		return held(target, ledger, e, where);
	}
	return NULL;
}

static struct suture_error *search_map(const struct target *target, const struct ledger *ledger,
	const struct map *map, uint8_t *buf)
{
	for (remote_addr at = map->start; at < map->end;) {
		size_t n = map->end - at < STEP ? map->end - at : STEP;
		struct piece piece = {at, buf, n, 0};

		TRY(process_read_pieces(target->process, &piece, 1));
		TRY(search_piece(target, ledger, map, at, buf, piece.got));
		/* A page that cannot be read (a file that became shorter) holds no pointer. */
		at += piece.got < n ? (piece.got & -4096ULL) + 4096 : n;
	}
	return NULL;
}

struct suture_error *escape_check(struct target *target, const struct ledger *ledger)
{
	if (!ledger->escapes.n)
		return NULL;
	_cleanup_free_ uint8_t *buf = malloc(STEP);
	if (!buf)
		return error_nomem();
	vec_foreach (map, &target->maps.v) {
		if (!map->r || !map->w || in_payload(ledger, map->start))
			continue;
		TRY(search_map(target, ledger, map, buf));
	}
	return NULL;
}
