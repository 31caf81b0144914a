/* SPDX-License-Identifier: Apache-2.0 */
/* A payload is put where every displacement reaches and nothing grows. */
#include "apply/room.h"
#include "../unit.h"

#define GIB (1ULL << 30)

struct entry {
	remote_addr start, end;
	const char *path;
};

static struct maps maps_of(const struct entry *list, size_t n)
{
	struct maps maps = {};

	for (size_t i = 0; i < n; i++) {
		struct map map = {.start = list[i].start, .end = list[i].end};

		map.path = strdup(list[i].path);
		assert_true(vec_push(&maps.v, map));
	}
	return maps;
}

static void check_reach(const struct room_request *r, remote_addr at)
{
	assert_int_equal(at % 4096, 0);
	assert_true(at + r->size - r->low < 2 * GIB || at < r->low);
	assert_true(r->high - at < 2 * GIB || at > r->high);
	if (r->fixed)
		assert_true(at + r->size <= 2 * GIB);
}

static void below_a_pie(void **state)
{
	(void)state;
	const struct entry list[] = {
		{0x555555554000, 0x555555560000, "/bin/x"},
		{0x555555561000, 0x555555582000, "[heap]"},
		{0x7ffff7d00000, 0x7ffff7e00000, "/lib/libc.so.6"},
		{0x7ffffffde000, 0x7ffffffff000, "[stack]"},
	};
	struct maps maps = maps_of(list, 4);
	struct room_request r = {"x", 0x555555554000, 0x555555560000, 0x5000, false, 65536};
	remote_addr at;

	assert_ok(room_find(&maps, &r, &at));
	check_reach(&r, at);
	/* One page stays free, and of the many addresses it is one that is known to be ours. */
	assert_true(at <= 0x555555554000 - 0x1000 - 0x5000);
	assert_true(at > 0x555555554000 - 0x1000 - 0x5000 - 64 * 0x1000);
	assert_true(room_is_marked(at));
	/* A second payload does not overlap the first. */
	assert_ok(room_take(&maps, at, at + r.size));
	remote_addr second;
	assert_ok(room_find(&maps, &r, &second));
	assert_true(second + r.size < at || second > at + r.size);
	maps_deinit(&maps);
}

static void fixed(void **state)
{
	(void)state;
	const struct entry list[] = {
		{0x400000, 0x500000, "/bin/x"},
		{0x1a00000, 0x1a21000, "[heap]"},
		{0x7ffff7d00000, 0x7ffff7e00000, "/lib/libc.so.6"},
	};
	struct maps maps = maps_of(list, 3);
	struct room_request r = {"x", 0x400000, 0x500000, 0x4000, true, 65536};
	remote_addr at;

	assert_ok(room_find(&maps, &r, &at));
	check_reach(&r, at);
	assert_true(at >= 65536 && at + r.size < 0x400000);

	/* Too large for the room below: after the heap, which keeps a distance to grow. */
	r.size = 32 << 20;
	assert_ok(room_find(&maps, &r, &at));
	check_reach(&r, at);
	assert_true(at >= 0x1a21000 + (128 << 20));
	maps_deinit(&maps);
}

static void no_heap_yet(void **state)
{
	(void)state;
	const struct entry list[] = {
		{0x10000, 0x400000, ""},
		{0x400000, 0x500000, "/bin/x"},
		{0x7ffff7d00000, 0x7ffff7e00000, "/lib/libc.so.6"},
	};
	struct maps maps = maps_of(list, 3);
	struct room_request r = {"x", 0x400000, 0x500000, 0x4000, true, 65536};
	remote_addr at;

	assert_ok(room_find(&maps, &r, &at));
	check_reach(&r, at);
	assert_true(at >= 0x500000 + (128 << 20));
	maps_deinit(&maps);
}

static void stack_above(void **state)
{
	(void)state;
	const struct entry list[] = {
		{0x7fff00000000, 0x7fff00100000, "/bin/x"},
		{0x7fff0a000000, 0x7fff0a021000, "[stack]"},
	};
	struct maps maps = maps_of(list, 2);
	struct room_request r = {"x", 0x7fff00000000, 0x7fff00100000, 0x4000, false, 65536};
	remote_addr at;

	assert_ok(room_find(&maps, &r, &at));
	check_reach(&r, at);
	assert_true(at + r.size + (128 << 20) <= 0x7fff0a000000);
	maps_deinit(&maps);
}

static void full(void **state)
{
	(void)state;
	const struct entry list[] = {
		{0x10000, 0x400000, ""},
		{0x400000, 0x500000, "/bin/x"},
		{0x500000, 0x180000000, ""},
	};
	struct maps maps = maps_of(list, 3);
	struct room_request r = {"x", 0x400000, 0x500000, 0x4000, true, 65536};
	remote_addr at = 1;

	assert_error(room_find(&maps, &r, &at), SUTURE_ERROR_NO_ROOM, "payload of x");
	assert_int_equal(at, 1);
	/* Not bound to absolute addresses, but the free part is too far away all the same. */
	r.fixed = false;
	assert_error(room_find(&maps, &r, &at), SUTURE_ERROR_NO_ROOM, "16 KiB");
	maps_deinit(&maps);
}

static void one_page_gaps(void **state)
{
	(void)state;
	const struct entry list[] = {
		{0x7ffff0000000, 0x7ffff0100000, "/lib/x"},
		{0x7ffff0106000, 0x7ffff0200000, "/lib/y"},
		{0x7ffff0206000, 0x7fffffffe000, ""},
	};
	struct maps maps = maps_of(list, 3);
	struct room_request r = {"x", 0x7ffff0000000, 0x7ffff0100000, 0x4000, false, 65536};
	remote_addr at;

	/* 6 pages: 4 of payload and one free on each side. */
	assert_ok(room_take(&maps, 0x7fff60000000, 0x7ffff0000000));
	assert_ok(room_find(&maps, &r, &at));
	assert_int_equal(at, 0x7ffff0101000);
	r.size = 0x5000;
	assert_error(room_find(&maps, &r, &at), SUTURE_ERROR_NO_ROOM, "20 KiB");
	maps_deinit(&maps);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(below_a_pie),
		cmocka_unit_test(fixed),
		cmocka_unit_test(no_heap_yet),
		cmocka_unit_test(stack_above),
		cmocka_unit_test(full),
		cmocka_unit_test(one_page_gaps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
