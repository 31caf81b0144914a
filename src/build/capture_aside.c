/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes that no unit reads. Most are tests and documentation, and a note is all they need. But
 * the target may be made of them all the same, by a program that turns them into sources, copies
 * them or puts them together: then the fix would not arrive, and nobody would know. See capture.h.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/capture.h"
#include "build/path.h"

/* Below this, lines of a hunk say nothing: "}", "return 0;" */
#define BLOCK_MIN_LINES 3
#define BLOCK_MIN_BYTES 60 /* without blanks */

static bool is_one_of(const char *name, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(name, list[i]) == 0)
			return true;
	}
	return false;
}
#define IS_ONE_OF(name, list) is_one_of(name, list, sizeof(list) / sizeof(list[0]))

bool capture_can_be_included(const char *path)
{
	static const char *const extensions[] = {
		".h", ".hh", ".hpp", ".inc", ".def", ".tbl", ".c", ".cc", ".cpp"};

	return IS_ONE_OF(path_extension(path), extensions);
}

static bool is_build_file(const char *path)
{
	static const char *const names[] = {"Makefile", "GNUmakefile", "CMakeLists.txt",
		"configure", "meson.build", "meson_options.txt", "SConstruct", "BUILD"};
	static const char *const extensions[] = {
		".am", ".ac", ".in", ".mk", ".cmake", ".m4", ".map", ".sym", ".ver", ".ld"};

	return IS_ONE_OF(path_basename(path), names) || IS_ONE_OF(path_extension(path), extensions);
}

/* Made into C by a program that we do not run. */
static bool is_generator_input(const char *path)
{
	static const char *const extensions[] = {
		".y", ".yy", ".l", ".ll", ".lex", ".gperf", ".rl", ".re", ".pidl", ".proto"};

	return IS_ONE_OF(path_extension(path), extensions);
}

/* ---- the same code in another file ---- */

/* What a hunk takes for there, as one string; NULL when it is too little to be recognised. */
static struct suture_error *block_of(const struct diff_hunk *hunk, char **ret)
{
	size_t size = 1, n_lines = 0, n_bytes = 0;

	*ret = NULL;
	vec_foreach (line, &hunk->lines) {
		size += line->len + 1;
		n_lines += line->kind != '+';
		for (size_t i = 0; i < line->len; i++)
			n_bytes += line->kind != '+' && !isspace((unsigned char)line->text[i]);
	}
	if (n_lines < BLOCK_MIN_LINES || n_bytes < BLOCK_MIN_BYTES)
		return NULL;
	char *block = malloc(size), *p = block;
	if (!block)
		return error_nomem();
	vec_foreach (line, &hunk->lines) {
		if (line->kind == '+')
			continue;
		p = mempcpy(p, line->text, line->len);
		*p++ = '\n';
	}
	*p = '\0';
	*ret = block;
	return NULL;
}

static struct suture_error *blocks_of(const struct change *change, struct strings *ret)
{
	vec_foreach (part, &change->parts) {
		vec_foreach (hunk, &(*part)->hunks) {
			char *block;

			TRY(block_of(hunk, &block));
			if (block)
				TRY(strings_take(ret, block));
		}
	}
	return NULL;
}

static bool holds_block(const char *path, const struct strings *blocks)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct suture_error *err = path_read_file(path, DIFF_MAX_SIZE, &text, &size);

	if (err) {
		suture_error_destroy(err);
		return false;
	}
	vec_foreach (block, &blocks->v) {
		if (memmem(text, size, *block, strlen(*block)))
			return true;
	}
	return false;
}

static struct suture_error *same_code(const struct change *change, const char *path)
{
	return error_hint(
		error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s: no unit of the target reads it, but %s holds the same code: a build that "
			"copies or merges sources is not supported",
			change->below, path),
		"make the diff of the file that is compiled");
}

/* A header is copied under its own name, before it is used. */
static struct suture_error *check_copies(
	const struct capture *cap, const struct change *change, const struct strings *blocks)
{
	vec_foreach (tree, &cap->trees) {
		vec_foreach (entry, &tree->entries) {
			if (entry->type == DT_REG &&
				strcmp(path_basename(entry->path),
					path_basename(change->physical)) == 0 &&
				!changes_find(&cap->changes, entry->path) &&
				holds_block(entry->path, blocks))
				return same_code(change, entry->path);
		}
	}
	return NULL;
}

static bool is_recorded_source(const struct capture *cap, const struct change *change)
{
	vec_foreach (cmd, &cap->db.commands) {
		if (strcmp(cmd->physical, change->physical) == 0)
			return true;
	}
	return false;
}

/* Many sources are made into one (an amalgamation) that is compiled. */
static struct suture_error *check_merged(
	const struct capture *cap, const struct change *change, const struct strings *blocks)
{
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		const char *source = cap->db.commands.at[i].physical;

		if (cap->in_target[i] && !changes_find(&cap->changes, source) &&
			holds_block(source, blocks))
			return same_code(change, source);
	}
	return NULL;
}

static struct suture_error *check_elsewhere(const struct capture *cap, const struct change *change)
{
	_cleanup_strings_ struct strings blocks = {};

	if (!capture_can_be_included(change->below) || is_recorded_source(cap, change))
		return NULL;
	TRY(blocks_of(change, &blocks));
	if (!blocks.v.n)
		return NULL;
	TRY(check_copies(cap, change, &blocks));
	return check_merged(cap, change, &blocks);
}

/* ---- accounting ---- */

static struct suture_error *set_aside(struct capture *cap, const struct change *change)
{
	if (is_generator_input(change->below) && !cap->coverage.complete)
		return error_hint(error_create(SUTURE_ERROR_UNSUPPORTED,
					  "%s: the input of a generator is changed", change->below),
			"make the diff of the generated source");
	TRY(check_elsewhere(cap, change));
	if (is_build_file(change->below))
		return capture_note(cap,
			"%s: set aside (a change of how things are built cannot be live patched)",
			change->below);
	return capture_note(
		cap, "%s: set aside, no unit of the target is compiled from it", change->below);
}

struct suture_error *capture_account(struct capture *cap)
{
	vec_foreach (change, &cap->changes.v) {
		if (!change->parts.n && !change->deleted)
			continue;
		TRY(coverage_check(&cap->coverage, change->physical, change->below));
		if (!change->reached && !capture_is_new_source(change))
			TRY(set_aside(cap, change));
	}
	return NULL;
}
