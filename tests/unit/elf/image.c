/* SPDX-License-Identifier: Apache-2.0 */
/* Target files of every kind: what they are, their symbols, relocations and PLT stubs. */
#include "elf/image.h"
#include "base/cleanup.h"
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

/* ---- PLT stubs ---- */

/* Every `call ADDRESS <NAME@plt>` that the disassembler sees goes through NAME's slot. */
static void assert_stubs(const char *name, const char *how)
{
	struct image *image = NULL;
	char line[512], callee[64];
	unsigned long long address;
	size_t n = 0;

	link_program(name, how);
	sh("objdump -d --no-show-raw-insn %s > calls", name);
	assert_ok(image_open(in_dir(name), &image));
	_cleanup_fclose_ FILE *f = fopen(in_dir("calls"), "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		uint64_t slot = 0;

		const char *call = strstr(line, "call ");
		if (!call || !strstr(call, "@plt>") ||
			sscanf(call, "call %llx <%63[^@]", &address, callee) != 2)
			continue;
		if (!image_plt_slot(image, address, &slot))
			fail_msg("%s: no stub: %s", name, line);
		const Elf64_Rela *r = image_reloc_at(image, slot);
		assert_non_null(r);
		uint64_t symbol = ELF64_R_SYM(r->r_info);
		assert_true(symbol < image->dynsyms.n);
		assert_string_equal(image->dynsyms.at[symbol].name, callee);
		n++;
	}
	/* puts, qsort */
	assert_true(n >= 2);
	uint64_t slot;
	assert_false(image_plt_slot(image, find(image, "entry")->value, &slot));
	assert_false(image_plt_slot(image, find(image, "counter")->value, &slot));
	assert_false(image_plt_slot(image, 0, &slot));
	assert_false(image_plt_slot(image, UINT64_MAX, &slot));
	image_close(image);
}

/* For stubs that the disassembler has no names for: one of all is the callee's, and only one. */
static void assert_stub_of(const char *callee, const char *name, const char *how)
{
	struct image *image = NULL;
	size_t n = 0;

	assert_ok(image_open(link_program(name, how), &image));
	vec_foreach (ph, &image->phdrs) {
		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		for (uint64_t at = ph->p_vaddr & -16; at < ph->p_vaddr + ph->p_filesz; at += 16) {
			uint64_t slot;

			if (!image_plt_slot(image, at, &slot))
				continue;
			uint64_t info = image_reloc_at(image, slot)->r_info;
			n += strcmp(image->dynsyms.at[ELF64_R_SYM(info)].name, callee) == 0;
		}
	}
	assert_int_equal(n, 1);
	image_close(image);
}

static void stubs_of_gnu_ld(void **state)
{
	(void)state;
	assert_stubs("lazy", "-pie -Wl,-z,lazy");
	assert_stubs("now", "-pie -Wl,-z,now");
	assert_stubs("fixed", "-no-pie");
	assert_stubs("ibt", "-pie -Wl,-z,lazy,-z,ibtplt");
}

static void stubs_of_lld(void **state)
{
	(void)state;
	if (!have_tool("ld.lld"))
		skip();
	assert_stubs("lld", "-pie -fuse-ld=lld");
	assert_stubs("lld-now", "-pie -fuse-ld=lld -Wl,-z,now");
	assert_stubs("lld-ibt", "-pie -fuse-ld=lld -Wl,-z,force-ibt 2>/dev/null");
	assert_stub_of("puts", "lld-retpoline", "-pie -fuse-ld=lld -Wl,-z,retpolineplt");
	assert_stub_of("qsort", "lld-retpoline", "-pie -fuse-ld=lld -Wl,-z,retpolineplt,-z,now");
}

static void stubs_of_gold(void **state)
{
	(void)state;
	if (!have_tool("ld.gold"))
		skip();
	assert_stubs("gold", "-pie -fuse-ld=gold");
}

/* The body of this function has the bytes of a stub; a call of it is not a call of puts. */
static void a_tail_call_is_no_stub(void **state)
{
	(void)state;
	struct image *image = NULL;
	uint64_t slot;

	write_file("tail.c", "#include <stdio.h>\n"
			     "int say(const char *s) { return puts(s); }\n");
	sh("cc -O2 -fno-plt -fPIC -shared -o tail.so tail.c");
	assert_ok(image_open(in_dir("tail.so"), &image));
	const struct image_symbol *say = find(image, "say");
	uint8_t code[2];
	assert_ok(image_read(image, say->value + (say->size >= 10 ? 4 : 0), code, 2));
	assert_memory_equal(code, "\xff\x25", 2);
	assert_false(image_plt_slot(image, say->value, &slot));
	image_close(image);
}

/* ---- debug files ---- */

static void assert_full(const char *name, const char *debug_dir, const char *debug_file)
{
	struct image *image = NULL;

	assert_ok(image_open_with(in_dir(name), debug_dir, &image));
	if (debug_file)
		assert_string_equal(image->debug_path, debug_file);
	else
		assert_null(image->debug_path);
	assert_non_null(image->dwarf);
	assert_string_equal(find(image, "twice")->file, "p.c");
	assert_ptr_equal(
		image_symbol_at(image, find(image, "twice")->value + 2), find(image, "twice"));
	image_close(image);
}

static void assert_no_symbols(const char *name, const char *debug_dir, const char *why)
{
	struct image *image = NULL;

	assert_error(
		image_open_with(in_dir(name), debug_dir, &image), SUTURE_ERROR_NO_SYMBOLS, why);
	assert_null(image);
}

static void debug_file_by_link(void **state)
{
	(void)state;
	link_program("full", "-pie");
	sh("objcopy --only-keep-debug full full.debug && strip -o bare full && "
	   "objcopy --add-gnu-debuglink=full.debug bare linked");
	assert_no_symbols("bare", NULL, "/usr/lib/debug/.build-id/");
	assert_full("linked", NULL, in_dir("full.debug"));
	sh("mkdir .debug && mv full.debug .debug/");
	assert_full("linked", NULL, in_dir(".debug/full.debug"));
	sh("mkdir -p D$PWD && mv .debug/full.debug D$PWD/");
	assert_no_symbols("linked", NULL, "/.debug/full.debug: open: No such file");
	char under[256];
	snprintf(under, sizeof(under), "%s/D%s/full.debug", work_dir, work_dir);
	assert_full("linked", in_dir("D"), under);
	sh("mv D$PWD/full.debug D/");
	assert_full("linked", in_dir("D"), in_dir("D/full.debug"));
	sh("rm -r D .debug");
}

static void debug_file_by_build_id(void **state)
{
	(void)state;
	char id[41] = "", path[256];
	struct image *image = NULL;

	assert_ok(image_open(link_program("whole", "-pie"), &image));
	for (size_t i = 0; i < image->build_id_size; i++)
		sprintf(id + 2 * i, "%02x", image->build_id[i]);
	image_close(image);
	sh("strip -o bare whole && mkdir -p D/.build-id/%.2s && "
	   "objcopy --only-keep-debug whole D/.build-id/%.2s/%s.debug",
		id, id, id + 2);
	snprintf(path, sizeof(path), "%s/D/.build-id/%.2s/%s.debug", work_dir, id, id + 2);
	assert_full("bare", in_dir("D"), path);
	assert_no_symbols("bare", NULL, "no separate debug file");
	setenv("SUTURE_DEBUG_DIR", in_dir("D"), 1);
	assert_ok(image_open(in_dir("bare"), &image));
	image_close(image);
	unsetenv("SUTURE_DEBUG_DIR");
	/* A file at the right place that is of another build. */
	link_program("other", "-pie -Wl,--defsym,x=1");
	sh("objcopy --only-keep-debug other %s", path);
	assert_no_symbols("bare", in_dir("D"), "another build-id");
	sh("rm -r D");
}

static void debug_file_of_another_build(void **state)
{
	(void)state;
	/* Without a build-id the CRC has to do. */
	link_program("full", "-pie -Wl,--build-id=none");
	sh("objcopy --only-keep-debug full full.debug && strip -o bare full && "
	   "objcopy --add-gnu-debuglink=full.debug bare linked");
	assert_full("linked", NULL, in_dir("full.debug"));
	sh("printf x >> full.debug");
	assert_no_symbols("linked", NULL, "CRC");
	sh("cp linked full.debug");
	assert_no_symbols("linked", NULL, "full.debug: CRC");
	sh("rm full.debug && ln linked full.debug");
	assert_no_symbols("linked", NULL, "the image itself");
	assert_no_symbols("bare", NULL, "names none");
}

static void symbols_here_and_debug_information_there(void **state)
{
	(void)state;
	link_program("full", "-pie");
	sh("objcopy --only-keep-debug full full.debug && strip -g -o bare full && "
	   "objcopy --add-gnu-debuglink=full.debug bare linked");
	struct image *image = NULL;
	assert_ok(image_open(in_dir("bare"), &image));
	assert_null(image->dwarf);
	assert_null(image->debug_path);
	find(image, "twice");
	image_close(image);
	assert_full("linked", NULL, in_dir("full.debug"));
}

static void assert_unit(const char *path, int version)
{
	struct image *image = NULL;
	Dwarf_CU *cu = NULL;
	Dwarf_Half have;
	Dwarf_Die die;

	assert_ok(image_open(path, &image));
	assert_non_null(image->dwarf);
	assert_int_equal(dwarf_get_units(image->dwarf, NULL, &cu, &have, NULL, &die, NULL), 0);
	assert_int_equal(have, version);
	assert_non_null(strstr(dwarf_diename(&die), "d.c"));
	image_close(image);
}

static void debug_information_of_every_kind(void **state)
{
	(void)state;
	write_file("d.c", program);
	for (int version = 4; version <= 5; version++) {
		sh("cc -gdwarf-%d -o d d.c", version);
		assert_unit(in_dir("d"), version);
		sh("objcopy --compress-debug-sections=zlib d dz");
		assert_unit(in_dir("dz"), version);
		sh("objcopy --compress-debug-sections=zlib-gnu d dg");
		assert_unit(in_dir("dg"), version);
	}
}

/* ---- what else there is ---- */

static void kinds_of_files(void **state)
{
	(void)state;
	static const struct {
		const char *how;
		uint16_t type;
		bool is_static, is_library;
	} kinds[] = {
		{"-pie", ET_DYN, false, false},
		{"-no-pie", ET_EXEC, false, false},
		{"-static", ET_EXEC, true, false},
		{"-static-pie", ET_DYN, true, false},
		{"-shared", ET_DYN, false, true},
		{"-shared -Wl,-soname,libkind.so.1", ET_DYN, false, true},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct image *image = NULL;
		bool shared = strstr(kinds[i].how, "-shared");

		if (shared)
			sh("cc -fPIC -o kind %s -x c /dev/null", kinds[i].how);
		else
			link_program("kind", kinds[i].how);
		assert_ok(image_open(in_dir("kind"), &image));
		assert_int_equal(image->type, kinds[i].type);
		assert_int_equal(image->is_static, kinds[i].is_static);
		assert_int_equal(image->is_library, kinds[i].is_library);
		assert_string_equal(
			image->name, strstr(kinds[i].how, "soname") ? "libkind.so.1" : "kind");
		image_close(image);
	}
}

static void a_file_without_build_id(void **state)
{
	(void)state;
	struct image *image = NULL;

	assert_ok(image_open(link_program("no-id", "-pie -Wl,--build-id=none"), &image));
	assert_int_equal(image->build_id_size, 0);
	image_close(image);
}

/* A copy of "good" with one 16-bit field of the ELF header changed. */
static const char *with_field(size_t offset, uint16_t value)
{
	FILE *f;

	sh("cp good changed");
	f = fopen(in_dir("changed"), "r+");
	assert_non_null(f);
	assert_int_equal(fseek(f, offset, SEEK_SET), 0);
	assert_int_equal(fwrite(&value, sizeof(value), 1, f), 1);
	assert_int_equal(fclose(f), 0);
	return in_dir("changed");
}

static void bad_files_are_refused_by_name(void **state)
{
	(void)state;
	struct image *image = NULL;

	link_program("good", "-pie");
	sh("head -c 1000 good > head; head -c -500 good > tail; head -c 30 good > short;"
	   "objcopy --only-keep-debug good debug; : > empty; mkfifo fifo");
	assert_error(image_open(in_dir("p.c"), &image), SUTURE_ERROR_INPUT, "not an ELF file");
	assert_error(image_open(in_dir("empty"), &image), SUTURE_ERROR_INPUT, "not an ELF file");
	assert_error(image_open(in_dir("p.o"), &image), SUTURE_ERROR_INPUT, "relocatable object");
	assert_error(image_open(in_dir("head"), &image), SUTURE_ERROR_INPUT, "truncated");
	assert_error(image_open(in_dir("tail"), &image), SUTURE_ERROR_INPUT, "truncated");
	assert_error(image_open(in_dir("short"), &image), SUTURE_ERROR_INPUT, "truncated");
	assert_error(image_open(in_dir("debug"), &image), SUTURE_ERROR_INPUT, "debug file");
	assert_error(image_open(in_dir("none"), &image), SUTURE_ERROR_SYSTEM, "No such file");
	assert_error(image_open(in_dir("fifo"), &image), SUTURE_ERROR_INPUT, "not a regular file");
	assert_error(image_open("/", &image), SUTURE_ERROR_INPUT, "not a regular file");
	assert_error(image_open(with_field(EI_CLASS, ELFCLASS32 | ELFDATA2LSB << 8), &image),
		SUTURE_ERROR_UNSUPPORTED, "32-bit");
	assert_error(image_open(with_field(offsetof(Elf64_Ehdr, e_machine), EM_AARCH64), &image),
		SUTURE_ERROR_UNSUPPORTED, "machine 183");
	assert_error(image_open(with_field(offsetof(Elf64_Ehdr, e_type), ET_CORE), &image),
		SUTURE_ERROR_INPUT, "core dump");
	assert_error(image_open(with_field(offsetof(Elf64_Ehdr, e_phentsize), 7), &image),
		SUTURE_ERROR_INPUT, "program headers");
	assert_null(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_pie_is),
		cmocka_unit_test(stubs_of_gnu_ld),
		cmocka_unit_test(stubs_of_lld),
		cmocka_unit_test(stubs_of_gold),
		cmocka_unit_test(a_tail_call_is_no_stub),
		cmocka_unit_test(debug_file_by_link),
		cmocka_unit_test(debug_file_by_build_id),
		cmocka_unit_test(debug_file_of_another_build),
		cmocka_unit_test(symbols_here_and_debug_information_there),
		cmocka_unit_test(debug_information_of_every_kind),
		cmocka_unit_test(kinds_of_files),
		cmocka_unit_test(a_file_without_build_id),
		cmocka_unit_test(bad_files_are_refused_by_name),
	};
	return cmocka_run_group_tests(tests, work_dir_setup, work_dir_teardown);
}
