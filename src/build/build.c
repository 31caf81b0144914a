/* SPDX-License-Identifier: Apache-2.0 */
/* suture_build(): from a source fix, a recorded build and target files to a patch file. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "build/path.h"
#include "build/types.h"
#include "build/unit.h"
#include "elf/image.h"
#include "format/patch.h"

#define NAME_MAX_LENGTH 128

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* ---- the name ---- */

static bool is_name_char(char c)
{
	return isalnum((unsigned char)c) || strchr("._+-", c);
}

static bool is_name(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > NAME_MAX_LENGTH || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!is_name_char(name[i]))
			return false;
	}
	return true;
}

/* "debian/patches/CVE-1.patch" names the patch CVE-1. */
static struct suture_error *default_name(const char *diff, char **ret)
{
	const char *base = path_basename(diff), *extension = path_extension(diff);
	size_t n = strlen(base);

	if (strcmp(extension, ".diff") == 0 || strcmp(extension, ".patch") == 0)
		n -= strlen(extension);
	while (n && !isalnum((unsigned char)*base)) {
		base++;
		n--;
	}
	if (!n)
		return error_hint(
			error_create(SUTURE_ERROR_USAGE, "cannot make a name out of %s", diff),
			"give the patch a name (--name)");
	char *name = strndup(base, n < NAME_MAX_LENGTH ? n : NAME_MAX_LENGTH);
	if (!name)
		return error_nomem();
	for (char *p = name; *p; p++)
		*p = is_name_char(*p) ? *p : '-';
	*ret = name;
	return NULL;
}

static struct suture_error *choose_name(const struct suture_build_options *options, char **ret)
{
	if (!options->name)
		return default_name(options->diff, ret);
	if (!is_name(options->name))
		return error_create(SUTURE_ERROR_USAGE,
			"\"%s\" is no name for a patch: letters, digits and . _ + -, starting with "
			"a letter or digit, at most %d",
			options->name, NAME_MAX_LENGTH);
	*ret = strdup(options->name);
	return *ret ? NULL : error_nomem();
}

static struct suture_error *choose_output(
	const struct suture_build_options *options, const char *name, char **ret)
{
	if (options->output)
		*ret = strdup(options->output);
	else if (asprintf(ret, "%s.suture", name) < 0)
		*ret = NULL;
	return *ret ? NULL : error_nomem();
}

/* ---- the parts of the work ---- */

struct build {
	struct suture *ctx;
	const struct suture_build_options *options;
	struct image **images;
	size_t n_images;
	struct units units;
	struct patch *patch;
	char *output;
};

static void build_deinit(struct build *build)
{
	for (size_t i = 0; i < build->n_images; i++)
		image_close(build->images[i]);
	free(build->images);
	units_deinit(&build->units);
	patch_destroy(build->patch);
	free(build->output);
}

static struct suture_error *check_options(const struct suture_build_options *options)
{
	if (!options->diff)
		return error_create(SUTURE_ERROR_USAGE, "no fix is given (--patch)");
	if (!options->compdb)
		return error_create(
			SUTURE_ERROR_USAGE, "no compilation database is given (--compdb)");
	if (!options->n_targets)
		return error_create(SUTURE_ERROR_USAGE, "no target is given (--target)");
	return NULL;
}

static bool same_build(const struct image *a, const struct image *b)
{
	return a->build_id_size == b->build_id_size &&
	       memcmp(a->build_id, b->build_id, a->build_id_size) == 0;
}

/* libtool puts a script in the place of a program that was not installed yet. */
static struct suture_error *explain_script(const char *path, struct suture_error *err)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	char start[2] = "";

	if (!err || !f || fread(start, 1, 2, f) != 2 || memcmp(start, "#!", 2) != 0)
		return err;
	return error_hint(err,
		"this is a script; if libtool made it, the program is .libs/%s beside it",
		path_basename(path));
}

static struct suture_error *open_targets(struct build *build)
{
	const struct suture_build_options *options = build->options;

	build->images = calloc(options->n_targets, sizeof(*build->images));
	if (!build->images)
		return error_nomem();
	for (size_t i = 0; i < options->n_targets; i++) {
		TRY(explain_script(
			options->targets[i], image_open(options->targets[i], &build->images[i])));
		build->n_images++;
		for (size_t j = 0; j < i; j++) {
			if (same_build(build->images[i], build->images[j]))
				return error_create(SUTURE_ERROR_USAGE,
					"%s and %s are the same target", options->targets[j],
					options->targets[i]);
		}
	}
	return NULL;
}

static struct suture_error *set_text(char **to, const char *text)
{
	if (!text)
		return NULL;
	*to = strdup(text);
	return *to ? NULL : error_nomem();
}

static struct suture_error *describe_patch(struct build *build)
{
	const struct suture_build_options *options = build->options;
	struct patch *patch = build->patch;

	TRY(choose_name(options, &patch->name));
	TRY(set_text(&patch->version, options->version ? options->version : "1"));
	TRY(set_text(&patch->description, options->description));
	TRY(set_text(&patch->created_by, "suture " SUTURE_VERSION));
	for (size_t i = 0; i < options->n_references; i++) {
		char *copy = strdup(options->references[i]);

		if (!copy || !vec_push(&patch->references, copy)) {
			free(copy);
			return error_nomem();
		}
	}
	return choose_output(options, patch->name, &build->output);
}

static struct suture_error *build_patch(struct build *build)
{
	struct capture_options capture = {
		.diff = build->options->diff,
		.compdb = build->options->compdb,
		.source_root = build->options->source_root,
	};

	TRY(check_options(build->options));
	build->patch = patch_create();
	if (!build->patch)
		return error_nomem();
	TRY(describe_patch(build));
	TRY(open_targets(build));
	capture.targets = build->images;
	capture.n_targets = build->n_images;
	TRY(capture_units(build->ctx, &capture, &build->units));
	TRY(types_check(&build->units));
	if (build->units.v.n)
		TRY(set_text(&build->patch->compiler, build->units.v.at[0].compiler));
	TRY(select_changes(
		build->ctx, &build->units, build->images, build->n_images, build->patch));
	return patch_write(build->patch, build->output);
}

/* ---- the report ---- */

static struct suture_error *report_functions(
	const struct patch *patch, struct suture_build_report *report)
{
	report->functions = calloc(patch->functions.n + 1, sizeof(*report->functions));
	if (!report->functions)
		return error_nomem();
	for (size_t i = 0; i < patch->functions.n; i++) {
		const struct patch_function *from = &patch->functions.at[i];
		struct suture_build_function *to = &report->functions[report->n_functions++];

		TRY(set_text(&to->name, from->name));
		TRY(set_text(&to->unit, from->unit));
		TRY(set_text(&to->image, patch->images.at[from->image].name));
		TRY(set_text(&to->reason, from->reason));
		to->old_size = from->address ? from->size : 0;
		to->new_size = from->new_size;
	}
	return NULL;
}

static struct suture_error *report_units(
	const struct units *units, struct suture_build_report *report)
{
	report->units = calloc(units->v.n + 1, sizeof(*report->units));
	report->notes = calloc(units->notes.n + 1, sizeof(*report->notes));
	if (!report->units || !report->notes)
		return error_nomem();
	vec_foreach (unit, &units->v)
		TRY(set_text(&report->units[report->n_units++], unit->source));
	vec_foreach (note, &units->notes)
		TRY(set_text(&report->notes[report->n_notes++], *note));
	report->compile_seconds = units->compile_seconds;
	return NULL;
}

static uint64_t file_size(const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");

	return f && fseek(f, 0, SEEK_END) == 0 ? (uint64_t)ftell(f) : 0;
}

static struct suture_error *fill_report(
	const struct build *build, double start, struct suture_build_report *report)
{
	TRY(set_text(&report->output, build->output));
	TRY(report_functions(build->patch, report));
	TRY(report_units(&build->units, report));
	report->bytes = file_size(build->output);
	report->total_seconds = now() - start;
	return NULL;
}

void suture_build_report_destroy(struct suture_build_report *report)
{
	if (!report)
		return;
	for (size_t i = 0; i < report->n_functions; i++) {
		free(report->functions[i].name);
		free(report->functions[i].unit);
		free(report->functions[i].image);
		free(report->functions[i].reason);
	}
	for (size_t i = 0; i < report->n_units; i++)
		free(report->units[i]);
	for (size_t i = 0; i < report->n_notes; i++)
		free(report->notes[i]);
	free(report->functions);
	free(report->units);
	free(report->notes);
	free(report->output);
	free(report);
}

struct suture_error *suture_build(struct suture *ctx, const struct suture_build_options *options,
	struct suture_build_report **ret)
{
	struct build build = {.ctx = ctx, .options = options};
	struct suture_build_report *report = calloc(1, sizeof(*report));
	double start = now();
	struct suture_error *err = report ? build_patch(&build) : error_nomem();

	if (!err)
		err = fill_report(&build, start, report);
	build_deinit(&build);
	if (err) {
		suture_build_report_destroy(report);
		return err;
	}
	if (ret)
		*ret = report;
	else
		suture_build_report_destroy(report);
	return NULL;
}
