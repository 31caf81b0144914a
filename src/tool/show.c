/* SPDX-License-Identifier: Apache-2.0 */
/* suture show: what a patch file contains. */
#include "tool.h"

static enum color color_of(const char *line)
{
	switch (*line) {
	case '+':
		return GREEN;
	case '-':
		return RED;
	case '~':
		return YELLOW;
	case '@':
		return CYAN;
	default:
		return PLAIN;
	}
}

static void print_lines(char *text)
{
	char *rest = text, *line;

	while ((line = strsep(&rest, "\n"))) {
		if (rest || *line)
			out_color(color_of(line), "%s", line);
		if (rest)
			out("\n");
	}
}

static void print_json(const char *path, const struct suture_patch *patch, const char *diff)
{
	json_t *manifest = json_loads(suture_patch_manifest(patch), 0, NULL);
	json_t *more =
		must(json_pack("{s:o, s:o}", "file", json_text(path), "manifest", must(manifest)));

	if (diff)
		json_object_set_new(more, "diff", json_text(diff));
	json_print("show", SUTURE_STATUS_OK, NULL, more);
}

int run_show(struct suture *ctx, struct args *args)
{
	struct suture_patch *patch;
	char *text = NULL;

	if (args->rest.n != 1)
		usage(command_find("show"), "one patch file is needed");
	const char *path = args->rest.at[0];
	struct suture_error *err = suture_patch_open(ctx, path, &patch);
	if (err)
		return fail("show", args, err);
	if (!args->json || args->diff)
		err = suture_patch_describe(ctx, patch, args->diff, &text);
	if (err) {
		suture_patch_close(patch);
		return fail("show", args, err);
	}
	if (args->json)
		print_json(path, patch, text);
	else
		print_lines(text);
	free(text);
	suture_patch_close(patch);
	return SUTURE_STATUS_OK;
}
