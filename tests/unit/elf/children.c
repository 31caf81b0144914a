/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running programs of every kind (static, static PIE, fixed address, musl): what their memory says
 * against what the file and the program itself say.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "build.h"
#include "elf/image.h"
#include "elf/module.h"
#include "self.h"

static const char source[] =
	"#include <stdio.h>\n"
	"#include <stdlib.h>\n"
	"#include <string.h>\n"
	"#include <unistd.h>\n"
	"static int __attribute__((noinline)) below(int x) { return puts(\"\") + x; }\n"
	"void *(*volatile allocate)(size_t) = malloc;\n"
	"int main(void)\n"
	"{ printf(\"%p %p\\n\", (void *)main, (void *)allocate); fflush(stdout);\n"
	"  pause(); return below(1); }\n";

struct child {
	struct reader reader; /* first */
	pid_t pid;
	int mem;
	uint64_t main, allocate; /* as the program has them */
	uint64_t base, libc;	 /* where they are mapped; libc 0: none */
	char libc_path[256];
};

static struct suture_error *child_read(const struct reader *r, uint64_t addr, void *buf, size_t len)
{
	const struct child *c = (const struct child *)r;

	if (addr > INT64_MAX || pread(c->mem, buf, len, (off_t)addr) != (ssize_t)len)
		return error_create(SUTURE_ERROR_INPUT, "no %zu bytes at 0x%llx", len,
			(unsigned long long)addr);
	return NULL;
}

static void find_images(struct child *c, const char *name)
{
	char path[64], line[512], file[256];
	unsigned long long start, offset;

	snprintf(path, sizeof(path), "/proc/%d/maps", c->pid);
	_cleanup_fclose_ FILE *maps = fopen(path, "r");
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%llx-%*x %*s %llx %*s %*s %255s", &start, &offset, file) != 3 ||
			offset != 0)
			continue;
		if (strcmp(file, in_dir(name)) == 0 && !c->base)
			c->base = start;
		if ((strstr(file, "/libc.so") || strstr(file, "/ld-musl")) && !c->libc) {
			c->libc = start;
			strcpy(c->libc_path, file);
		}
	}
	assert_int_not_equal(c->base, 0);
}

static struct child start(const char *name)
{
	struct child c = {.reader.read = child_read};
	char path[64];
	int out[2];

	assert_int_equal(pipe(out), 0);
	c.pid = fork();
	if (c.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], 1);
		execl(in_dir(name), name, NULL);
		_exit(127);
	}
	close(out[1]);
	_cleanup_fclose_ FILE *f = fdopen(out[0], "r");
	void *main_address, *malloc_address;
	assert_int_equal(fscanf(f, "%p %p", &main_address, &malloc_address), 2);
	c.main = (uintptr_t)main_address;
	c.allocate = (uintptr_t)malloc_address;
	snprintf(path, sizeof(path), "/proc/%d/mem", c.pid);
	c.mem = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(c.mem >= 0);
	find_images(&c, name);
	return c;
}

static void stop(struct child *c)
{
	close(c->mem);
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
}

static const struct image_symbol *find(const struct image *image, const char *name)
{
	vec_foreach (s, &image->symbols)
		if (strcmp(s->name, name) == 0)
			return s;
	fail_msg("%s: no symbol %s", image->path, name);
	return NULL;
}

/* The slot that some relocation fills with malloc. */
static void assert_malloc_slot(const struct child *c, struct module *m)
{
	size_t n = 0;

	assert_ok(module_relocs(m));
	vec_foreach (r, &m->relocs) {
		struct module_symbol s;
		uint64_t slot;

		if (r->symbol == 0)
			continue;
		assert_ok(module_symbol(m, r->symbol, &s));
		if (strcmp(s.name, "malloc") == 0 && r->addend == 0) {
			assert_ok(reader_read(&c->reader, r->offset + m->bias, &slot, 8));
			assert_int_equal(slot, c->allocate);
			n++;
		}
		free(s.name);
	}
	assert_true(n > 0);
}

static void assert_libc(const struct child *c)
{
	struct module *m = NULL;
	struct module_symbol s;
	bool found;

	assert_ok(module_open(&c->reader, c->libc, "libc", &m));
	assert_ok(module_lookup(m, "malloc", NULL, &s, &found));
	assert_true(found);
	assert_int_equal(s.value + m->bias, c->allocate);
	assert_ok(module_lookup(m, "no_such_function", NULL, &s, &found));
	assert_false(found);
	module_close(m);
}

static void assert_unwind_information(const struct child *c, const struct module *m)
{
	struct unwind_table *t = NULL;

	assert_ok(unwind_table_from_module(m, &t));
	const struct unwind_row *row = unwind_table_row(t, c->main);
	assert_non_null(row);
	assert_int_equal(row->cfa_reg, 7);
	assert_int_equal(row->cfa_offset, 8);
	assert_null(unwind_table_row(t, m->low));
	unwind_table_destroy(t);
}

static void check(const char *name, const char *compiler, uint16_t type, bool is_static)
{
	struct module *m = NULL;
	struct image *image = NULL;

	write_file("p.c", source);
	sh("%s -g -O2 -Wl,--build-id=sha1 -o %s p.c", compiler, name);
	struct child c = start(name);
	assert_ok(module_open(&c.reader, c.base, name, &m));
	assert_ok(image_open(in_dir(name), &image));
	assert_int_equal(m->type, type);
	assert_int_equal(image->type, type);
	assert_int_equal(image->is_static, is_static);
	assert_false(image->is_library);
	assert_int_equal(find(image, "main")->value + m->bias, c.main);
	assert_int_equal(m->build_id_size, 20);
	assert_memory_equal(m->build_id, image->build_id, 20);
	assert_int_equal(m->dynamic, !(is_static && type == ET_EXEC));
	assert_int_equal(m->needed.n > 0, !is_static);
	assert_unwind_information(&c, m);
	if (!is_static) {
		assert_malloc_slot(&c, m);
		assert_libc(&c);
	}
	image_close(image);
	module_close(m);
	stop(&c);
}

static void pie(void **state)
{
	(void)state;
	check("pie", "cc -pie -fPIE", ET_DYN, false);
}

static void fixed_address(void **state)
{
	(void)state;
	check("fixed", "cc -no-pie -fno-pie", ET_EXEC, false);
}

static void static_fixed(void **state)
{
	(void)state;
	check("static", "cc -static -no-pie -fno-pie", ET_EXEC, true);
}

static void static_pie(void **state)
{
	(void)state;
	check("static-pie", "cc -static-pie -fPIE", ET_DYN, true);
}

/* IFUNC slots of a static program: named by a section only, filled by the program itself. */
static void static_ifuncs(void **state)
{
	(void)state;
	struct module *m = NULL;
	struct image *image = NULL;
	size_t n, stubs = 0;

	write_file("p.c", source);
	sh("cc -g -O2 -static -no-pie -fno-pie -o ifuncs p.c");
	struct child c = start("ifuncs");
	assert_ok(module_open(&c.reader, c.base, "ifuncs", &m));
	assert_ok(image_open(in_dir("ifuncs"), &image));
	const Elf64_Rela *r = image_relocs(image, &n);
	assert_true(n > 0);
	for (size_t i = 0; i < n; i++) {
		uint64_t chosen;

		assert_int_equal(ELF64_R_TYPE(r[i].r_info), R_X86_64_IRELATIVE);
		assert_int_equal(image_symbol_at(image, r[i].r_addend)->type, STT_GNU_IFUNC);
		assert_ok(reader_read(&c.reader, r[i].r_offset, &chosen, 8));
		assert_non_null(image_symbol_at(image, chosen));
	}
	/* Their stubs: in .plt, or in .iplt, which the linker puts there. */
	Elf64_Shdr plt = {};
	size_t strings = 0;
	assert_int_equal(elf_getshdrstrndx(image->elf, &strings), 0);
	for (Elf_Scn *scn = NULL; (scn = elf_nextscn(image->elf, scn));)
		if (strcmp(elf_strptr(image->elf, strings, elf64_getshdr(scn)->sh_name), ".plt") ==
			0)
			plt = *elf64_getshdr(scn);
	assert_int_not_equal(plt.sh_size, 0);
	for (uint64_t at = plt.sh_addr; at < plt.sh_addr + plt.sh_size; at += 8) {
		uint64_t slot;

		if (!image_plt_slot(image, at, &slot))
			continue;
		assert_non_null(image_reloc_at(image, slot));
		stubs++;
	}
	assert_int_equal(stubs, n);
	image_close(image);
	module_close(m);
	stop(&c);
}

static void musl(void **state)
{
	(void)state;
	if (!have_tool("musl-gcc"))
		skip();
	check("musl", "musl-gcc -pie -fPIE", ET_DYN, false);
	check("musl-fixed", "musl-gcc -no-pie -fno-pie", ET_EXEC, false);
}

static void musl_static(void **state)
{
	(void)state;
	if (!have_tool("musl-gcc"))
		skip();
	check("musl-static", "musl-gcc -static -no-pie -fno-pie", ET_EXEC, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pie),
		cmocka_unit_test(fixed_address),
		cmocka_unit_test(static_fixed),
		cmocka_unit_test(static_pie),
		cmocka_unit_test(static_ifuncs),
		cmocka_unit_test(musl),
		cmocka_unit_test(musl_static),
	};
	return cmocka_run_group_tests(tests, work_dir_setup, work_dir_teardown);
}
