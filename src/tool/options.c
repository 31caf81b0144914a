/* SPDX-License-Identifier: Apache-2.0 */
/* One table of all options: parsing and help come from it. */
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>

#include "tool.h"

enum {
	FOR_PROCESSES = FOR_CHECK | FOR_APPLY | FOR_REVERT,
	FOR_WORK = FOR_BUILD | FOR_SHOW | FOR_PROCESSES | FOR_LIST,
	FOR_ALL = FOR_WORK | FOR_HELP | FOR_VERSION,
};

/* getopt values of options without a letter */
enum {
	OPT_PATCH = 256,
	OPT_COMPDB,
	OPT_TARGET,
	OPT_SOURCE,
	OPT_NAME,
	OPT_PATCH_VERSION,
	OPT_DESCRIPTION,
	OPT_REFERENCE,
	OPT_DIFF,
	OPT_ALL,
	OPT_TIMEOUT,
	OPT_JSON,
	OPT_COLOR
};

static const struct spec {
	int value; /* the letter, or OPT_* */
	const char *name;
	const char *arg; /* NULL: takes none */
	unsigned commands;
	const char *help;
} specs[] = {
	{OPT_PATCH, "patch", "FIX.diff", FOR_BUILD, "the fix, a unified diff"},
	{OPT_COMPDB, "compdb", "DIR|FILE", FOR_BUILD,
		"compile_commands.json or the directory that holds it"},
	{OPT_TARGET, "target", "ELF", FOR_BUILD,
		"executable or library that is running; may be given several times"},
	{OPT_SOURCE, "source", "DIR", FOR_BUILD,
		"where the paths of the diff start (default: found)"},
	{'o', "output", "FILE", FOR_BUILD, "patch file to write (default: NAME.suture)"},
	{OPT_NAME, "name", "NAME", FOR_BUILD, "name of the patch (default: that of the diff)"},
	{OPT_PATCH_VERSION, "patch-version", "V", FOR_BUILD, "version of the patch (default: 1)"},
	{OPT_DESCRIPTION, "description", "TEXT", FOR_BUILD, "what the patch does, for people"},
	{OPT_REFERENCE, "reference", "ID", FOR_BUILD,
		"CVE id and the like; may be given several times"},
	{OPT_DIFF, "diff", NULL, FOR_SHOW, "old against new instructions of every function"},
	{'p', "pid", "PID", FOR_PROCESSES | FOR_LIST,
		"process to work on; may be given several times or as a list with commas"},
	{OPT_ALL, "all", NULL, FOR_PROCESSES, "every process that the patch is for"},
	{OPT_TIMEOUT, "timeout", "SECONDS", FOR_APPLY | FOR_REVERT,
		"how long to wait for threads inside old functions (default: 10)"},
	{OPT_JSON, "json", NULL, FOR_WORK, "print one JSON document"},
	{'v', "verbose", NULL, FOR_WORK, "say more; twice: say all"},
	{'q', "quiet", NULL, FOR_WORK, "say nothing but errors"},
	{OPT_COLOR, "color", "WHEN", FOR_WORK, "auto, always or never"},
	{'h', "help", NULL, FOR_ALL, "this text"},
};

/* ---- help ---- */

static void print_option(const struct spec *s)
{
	char left[64], letter[8] = "    ";

	if (s->value < 256)
		snprintf(letter, sizeof(letter), "-%c, ", s->value);
	snprintf(left, sizeof(left), "%s--%s%s%s", letter, s->name, s->arg ? "=" : "",
		s->arg ? s->arg : "");
	out("  %-28s %s\n", left, s->help);
}

void print_command_help(const struct command *command)
{
	out("usage: suture %s %s\n\n%s\n", command->name, command->synopsis, command->summary);
	if (command->details)
		out("\n%s\n", command->details);
	out("\noptions:\n");
	for (size_t i = 0; i < N_OF(specs); i++)
		if (specs[i].commands & command->bit)
			print_option(&specs[i]);
}

void print_help(void)
{
	out("usage: suture COMMAND [argument ...]\n\n"
	    "Fix running programs from a source diff: no restart, and it can be taken out again.\n\n"
	    "commands:\n");
	for (const struct command *c = commands; c->name; c++)
		out("  %-10s %s\n", c->name, c->summary);
	out("\n`suture help COMMAND` describes one; suture(1) describes all.\n\n"
	    "exit status: 0 done; 1 refused or failed, every process is as it was before; 2 wrong\n"
	    "usage; 3 nothing to do; 4 busy, every process is as it was before. With several\n"
	    "processes: the worst of theirs.\n");
}

void usage(const struct command *command, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	err_color(RED, "suture:");
	err_out(" %s%s%s\n", command ? command->name : "", command ? ": " : "", text);
	err_color(CYAN, "  hint:");
	err_out(" suture help%s%s\n", command ? " " : "", command ? command->name : "");
	exit(SUTURE_STATUS_USAGE);
}

/* ---- values ---- */

void words_add(struct words *words, const char *word)
{
	words->at = must(reallocarray(words->at, words->n + 1, sizeof(*words->at)));
	words->at[words->n++] = word;
}

static void add_pid(const struct command *command, struct args *args, const char *text, size_t len)
{
	long pid = 0;
	size_t i = 0;

	while (i < len && text[i] >= '0' && text[i] <= '9' && pid < INT_MAX / 10 - 1)
		pid = pid * 10 + (text[i++] - '0');
	if (len == 0 || i < len || pid == 0)
		usage(command, "'%.*s' is no process id", (int)len, text);
	args->pids = must(reallocarray(args->pids, args->n_pids + 1, sizeof(*args->pids)));
	args->pids[args->n_pids++] = pid;
}

static void add_pids(const struct command *command, struct args *args, const char *text)
{
	for (;;) {
		size_t len = strcspn(text, ",");

		add_pid(command, args, text, len);
		if (!text[len])
			return;
		text += len + 1;
	}
}

void rest_to_pids(const struct command *command, struct args *args, size_t first)
{
	for (size_t i = first; i < args->rest.n; i++)
		add_pids(command, args, args->rest.at[i]);
}

/* A number of seconds, decimals allowed, at most eleven days. */
static double parse_seconds(const struct command *command, const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (!*text || strspn(text, "0123456789.") != strlen(text) || *end || seconds > 1e6)
		usage(command, "--timeout: '%s' is no number of seconds (0 to 1000000)", text);
	return seconds;
}

static enum color_mode parse_color(const struct command *command, const char *text)
{
	static const char *const words[] = {"auto", "always", "never"};

	for (size_t i = 0; i < N_OF(words); i++)
		if (!strcmp(text, words[i]))
			return i;
	usage(command, "--color: '%s' is not auto, always or never", text);
}

static void set_option(const struct command *command, struct args *args, int value)
{
	switch (value) {
	case OPT_PATCH:
		args->patch = optarg;
		break;
	case OPT_COMPDB:
		args->compdb = optarg;
		break;
	case OPT_TARGET:
		words_add(&args->targets, optarg);
		break;
	case OPT_SOURCE:
		args->source = optarg;
		break;
	case 'o':
		args->output = optarg;
		break;
	case OPT_NAME:
		args->name = optarg;
		break;
	case OPT_PATCH_VERSION:
		args->version = optarg;
		break;
	case OPT_DESCRIPTION:
		args->description = optarg;
		break;
	case OPT_REFERENCE:
		words_add(&args->references, optarg);
		break;
	case OPT_DIFF:
		args->diff = true;
		break;
	case 'p':
		add_pids(command, args, optarg);
		break;
	case OPT_ALL:
		args->all = true;
		break;
	case OPT_TIMEOUT:
		args->timeout = parse_seconds(command, optarg);
		break;
	case OPT_JSON:
		args->json = true;
		break;
	case 'v':
		args->verbose++;
		break;
	case 'q':
		args->quiet = true;
		break;
	case OPT_COLOR:
		output_set_color(parse_color(command, optarg));
		break;
	case 'h':
		print_command_help(command);
		exit(output_finish(SUTURE_STATUS_OK));
	}
}

/* The options of one command, as getopt_long() wants them. */
static void make_tables(
	const struct command *command, struct option options[N_OF(specs) + 1], char *letters)
{
	size_t n = 0;

	*letters++ = ':';
	for (size_t i = 0; i < N_OF(specs); i++) {
		const struct spec *s = &specs[i];

		if (!(s->commands & command->bit))
			continue;
		options[n++] = (struct option){
			s->name, s->arg ? required_argument : no_argument, NULL, s->value};
		if (s->value > 255)
			continue;
		*letters++ = s->value;
		if (s->arg)
			*letters++ = ':';
	}
	options[n] = (struct option){};
	*letters = '\0';
}

void args_parse(const struct command *command, int argc, char **argv, struct args *args)
{
	struct option options[N_OF(specs) + 1];
	char letters[2 * N_OF(specs) + 2];
	int value;

	make_tables(command, options, letters);
	opterr = 0;
	while ((value = getopt_long(argc, argv, letters, options, NULL)) != -1) {
		const char *word = argv[optind - 1];

		if (value == ':')
			usage(command, "%s needs an argument", word);
		if (value == '?' && optopt && optopt < 256)
			usage(command, "no option -%c", optopt);
		if (value == '?')
			usage(command,
				"%s: no such option, or not clear which, or no argument for it",
				word);
		set_option(command, args, value);
	}
	for (int i = optind; i < argc; i++)
		words_add(&args->rest, argv[i]);
	if (args->quiet && args->verbose)
		usage(command, "--quiet and --verbose exclude each other");
}

void args_deinit(struct args *args)
{
	free(args->targets.at);
	free(args->references.at);
	free(args->rest.at);
	free(args->pids);
}
