/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people are shown of a patch: enough to see what it does, nothing that is not so. A changed
 * branch target must never look unchanged.
 */
#include "base/log.h"
#include "fixture.h"

static char *describe(struct patch *p, bool diff)
{
	struct suture_patch handle = {p};
	struct suture ctx = {};
	char *text = NULL;

	assert_ok(suture_patch_describe(&ctx, &handle, diff, &text));
	assert_non_null(text);
	return text;
}

static void assert_line(const char *in, const char *line)
{
	const char *at = strstr(in, line);

	if (!at || (at > in && at[-1] != '\n') ||
		(at[strlen(line)] != '\n' && at[strlen(line)] != '\0'))
		fail_msg("no line '%s' in:\n%s", line, in);
}

static void summary(void **state)
{
	struct patch *p = make_patch();
	char *text = describe(p, false);

	(void)state;
	assert_line(text, "CVE-2014-0160 1");
	assert_line(text, "  Heartbeat: check the length.");
	assert_line(text, "  references  CVE-2014-0160");
	assert_line(text, "  payload     58 bytes of code, 52 constant, 1048592 writable");
	assert_non_null(strstr(text, "heartbeatd               build-id abab"));
	assert_non_null(strstr(text, "32 -> 24 bytes         changed [src/parse.c]"));
	assert_non_null(strstr(text, "18 -> 24 bytes         refers to changed constant"));
	assert_non_null(strstr(text, "10 bytes, new"));
	assert_non_null(strstr(text, "function at 0x401230"));
	assert_non_null(strstr(text, "version GLIBC_2.14"));
	assert_non_null(strstr(text, "thread-local variable at TLS offset 0x10"));
	assert_non_null(strstr(text, "may be absent"));
	assert_null(strstr(text, "@@"));
	free(text);
	patch_destroy(p);
}

static void old_against_new(void **state)
{
	struct patch *p = make_patch();
	char *text = describe(p, true);

	(void)state;
	assert_line(text, "@@ parse, heartbeatd, 0x401000: 32 -> 24 bytes, detour at +0x4 @@");
	assert_line(text, "      +0x0  endbr64");
	assert_line(text, "-     +0x4  sub $0x8, %rsp");
	/* The old call goes into log_line, the new one to something else. */
	assert_line(text, "-     +0x8  call log_line+0x9");
	assert_line(text, "+     +0x4  call helper");
	assert_line(text, "+     +0x9  lea .rodata.str+0x9, %rdi  # \"%s\"");
	assert_line(text, "+    +0x10  mov errno_like@GOTTPOFF, %rax");
	assert_line(text, "@@ helper, heartbeatd: new, 10 bytes @@");
	/* The old target may be the PLT entry of memcpy or not: the patch cannot know. */
	assert_line(text, "~     +0x4  call 0x2239  =>  call memcpy");
	free(text);
	patch_destroy(p);
}

/* A patch whose only function has this old and this new code. */
static char *diff_of(const uint8_t *before, size_t n, const uint8_t *after, size_t m)
{
	struct patch *p = make_patch();
	struct patch_function *f = &p->functions.at[0];
	struct patch_section *s = &p->sections.at[TEXT_PARSE];

	f->old_bytes = realloc(f->old_bytes, n);
	s->data = realloc(s->data, m);
	assert_true(f->old_bytes && s->data);
	memcpy(f->old_bytes, before, n);
	memcpy(s->data, after, m);
	f->size = n;
	s->size = f->new_size = p->symbols.at[SYM_PARSE].size = m;
	s->relocs.n = 0;
	p->sections.at[EH_FRAME].relocs.n = 0;
	assert_ok(patch_validate(p));
	char *text = describe(p, true);
	char *end = strstr(text, "\n@@ helper");
	assert_non_null(end);
	*end = '\0';
	char *ret = strdup(strstr(text, "@@ parse"));
	assert_non_null(ret);
	free(text);
	patch_destroy(p);
	return ret;
}

static void moved_branches_are_the_same_branches(void **state)
{
	/* test %edi,%edi; je .+3 (ret); inc %eax; ret, and with a nop behind the je */
	static const uint8_t before[] = {0x85, 0xff, 0x74, 0x02, 0xff, 0xc0, 0xc3};
	static const uint8_t after[] = {0x85, 0xff, 0x74, 0x03, 0x90, 0xff, 0xc0, 0xc3};
	char *text = diff_of(before, sizeof(before), after, sizeof(after));

	(void)state;
	assert_line(text, "      +0x2  jz <+0x7>");
	assert_line(text, "+     +0x4  nop");
	assert_null(strstr(text, "\n-"));
	free(text);
}

static void a_changed_branch_target_is_shown(void **state)
{
	/* je to the inc instead of to the ret */
	static const uint8_t before[] = {0x85, 0xff, 0x74, 0x04, 0x90, 0x90, 0xff, 0xc0, 0xc3};
	static const uint8_t after[] = {0x85, 0xff, 0x74, 0x02, 0x90, 0x90, 0xff, 0xc0, 0xc3};
	char *text = diff_of(before, sizeof(before), after, sizeof(after));

	(void)state;
	assert_line(text, "-     +0x2  jz <+0x8>");
	assert_line(text, "+     +0x2  jz <+0x6>");
	free(text);
}

static void a_changed_constant_is_shown(void **state)
{
	/* mov $0x402000,%edi; and $0xfb,%al; ret: both numbers change */
	static const uint8_t before[] = {0xbf, 0, 0x20, 0x40, 0, 0x24, 0xfb, 0xc3};
	static const uint8_t after[] = {0xbf, 0, 0x30, 0x40, 0, 0x24, 0xf3, 0xc3};
	char *text = diff_of(before, sizeof(before), after, sizeof(after));

	(void)state;
	assert_line(text, "-     +0x0  mov $0x402000, %edi");
	assert_line(text, "+     +0x0  mov $0x403000, %edi");
	assert_line(text, "-     +0x5  and $-0x5, %al");
	assert_line(text, "+     +0x5  and $-0xd, %al");
	assert_line(text, "      +0x7  ret");
	free(text);
}

static void unlike_code_is_shown_one_after_the_other(void **state)
{
	enum { N = 6000 };
	uint8_t *before = malloc(N), *after = malloc(N);

	(void)state;
	assert_true(before && after);
	memset(before, 0x90, N);
	memset(after, 0xc3, N);
	char *text = diff_of(before, N, after, N);
	assert_line(text, "-  +0x176f  nop");
	assert_line(text, "+     +0x0  ret");
	assert_line(text, "+  +0x176f  ret");
	free(text);
	free(before);
	free(after);
}

static void endless_code_is_cut(void **state)
{
	enum { N = 100000 };
	uint8_t *code = calloc(1, N);

	(void)state;
	assert_non_null(code);
	memset(code, 0x90, N);
	char *text = diff_of(code, N, code, N);
	assert_line(text, "-           ... 80000 more bytes");
	assert_line(text, "+           ... 80000 more bytes");
	free(text);
	free(code);
}

/* Any bytes and any relocations over any bytes: text, not a crash. */
static void hostile_code(void **state)
{
	uint32_t random = 1;

	(void)state;
	for (int round = 0; round < 300; round++) {
		struct patch *p = make_patch();
		struct patch_section *s = &p->sections.at[TEXT_PARSE];

		for (size_t i = 0; i < s->size; i++)
			s->data[i] = (random = random * 1103515245 + 12345) >> 16;
		for (size_t i = 0; i < 32; i++)
			p->functions.at[0].old_bytes[i] =
				(random = random * 1103515245 + 12345) >> 16;
		for (size_t i = 0; i < s->relocs.n; i++)
			s->relocs.at[i].offset =
				((random = random * 1103515245 + 12345) >> 16) % 21;
		s->relocs.at[0].addend = INT64_MAX;
		s->relocs.at[1].addend = (int64_t)random << 32;
		/* The function begins in the middle of a field. */
		p->symbols.at[SYM_PARSE].value = round % 9;
		p->symbols.at[SYM_PARSE].size = p->functions.at[0].new_size = 24 - round % 9;
		assert_ok(patch_validate(p));
		char *text = describe(p, true);
		assert_non_null(strstr(text, "@@ parse"));
		free(text);
		patch_destroy(p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(summary),
		cmocka_unit_test(old_against_new),
		cmocka_unit_test(moved_branches_are_the_same_branches),
		cmocka_unit_test(a_changed_branch_target_is_shown),
		cmocka_unit_test(a_changed_constant_is_shown),
		cmocka_unit_test(unlike_code_is_shown_one_after_the_other),
		cmocka_unit_test(endless_code_is_cut),
		cmocka_unit_test(hostile_code),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
