/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a payload can go: a free range from which every 32-bit displacement reaches the whole
 * image, that the target will not want for its heap or stack.
 */
#ifndef APPLY_ROOM_H
#define APPLY_ROOM_H

#include "process/process.h"

struct room_request {
	const char *image;	/* for messages */
	remote_addr low, high;	/* the image's span */
	uint64_t size;		/* bytes, a multiple of the page size */
	bool fixed;		/* must be below 2 GiB */
	uint64_t mmap_min_addr; /* see room_mmap_min_addr() */
};

/*
 * NO_ROOM says what was searched. Ranges taken already: room_take().
 */
struct suture_error *room_find(
	const struct maps *maps, const struct room_request *request, remote_addr *ret) MUST_USE;
/*
 * The address has the form that room_find() prefers: a reservation without content is known by it
 * to be ours (stage.c). 1 of 64 pages has it.
 */
bool room_is_marked(remote_addr address);
/* Note in maps that [start, end) will be taken. */
struct suture_error *room_take(struct maps *maps, remote_addr start, remote_addr end) MUST_USE;
/* The lowest address that the kernel lets a process map. */
uint64_t room_mmap_min_addr(void);

#endif
