/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The switch: a short list of precomputed writes, made while every thread is stopped, undone
 * backwards when one fails. A step of its own: how threads are kept away from the sites is not
 * known here.
 */
#ifndef APPLY_COMMIT_H
#define APPLY_COMMIT_H

#include "apply/ledger.h"

enum commit_kind {
	COMMIT_APPLY,	/* saved bytes -> detours; STAGED -> APPLIED */
	COMMIT_REVERT,	/* detours -> saved bytes; APPLIED -> REVERTING */
	COMMIT_RECOVER, /* whatever a killed tool left -> saved bytes; -> REVERTING */
};

struct commit_check {
	remote_addr at;
	const uint8_t *want; /* NULL: a site, checked by its kind */
	const char *name;
	size_t function;
};

struct commit {
	struct process *process;
	const struct ledger *ledger;
	enum commit_kind kind;
	/* What is read and compared first: one piece for each site, then what commit_expect() added
	 */
	VEC(struct piece) pieces;
	VEC(struct commit_check) checks;
	size_t n_sites;
};

/* Functions that are gone are left out. `ledger` must outlive it. */
struct suture_error *commit_init(struct commit *c, struct process *process,
	const struct ledger *ledger, enum commit_kind kind) MUST_USE;
/* These bytes must be there as well; `want` and `name` are borrowed. */
struct suture_error *commit_expect(struct commit *c, const char *name, remote_addr at,
	const uint8_t *want, size_t size) MUST_USE;
void commit_deinit(struct commit *c);

/* Compare without writing. CODE_MISMATCH names the function and both bytes. */
struct suture_error *commit_verify(struct commit *c) MUST_USE;
/* In the freeze: compare once more and write. On failure everything is as it was. */
struct suture_error *commit_run(struct commit *c) MUST_USE;

#endif
