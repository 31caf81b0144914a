/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a string to a number: which entry has this path, has this name been seen. Keys are copied.
 * `struct strmap m = {};` is an empty one.
 */
#ifndef BUILD_STRMAP_H
#define BUILD_STRMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct strmap_slot {
	char *key; /* NULL: free */
	size_t value;
};

struct strmap {
	struct strmap_slot *slots;
	size_t n, room; /* room: a power of two, or 0 */
};

/*
 * The place of the value of `key`, entered with `initial` if it is not there yet. Valid until the
 * next strmap_add. NULL when out of memory.
 */
size_t *strmap_add(struct strmap *map, const char *key, size_t initial);
/* NULL when there is no such key. */
size_t *strmap_find(const struct strmap *map, const char *key);
void strmap_deinit(struct strmap *map);

#define _cleanup_strmap_ __attribute__((cleanup(strmap_deinit)))

#endif
