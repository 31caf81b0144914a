/* SPDX-License-Identifier: Apache-2.0 */
/* Target files of every kind: what they are, their symbols, relocations and PLT stubs. */
#include "elf/image.h"
#include "build.h"

static const char program[] =
	"#include <stdio.h>\n"
	"#include <stdlib.h>\n"
	"static int __attribute__((noinline)) twice(int x) { return 2 * x; }\n"
	"int counter = 42;\n"
	"int *pointer = &counter;\n"
	"__thread long per_thread[3];\n"
	"int __attribute__((noinline)) entry(int x) { return twice(x) + 1; }\n"
	"int main(int argc, char **argv)\n"
	"{ per_thread[1] = argc; qsort(argv, 0, 1, 0); puts(\"x\"); return entry(counter); }\n";

/* Compiles once; `how` is the rest of the link command. */
static const char *link_program(const char *name, const char *how)
{
	if (access(in_dir("p.o"), F_OK) != 0) {
		write_file("p.c", program);
		sh("cc -g -O1 -fPIE -c p.c");
	}
	sh("cc -Wl,--build-id=sha1 -o %s p.o %s", name, how);
	return in_dir(name);
}

static const struct image_symbol *find(const struct image *image, const char *name)
{
	vec_foreach (s, &image->symbols)
		if (strcmp(s->name, name) == 0)
			return s;
	fail_msg("%s: no symbol %s", image->path, name);
	return NULL;
}

static void what_a_pie_is(void **state)
{
	(void)state;
	struct image *image = NULL;
	int value;

	assert_ok(image_open(link_program("pie", "-pie"), &image));
	assert_int_equal(image->type, ET_DYN);
	assert_false(image->is_static);
	assert_false(image->is_library);
	assert_string_equal(image->name, "pie");
	assert_int_equal(image->build_id_size, 20);
	assert_null(image->debug_path);
	assert_non_null(image->dwarf);
	assert_int_equal(image->tls_size, 24);
	const struct image_symbol *twice = find(image, "twice");
	assert_int_equal(twice->bind, STB_LOCAL);
	assert_string_equal(twice->file, "p.c");
	assert_null(find(image, "entry")->file);
	assert_ptr_equal(image_symbol_at(image, twice->value + 1), twice);
	assert_ptr_equal(image_symbol_at(image, twice->value), twice);
	assert_null(image_symbol_at(image, 1));
	const struct image_symbol *counter = find(image, "counter");
	assert_ok(image_read(image, counter->value, &value, sizeof(value)));
	assert_int_equal(value, 42);
	const Elf64_Rela *r = image_reloc_at(image, find(image, "pointer")->value);
	assert_non_null(r);
	assert_int_equal(ELF64_R_TYPE(r->r_info), R_X86_64_RELATIVE);
	assert_int_equal(r->r_addend, counter->value);
	assert_null(image_reloc_at(image, counter->value));
	image_close(image);
}

static void a_stripped_file_finds_its_debug_file(void **state)
{
	(void)state;
	struct image *image = NULL;

	link_program("full", "-pie");
	sh("objcopy --only-keep-debug full full.debug && strip -o bare full && "
	   "objcopy --add-gnu-debuglink=full.debug bare linked");
	assert_error(image_open(in_dir("bare"), &image), SUTURE_ERROR_NO_SYMBOLS,
		"/usr/lib/debug/.build-id/");
	assert_ok(image_open(in_dir("linked"), &image));
	assert_string_equal(image->debug_path, in_dir("full.debug"));
	assert_non_null(image->dwarf);
	assert_string_equal(find(image, "twice")->file, "p.c");
	image_close(image);
}

static void bad_files_are_refused_by_name(void **state)
{
	(void)state;
	struct image *image = NULL;

	link_program("good", "-pie");
	sh("head -c 1000 good > head; head -c -500 good > tail; head -c 30 good > short");
	assert_error(image_open(in_dir("p.c"), &image), SUTURE_ERROR_INPUT, "not an ELF file");
	assert_error(image_open(in_dir("p.o"), &image), SUTURE_ERROR_INPUT, "relocatable object");
	assert_error(image_open(in_dir("head"), &image), SUTURE_ERROR_INPUT, "truncated");
	assert_error(image_open(in_dir("tail"), &image), SUTURE_ERROR_INPUT, "truncated");
	assert_error(image_open(in_dir("short"), &image), SUTURE_ERROR_INPUT, "truncated");
	assert_error(image_open(in_dir("none"), &image), SUTURE_ERROR_SYSTEM, "No such file");
	assert_error(image_open("/dev/null", &image), SUTURE_ERROR_INPUT, "not a regular file");
	assert_error(image_open("/", &image), SUTURE_ERROR_INPUT, "not a regular file");
	assert_null(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_pie_is),
		cmocka_unit_test(a_stripped_file_finds_its_debug_file),
		cmocka_unit_test(bad_files_are_refused_by_name),
	};
	return cmocka_run_group_tests(tests, work_dir_setup, work_dir_teardown);
}
