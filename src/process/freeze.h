/* SPDX-License-Identifier: Apache-2.0 */
/* What tests ask of a freeze beyond process.h. */
#ifndef PROCESS_FREEZE_H
#define PROCESS_FREEZE_H

#include "process/process.h"

/* Called in every freeze_stop(): all threads are seized, the first interrupt comes next. */
void freeze_set_hook(struct freeze *f, void (*hook)(void *arg), void *arg);

#endif
