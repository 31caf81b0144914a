/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding finds ends, targets and relative fields; a detour site is safe or refused. */
#include "../unit.h"
#include "arch/arch.h"

static const struct arch *arch = &arch_x86_64;

static struct insn decode(const char *bytes, size_t size)
{
	struct insn insn;

	assert_true(arch->decode((const uint8_t *)bytes, size, 0x1000, &insn));
	assert_int_equal(insn.length, size);
	return insn;
}
#define DECODE(bytes) decode(bytes, sizeof(bytes) - 1)

static void branches(void **state)
{
	(void)state;
	struct insn i = DECODE("\xe8\x10\x00\x00\x00"); /* call */

	assert_true(i.is_call && i.has_target && !i.is_jump);
	assert_int_equal(i.target, 0x1015);
	assert_int_equal(i.rel_at, 1);
	assert_int_equal(i.rel_size, 4);
	i = DECODE("\xeb\xfe"); /* jmp . */
	assert_true(i.is_jump && !i.is_cond && i.has_target);
	assert_int_equal(i.target, 0x1000);
	i = DECODE("\x0f\x84\x00\x01\x00\x00"); /* je */
	assert_true(i.is_jump && i.is_cond);
	assert_int_equal(i.target, 0x1106);
	i = DECODE("\xff\xd0"); /* call *%rax */
	assert_true(i.is_call && !i.has_target);
	i = DECODE("\xc3");
	assert_true(i.is_ret);
}

static void relative_memory(void **state)
{
	(void)state;
	struct insn i = DECODE("\xc7\x05\x10\x00\x00\x00\x01\x00\x00\x00"); /* movl $1,0x10(%rip) */

	assert_true(i.has_pcrel && !i.has_target);
	assert_int_equal(i.pcrel, 0x101a);
	assert_int_equal(i.rel_at, 2);
	assert_int_equal(i.imm_at, 6);
	i = DECODE("\x8b\x04\x25\x10\x00\x00\x00"); /* mov 0x10,%eax: absolute */
	assert_false(i.has_pcrel);
	i = DECODE("\x48\x8b\x45\x05"); /* mov 5(%rbp),%rax */
	assert_false(i.has_pcrel);
	assert_int_equal(i.disp_size, 1);
}

static void accesses(void **state)
{
	(void)state;
#define ACCESS(bytes) arch->access_size((const uint8_t *)bytes, sizeof(bytes) - 1)
	/* movss, movupd, movl $1 at x(%rip); mov at an absolute address */
	assert_int_equal(ACCESS("\xf3\x0f\x10\x05\x10\x00\x00\x00"), 4);
	assert_int_equal(ACCESS("\x66\x0f\x10\x05\x10\x00\x00\x00"), 16);
	assert_int_equal(ACCESS("\xc7\x05\x10\x00\x00\x00\x01\x00\x00\x00"), 4);
	assert_int_equal(ACCESS("\x48\x8b\x04\x25\x10\x00\x00\x00"), 8);
	/* lea, an index, a base, none */
	assert_int_equal(ACCESS("\x48\x8d\x05\x10\x00\x00\x00"), 0);
	assert_int_equal(ACCESS("\x8b\x04\x85\x10\x00\x00\x00"), 0);
	assert_int_equal(ACCESS("\x8b\x43\x10"), 0);
	assert_int_equal(ACCESS("\x89\xd8"), 0);
	assert_int_equal(ACCESS("\x06"), 0);
}

static void padding(void **state)
{
	(void)state;
	assert_true(DECODE("\x90").is_nop);
	assert_true(DECODE("\x66\x90").is_nop);
	assert_true(DECODE("\x66\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00").is_nop);
	assert_true(DECODE("\xcc").is_nop);
	assert_true(DECODE("\xf3\x0f\x1e\xfa").is_endbr);
	assert_false(DECODE("\xf3\x0f\x1e\xfa").is_nop);
	assert_false(DECODE("\x87\xc0").is_nop);
}

static void not_code(void **state)
{
	(void)state;
	struct insn i;
	char text[64];

	assert_false(arch->decode((const uint8_t *)"\x06", 1, 0, &i));
	assert_false(arch->decode((const uint8_t *)"\xe8\x00", 2, 0, &i));
	assert_false(arch->decode((const uint8_t *)"", 0, 0, &i));
	arch->format((const uint8_t *)"\x06", 1, 0, text, sizeof(text));
	assert_string_equal(text, ".byte 0x06");
	arch->format((const uint8_t *)"\x89\xd8", 2, 0, text, sizeof(text));
	assert_string_equal(text, "mov %ebx, %eax");
}

#define SITE(bytes, targets, n) \
	arch->detour_site(      \
		"f", (const uint8_t *)bytes, sizeof(bytes) - 1, 0x1000, targets, n, &site, &size)

static void site_found(void **state)
{
	(void)state;
	uint32_t site, size;

	assert_ok(SITE("\x31\xc0\x31\xc0\xc3", NULL, 0));
	assert_int_equal(site, 0);
	assert_int_equal(size, 5);
	assert_ok(SITE("\xf3\x0f\x1e\xfa\x31\xc0\x31\xc0\xc3", NULL, 0));
	assert_int_equal(site, 4);
	/* back to the entry, and behind the detour */
	assert_ok(SITE("\x31\xc0\x31\xc0\x90\x31\xc0\xeb\xfc\xeb\xf5", NULL, 0));
}

static void site_refused(void **state)
{
	(void)state;
	uint32_t site, size;
	uint64_t target = 0x1003;

	assert_error(SITE("\x31\xc0\xc3", NULL, 0), SUTURE_ERROR_TOO_SMALL, "f has 3 bytes");
	assert_error(
		SITE("\xf3\x0f\x1e\xfa\x31\xc0\xc3", NULL, 0), SUTURE_ERROR_TOO_SMALL, "needs 9");
	assert_error(SITE("\x31\xc0\x31\xc0\xeb\xfc\xc3", NULL, 0), SUTURE_ERROR_REFUSED,
		"own first bytes");
	assert_error(SITE("\x31\xc0\x31\xc0\xc3", &target, 1), SUTURE_ERROR_REFUSED, "0x1003");
	assert_error(
		SITE("\x31\xc0\x31\xc0\xc3\x06", NULL, 0), SUTURE_ERROR_REFUSED, "no instruction");
}

static void jumps(void **state)
{
	(void)state;
	uint8_t buf[8];

	assert_true(arch->detour_encode(buf, 0x1000, 0x2000));
	assert_memory_equal(buf, "\xe9\xfb\x0f\x00\x00", 5);
	assert_true(arch->detour_encode(buf, 0x80000000, 5));
	assert_false(arch->detour_encode(buf, 0x80000000, 4));
	assert_true(arch->veneer_encode(buf, 0x1000, 0x1010));
	assert_memory_equal(buf, "\xff\x25\x0a\x00\x00\x00", 6);
	assert_false(arch->veneer_encode(buf, 0, 0x80000006));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(branches),
		cmocka_unit_test(relative_memory),
		cmocka_unit_test(accesses),
		cmocka_unit_test(padding),
		cmocka_unit_test(not_code),
		cmocka_unit_test(site_found),
		cmocka_unit_test(site_refused),
		cmocka_unit_test(jumps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
