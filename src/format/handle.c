/* SPDX-License-Identifier: Apache-2.0 */
/* Patch files for users of the library: see suture.h. */
#include "base/cleanup.h"
#include "format/patch.h"

struct suture_error *suture_patch_open(
	struct suture *ctx, const char *path, struct suture_patch **ret)
{
	_cleanup_(patch_destroyp) struct patch *patch = NULL;

	(void)ctx;
	TRY(patch_read(path, &patch));
	struct suture_patch *handle = malloc(sizeof(*handle));
	if (!handle)
		return error_nomem();
	handle->patch = take(patch);
	*ret = handle;
	return NULL;
}

void suture_patch_close(struct suture_patch *handle)
{
	if (!handle)
		return;
	patch_destroy(handle->patch);
	free(handle);
}

const char *suture_patch_name(const struct suture_patch *handle)
{
	return handle->patch->name;
}

const char *suture_patch_manifest(const struct suture_patch *handle)
{
	return handle->patch->manifest;
}
