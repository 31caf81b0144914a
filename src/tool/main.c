/* SPDX-License-Identifier: Apache-2.0 */
/* suture(1): finds the subcommand and runs it. */
#include "tool.h"

const struct command commands[] = {
	{"build", FOR_BUILD, "--patch FIX.diff --compdb DIR|FILE --target ELF [option ...]",
		"make a live patch from a source fix",
		"Compiles the units that the fix reaches, without and with it, as the compilation\n"
		"database says, compares, and writes what changed into a patch file. The source tree\n"
		"and the target files stay as they are.",
		run_build},
	{"show", FOR_SHOW, "PATCH.suture [option ...]", "what a patch file contains", NULL,
		run_show},
	{"check", FOR_CHECK, "PATCH.suture -p PID ... | --all [option ...]",
		"verify everything that apply would, change nothing", NULL, run_check},
	{"apply", FOR_APPLY, "PATCH.suture -p PID ... | --all [option ...]",
		"apply a live patch to running processes",
		"While the patch is being applied, Ctrl-C waits until the process is whole: either\n"
		"patched or as it was.",
		run_apply},
	{"list", FOR_LIST, "[-p PID ...] [option ...]", "live patches and where they are applied",
		"Without -p: every process that carries a live patch and that we may look into.",
		run_list},
	{"revert", FOR_REVERT, "NAME -p PID ... | --all [option ...]",
		"take a live patch out of running processes",
		"NAME is the name of the patch, as `suture list` shows it, or its file.",
		run_revert},
	{"help", FOR_HELP, "[COMMAND]", "describe suture or one of its commands", NULL, run_help},
	{"version", FOR_VERSION, "", "print the version", NULL, run_version},
	{NULL},
};

const struct command *command_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

static const struct command *command_of(const char *word)
{
	if (!strcmp(word, "--help") || !strcmp(word, "-h"))
		word = "help";
	if (!strcmp(word, "--version") || !strcmp(word, "-V"))
		word = "version";
	const struct command *command = command_find(word);
	if (!command)
		usage(NULL,
			*word == '-' ? "no option %s before the command" : "no such command: %s",
			word);
	return command;
}

int main(int argc, char **argv)
{
	struct args args = {.timeout = -1};

	if (argc < 2)
		usage(NULL, "no command");
	const struct command *command = command_of(argv[1]);
	args_parse(command, argc - 1, argv + 1, &args);

	struct suture *ctx = must(suture_create());
	output_attach(ctx, &args);
	int status = output_finish(command->run(ctx, &args));
	suture_destroy(ctx);
	args_deinit(&args);
	return status;
}
