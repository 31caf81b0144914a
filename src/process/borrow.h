/* SPDX-License-Identifier: Apache-2.0 */
/* What tests and benchmarks ask of a borrow beyond process.h. */
#ifndef PROCESS_BORROW_H
#define PROCESS_BORROW_H

#include "process/inject.h"

/* See struct injection. */
void borrow_set_hook(struct borrow *b, void (*hook)(void *arg, int step), void *arg);
/* The longest time that a thread was held. */
uint64_t borrow_longest_ns(const struct borrow *b);

#endif
