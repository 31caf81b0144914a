/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Release on the line where you acquire: `_cleanup_(f)` calls f on the address of the variable
 * when it leaves scope. `take()` hands ownership over and leaves NULL behind.
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f)	 __attribute__((cleanup(f)))
#define _cleanup_free_	 _cleanup_(cleanup_freep)
#define _cleanup_close_	 _cleanup_(cleanup_closep)
#define _cleanup_fclose_ _cleanup_(cleanup_fclosep)

#define take(p)                                       \
	({                                            \
		__typeof__(p) *take_ptr_ = &(p);      \
		__typeof__(p) take_val_ = *take_ptr_; \
		*take_ptr_ = NULL;                    \
		take_val_;                            \
	})

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}

#endif
