/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pointers to a patch's functions that the program has put somewhere: a callback, a vtable, a
 * signal handler. A payload that is unmapped under them would crash the program at the next call.
 */
#ifndef APPLY_ESCAPE_H
#define APPLY_ESCAPE_H

#include "apply/target.h"

/*
 * BUSY when writable memory of the process (other than the payload's own) holds the address of a
 * function that the patch hands out, or a signal is handled by one. Looks at nothing when the patch
 * hands out none.
 */
struct suture_error *escape_check(struct target *target, const struct ledger *ledger) MUST_USE;

#endif
