/* SPDX-License-Identifier: Apache-2.0 */
/* /proc's texts are parsed whatever names a target chose, and malformed ones are refused. */
#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include "../unit.h"
#include "process/internal.h"

static void maps_with_odd_names(void **state)
{
	(void)state;
	static const char text[] =
		"5583a0000000-5583a0001000 r-xp 00002000 fe:01 1234                       "
		"/usr/bin/a b\n"
		"5583a0001000-5583a0002000 rw-p 00000000 00:00 0 \n"
		"5583a0002000-5583a0003000 ---p 00000000 00:00 0\n"
		"7f0000000000-7f0000001000 r--s 00001000 103:2a 18446744073709551615 "
		"/tmp/new\\012line (deleted)\n"
		"7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          "
		"[stack]\n"
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  "
		"[vsyscall]\n";
	struct maps maps;

	assert_ok(maps_parse(text, &maps));
	assert_int_equal(maps.v.n, 6);
	const struct map *m = maps.v.at;
	assert_int_equal(m[0].start, 0x5583a0000000);
	assert_int_equal(m[0].end, 0x5583a0001000);
	assert_int_equal(m[0].offset, 0x2000);
	assert_int_equal(m[0].inode, 1234);
	assert_int_equal(m[0].dev_major, 0xfe);
	assert_int_equal(m[0].dev_minor, 1);
	assert_true(m[0].r && !m[0].w && m[0].x && !m[0].shared);
	assert_string_equal(m[0].path, "/usr/bin/a b");
	assert_string_equal(m[1].path, "");
	assert_true(m[1].r && m[1].w && !m[1].x);
	assert_true(!m[2].r && !m[2].w && !m[2].x);
	assert_string_equal(m[3].path, "/tmp/new\nline (deleted)");
	assert_true(m[3].shared);
	assert_int_equal(m[3].dev_major, 0x103);
	assert_true(m[3].inode == UINT64_MAX);
	assert_string_equal(m[4].path, "[stack]");
	assert_int_equal(m[5].end, 0xffffffffff601000);

	assert_ptr_equal(maps_find(&maps, 0x5583a0000000), &m[0]);
	assert_ptr_equal(maps_find(&maps, 0x5583a0000fff), &m[0]);
	assert_ptr_equal(maps_find(&maps, 0x5583a0001000), &m[1]);
	assert_null(maps_find(&maps, 0x5583a0003000));
	assert_null(maps_find(&maps, 0));
	assert_ptr_equal(maps_find(&maps, 0xffffffffff600fff), &m[5]);
	assert_null(maps_find(&maps, UINT64_MAX));
	maps_deinit(&maps);
	assert_null(maps_find(&maps, 0));
}

static void empty_maps(void **state)
{
	(void)state;
	struct maps maps;

	assert_ok(maps_parse("", &maps));
	assert_int_equal(maps.v.n, 0);
	maps_deinit(&maps);
}

static void malformed_maps(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"x\n",
		"\n",
		"1000-2000 r-xp 0 0:0 0", /* no newline */
		"1000-2000\n",
		"1000 2000 r-xp 0 0:0 0\n",
		"1000-2000 r-xp 0 0:0\n",
		"1000-2000 r-xp 0 0:0 \n2000-3000 r-xp 0 0:0 0\n",
		"1000-2000 r-xq 0 0:0 0\n",
		"1000-2000 rwxp0 0 0:0 0\n",
		"1000-2000 r-x\n",
		"-1000-2000 r-xp 0 0:0 0\n",
		"1000-10000000000002000 r-xp 0 0:0 0\n",
		"2000-1000 r-xp 0 0:0 0\n",
		"1000-1000 r-xp 0 0:0 0\n",
		"1000-2000 r-xp 0 100000000:0 0\n",
		"1000-2000 r-xp 0 0:0 18446744073709551616\n",
		"1000-2000 r-xp 0 0:0 1x\n",
		"1000-3000 r-xp 0 0:0 0\n2000-4000 r-xp 0 0:0 0\n",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct maps maps = {};
		struct suture_error *err = maps_parse(bad[i], &maps);

		if (!err)
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(suture_error_code(err), SUTURE_ERROR_INPUT);
		assert_null(maps.v.at);
		suture_error_destroy(err);
	}
}

static const char stat_tail[] = " 1 2 3 -1 0 4194560 5 0 0 0 1 2 0 0 20 0 7 0 12345 8192 9 "
				"18446744073709551615 100 200 300 0 0 0 0 4096 0 0 0 0 17 0 0 0 "
				"0 0 0 400 500 600 700 800 900 1000 0\n";

static void stat_line(void **state)
{
	(void)state;
	struct proc_stat s;
	char text[1024];

	snprintf(text, sizeof(text), "42 (a) b (c) S%s", stat_tail);
	assert_true(proc_stat_parse(text, &s));
	assert_string_equal(s.comm, "a) b (c");
	assert_int_equal(s.state, 'S');
	assert_int_equal(s.ppid, 1);
	assert_int_equal(s.flags, 4194560);
	assert_int_equal(s.num_threads, 7);
	assert_int_equal(s.start_time, 12345);
	assert_int_equal(s.vsize, 8192);
	assert_int_equal(s.image.start_code, 100);
	assert_int_equal(s.image.end_code, 200);
	assert_int_equal(s.image.start_stack, 300);
	assert_int_equal(s.image.start_data, 400);

	/* Kernel threads have longer names. */
	snprintf(text, sizeof(text), "42 (kworker/u8:3-events_unbound) I%s", stat_tail);
	assert_true(proc_stat_parse(text, &s));
	assert_string_equal(s.comm, "kworker/u8:3-ev");
}

static void malformed_stat(void **state)
{
	(void)state;
	struct proc_stat s;

	assert_false(proc_stat_parse("", &s));
	assert_false(proc_stat_parse("42 (x", &s));
	assert_false(proc_stat_parse("42 )x( S 1", &s));
	assert_false(proc_stat_parse("42 (x)", &s));
	assert_false(proc_stat_parse("42 (x) S", &s));
	assert_false(proc_stat_parse("42 (x) S 1 2 3\n", &s));
	assert_false(proc_stat_parse("42 (x) S 1 2 3 x\n", &s));
}

static void status_fields(void **state)
{
	(void)state;
	static const char text[] = "Name:\tTgid: 7\nTgid:\t42\nTracerPid:\t0\nSigBlk:\tff00\n"
				   "Bad:\t\nHuge:\t99999999999999999999\n";
	uint64_t v = 1;

	assert_true(proc_status_number(text, "Tgid", 10, &v));
	assert_int_equal(v, 42);
	assert_true(proc_status_number(text, "TracerPid", 10, &v));
	assert_int_equal(v, 0);
	assert_true(proc_status_number(text, "SigBlk", 16, &v));
	assert_int_equal(v, 0xff00);
	assert_false(proc_status_number(text, "Huge", 10, &v));
	assert_false(proc_status_number(text, "Sig", 10, &v));
	assert_false(proc_status_number("", "Sig", 10, &v));
}

static void auxv_width(void **state)
{
	(void)state;
	static const Elf64_auxv_t wide[] = {
		{AT_SYSINFO_EHDR, {0x7fff12345000}}, {AT_PAGESZ, {4096}}, {AT_NULL, {0}}};
	static const Elf32_auxv_t narrow[] = {{AT_SYSINFO, {0xf7f11000}}, {AT_PAGESZ, {4096}},
		{AT_PHDR, {0x8048034}}, {AT_NULL, {0}}};

	assert_int_equal(auxv_bits(wide, sizeof(wide)), 64);
	assert_int_equal(auxv_bits(narrow, sizeof(narrow)), 32);
	assert_int_equal(auxv_bits(wide, sizeof(wide) - 16), 0);
	assert_int_equal(auxv_bits("", 0), 0);
	assert_int_equal(auxv_bits(&wide[2], sizeof(wide[2])), 0);
}

static void own_proc(void **state)
{
	(void)state;
	struct proc_stat s;
	int fd = open("/proc/self", O_RDONLY | O_DIRECTORY);

	assert_int_equal(proc_stat_read(fd, 0, &s), 0);
	assert_int_equal(s.ppid, getppid());
	assert_int_equal(proc_stat_read(fd, getpid(), &s), 0);
	assert_int_equal(s.state, 'R');
	assert_true(s.image.start_stack != 0);
	assert_true(proc_stat_read(fd, 1 << 30, &s) < 0);
	close(fd);

	struct pids pids;
	bool found = false;
	assert_ok(process_list_pids(&pids));
	for (size_t i = 0; i < pids.v.n; i++) {
		found |= pids.v.at[i] == getpid();
		assert_true(!i || pids.v.at[i] > pids.v.at[i - 1]);
	}
	assert_true(found);
	vec_free(&pids.v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_with_odd_names),
		cmocka_unit_test(empty_maps),
		cmocka_unit_test(malformed_maps),
		cmocka_unit_test(stat_line),
		cmocka_unit_test(malformed_stat),
		cmocka_unit_test(status_fields),
		cmocka_unit_test(auxv_width),
		cmocka_unit_test(own_proc),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
