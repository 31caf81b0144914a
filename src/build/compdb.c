/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the recorded build: see compdb.h. */
#include <jansson.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/cflags.h"
#include "build/compdb.h"
#include "build/path.h"
#include "build/strmap.h"

bool compdb_language_of(const char *file, enum language *ret)
{
	static const struct {
		const char *extension;
		enum language language;
	} known[] = {
		{".c", LANGUAGE_C},
		{".i", LANGUAGE_C},
		{".cc", LANGUAGE_CXX},
		{".cpp", LANGUAGE_CXX},
		{".cxx", LANGUAGE_CXX},
		{".c++", LANGUAGE_CXX},
		{".cp", LANGUAGE_CXX},
		{".CPP", LANGUAGE_CXX},
		{".C", LANGUAGE_CXX},
		{".ii", LANGUAGE_CXX},
		{".s", LANGUAGE_ASSEMBLER},
		{".S", LANGUAGE_ASSEMBLER},
		{".sx", LANGUAGE_ASSEMBLER},
		{".m", LANGUAGE_OTHER},
		{".mm", LANGUAGE_OTHER},
		{".f", LANGUAGE_OTHER},
		{".f90", LANGUAGE_OTHER},
		{".F", LANGUAGE_OTHER},
		{".d", LANGUAGE_OTHER},
		{".go", LANGUAGE_OTHER},
		{".rs", LANGUAGE_OTHER},
		{".cu", LANGUAGE_OTHER},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(path_extension(file), known[i].extension) == 0) {
			*ret = known[i].language;
			return true;
		}
	}
	return false;
}

static void command_deinit(struct command *cmd)
{
	free(cmd->directory);
	free(cmd->file);
	free(cmd->physical);
	free(cmd->output);
	strings_deinit(&cmd->argv);
	suture_error_destroy(cmd->broken);
	*cmd = (struct command){};
}

void compdb_deinit(struct compdb *db)
{
	vec_foreach (cmd, &db->commands)
		command_deinit(cmd);
	vec_free(&db->commands);
	free(db->path);
	*db = (struct compdb){};
}

static const char *string_member(const json_t *entry, const char *key)
{
	return json_string_value(json_object_get(entry, key));
}

static struct suture_error *read_argv(const json_t *entry, struct strings *argv)
{
	const json_t *arguments = json_object_get(entry, "arguments"), *arg;
	const char *command = string_member(entry, "command");
	size_t i;

	if (!json_is_array(arguments)) {
		if (!command)
			return error_create(SUTURE_ERROR_COMPDB,
				"neither \"arguments\" nor \"command\" is there");
		return shell_split(command, argv);
	}
	json_array_foreach(arguments, i, arg)
	{
		if (!json_is_string(arg))
			return error_create(SUTURE_ERROR_COMPDB, "argument %zu is not a string", i);
		TRY(strings_add(argv, json_string_value(arg)));
	}
	return NULL;
}

/* What only matters when this entry is needed: a failure is kept in cmd->broken. */
static struct suture_error *read_command_line(const json_t *entry, struct command *cmd)
{
	TRY(read_argv(entry, &cmd->argv));
	TRY(shell_expand_response_files(&cmd->argv, cmd->directory));
	return cflags_examine(cmd);
}

static struct suture_error *read_entry(const json_t *entry, const char *base, struct command *cmd)
{
	const char *directory = string_member(entry, "directory");
	const char *file = string_member(entry, "file");
	const char *output = string_member(entry, "output");

	if (!directory || !file)
		return error_create(SUTURE_ERROR_COMPDB,
			"\"directory\" and \"file\" must be there, and be strings");
	cmd->directory = path_join(base, directory);
	cmd->file = cmd->directory ? path_join(cmd->directory, file) : NULL;
	cmd->output = output ? strdup(output) : NULL;
	if (!cmd->file || (output && !cmd->output))
		return error_nomem();
	if (!path_is_file(cmd->file))
		return NULL;
	cmd->physical = path_physical(cmd->file);
	if (!cmd->physical)
		return error_nomem();
	cmd->broken = read_command_line(entry, cmd);
	cmd->broken = error_wrap(cmd->broken, "the entry of %s", cmd->file);
	return NULL;
}

/* All that makes the object what it is, in one string. */
static char *fingerprint(const struct command *cmd)
{
	_cleanup_strings_ struct strings flags = {};
	size_t size = strlen(cmd->directory) + strlen(cmd->file) + 3;

	if (cflags_identity(cmd, &flags))
		return NULL;
	vec_foreach (flag, &flags.v)
		size += strlen(*flag) + 1;
	char *key = malloc(size), *p = key;
	if (!key)
		return NULL;
	p = stpcpy(stpcpy(stpcpy(p, cmd->directory), "\n"), cmd->file);
	vec_foreach (flag, &flags.v)
		p = stpcpy(stpcpy(p, "\n"), *flag);
	return key;
}

static struct suture_error *add_entry(
	const json_t *entry, const char *base, struct strmap *seen, struct compdb *db)
{
	struct command cmd = {};
	struct suture_error *err = read_entry(entry, base, &cmd);
	bool keep = !err && cmd.physical;

	if (keep && !cmd.broken) {
		_cleanup_free_ char *key = fingerprint(&cmd);
		size_t before = seen->n;

		if (!key || !strmap_add(seen, key, 0))
			err = error_nomem();
		keep = seen->n != before;
	}
	if (!err && keep) {
		if (vec_push(&db->commands, cmd))
			return NULL;
		err = error_nomem();
	}
	command_deinit(&cmd);
	return err;
}

static struct suture_error *read_entries(const json_t *root, struct compdb *db)
{
	_cleanup_strmap_ struct strmap seen = {};
	_cleanup_free_ char *base = path_dirname(db->path);
	const json_t *entry;
	size_t i;

	if (!base)
		return error_nomem();
	if (!json_is_array(root))
		return error_create(SUTURE_ERROR_COMPDB,
			"%s is not a compilation database: an array is expected", db->path);
	json_array_foreach(root, i, entry)
	{
		TRY(error_wrap(add_entry(entry, base, &seen, db), "%s, entry %zu", db->path, i));
	}
	if (!db->commands.n)
		return error_hint(error_create(SUTURE_ERROR_COMPDB,
					  "%s has no entry whose source exists (entries: %zu)",
					  db->path, json_array_size(root)),
			"record a full build: make clean, then bear -- make");
	return NULL;
}

static struct suture_error *find(const char *path, char **ret)
{
	_cleanup_free_ char *real = realpath(path, NULL);

	if (!real)
		return error_create(SUTURE_ERROR_COMPDB,
			"cannot find the compilation database %s: %s", path, strerror(errno));
	if (!path_is_directory(real)) {
		*ret = take(real);
		return NULL;
	}
	*ret = path_join(real, "compile_commands.json");
	if (!*ret)
		return error_nomem();
	if (access(*ret, F_OK) == 0)
		return NULL;
	free(*ret);
	return error_hint(
		error_create(SUTURE_ERROR_COMPDB, "there is no compile_commands.json in %s", path),
		"record a full build with bear -- make, or let cmake or meson write it");
}

static struct suture_error *read_db(struct compdb *db)
{
	json_error_t error;
	json_t *root = json_load_file(db->path, 0, &error);

	if (!root)
		return error_create(
			SUTURE_ERROR_COMPDB, "%s, line %d: %s", db->path, error.line, error.text);
	struct suture_error *err = read_entries(root, db);
	json_decref(root);
	return err;
}

struct suture_error *compdb_read(const char *path, struct compdb *ret)
{
	struct compdb db = {};

	TRY(find(path, &db.path));
	struct suture_error *err = read_db(&db);
	if (err) {
		compdb_deinit(&db);
		return err;
	}
	*ret = db;
	return NULL;
}
