/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running the recorded compilers in the private copy: to list what a unit reads, and to compile it
 * without and with the fix. See capture.h.
 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "build/capture.h"
#include "build/path.h"

/* What a job is about. */
struct task {
	size_t command;
	int side;
	char *dep_file, *object;
};

struct tasks {
	VEC(struct task) v;
	struct jobs jobs; /* same order */
};

static void tasks_deinit(struct tasks *tasks)
{
	vec_foreach (task, &tasks->v) {
		free(task->dep_file);
		free(task->object);
	}
	vec_free(&tasks->v);
	jobs_deinit(&tasks->jobs);
}

struct suture_error *capture_directory(
	const struct capture *cap, const struct command *cmd, int side, char **ret)
{
	return shadow_path(&cap->shadow, side, cmd->directory, ret);
}

char *capture_original(const struct capture *cap, int side, const char *directory, const char *name)
{
	const char *root = shadow_side(&cap->shadow, side);
	_cleanup_free_ char *full = NULL, *real = NULL;

	if (asprintf(&full, "%s%s%s", name[0] == '/' ? "" : directory, name[0] == '/' ? "" : "/",
		    name) < 0)
		return NULL;
	real = realpath(full, NULL);
	if (!real)
		return strdup(full);
	return path_under(real, root) ? strdup(real + strlen(root)) : take(real);
}

/* ---- jobs ---- */

static char *numbered(const struct capture *cap, size_t n, int side, const char *extension)
{
	char *path;

	if (asprintf(&path, "%s/%zu%c%s", cap->object_dir, n, side == SHADOW_BEFORE ? 'a' : 'b',
		    extension) < 0)
		return NULL;
	return path;
}

char *capture_respell(const char *recorded, const char *old, const char *new)
{
	_cleanup_free_ char *dir = path_dirname(recorded);
	_cleanup_free_ char *old_dir = path_dirname(old), *new_dir = path_dirname(new);
	char *out;

	if (!dir || !old_dir || !new_dir)
		return NULL;
	if (strcmp(old_dir, new_dir) != 0)
		return strdup(new);
	if (strcmp(dir, ".") == 0)
		return strdup(path_basename(new));
	return asprintf(&out, "%s/%s", dir, path_basename(new)) < 0 ? NULL : out;
}

/* The source on that side when the fix renames it. NULL: it stays what it is. */
static struct suture_error *renamed_source(
	const struct capture *cap, const struct command *cmd, int side, char **ret)
{
	const struct change *old = changes_find(&cap->changes, cmd->physical);

	*ret = NULL;
	if (side == SHADOW_BEFORE || !old || !old->deleted)
		return NULL;
	vec_foreach (change, &cap->changes.v) {
		if (change->from == SIZE_MAX || &cap->changes.v.at[change->from] != old)
			continue;
		*ret = capture_respell(
			cmd->argv.v.at[cmd->source_at], old->physical, change->physical);
		return *ret ? NULL : error_nomem();
	}
	return NULL;
}

/*
 * object: whether to compile, or only to list dependencies. id: a number for its files. source:
 * what to compile instead of the recorded source, or NULL.
 */
static struct suture_error *add_task_of(struct capture *cap, struct tasks *tasks, size_t command,
	size_t id, int side, bool object, const char *source)
{
	const struct command *cmd = &cap->db.commands.at[command];
	struct task *task = vec_add(&tasks->v);
	struct job *job = vec_add(&tasks->jobs.v);

	if (!task || !job)
		return error_nomem();
	task->command = command;
	task->side = side;
	task->dep_file = numbered(cap, id, side, object ? ".d" : ".deps");
	task->object = object ? numbered(cap, id, side, ".o") : NULL;
	job->log = numbered(cap, id, side, object ? ".log" : ".deps.log");
	if (!task->dep_file || !job->log || (object && !task->object))
		return error_nomem();
	TRY(capture_directory(cap, cmd, side, &job->directory));
	struct cflags_job make = {
		.shadow = &cap->shadow,
		.side = side,
		.source = source,
		.object = task->object,
		.dep_file = task->dep_file,
	};
	return cflags_make(cmd, &make, &job->argv);
}

static struct suture_error *add_task(
	struct capture *cap, struct tasks *tasks, size_t command, int side, bool object)
{
	_cleanup_free_ char *source = NULL;

	TRY(renamed_source(cap, &cap->db.commands.at[command], side, &source));
	return add_task_of(cap, tasks, command, command, side, object, source);
}

static void log_jobs(const struct capture *cap, const struct jobs *jobs)
{
	vec_foreach (job, &jobs->v) {
		char *text = NULL;
		size_t size;
		FILE *f = open_memstream(&text, &size);

		for (size_t i = 0; f && i < job->argv.v.n; i++)
			fprintf(f, " %s", job->argv.v.at[i]);
		if (f)
			fclose(f);
		log_debug(cap->ctx, "in %s:%s", job->directory, text ? text : "");
		free(text);
	}
}

static struct suture_error *check_jobs(struct capture *cap, const struct tasks *tasks)
{
	for (size_t i = 0; i < tasks->jobs.v.n; i++) {
		const struct task *task = &tasks->v.at[i];
		const struct command *cmd = &cap->db.commands.at[task->command];
		_cleanup_free_ char *what = NULL;

		if (!job_failed(&tasks->jobs.v.at[i]))
			continue;
		if (asprintf(&what, "%s %s the fix", cmd->file,
			    task->side == SHADOW_BEFORE ? "without" : "with") < 0)
			return error_nomem();
		cap->escaped |= task->side == SHADOW_AFTER;
		struct suture_error *err = job_error(
			&tasks->jobs.v.at[i], what, shadow_side(&cap->shadow, task->side));
		if (!suture_error_hint(err) && task->side == SHADOW_BEFORE)
			err = error_hint(err, "the build directory must be as the recorded build "
					      "left it, generated headers included");
		return err;
	}
	return NULL;
}

static struct suture_error *run_tasks(struct capture *cap, struct tasks *tasks)
{
	log_jobs(cap, &tasks->jobs);
	TRY(jobs_run(cap->ctx, &tasks->jobs, cap->temp_dir));
	vec_foreach (job, &tasks->jobs.v)
		cap->units->compile_seconds += job->done ? job->seconds : 0;
	return check_jobs(cap, tasks);
}

/* ---- what a unit reads ---- */

/* Mark the changes that a job read; *ret_any: it read one. */
static struct suture_error *mark_reached(
	struct capture *cap, const struct task *task, const struct job *job, bool *ret_any)
{
	_cleanup_strings_ struct strings deps = {};

	TRY(includes_read_deps(task->dep_file, &deps));
	vec_foreach (dep, &deps.v) {
		_cleanup_free_ char *original =
			capture_original(cap, task->side, job->directory, *dep);
		if (!original)
			return error_nomem();
		struct change *change = changes_find(&cap->changes, original);
		if (change) {
			change->reached = true;
			*ret_any = true;
		}
	}
	return NULL;
}

/* Whether the source is there on a side: the fix may bring it, rename it or take it away. */
static struct suture_error *has_source(
	const struct capture *cap, const struct command *cmd, int side, bool *ret)
{
	const struct change *change = changes_find(&cap->changes, cmd->physical);
	_cleanup_free_ char *renamed = NULL;

	TRY(renamed_source(cap, cmd, side, &renamed));
	*ret = side == SHADOW_BEFORE || !change || !change->deleted || renamed;
	return NULL;
}

static struct suture_error *confirm(
	struct capture *cap, struct tasks *tasks, int side, const bool *ask)
{
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		bool there = false;

		if (ask[i])
			TRY(has_source(cap, &cap->db.commands.at[i], side, &there));
		if (there)
			TRY(add_task(cap, tasks, i, side, false));
	}
	TRY(run_tasks(cap, tasks));
	for (size_t i = 0; i < tasks->v.n; i++) {
		const struct task *task = &tasks->v.at[i];
		bool any = false;

		TRY(mark_reached(cap, task, &tasks->jobs.v.at[i], &any));
		if (any || side == SHADOW_BEFORE)
			cap->affected[task->command] = any;
	}
	return NULL;
}

struct suture_error *capture_confirm(struct capture *cap, int side, const bool *ask)
{
	struct tasks tasks = {};
	struct suture_error *err = confirm(cap, &tasks, side, ask);

	tasks_deinit(&tasks);
	return err;
}

/* ---- compiling ---- */

/*
 * A path that led out of the private copy and back into the original has compiled the unfixed file
 * on the after side.
 */
static struct suture_error *check_escape(
	struct capture *cap, const struct task *task, const struct job *job)
{
	const char *root = shadow_side(&cap->shadow, SHADOW_AFTER);
	_cleanup_strings_ struct strings deps = {};

	TRY(includes_read_deps(task->dep_file, &deps));
	vec_foreach (dep, &deps.v) {
		_cleanup_free_ char *full = NULL, *real = NULL;

		if (asprintf(&full, "%s%s%s", **dep == '/' ? "" : job->directory,
			    **dep == '/' ? "" : "/", *dep) < 0)
			return error_nomem();
		real = realpath(full, NULL);
		if (!real)
			continue;
		const struct change *change = changes_find(&cap->changes, real);
		if (!change || (change->may_be_read && !change->applied))
			continue;
		cap->escaped = true;
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s reads %s by a path that cannot be redirected to the private "
			"copy: %s",
			cap->db.commands.at[task->command].file, change->below,
			path_under(full, root) ? full + strlen(root) : full);
	}
	return NULL;
}

static bool several_commands(const struct capture *cap, size_t command)
{
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		if (i != command && cap->affected[i] &&
			strcmp(cap->db.commands.at[i].physical,
				cap->db.commands.at[command].physical) == 0)
			return true;
	}
	return false;
}

static char *copy_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

static struct suture_error *add_unit(struct capture *cap, size_t command, struct unit **ret)
{
	const struct command *cmd = &cap->db.commands.at[command];
	struct unit *unit = vec_add(&cap->units->v);

	if (!unit || !vec_push(&cap->unit_commands, command))
		return error_nomem();
	*unit = (struct unit){
		.source = strdup(cmd->file),
		.name = cflags_debug_path(cmd, cmd->argv.v.at[cmd->source_at]),
		.directory = cflags_debug_path(cmd, cmd->directory),
		.output = copy_or_null(cmd->output),
		.compiler = strdup(cmd->argv.v.at[0]),
		.optional = several_commands(cap, command),
	};
	*ret = unit;
	bool ok = unit->source && unit->name && unit->directory && unit->compiler &&
		  !unit->output == !cmd->output;
	return ok ? NULL : error_nomem();
}

/* Results, in the order of the tasks: one or two per unit. */
static struct suture_error *collect_units(struct capture *cap, struct tasks *tasks)
{
	struct unit *unit = NULL;
	size_t last = SIZE_MAX;

	for (size_t i = 0; i < tasks->v.n; i++) {
		struct task *task = &tasks->v.at[i];

		if (task->side == SHADOW_AFTER)
			TRY(check_escape(cap, task, &tasks->jobs.v.at[i]));
		if (task->command != last)
			TRY(add_unit(cap, task->command, &unit));
		last = task->command;
		*(task->side == SHADOW_BEFORE ? &unit->before : &unit->after) = take(task->object);
	}
	return NULL;
}

static struct suture_error *compile(struct capture *cap, struct tasks *tasks)
{
	for (size_t i = 0; i < cap->db.commands.n; i++) {
		for (int side = 0; side < SHADOW_SIDES && cap->affected[i]; side++) {
			bool there;

			TRY(has_source(cap, &cap->db.commands.at[i], side, &there));
			if (there)
				TRY(add_task(cap, tasks, i, side, true));
		}
	}
	TRY(run_tasks(cap, tasks));
	return collect_units(cap, tasks);
}

struct suture_error *capture_compile(struct capture *cap)
{
	struct tasks tasks = {};
	struct suture_error *err = compile(cap, &tasks);

	tasks_deinit(&tasks);
	return err;
}

static struct suture_error *compile_other(struct capture *cap, struct tasks *tasks, size_t command,
	size_t id, const char *source, char **ret)
{
	TRY(add_task_of(cap, tasks, command, id, SHADOW_AFTER, true, source));
	log_jobs(cap, &tasks->jobs);
	TRY(jobs_run(cap->ctx, &tasks->jobs, cap->temp_dir));
	struct job *job = &tasks->jobs.v.at[0];
	if (job_failed(job))
		return NULL;
	cap->units->compile_seconds += job->seconds;
	TRY(check_escape(cap, &tasks->v.at[0], job));
	*ret = take(tasks->v.at[0].object);
	return NULL;
}

struct suture_error *capture_compile_other(
	struct capture *cap, size_t command, size_t id, const char *source, char **ret)
{
	struct tasks tasks = {};

	*ret = NULL;
	struct suture_error *err = compile_other(cap, &tasks, command, id, source, ret);
	tasks_deinit(&tasks);
	return err;
}
