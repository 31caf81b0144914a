/* SPDX-License-Identifier: Apache-2.0 */
/* A buffer reader answers what it has and refuses every range it has not, overflow included. */
#include "base/reader.h"
#include "../unit.h"
#include "base/vec.h"

static void ranges(void **state)
{
	(void)state;
	struct reader_buffer rb;
	char buf[8];

	reader_buffer_init(&rb, "abcdefgh", 8, 0x1000);
	assert_ok(reader_read(&rb.reader, 0x1002, buf, 3));
	assert_memory_equal(buf, "cde", 3);
	assert_ok(reader_read(&rb.reader, 0x1008, buf, 0));
	assert_error(reader_read(&rb.reader, 0x1006, buf, 3), SUTURE_ERROR_INPUT, "0x1006");
	assert_error(reader_read(&rb.reader, 0xfff, buf, 1), SUTURE_ERROR_INPUT, "0xfff");
	assert_error(reader_read(&rb.reader, 0x1001, buf, SIZE_MAX), SUTURE_ERROR_INPUT, "");
}

static void strings(void **state)
{
	(void)state;
	char data[200];
	struct reader_buffer rb;
	char *s;

	memset(data, 'x', sizeof(data));
	data[150] = '\0';
	reader_buffer_init(&rb, data, sizeof(data), 60);
	assert_ok(reader_string(&rb.reader, 60, 180, &s));
	assert_int_equal(strlen(s), 150);
	free(s);
	assert_error(reader_string(&rb.reader, 60, 100, &s), SUTURE_ERROR_INPUT, "longer");
	assert_error(reader_string(&rb.reader, 220, 100, &s), SUTURE_ERROR_INPUT, "");
}

static void vectors(void **state)
{
	(void)state;
	VEC(int) v = {};
	int sum = 0;

	for (int i = 0; i < 1000; i++)
		assert_true(vec_push(&v, i));
	vec_foreach (p, &v)
		sum += *p;
	assert_int_equal(v.n, 1000);
	assert_int_equal(sum, 999 * 1000 / 2);
	vec_free(&v);
	vec_foreach (p, &v)
		fail();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges),
		cmocka_unit_test(strings),
		cmocka_unit_test(vectors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
