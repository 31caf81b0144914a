/* SPDX-License-Identifier: Apache-2.0 */
/* The private copy: what is real in it, what is a link, and that the original is never written. */
#include "build/shadow.h"

#include <sys/stat.h>

#include "scratch.h"

struct copy {
	struct tree tree;
	struct shadow shadow;
	const char *dir; /* the original */
};

/* A copy of `dir`/src; `real`: the only real directory below, or NULL for all. */
static void copy_init(struct copy *copy, const char *dir, const char *real)
{
	_cleanup_strings_ struct strings directories = {};

	*copy = (struct copy){.dir = dir};
	assert_ok(path_make_directory(scratch_path(dir, "work")));
	assert_ok(tree_read(scratch_path(dir, "src"), &copy->tree));
	assert_ok(shadow_init(&copy->shadow, scratch_path(dir, "work"), false));
	assert_ok(shadow_add(&copy->shadow, &copy->tree));
	if (real)
		assert_ok(strings_add(&directories, scratch_path(dir, real)));
	assert_ok(shadow_build(&copy->shadow, real ? &directories : NULL));
}

static void copy_deinit(struct copy *copy)
{
	shadow_deinit(&copy->shadow);
	tree_deinit(&copy->tree);
}
#define _cleanup_copy_ __attribute__((cleanup(copy_deinit)))

static int source_setup(void **state)
{
	if (scratch_setup(state))
		return -1;
	scratch_write(*state, "src/a/x.c", "x");
	scratch_write(*state, "src/a/deep/y.h", "y");
	scratch_write(*state, "src/b/z.h", "z");
	scratch_write(*state, "src/b/z.o", "object");
	scratch_write(*state, "src/.git/config", "git");
	scratch_write(*state, "beside/w.h", "w");
	return scratch_run(*state, "ln -s ../b/z.h src/a/link.h && ln -s b src/dirlink && "
				   "ln -s /nonexistent src/dangling && ln -s src alias");
}

/* Path of an original file on a side; valid as scratch_path's are. */
static const char *on(const struct copy *copy, int side, const char *name)
{
	char original[4096];

	snprintf(original, sizeof(original), "%s/%s", copy->dir, name);
	return scratch_path(shadow_side(&copy->shadow, side), original + 1);
}

static bool is(const char *path, mode_t type)
{
	struct stat st;

	return lstat(path, &st) == 0 && (st.st_mode & S_IFMT) == type;
}

static void assert_content(const char *path, const char *want)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	assert_ok(path_read_file(path, 1 << 16, &text, &size));
	assert_string_equal(text, want);
}

static void whole_copy(void **state)
{
	_cleanup_copy_ struct copy copy;

	copy_init(&copy, *state, NULL);
	for (int side = 0; side < SHADOW_SIDES; side++) {
		assert_true(is(on(&copy, side, "src/a/deep"), S_IFDIR));
		assert_true(is(on(&copy, side, "src/b"), S_IFDIR));
		assert_true(is(on(&copy, side, "src/a/x.c"), S_IFLNK));
		assert_content(on(&copy, side, "src/a/x.c"), "x");
		assert_content(on(&copy, side, "src/a/../../beside/w.h"), "w");
		assert_false(path_is_file(on(&copy, side, "src/b/z.o")));
		assert_false(path_is_directory(on(&copy, side, "src/.git")));
		/* Links of the original lead to the copy. */
		_cleanup_free_ char *real = realpath(on(&copy, side, "src/dirlink"), NULL);
		assert_non_null(real);
		assert_string_equal(real, on(&copy, side, "src/b"));
	}
}

static void changing(void **state)
{
	_cleanup_copy_ struct copy copy;
	struct timespec time = {.tv_sec = 12345};
	struct stat st;

	copy_init(&copy, *state, NULL);
	assert_ok(shadow_put(&copy.shadow, scratch_path(*state, "src/b/z.h"), "new", 3, time));
	assert_ok(shadow_put(&copy.shadow, scratch_path(*state, "src/new/dir/n.h"), "n", 1, time));
	assert_ok(shadow_remove(&copy.shadow, scratch_path(*state, "src/a/x.c")));
	assert_content(on(&copy, SHADOW_AFTER, "src/b/z.h"), "new");
	assert_content(on(&copy, SHADOW_AFTER, "src/a/link.h"), "new");
	assert_content(on(&copy, SHADOW_AFTER, "src/dirlink/z.h"), "new");
	assert_content(on(&copy, SHADOW_AFTER, "src/new/dir/n.h"), "n");
	assert_int_equal(stat(on(&copy, SHADOW_AFTER, "src/b/z.h"), &st), 0);
	assert_int_equal(st.st_mtim.tv_sec, 12345);
	assert_false(path_is_file(on(&copy, SHADOW_AFTER, "src/a/x.c")));
	/* neither the other side nor the original */
	assert_content(on(&copy, SHADOW_BEFORE, "src/b/z.h"), "z");
	assert_content(scratch_path(*state, "src/b/z.h"), "z");
	assert_content(scratch_path(*state, "src/a/x.c"), "x");
	assert_false(path_is_directory(scratch_path(*state, "src/new")));
}

static void never_through_a_link(void **state)
{
	_cleanup_copy_ struct copy copy;
	struct timespec time = {};

	copy_init(&copy, *state, "src/a");
	assert_true(is(on(&copy, SHADOW_AFTER, "src/a"), S_IFDIR));
	assert_true(is(on(&copy, SHADOW_AFTER, "src/b"), S_IFLNK));
	assert_true(is(on(&copy, SHADOW_AFTER, "src/a/deep"), S_IFLNK));
	assert_ok(shadow_put(&copy.shadow, scratch_path(*state, "src/a/x.c"), "new", 3, time));
	assert_error(shadow_put(&copy.shadow, scratch_path(*state, "src/b/z.h"), "new", 3, time),
		SUTURE_ERROR_INTERNAL, "outside the private copy");
	assert_error(
		shadow_put(&copy.shadow, scratch_path(*state, "src/a/deep/new/n"), "n", 1, time),
		SUTURE_ERROR_INTERNAL, "outside the private copy");
	assert_error(shadow_remove(&copy.shadow, scratch_path(*state, "src/b/z.h")),
		SUTURE_ERROR_INTERNAL, "outside the private copy");
	assert_error(shadow_put(&copy.shadow, scratch_path(*state, "beside/w.h"), "new", 3, time),
		SUTURE_ERROR_INTERNAL, "outside the private copy");
	assert_content(scratch_path(*state, "src/b/z.h"), "z");
	assert_content(scratch_path(*state, "beside/w.h"), "w");
}

static void assert_path(const struct copy *copy, const char *path, const char *want)
{
	_cleanup_free_ char *out = NULL;

	assert_ok(shadow_path(&copy->shadow, SHADOW_AFTER, path, &out));
	assert_string_equal(out, want);
}

static void paths(void **state)
{
	_cleanup_copy_ struct copy copy;
	struct timespec time = {};

	copy_init(&copy, *state, NULL);
	assert_path(&copy, scratch_path(*state, "src/a/x.c"), on(&copy, SHADOW_AFTER, "src/a/x.c"));
	assert_path(&copy, scratch_path(*state, "src/not/there"),
		on(&copy, SHADOW_AFTER, "src/not/there"));
	assert_path(&copy, scratch_path(*state, "beside/w.h"), scratch_path(*state, "beside/w.h"));
	assert_path(&copy, "/usr/include", "/usr/include");
	/* Another name of the tree leads to the same copy, under its own name. */
	assert_path(
		&copy, scratch_path(*state, "alias/b/z.h"), on(&copy, SHADOW_AFTER, "alias/b/z.h"));
	assert_ok(shadow_put(&copy.shadow, scratch_path(*state, "src/b/z.h"), "new", 3, time));
	assert_content(on(&copy, SHADOW_AFTER, "alias/b/z.h"), "new");
	assert_content(on(&copy, SHADOW_BEFORE, "alias/b/z.h"), "z");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, source_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(whole_copy),
		TEST(changing),
		TEST(never_through_a_link),
		TEST(paths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
