/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pointers to a patch's functions that the program has put somewhere: a callback, a table, a signal
 * handler, atexit(). A payload that is unmapped under them would crash the program at the next
 * call.
 */
#ifndef APPLY_ESCAPE_H
#define APPLY_ESCAPE_H

#include "apply/target.h"

/*
 * BUSY when a register, a signal, or writable memory of the process (other than the payload's own)
 * holds the address of a function that the patch hands out; or, in a program that uses coroutines,
 * a return address into its code. Looks at nothing when neither can be.
 * Reads the target's maps anew; the target runs, but for one short freeze.
 */
struct suture_error *escape_check(struct target *target, const struct ledger *ledger) MUST_USE;

/*
 * Some image refers to makecontext(3) or its kin: stacks may wait where no thread is. Programs that
 * switch stacks with code of their own are not recognized.
 */
bool uses_coroutines(struct target *target);

#endif
