/* SPDX-License-Identifier: Apache-2.0 */
/* suture version */
#include "tool.h"

int run_version(struct suture *ctx, struct args *args)
{
	(void)ctx;
	if (args->rest.n)
		usage(command_find("version"), "what is '%s' for?", args->rest.at[0]);
	out("suture %s\n", suture_version());
	return SUTURE_STATUS_OK;
}
