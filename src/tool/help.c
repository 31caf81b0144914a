/* SPDX-License-Identifier: Apache-2.0 */
/* suture help: the commands, or one of them. */
#include "tool.h"

int run_help(struct suture *ctx, struct args *args)
{
	(void)ctx;
	if (args->rest.n > 1)
		usage(command_find("help"), "one command at a time");
	if (args->rest.n == 0) {
		print_help();
		return SUTURE_STATUS_OK;
	}
	const struct command *command = command_find(args->rest.at[0]);
	if (!command)
		usage(NULL, "no such command: %s", args->rest.at[0]);
	print_command_help(command);
	return SUTURE_STATUS_OK;
}
