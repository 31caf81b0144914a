/* SPDX-License-Identifier: Apache-2.0 */
/* Small programs that a test compiles, links and strips in a directory of its own. */
#ifndef TESTS_ELF_BUILD_H
#define TESTS_ELF_BUILD_H

#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../unit.h"

static char work_dir[64];

static inline int work_dir_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	snprintf(work_dir, sizeof(work_dir), "%.40s/suture-elf-XXXXXX", tmp ? tmp : "/tmp");
	return mkdtemp(work_dir) ? 0 : -1;
}

static inline int work_dir_teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", work_dir);
	return system(command);
}

/* A shell command in the work directory; true when it succeeds. */
__attribute__((format(printf, 1, 2))) static inline bool try_sh(const char *fmt, ...)
{
	char command[1024];
	int n = snprintf(command, sizeof(command), "cd '%s' && ", work_dir);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command + n, sizeof(command) - n, fmt, ap);
	va_end(ap);
	return system(command) == 0;
}
#define sh(...) assert_true(try_sh(__VA_ARGS__))

static inline bool have_tool(const char *name)
{
	return try_sh("command -v %s >/dev/null", name);
}

/* Path in the work directory; a static buffer, four of them in turn. */
static inline const char *in_dir(const char *name)
{
	static char paths[4][256];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", work_dir, name);
	return path;
}

static inline void write_file(const char *name, const char *text)
{
	FILE *f = fopen(in_dir(name), "w");

	assert_non_null(f);
	assert_int_equal(fputs(text, f) < 0, 0);
	assert_int_equal(fclose(f), 0);
}

#endif
