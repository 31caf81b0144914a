/* SPDX-License-Identifier: Apache-2.0 */
/* Running compilers, several at a time: see jobs.h. */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "build/jobs.h"
#include "build/path.h"

#define MAX_PARALLEL   64
#define CANCEL_POLL_MS 200  /* a cancelling signal may have interrupted another thread */
#define LOG_MAX	       4096 /* bytes of a compiler's messages that are reported */

extern char **environ;

void jobs_deinit(struct jobs *jobs)
{
	vec_foreach (job, &jobs->v) {
		strings_deinit(&job->argv);
		free(job->directory);
		free(job->log);
	}
	vec_free(&jobs->v);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* ---- environment ---- */

/* Set by us, or of a kind that makes a compiler write files or answer in another language. */
static bool is_ours(const char *variable)
{
	static const char *const names[] = {"LC_ALL=", "LANGUAGE=", "LANG=", "TMPDIR=", "PWD=",
		"CCACHE_DISABLE=", "GCC_COLORS=", "DEPENDENCIES_OUTPUT=", "SUNPRO_DEPENDENCIES=",
		"SOURCE_DATE_EPOCH="};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strncmp(variable, names[i], strlen(names[i])) == 0)
			return true;
	}
	return false;
}

static struct suture_error *add_variable(struct strings *env, const char *name, const char *value)
{
	char *s;

	if (asprintf(&s, "%s=%s", name, value) < 0)
		return error_nomem();
	return strings_take(env, s);
}

/* NULL-terminated in env->v.at. */
static struct suture_error *make_environment(
	const char *directory, const char *temp_dir, struct strings *env)
{
	const char *epoch = getenv("SOURCE_DATE_EPOCH");

	for (char **p = environ; *p; p++) {
		if (!is_ours(*p))
			TRY(strings_add(env, *p));
	}
	TRY(add_variable(env, "LC_ALL", "C"));
	TRY(add_variable(env, "TMPDIR", temp_dir));
	/* GCC takes the name of the directory from here, as it did in the recorded build. */
	TRY(add_variable(env, "PWD", directory));
	TRY(add_variable(env, "CCACHE_DISABLE", "1"));
	/* __DATE__ and __TIME__ must not tell before from after. */
	TRY(add_variable(env, "SOURCE_DATE_EPOCH", epoch ? epoch : "0"));
	return vec_push(&env->v, NULL) ? NULL : error_nomem();
}

/* ---- one child ---- */

static int add_actions(posix_spawn_file_actions_t *actions, const struct job *job)
{
	int flags = O_WRONLY | O_CREAT | O_TRUNC;
	int rc = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);

	if (!rc)
		rc = posix_spawn_file_actions_addopen(actions, 1, job->log, flags, 0600);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(actions, 1, 2);
	if (!rc)
		rc = posix_spawn_file_actions_addchdir_np(actions, job->directory);
	return rc;
}

/*
 * The caller's signal mask and ignored signals are none of the compiler's business. Each gets a
 * process group: a compiler driver has children of its own, which end with it.
 */
static int set_attributes(posix_spawnattr_t *attr)
{
	sigset_t none, defaults;

	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	sigaddset(&defaults, SIGCHLD);
	int rc = posix_spawnattr_setsigmask(attr, &none);
	if (!rc)
		rc = posix_spawnattr_setsigdefault(attr, &defaults);
	if (!rc)
		rc = posix_spawnattr_setpgroup(attr, 0);
	if (!rc)
		rc = posix_spawnattr_setflags(attr,
			POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	return rc;
}

static int spawn(struct job *job, char **argv, char **env)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;

	if (posix_spawn_file_actions_init(&actions) != 0)
		return ENOMEM;
	if (posix_spawnattr_init(&attr) != 0) {
		posix_spawn_file_actions_destroy(&actions);
		return ENOMEM;
	}
	int rc = add_actions(&actions, job);
	if (!rc)
		rc = set_attributes(&attr);
	if (!rc)
		rc = posix_spawnp(&job->pid, argv[0], &actions, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

/* NULL-terminate without counting the NULL as an argument. */
static char **argv_of(struct job *job)
{
	if (!vec_push(&job->argv.v, NULL))
		return NULL;
	job->argv.v.n--;
	return job->argv.v.at;
}

static struct suture_error *start(struct job *job, const char *temp_dir)
{
	_cleanup_strings_ struct strings env = {};
	char **argv = argv_of(job);

	TRY(make_environment(job->directory, temp_dir, &env));
	if (!argv)
		return error_nomem();
	job->seconds = now();
	job->start_errno = spawn(job, argv, env.v.at);
	if (job->start_errno)
		return NULL;
	job->pidfd = pidfd_open(job->pid, 0);
	if (job->pidfd < 0) {
		int errnum = errno;

		kill(-job->pid, SIGKILL);
		waitpid(job->pid, &job->status, 0);
		return error_errno(errnum, "cannot watch process %d", (int)job->pid);
	}
	return NULL;
}

static struct suture_error *reap(struct job *job)
{
	pid_t pid;

	do
		pid = waitpid(job->pid, &job->status, 0);
	while (pid < 0 && errno == EINTR);
	int errnum = errno;

	close(job->pidfd);
	job->seconds = now() - job->seconds;
	job->done = true;
	if (pid < 0)
		return error_errno(errnum, "cannot wait for %s", job->argv.v.at[0]);
	return NULL;
}

/* ---- many ---- */

static size_t parallel(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	size_t n = CPU_COUNT(&set);
	return n < 1 ? 1 : n > MAX_PARALLEL ? MAX_PARALLEL : n;
}

/* Wait until one of the running jobs ends, and put it to rest. */
static struct suture_error *wait_one(const struct suture *ctx, struct job **running, size_t *n)
{
	struct pollfd fds[MAX_PARALLEL];
	int rc;

	for (size_t i = 0; i < *n; i++)
		fds[i] = (struct pollfd){.fd = running[i]->pidfd, .events = POLLIN};
	do {
		TRY(check_cancelled(ctx));
		rc = poll(fds, *n, CANCEL_POLL_MS);
	} while (rc == 0 || (rc < 0 && errno == EINTR));
	if (rc < 0)
		return error_errno(errno, "cannot wait for the compilers");
	for (size_t i = *n; i-- > 0;) {
		if (!fds[i].revents)
			continue;
		struct job *job = running[i];

		running[i] = running[--*n];
		TRY(reap(job));
	}
	return NULL;
}

static void end_all(struct job **running, size_t n)
{
	for (size_t i = 0; i < n; i++)
		kill(-running[i]->pid, SIGKILL);
	for (size_t i = 0; i < n; i++)
		suture_error_destroy(reap(running[i]));
}

static bool any_failed(const struct jobs *jobs)
{
	vec_foreach (job, &jobs->v) {
		if (job_failed(job))
			return true;
	}
	return false;
}

static struct suture_error *run_all(const struct suture *ctx, struct jobs *jobs,
	const char *temp_dir, struct job **running, size_t *n)
{
	size_t max = parallel();

	vec_foreach (job, &jobs->v) {
		while (*n >= max)
			TRY(wait_one(ctx, running, n));
		if (any_failed(jobs))
			break;
		TRY(check_cancelled(ctx));
		TRY(start(job, temp_dir));
		if (!job->start_errno)
			running[(*n)++] = job;
	}
	while (*n)
		TRY(wait_one(ctx, running, n));
	return NULL;
}

struct suture_error *jobs_run(const struct suture *ctx, struct jobs *jobs, const char *temp_dir)
{
	struct job *running[MAX_PARALLEL];
	size_t n = 0;
	struct suture_error *err = run_all(ctx, jobs, temp_dir, running, &n);

	end_all(running, n);
	return err;
}

/* ---- messages ---- */

/* Cut every occurrence of root out of text, in place. */
static void cut_out(char *text, const char *root)
{
	size_t n = strlen(root);

	for (char *p = text; (p = strstr(p, root));)
		memmove(p, p + n, strlen(p + n) + 1);
}

static char *read_log(const struct job *job, const char *root)
{
	char *text;
	size_t size;
	struct suture_error *err = path_read_file(job->log, 64u << 20, &text, &size);

	if (err) {
		suture_error_destroy(err);
		return strdup("");
	}
	cut_out(text, root);
	size = strlen(text);
	if (size > LOG_MAX)
		size = LOG_MAX;
	while (size && strchr(" \t\r\n", text[size - 1]))
		size--;
	text[size] = '\0';
	return text;
}

struct suture_error *job_error(const struct job *job, const char *what, const char *root)
{
	const char *compiler = job->argv.v.at[0];

	if (job->start_errno == ENOENT)
		return error_hint(error_create(SUTURE_ERROR_COMPILE,
					  "%s: the compiler %s of the recorded build is not there",
					  what, compiler),
			"install the compiler that the target was built with");
	if (job->start_errno)
		return error_create(SUTURE_ERROR_COMPILE, "%s: cannot run %s: %s", what, compiler,
			strerror(job->start_errno));
	_cleanup_free_ char *log = read_log(job, root);
	if (WIFSIGNALED(job->status))
		return error_create(SUTURE_ERROR_COMPILE, "%s: %s was killed by signal %d", what,
			compiler, WTERMSIG(job->status));
	return error_create(SUTURE_ERROR_COMPILE, "%s: %s failed (status %d):\n%s", what, compiler,
		WEXITSTATUS(job->status), log ? log : "");
}
