/* SPDX-License-Identifier: Apache-2.0 */
/* The targets' compilation units: see coverage.h. */
#include <dwarf.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/cflags.h"
#include "build/coverage.h"
#include "build/path.h"
#include "build/strmap.h"
#include "elf/image.h"

static const char *string_attribute(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attr;

	return dwarf_formstring(dwarf_attr(die, name, &attr));
}

/* DWARF 5, 7.12. One source may be compiled as C and as C++ in one build. */
static enum language language_of(Dwarf_Die *die)
{
	switch (dwarf_srclang(die)) {
	case DW_LANG_C:
	case DW_LANG_C89:
	case DW_LANG_C99:
	case DW_LANG_C11:
		return LANGUAGE_C;
	case DW_LANG_C_plus_plus:
	case DW_LANG_C_plus_plus_03:
	case DW_LANG_C_plus_plus_11:
	case DW_LANG_C_plus_plus_14:
		return LANGUAGE_CXX;
	case DW_LANG_Mips_Assembler:
		return LANGUAGE_ASSEMBLER;
	default:
		return LANGUAGE_OTHER;
	}
}

static struct suture_error *add_unit(
	struct coverage *cov, const struct image *image, Dwarf_Die *die, Dwarf_Die *split)
{
	const char *name = string_attribute(die, DW_AT_name);
	const char *dir = string_attribute(die, DW_AT_comp_dir);

	if (!name && split->addr)
		name = string_attribute(split, DW_AT_name);
	if (!name) {
		cov->complete = false; /* split debug information that is not at hand */
		return NULL;
	}
	struct coverage_unit unit = {
		.path = path_join(dir ? dir : "/", name),
		.image = image->name,
		.die = split->addr ? *split : *die,
	};
	unit.language = language_of(&unit.die);
	if (unit.path && vec_push(&cov->units, unit))
		return NULL;
	free(unit.path);
	return error_nomem();
}

static struct suture_error *read_image(struct coverage *cov, const struct image *image)
{
	Dwarf_CU *cu = NULL;
	uint8_t type;
	int rc;

	if (!image->dwarf) {
		cov->complete = false;
		return NULL;
	}
	for (;;) {
		Dwarf_Die die = {}, split = {};

		rc = dwarf_get_units(image->dwarf, cu, &cu, NULL, &type, &die, &split);
		if (rc != 0)
			break;
		if (dwarf_tag(&die) != DW_TAG_compile_unit &&
			dwarf_tag(&die) != DW_TAG_skeleton_unit)
			continue;
		TRY(add_unit(cov, image, &die, &split));
	}
	if (rc < 0)
		return error_create(SUTURE_ERROR_INPUT, "%s: debug information: %s", image->path,
			dwarf_errmsg(-1));
	return NULL;
}

struct suture_error *coverage_read(struct image *const *images, size_t n, struct coverage *ret)
{
	struct coverage cov = {.complete = true};
	struct suture_error *err = NULL;

	for (size_t i = 0; i < n && !err; i++)
		err = read_image(&cov, images[i]);
	if (!cov.units.n)
		cov.complete = false;
	if (err) {
		coverage_deinit(&cov);
		return err;
	}
	*ret = cov;
	return NULL;
}

void coverage_deinit(struct coverage *cov)
{
	vec_foreach (unit, &cov->units)
		free(unit->path);
	vec_free(&cov->units);
	*cov = (struct coverage){};
}

/* ---- which recorded command is which unit ---- */

struct link {
	size_t command, next;
};

/* From a path to the commands that compile it. */
struct index {
	struct strmap first; /* path -> head of a list */
	VEC(struct link) links;
};

static struct suture_error *index_add(struct index *index, const char *path, size_t command)
{
	size_t *head = strmap_add(&index->first, path, SIZE_MAX);

	if (!head || !vec_add(&index->links))
		return error_nomem();
	size_t at = index->links.n - 1;
	index->links.at[at].command = command;
	index->links.at[at].next = *head;
	*head = at;
	return NULL;
}

static bool same_language(const struct command *cmd, enum language language)
{
	return cmd->broken || language == LANGUAGE_OTHER || cmd->language == language;
}

/* Mark the commands that compile `path` in this language; false: there is none. */
static bool index_mark(const struct index *index, const struct compdb *db, const char *path,
	enum language language, bool *ret)
{
	const size_t *head = strmap_find(&index->first, path);
	bool any = false;

	for (size_t i = head ? *head : SIZE_MAX; i != SIZE_MAX; i = index->links.at[i].next) {
		size_t command = index->links.at[i].command;

		if (!same_language(&db->commands.at[command], language))
			continue;
		ret[command] = true;
		any = true;
	}
	return any;
}

static void index_deinit(struct index *index)
{
	strmap_deinit(&index->first);
	vec_free(&index->links);
}

/* The path that debug information gives for the source of a command. NULL: out of memory. */
static char *debug_path_of(const struct command *cmd)
{
	_cleanup_free_ char *name = cflags_debug_path(cmd, cmd->argv.v.at[cmd->source_at]);
	_cleanup_free_ char *dir = cflags_debug_path(cmd, cmd->directory);

	return name && dir ? path_join(dir, name) : NULL;
}

bool coverage_is_unit_of(const struct coverage_unit *unit, const struct command *cmd)
{
	_cleanup_free_ char *path = debug_path_of(cmd);

	return same_language(cmd, unit->language) &&
	       ((path && strcmp(path, unit->path) == 0) || strcmp(cmd->file, unit->path) == 0 ||
		       strcmp(cmd->physical, unit->path) == 0);
}

/* Under the name that its debug information has, and under the file's own names. */
static struct suture_error *index_command(struct index *index, const struct command *cmd, size_t i)
{
	_cleanup_free_ char *path = NULL;

	TRY(index_add(index, cmd->physical, i));
	if (strcmp(cmd->file, cmd->physical) != 0)
		TRY(index_add(index, cmd->file, i));
	if (cmd->broken)
		return NULL;
	path = debug_path_of(cmd);
	if (!path)
		return error_nomem();
	if (strcmp(path, cmd->physical) == 0 || strcmp(path, cmd->file) == 0)
		return NULL;
	return index_add(index, path, i);
}

static struct suture_error *match_exactly(
	struct coverage *cov, const struct compdb *db, struct index *index, bool *ret)
{
	for (size_t i = 0; i < db->commands.n; i++)
		TRY(index_command(index, &db->commands.at[i], i));
	vec_foreach (unit, &cov->units) {
		unit->recorded = index_mark(index, db, unit->path, unit->language, ret);
		if (unit->recorded)
			continue;
		_cleanup_free_ char *physical = path_physical(unit->path);
		if (!physical)
			return error_nomem();
		unit->recorded = index_mark(index, db, physical, unit->language, ret);
	}
	return NULL;
}

/* The target was built in another place: "src/x.c" below the root must be the end of its path. */
static void match_by_ending(
	struct coverage *cov, const struct compdb *db, const char *root, bool *ret)
{
	for (size_t i = 0; i < db->commands.n; i++) {
		const struct command *cmd = &db->commands.at[i];

		if (!path_under(cmd->physical, root))
			continue;
		vec_foreach (unit, &cov->units) {
			if (!path_ends_with(unit->path, path_below(cmd->physical, root)) ||
				!same_language(cmd, unit->language))
				continue;
			unit->recorded = true;
			ret[i] = true;
		}
	}
}

static bool any_recorded(const struct coverage *cov)
{
	vec_foreach (unit, &cov->units) {
		if (unit->recorded)
			return true;
	}
	return false;
}

struct suture_error *coverage_match(
	struct coverage *cov, const struct compdb *db, const char *root, bool *ret)
{
	struct index index = {};
	struct suture_error *err;

	memset(ret, 0, db->commands.n * sizeof(*ret));
	err = match_exactly(cov, db, &index, ret);
	index_deinit(&index);
	if (err)
		return err;
	if (!any_recorded(cov)) {
		cov->relocated = true;
		match_by_ending(cov, db, root, ret);
	}
	for (size_t i = 0; i < db->commands.n; i++) {
		/* Without -g a unit leaves no trace in the debug information. */
		if (!cov->complete || db->commands.at[i].broken || !db->commands.at[i].debug_info)
			ret[i] = true;
	}
	return NULL;
}

/* ---- what must not be missed ---- */

static bool is_same_file(
	const struct coverage *cov, const char *dwarf_path, const char *path, const char *below)
{
	_cleanup_free_ char *physical = NULL;

	if (strcmp(path_basename(dwarf_path), path_basename(path)) != 0)
		return false;
	physical = path_physical(dwarf_path);
	if (physical && strcmp(physical, path) == 0)
		return true;
	/* A path that leads nowhere was made elsewhere, or mapped. */
	return (cov->relocated || !physical || access(physical, F_OK) < 0) &&
	       path_ends_with(dwarf_path, below);
}

struct suture_error *coverage_missing(const char *source, const char *below)
{
	return error_hint(error_create(SUTURE_ERROR_COMPDB,
				  "the fix (%s) reaches %s, which is part of the target, but the "
				  "compilation database has no command for it",
				  below, source),
		"record the whole build again: make clean, then bear -- make");
}

static struct suture_error *check_unit(const struct coverage *cov, const struct coverage_unit *unit,
	const char *path, const char *below)
{
	Dwarf_Die die = unit->die;
	const char *dir = string_attribute(&die, DW_AT_comp_dir);
	Dwarf_Files *files;
	size_t n;

	if (is_same_file(cov, unit->path, path, below))
		return coverage_missing(unit->path, below);
	if (dwarf_getsrcfiles(&die, &files, &n) != 0)
		return NULL; /* no line table: assembler without debug information */
	for (size_t i = 0; i < n; i++) {
		const char *name = dwarf_filesrc(files, i, NULL, NULL);
		_cleanup_free_ char *file = name ? path_join(dir ? dir : "/", name) : NULL;

		if (file && is_same_file(cov, file, path, below))
			return coverage_missing(unit->path, below);
	}
	return NULL;
}

struct suture_error *coverage_check(const struct coverage *cov, const char *path, const char *below)
{
	vec_foreach (unit, &cov->units) {
		if (!unit->recorded)
			TRY(check_unit(cov, unit, path, below));
	}
	return NULL;
}

struct suture_error *coverage_unrecorded(const struct coverage *cov, struct strings *ret)
{
	vec_foreach (unit, &cov->units) {
		if (!unit->recorded && path_is_file(unit->path))
			TRY(strings_take(ret, path_physical(unit->path)));
	}
	return NULL;
}
