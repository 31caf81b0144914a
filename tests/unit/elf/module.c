/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images of this very process, read as if it were another one, compared with what the dynamic
 * linker says about them.
 */
#include <dlfcn.h>
#include <gnu/lib-names.h>

#include "elf/module.h"
#include "elf/note.h"
#include "self.h"

static struct module *open_self(const char *name)
{
	struct self_image image = self_image(name);
	struct module *m = NULL;

	assert_ok(module_open(&self_reader, image.base, name[0] ? name : "program", &m));
	assert_int_equal(m->bias, image.bias);
	return m;
}

static void the_program(void **state)
{
	(void)state;
	struct module *m = open_self("");

	assert_true(m->dynamic);
	assert_int_equal(m->type, ET_DYN);
	assert_null(m->soname);
	assert_in_range((uintptr_t)the_program, m->low, m->high - 1);
	bool libc = false;
	vec_foreach (needed, &m->needed)
		libc |= strcmp(*needed, LIBC_SO) == 0;
	assert_true(libc);
	uint64_t debug = 0;
	for (const ElfW(Dyn) *d = _DYNAMIC; d->d_tag; d++)
		if (d->d_tag == DT_DEBUG)
			debug = d->d_un.d_ptr;
	assert_int_not_equal(debug, 0);
	assert_int_equal(m->debug, debug);
	module_close(m);
}

static void libc_by_name(void **state)
{
	(void)state;
	static const char *const names[] = {"malloc", "free", "stdout", "environ", "printf",
		"getrandom", "qsort", "pthread_create", "_IO_2_1_stderr_"};
	struct module *m = open_self(LIBC_SO);
	void *libc = dlopen(LIBC_SO, RTLD_NOW | RTLD_NOLOAD);
	struct module_symbol s;
	bool found;

	assert_string_equal(m->soname, LIBC_SO);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_ok(module_lookup(m, names[i], NULL, &s, &found));
		assert_true(found);
		assert_true(s.defined);
		assert_int_equal(s.value + m->bias, (uintptr_t)dlsym(libc, names[i]));
	}
	assert_ok(module_lookup(m, "no_such_function_at_all", NULL, &s, &found));
	assert_false(found);
	dlclose(libc);
	module_close(m);
}

static void the_build_id_is_the_file_s(void **state)
{
	(void)state;
	struct self_image image = self_image(LIBC_SO);
	uint8_t id[64];
	size_t size = 0;

	assert_ok(module_build_id(&self_reader, image.base, id, &size));
	assert_int_equal(size, 20);
	struct module *m = open_self(LIBC_SO);
	assert_int_equal(m->build_id_size, 20);
	assert_memory_equal(m->build_id, id, 20);
	module_close(m);
}

/* A note: header, name and description padded to `pad`; returns where it ends. */
static size_t put_note(uint8_t *at, uint32_t type, const char *name, size_t size, size_t pad)
{
	const Elf64_Nhdr header = {strlen(name) + 1, size, type};
	size_t desc = (sizeof(header) + header.n_namesz + pad - 1) & -pad;

	memset(at, 0, desc + size + pad);
	memcpy(at, &header, sizeof(header));
	memcpy(at + sizeof(header), name, header.n_namesz);
	for (size_t i = 0; i < size; i++)
		at[desc + i] = type + i;
	return (desc + size + pad - 1) & -pad;
}

static void build_id_among_other_notes(void **state)
{
	(void)state;
	uint8_t notes[512], id[BUILD_ID_MAX];
	size_t size;

	for (size_t pad = 4; pad <= 8; pad += 4) {
		size_t at = put_note(notes, 1, "stapsdt", 13, pad);
		at += put_note(notes + at, NT_GNU_BUILD_ID, "Go", 8, pad);
		at += put_note(notes + at, NT_GNU_PROPERTY_TYPE_0, "GNU", 12, pad);
		size_t before = at;
		at += put_note(notes + at, NT_GNU_BUILD_ID, "GNU", 20, pad);
		size = 0;
		assert_true(note_find_build_id(notes, at, pad, id, &size));
		assert_int_equal(size, 20);
		for (size_t i = 0; i < size; i++)
			assert_int_equal(id[i], NT_GNU_BUILD_ID + i);
		for (size_t n = 0; n < before + 36; n++)
			assert_false(note_find_build_id(notes, n, pad, id, &size));
	}
	assert_false(note_find_build_id(
		notes, put_note(notes, NT_GNU_BUILD_ID, "GNU", 65, 4), 4, id, &size));
	assert_false(note_find_build_id(
		notes, put_note(notes, NT_GNU_BUILD_ID, "GNU", 0, 4), 4, id, &size));
}

static void the_vdso(void **state)
{
	(void)state;
	struct module *m = NULL;
	struct module_symbol s;
	bool found;

	if (!getauxval(AT_SYSINFO_EHDR))
		skip();
	assert_ok(module_open(&self_reader, getauxval(AT_SYSINFO_EHDR), "[vdso]", &m));
	assert_string_equal(m->soname, "linux-vdso.so.1");
	assert_ok(module_lookup(m, "__vdso_clock_gettime", "LINUX_2.6", &s, &found));
	assert_true(found);
	assert_ok(module_lookup(m, "__vdso_clock_gettime", "LINUX_9", &s, &found));
	assert_false(found);
	module_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_program),
		cmocka_unit_test(libc_by_name),
		cmocka_unit_test(the_build_id_is_the_file_s),
		cmocka_unit_test(build_id_among_other_notes),
		cmocka_unit_test(the_vdso),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
