/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Symbols, versions and relocations of libraries linked in every way, loaded into this process:
 * read from memory they are what dlvsym() answers, and what the file says.
 */
#include <dlfcn.h>

#include "build.h"
#include "elf/image.h"
#include "elf/module.h"
#include "self.h"

static const char source[] =
	"#include <stdio.h>\n"
	"int foo_old(void) { return 1; }\n"
	"int foo_new(void) { return 2; }\n"
	"__asm__(\".symver foo_old, foo@V1\\n.symver foo_new, foo@@V2\");\n"
	"int only_old_(void) { return 3; }\n"
	"__asm__(\".symver only_old_, only_old@V1\");\n"
	"int plain(void) { puts(\"plain\"); return 4; }\n"
	"__attribute__((visibility(\"protected\"))) int guarded(void) { return 5; }\n"
	"static int counter; int *pointer = &counter, *pointers[70] = {&counter, [69] = &counter};\n"
	"__thread int per_thread = 7;\n"
	"FILE **stream = &stderr;\n";
static const char map[] = "V1 { global: foo; only_old; local: *_; };\n"
			  "V2 { global: foo; plain; guarded; pointer; pointers; per_thread;\n"
			  "stream; local: *; } V1;\n";

struct library {
	void *handle;
	struct module *module;
	struct image *image;
};

static struct library load(const char *name, const char *flags)
{
	struct library l = {};
	char full[64];

	write_file("lib.c", source);
	write_file("lib.map", map);
	sh("cc -g -O1 -fPIC -shared -Wl,--build-id=sha1,-soname,%s -o %s.so lib.c %s", name, name,
		flags);
	snprintf(full, sizeof(full), "%s.so", name);
	l.handle = dlopen(in_dir(full), RTLD_NOW);
	if (!l.handle)
		fail_msg("%s", dlerror());
	struct self_image image = self_image(full);
	assert_ok(module_open(&self_reader, image.base, full, &l.module));
	assert_int_equal(l.module->bias, image.bias);
	assert_string_equal(l.module->soname, name);
	assert_ok(image_open(in_dir(full), &l.image));
	return l;
}

static void unload(struct library *l)
{
	module_close(l->module);
	image_close(l->image);
	dlclose(l->handle);
}

/* module_lookup() and the dynamic linker agree. */
static void assert_same(const struct library *l, const char *name, const char *version)
{
	void *want = version ? dlvsym(l->handle, name, version) : dlsym(l->handle, name);
	struct module_symbol s = {};
	bool found;

	assert_ok(module_lookup(l->module, name, version, &s, &found));
	if (found != (want != NULL))
		fail_msg("%s@%s: found %d, ld.so %p", name, version ? version : "", found, want);
	if (found && s.type != STT_TLS)
		assert_int_equal(s.value + l->module->bias, (uintptr_t)want);
}

static const char *const names[] = {"foo", "only_old", "plain", "guarded", "pointer", "foo_old",
	"per_thread", "puts", "nothing", ""};
static const char *const versions[] = {NULL, "V1", "V2", "V3", "GLIBC_2.2.5", "lib"};

static void assert_all_same(const struct library *l)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		/* dlsym() searches the library's dependencies as well. */
		if (strcmp(names[i], "puts") == 0)
			continue;
		for (size_t j = 0; j < sizeof(versions) / sizeof(versions[0]); j++)
			assert_same(l, names[i], versions[j]);
	}
}

/* Every entry of .dynsym, its name and version, against the file. */
static void assert_like_file(const struct library *l)
{
	assert_int_equal(module_symbol_count(l->module), l->image->dynsyms.n);
	for (size_t i = 0; i < l->image->dynsyms.n; i++) {
		const struct image_symbol *want = &l->image->dynsyms.at[i];
		const char *version = NULL;
		struct module_symbol s;

		assert_ok(module_symbol(l->module, i, &s));
		assert_string_equal(s.name, want->name);
		assert_int_equal(s.value, want->value);
		assert_int_equal(s.size, want->size);
		assert_int_equal(s.defined, want->shndx != SHN_UNDEF);
		assert_ok(module_version_name(l->module, s.version_index, &version));
		if (l->image->dynsym_versions.at[i])
			assert_string_equal(version, l->image->dynsym_versions.at[i]);
		else
			assert_null(version);
		free(s.name);
	}
	struct module_symbol s;
	assert_error(
		module_symbol(l->module, l->image->dynsyms.n, &s), SUTURE_ERROR_INPUT, "symbol");
}

static int by_offset(const void *a, const void *b)
{
	const struct module_reloc *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void assert_relocs_like_file(const struct library *l)
{
	size_t n;
	const Elf64_Rela *want = image_relocs(l->image, &n);

	assert_ok(module_relocs(l->module));
	assert_int_equal(l->module->relocs.n, n);
	qsort(l->module->relocs.at, n, sizeof(*l->module->relocs.at), by_offset);
	for (size_t i = 0; i < n; i++) {
		const struct module_reloc *r = &l->module->relocs.at[i];
		uint64_t slot;

		assert_int_equal(r->offset, want[i].r_offset);
		assert_int_equal(r->type, ELF64_R_TYPE(want[i].r_info));
		assert_int_equal(r->symbol, ELF64_R_SYM(want[i].r_info));
		if (r->type != R_X86_64_RELATIVE)
			continue;
		/* The linker's word for it: the slot holds the addend plus the bias. */
		assert_ok(reader_read(&self_reader, r->offset + l->module->bias, &slot, 8));
		assert_int_equal(slot - l->module->bias, want[i].r_addend);
	}
	assert_ok(module_relocs(l->module));
	assert_int_equal(l->module->relocs.n, n);
}

static void check(const char *name, const char *flags)
{
	struct library l = load(name, flags);

	assert_all_same(&l);
	assert_like_file(&l);
	assert_relocs_like_file(&l);
	assert_int_equal(l.module->tls_size, 4);
	assert_int_equal(l.image->tls_size, 4);
	assert_int_equal(l.module->symbolic, l.image->symbolic);
	assert_int_equal(l.module->symbolic, strstr(flags, "symbolic") != NULL);
	assert_true(l.image->is_library);
	assert_false(l.image->is_static);
	assert_string_equal(l.image->name, name);
	assert_int_equal(l.module->build_id_size, l.image->build_id_size);
	assert_memory_equal(l.module->build_id, l.image->build_id, l.image->build_id_size);
	unload(&l);
}

static void gnu_hash(void **state)
{
	(void)state;
	check("gnu", "-Wl,--version-script,lib.map,--hash-style=gnu");
}

static void sysv_hash(void **state)
{
	(void)state;
	check("sysv", "-Wl,--version-script,lib.map,--hash-style=sysv,-Bsymbolic");
}

static void both_and_packed_relocations(void **state)
{
	(void)state;
	check("both", "-Wl,--version-script,lib.map,--hash-style=both,-z,pack-relative-relocs");
}

static void other_linkers(void **state)
{
	(void)state;
	if (!have_tool("ld.lld"))
		skip();
	check("lld", "-Wl,--version-script,lib.map -fuse-ld=lld");
}

/* Nothing has a version: any version asked for is satisfied. */
static void without_versions(void **state)
{
	(void)state;
	struct module_symbol s;
	bool found;

	write_file("u.c", "int unversioned(void) { return 1; }\n");
	sh("cc -fPIC -shared -nostdlib -o u.so u.c");
	void *handle = dlopen(in_dir("u.so"), RTLD_NOW);
	struct module *m = NULL;
	assert_ok(module_open(&self_reader, self_image("u.so").base, "u.so", &m));
	assert_ok(module_lookup(m, "unversioned", "ANY", &s, &found));
	assert_true(found);
	assert_int_equal(s.version_index, 1);
	assert_int_equal(s.value + m->bias, (uintptr_t)dlsym(handle, "unversioned"));
	module_close(m);
	dlclose(handle);
}

/* An empty GNU hash table does not say how many symbols there are. */
static void nothing_exported(void **state)
{
	(void)state;
	write_file("lib.map", "{ local: *; };\n");
	write_file("none.c",
		"#include <stdio.h>\nstatic void __attribute__((constructor)) f(void)\n"
		"{ if (!stdout) puts(\"x\"); }\n");
	sh("cc -fPIC -shared -Wl,--hash-style=gnu,--version-script,lib.map -o none.so none.c");
	struct library l = {.handle = dlopen(in_dir("none.so"), RTLD_NOW)};
	assert_non_null(l.handle);
	assert_ok(module_open(&self_reader, self_image("none.so").base, "none.so", &l.module));
	assert_ok(image_open(in_dir("none.so"), &l.image));
	assert_true(l.image->dynsyms.n > 2);
	assert_like_file(&l);
	assert_relocs_like_file(&l);
	unload(&l);
}

static void names_for_reports(void **state)
{
	(void)state;
	struct library l = load("names", "-Wl,--version-script,lib.map");
	uint64_t plain = (uintptr_t)dlsym(l.handle, "plain"), offset = 0;

	assert_string_equal(module_symbolize(l.module, plain, &offset), "plain");
	assert_int_equal(offset, 0);
	assert_string_equal(module_symbolize(l.module, plain + 3, &offset), "plain");
	assert_int_equal(offset, 3);
	assert_null(module_symbolize(l.module, l.module->low, &offset));
	assert_null(module_symbolize(l.module, l.module->high, &offset));
	unload(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gnu_hash),
		cmocka_unit_test(sysv_hash),
		cmocka_unit_test(both_and_packed_relocations),
		cmocka_unit_test(other_linkers),
		cmocka_unit_test(without_versions),
		cmocka_unit_test(nothing_exported),
		cmocka_unit_test(names_for_reports),
	};
	return cmocka_run_group_tests(tests, work_dir_setup, work_dir_teardown);
}
