/* SPDX-License-Identifier: Apache-2.0 */
/* suture build: make a live patch from a source fix. */
#include <ctype.h>

#include "tool.h"

/* "fixes/CVE-1 v2.diff" becomes "CVE-1-v2": letters, digits and . _ + - make a patch name. */
static char *name_of_diff(const char *path)
{
	static const char *const endings[] = {".diff", ".patch"};
	const char *slash = strrchr(path, '/');
	char *name = must(strdup(slash ? slash + 1 : path));
	size_t len = strlen(name);

	for (size_t i = 0; i < N_OF(endings); i++) {
		size_t n = strlen(endings[i]);

		if (len > n && !strcmp(name + len - n, endings[i])) {
			name[len - n] = '\0';
			break;
		}
	}
	for (char *p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._+-", *p))
			*p = '-';
	if (!isalnum((unsigned char)*name))
		usage(command_find("build"), "'%s' makes no patch name: give one with --name",
			path);
	return name;
}

static void check_arguments(const struct args *args)
{
	const struct command *command = command_find("build");

	if (args->rest.n)
		usage(command, "what is '%s' for?", args->rest.at[0]);
	if (!args->patch)
		usage(command, "--patch FIX.diff is missing");
	if (!args->compdb)
		usage(command, "--compdb DIR|FILE is missing");
	if (!args->targets.n)
		usage(command, "--target ELF is missing");
}

static void print_function(const struct suture_build_function *f)
{
	char size[64];

	if (f->old_size)
		snprintf(size, sizeof(size), "%llu -> %llu bytes", (unsigned long long)f->old_size,
			(unsigned long long)f->new_size);
	else
		snprintf(size, sizeof(size), "%llu bytes", (unsigned long long)f->new_size);
	out("  %-32s %-20s %-22s %s\n", f->name, f->image, size, f->reason);
}

static void print_built(const struct suture_build_report *r)
{
	for (size_t i = 0; i < r->n_notes; i++)
		out("note: %s\n", r->notes[i]);
	out_color(GREEN, "built");
	out(" %s (%llu bytes): %zu function%s from %zu unit%s in %.2f s, %.2f s of it compiling\n",
		r->output, (unsigned long long)r->bytes, r->n_functions, plural(r->n_functions),
		r->n_units, plural(r->n_units), r->total_seconds, r->compile_seconds);
	for (size_t i = 0; i < r->n_functions; i++)
		print_function(&r->functions[i]);
}

static json_t *json_function(const struct suture_build_function *f)
{
	return must(json_pack("{s:o, s:o, s:o, s:o, s:I, s:I}", "name", json_text(f->name), "unit",
		json_text(f->unit), "image", json_text(f->image), "reason", json_text(f->reason),
		"old_size", (json_int_t)f->old_size, "new_size", (json_int_t)f->new_size));
}

static json_t *json_strings(char *const *strings, size_t n)
{
	json_t *list = must(json_array());

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_text(strings[i]));
	return list;
}

static json_t *json_built(const struct suture_build_report *r)
{
	json_t *functions = must(json_array());

	for (size_t i = 0; i < r->n_functions; i++)
		json_array_append_new(functions, json_function(&r->functions[i]));
	return must(json_pack("{s:o, s:I, s:o, s:o, s:o, s:f, s:f}", "output", json_text(r->output),
		"bytes", (json_int_t)r->bytes, "functions", functions, "units",
		json_strings(r->units, r->n_units), "notes", json_strings(r->notes, r->n_notes),
		"compile_seconds", r->compile_seconds, "total_seconds", r->total_seconds));
}

static struct suture_error *build(
	struct suture *ctx, const struct args *args, struct suture_build_report **ret)
{
	char *name = args->name ? must(strdup(args->name)) : name_of_diff(args->patch);
	char *output = NULL;

	if (!args->output && asprintf(&output, "%s.suture", name) < 0)
		must(output = NULL);
	struct suture_build_options options = {
		.diff = args->patch,
		.compdb = args->compdb,
		.targets = args->targets.at,
		.n_targets = args->targets.n,
		.name = name,
		.version = args->version,
		.description = args->description,
		.references = args->references.at,
		.n_references = args->references.n,
		.source_root = args->source,
		.output = args->output ? args->output : output,
	};

	signals_begin(ctx, false);
	struct suture_error *err = suture_build(ctx, &options, ret);
	free(output);
	free(name);
	return err;
}

int run_build(struct suture *ctx, struct args *args)
{
	struct suture_build_report *report = NULL;
	int status = SUTURE_STATUS_OK;

	check_arguments(args);
	struct suture_error *err = build(ctx, args, &report);
	if (err)
		status = fail("build", args, err);
	else if (args->json)
		json_print("build", status, NULL, json_built(report));
	else if (!args->quiet)
		print_built(report);
	suture_build_report_destroy(report);
	signals_end();
	return status;
}
