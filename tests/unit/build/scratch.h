/* SPDX-License-Identifier: Apache-2.0 */
/* A directory of its own for a test, removed afterwards; files in it; commands run in it. */
#ifndef TESTS_BUILD_SCRATCH_H
#define TESTS_BUILD_SCRATCH_H

#include <stdio.h>

#include "../unit.h"
#include "base/cleanup.h"
#include "build/path.h"

static inline int scratch_setup(void **state)
{
	char template[] = "/tmp/suture-unit-XXXXXX";

	*state = mkdtemp(template) ? realpath(template, NULL) : NULL;
	return *state ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
	path_remove_tree(*state);
	free(*state);
	return 0;
}

/* Valid until the eighth next call. */
static inline const char *scratch_path(const char *dir, const char *name)
{
	static char paths[8][4096];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

static inline void scratch_write(const char *dir, const char *name, const char *text)
{
	const char *path = scratch_path(dir, name);
	_cleanup_free_ char *parent = path_dirname(path);

	assert_ok(path_make_directory(parent));
	unlink(path);
	assert_ok(path_write_file(path, text, strlen(text)));
}

static inline int scratch_run(const char *dir, const char *command)
{
	_cleanup_free_ char *line = NULL;

	assert_true(asprintf(&line, "cd '%s' && { %s; }", dir, command) > 0);
	return system(line);
}

#endif
