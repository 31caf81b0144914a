/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target as it was found: its maps, the ELF images in them, the patches it carries. Read from
 * memory alone: the files may be deleted, replaced, or in another mount namespace. Looking needs no
 * stop; whatever is decided on it and matters is verified again inside the freeze.
 */
#ifndef APPLY_TARGET_H
#define APPLY_TARGET_H

#include "apply/ledger.h"
#include "base/log.h"
#include "elf/module.h"
#include "process/process.h"

struct target_image {
	remote_addr base; /* the mapped ELF header */
	char *path;	  /* of the mapping, " (deleted)" cut off */
	const char *name; /* last part of path */
	uint8_t build_id[PATCH_BUILD_ID_MAX];
	size_t build_id_size;
	struct module *module;	     /* opened by target_module() */
	struct unwind_table *unwind; /* made by target_unwind(), NULL: none */
	bool unwind_tried;
};

struct target {
	struct suture *ctx;
	struct process *process;
	struct maps maps;
	VEC(struct target_image) images; /* ascending by base */
	struct ledgers ledgers;
	bool coroutines_known, coroutines; /* uses_coroutines() */
};

/* `process` is borrowed and must outlive the target. */
struct suture_error *target_look(
	struct suture *ctx, struct process *process, struct target **ret) MUST_USE;
void target_destroy(struct target *target);
static inline void target_destroyp(struct target **target)
{
	target_destroy(*target);
}
/* Read the maps again (images and ledgers stay). */
struct suture_error *target_reread_maps(struct target *target) MUST_USE;

/* Whether the patch of a record is in force: see the fields `gone` and `unloaded`. */
struct suture_error *target_check_ledger(struct process *process, struct ledger *ledger) MUST_USE;

/* Open the image's headers and tables once. */
struct suture_error *target_module(struct target *target, struct target_image *image) MUST_USE;
/* The image that spans an address, its module opened; NULL: none. */
struct target_image *target_image_at(struct target *target, remote_addr address);
/* The image's unwind rules; NULL when it has none that can be read. Not for use in a freeze. */
struct unwind_table *target_unwind(struct target *target, struct target_image *image);

/* The mapped image that `wanted` means: NO_IMAGE, BUILD_ID or UNSUPPORTED (mapped twice). */
struct suture_error *target_find_image(struct target *target, const struct patch_image *wanted,
	struct target_image **ret) MUST_USE;

/* Last part of a path. */
const char *path_base(const char *path);
/* Lower-case hex into ret[2 * size + 1]. */
void hex_format(char *ret, const uint8_t *bytes, size_t size);

/*
 * Open a process to work on it, as the only suture that does: a lock on its /proc/PID/mem, which
 * only those can open who may patch it. Waits until deadline_ns (CLOCK_MONOTONIC); BUSY when
 * another one still holds it. The lock goes with *ret_lock, which process_close() releases; it is a
 * handle of its own because the other suture may be tracing the process right now.
 */
struct suture_error *target_open(
	pid_t pid, uint64_t deadline_ns, struct process **ret_lock, struct process **ret) MUST_USE;

#endif
