/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing array: `VEC(struct foo) v = {};`. vec_add() returns a zeroed slot at the end, NULL
 * when out of memory; pointers into the array die with the next vec_add. Elements are released
 * by the owner, the array by vec_free().
 */
#ifndef BASE_VEC_H
#define BASE_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VEC(type)               \
	struct {                \
		type *at;       \
		size_t n, room; \
	}

static inline void *vec_grow_(void *at, size_t size, size_t n, size_t *room)
{
	if (n < *room)
		return at;
	size_t more = *room ? *room * 2 : 8;
	void *p = reallocarray(at, more, size);
	if (p)
		*room = more;
	return p;
}

#define vec_add(v)                                                                \
	({                                                                        \
		__typeof__((v)->at) vec_new_ =                                    \
			vec_grow_((v)->at, sizeof(*(v)->at), (v)->n, &(v)->room); \
		if (vec_new_) {                                                   \
			(v)->at = vec_new_;                                       \
			vec_new_ = &(v)->at[(v)->n++];                            \
			memset(vec_new_, 0, sizeof(*vec_new_));                   \
		}                                                                 \
		vec_new_;                                                         \
	})

/* true on success */
#define vec_push(v, value)                                  \
	({                                                  \
		__typeof__((v)->at) vec_slot_ = vec_add(v); \
		if (vec_slot_)                              \
			*vec_slot_ = (value);               \
		vec_slot_ != NULL;                          \
	})

#define vec_free(v)                     \
	do {                            \
		free((v)->at);          \
		(v)->at = NULL;         \
		(v)->n = (v)->room = 0; \
	} while (0)

#define vec_foreach(item, v) \
	for (__typeof__((v)->at + 0) item = (v)->at; item && item < (v)->at + (v)->n; item++)

#endif
