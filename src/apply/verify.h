/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the code in the process what the patch expects? Applied patches have detours in it; what they
 * replaced is in their ledger records and counts as the code.
 */
#ifndef APPLY_VERIFY_H
#define APPLY_VERIFY_H

#include "apply/target.h"
#include "arch/arch.h"

/* No other patch has replaced the function (DEPENDENCY), and its bytes are the expected ones. */
struct suture_error *verify_function(struct target *target, const struct arch *arch,
	const struct target_image *image, const struct patch_function *function) MUST_USE;
struct suture_error *verify_expect(struct target *target, const struct target_image *image,
	const struct patch_expect *expect) MUST_USE;
/* The patch itself is not applied yet, nor another one of its name: ALREADY, DEPENDENCY. */
struct suture_error *verify_ledger(struct target *target, const struct patch *patch) MUST_USE;
/* Code of this image may be changed at all. */
struct suture_error *verify_image(struct target *target, const struct target_image *image) MUST_USE;

#endif
