/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing and restoring detours: see commit.h.
 *
 * Killed between two writes, this tool leaves a record in state COMMITTING (or REVERTING) and some
 * sites written. Each site alone is correct code either way, and the record has what is needed to
 * put every one back: the next apply or revert does (COMMIT_RECOVER).
 */
#include <stdlib.h>
#include <string.h>

#include "apply/commit.h"
#include "apply/target.h"

static struct suture_error *add_check(struct commit *c, remote_addr at, size_t size,
	const uint8_t *want, const char *name, size_t function)
{
	uint8_t *buf = malloc(size ?: 1);
	struct piece *piece = buf ? vec_add(&c->pieces) : NULL;

	if (!piece) {
		free(buf);
		return error_nomem();
	}
	*piece = (struct piece){at, buf, size, 0};
	struct commit_check *check = vec_add(&c->checks);
	if (!check)
		return error_nomem();
	*check = (struct commit_check){at, want, name, function};
	return NULL;
}

struct suture_error *commit_init(struct commit *c, struct process *process,
	const struct ledger *ledger, enum commit_kind kind)
{
	*c = (struct commit){.process = process, .ledger = ledger, .kind = kind};
	for (size_t i = 0; i < ledger->functions.n; i++) {
		const struct ledger_function *f = &ledger->functions.at[i];

		if (f->gone)
			continue;
		TRY(add_check(c, f->site, f->length, NULL, f->name, i));
		c->n_sites++;
	}
	return NULL;
}

struct suture_error *commit_expect(
	struct commit *c, const char *name, remote_addr at, const uint8_t *want, size_t size)
{
	return add_check(c, at, size, want, name, 0);
}

void commit_deinit(struct commit *c)
{
	vec_foreach (piece, &c->pieces)
		free(piece->buf);
	vec_free(&c->pieces);
	vec_free(&c->checks);
}

/* ---- compare ---- */

/* A write cut short by a kill may have left some bytes of either kind. */
static bool is_mixture(const struct ledger_function *f, const uint8_t *live)
{
	for (uint32_t i = 0; i < f->length; i++) {
		if (live[i] != f->saved[i] && live[i] != f->detour[i])
			return false;
	}
	return true;
}

static bool is_expected(
	const struct commit *c, const struct commit_check *check, const struct piece *piece)
{
	const struct ledger_function *f = &c->ledger->functions.at[check->function];

	if (piece->got < piece->len)
		return false;
	if (check->want)
		return !memcmp(piece->buf, check->want, piece->len);
	switch (c->kind) {
	case COMMIT_APPLY:
		return !memcmp(piece->buf, f->saved, f->length);
	case COMMIT_REVERT:
		return !memcmp(piece->buf, f->detour, f->length);
	default:
		return is_mixture(f, piece->buf);
	}
}

static struct suture_error *unexpected(
	const struct commit *c, const struct commit_check *check, const struct piece *piece)
{
	const struct ledger_function *f = &c->ledger->functions.at[check->function];
	char have[2 * LEDGER_SITE_MAX + 1] = "nothing", want[2 * LEDGER_SITE_MAX + 1];

	if (check->want)
		return error_create(SUTURE_ERROR_CODE_MISMATCH,
			"process %d (%s): the code of %s has changed meanwhile", c->process->pid,
			c->process->comm, check->name);
	if (piece->got)
		hex_format(have, piece->buf, piece->got);
	hex_format(want, c->kind == COMMIT_APPLY ? f->saved : f->detour, f->length);
	return error_hint(
		error_create(SUTURE_ERROR_CODE_MISMATCH,
			"process %d (%s): at 0x%llx in %s there is %s where patch %s has %s",
			c->process->pid, c->process->comm, (unsigned long long)f->site, f->name,
			have, c->ledger->name, want),
		"another tool has changed the code since");
}

struct suture_error *commit_verify(struct commit *c)
{
	TRY(process_read_pieces(c->process, c->pieces.at, c->pieces.n));
	for (size_t i = 0; i < c->checks.n; i++) {
		if (!is_expected(c, &c->checks.at[i], &c->pieces.at[i]))
			return unexpected(c, &c->checks.at[i], &c->pieces.at[i]);
	}
	return NULL;
}

/* The record must still be the one that we wrote or read. */
static struct suture_error *check_record(struct commit *c)
{
	enum ledger_state state;

	TRY(ledger_get_state(c->process, c->ledger->address, &state));
	if (state == c->ledger->state)
		return NULL;
	return error_hint(error_create(SUTURE_ERROR_BUSY,
				  "another suture works on patch %s in process %d (%s)",
				  c->ledger->name, c->process->pid, c->process->comm),
		"wait for it and try again");
}

/* ---- write ---- */

static const uint8_t *new_bytes(const struct commit *c, const struct ledger_function *f)
{
	return c->kind == COMMIT_APPLY ? f->detour : f->saved;
}

static struct suture_error *write_site(struct commit *c, size_t i)
{
	const struct ledger_function *f = &c->ledger->functions.at[c->checks.at[i].function];

	return process_write(c->process, f->site, new_bytes(c, f), f->length);
}

/* What was read from the sites goes back, last one first. */
static void roll_back(struct commit *c, size_t n)
{
	while (n--) {
		const struct piece *piece = &c->pieces.at[n];

		/* The process is gone, or its memory is: nothing to put right any more. */
		suture_error_destroy(
			process_write(c->process, piece->addr, piece->buf, piece->len));
	}
	suture_error_destroy(ledger_set_state(c->process, c->ledger->address, c->ledger->state));
}

struct suture_error *commit_run(struct commit *c)
{
	bool apply = c->kind == COMMIT_APPLY;
	struct suture_error *err;
	size_t n = 0;

	TRY(check_record(c));
	TRY(commit_verify(c));
	err = ledger_set_state(
		c->process, c->ledger->address, apply ? LEDGER_COMMITTING : LEDGER_REVERTING);
	while (!err && n < c->n_sites)
		err = write_site(c, n++);
	if (!err && apply)
		err = ledger_set_state(c->process, c->ledger->address, LEDGER_APPLIED);
	if (err)
		roll_back(c, n);
	return err;
}
