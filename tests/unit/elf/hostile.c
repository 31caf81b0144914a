/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damaged images never crash us: a library's memory, its .eh_frame and its file with deterministic
 * damage, thousands of times. Run it under a sanitizer as well (build option b_sanitize).
 */
#include <sys/mman.h>

#include "../../../fuzz/exercise_elf.h"
#include "base/cleanup.h"
#include "build.h"
#include "elf/image.h"

enum { ROUNDS = 4000, BASE = 0x10000000 };

static const char source[] = "#include <stdio.h>\n"
			     "int foo(int x) { char buf[x]; puts(buf); return buf[0]; }\n"
			     "int plain(void) { return foo(3) + foo(4); }\n"
			     "int (*pointer)(void) = plain;\n"
			     "__thread int only_old;\n";

struct bytes {
	uint8_t *data;
	size_t size;
};

static void bytes_deinit(struct bytes *b)
{
	free(b->data);
}

/* xorshift64*: the same damage in every run */
static uint64_t next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1d;
}

/* Few bytes changed; every other round somewhere in the first page, where the headers are. */
static void damage(struct bytes *b, uint64_t *state)
{
	static const uint8_t values[] = {0, 1, 7, 0x7f, 0x80, 0xff};

	for (unsigned n = 1 + next(state) % 4; n > 0; n--) {
		size_t area = next(state) % 2 && b->size > 4096 ? 4096 : b->size;
		size_t at = next(state) % area;

		b->data[at] = next(state) % 2 ? values[next(state) % sizeof(values)] : next(state);
	}
}

static struct bytes copy(const struct bytes *b)
{
	struct bytes c = {.data = malloc(b->size), .size = b->size};

	assert_non_null(c.data);
	memcpy(c.data, b->data, b->size);
	return c;
}

static struct bytes read_whole(const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "r");
	struct bytes b = {};

	assert_non_null(f);
	assert_int_equal(fseek(f, 0, SEEK_END), 0);
	b.size = ftell(f);
	b.data = malloc(b.size);
	rewind(f);
	assert_int_equal(fread(b.data, 1, b.size, f), b.size);
	return b;
}

static const char *library(void)
{
	write_file("h.c", source);
	write_file("h.map", "V1 { global: foo; only_old; local: *; }; V2 { global: plain; } V1;\n");
	sh("cc -g -O1 -fPIC -shared -Wl,--build-id,--hash-style=both,-soname,h,-z,pack-relative-relocs "
	   "-Wl,--version-script,h.map -o h.so h.c");
	return in_dir("h.so");
}

/* The file's segments where the kernel would put them. */
static struct bytes mapped(const char *path)
{
	_cleanup_(bytes_deinit) struct bytes file = read_whole(path);
	struct image *image = NULL;
	struct bytes b = {};

	assert_ok(image_open(path, &image));
	vec_foreach (ph, &image->phdrs)
		if (ph->p_type == PT_LOAD)
			b.size = (ph->p_vaddr + ph->p_memsz + 4095) & -4096;
	b.data = calloc(1, b.size);
	vec_foreach (ph, &image->phdrs)
		if (ph->p_type == PT_LOAD)
			memcpy(b.data + ph->p_vaddr, file.data + ph->p_offset, ph->p_filesz);
	image_close(image);
	return b;
}

/* What is exercised below is all there while the image is whole. */
static void the_whole_image_is_readable(void **state)
{
	(void)state;
	_cleanup_(bytes_deinit) struct bytes whole = mapped(library());
	struct reader_buffer memory;
	struct module_symbol s;
	struct module *m = NULL;
	struct unwind_table *t = NULL;
	bool found;

	reader_buffer_init(&memory, whole.data, whole.size, BASE);
	assert_ok(module_open(&memory.reader, BASE, "h", &m));
	assert_string_equal(m->soname, "h");
	assert_ok(module_lookup(m, "foo", "V1", &s, &found));
	assert_true(found);
	assert_ok(module_relocs(m));
	assert_true(m->relocs.n > 3);
	assert_ok(unwind_table_from_module(m, &t));
	assert_non_null(unwind_table_row(t, BASE + s.value));
	unwind_table_destroy(t);
	module_close(m);
}

static void damaged_memory(void **state)
{
	(void)state;
	_cleanup_(bytes_deinit) struct bytes whole = mapped(library());
	uint64_t seed = 1;

	for (int i = 0; i < ROUNDS; i++) {
		_cleanup_(bytes_deinit) struct bytes b = copy(&whole);

		damage(&b, &seed);
		exercise_module(b.data, b.size, BASE);
	}
}

static void truncated_memory(void **state)
{
	(void)state;
	_cleanup_(bytes_deinit) struct bytes whole = mapped(library());

	/* Copies, so that a sanitizer sees the end. */
	for (size_t size = 0; size < whole.size; size += size < 4096 ? 8 : 64) {
		struct bytes part = {.data = whole.data, .size = size};
		_cleanup_(bytes_deinit) struct bytes b = copy(&part);

		exercise_module(b.data, b.size, BASE);
	}
}

static struct bytes eh_frame(const char *path)
{
	struct image *image = NULL;
	struct bytes b = {};
	size_t names = 0;

	assert_ok(image_open(path, &image));
	assert_int_equal(elf_getshdrstrndx(image->elf, &names), 0);
	for (Elf_Scn *scn = NULL; (scn = elf_nextscn(image->elf, scn));) {
		const Elf64_Shdr *sh = elf64_getshdr(scn);

		if (strcmp(elf_strptr(image->elf, names, sh->sh_name), ".eh_frame") != 0)
			continue;
		b.size = sh->sh_size;
		b.data = malloc(b.size);
		assert_ok(image_read(image, sh->sh_addr, b.data, b.size));
	}
	image_close(image);
	assert_true(b.size > 64);
	return b;
}

static void damaged_eh_frame(void **state)
{
	(void)state;
	_cleanup_(bytes_deinit) struct bytes whole = eh_frame(library());
	uint64_t seed = 2;

	for (int i = 0; i < ROUNDS; i++) {
		_cleanup_(bytes_deinit) struct bytes b = copy(&whole);

		damage(&b, &seed);
		exercise_eh_frame(b.data, b.size, BASE);
	}
}

static void damaged_files(void **state)
{
	(void)state;
	_cleanup_(bytes_deinit) struct bytes whole = read_whole(library());
	int fd = memfd_create("damaged", MFD_CLOEXEC);
	uint64_t seed = 3;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (int i = 0; i < ROUNDS / 4; i++) {
		_cleanup_(bytes_deinit) struct bytes b = copy(&whole);

		damage(&b, &seed);
		if (i % 8 == 0)
			b.size = next(&seed) % b.size;
		assert_int_equal(ftruncate(fd, b.size), 0);
		assert_int_equal(pwrite(fd, b.data, b.size, 0), b.size);
		exercise_image(path);
	}
	close(fd);
}

/* The whole thing as a first input of a fuzzer. */
static int write_seed(const char *kind, const char *path)
{
	const char *from = library();
	_cleanup_(bytes_deinit) struct bytes b = strcmp(kind, "elf_module") == 0  ? mapped(from)
						 : strcmp(kind, "elf_image") == 0 ? read_whole(from)
										  : eh_frame(from);
	_cleanup_fclose_ FILE *f = fopen(path, "w");

	return f && fwrite(b.data, 1, b.size, f) == b.size ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "--write") == 0) {
		int status = work_dir_setup(NULL) || write_seed(argv[2], argv[3]);

		return work_dir_teardown(NULL) || status;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_whole_image_is_readable),
		cmocka_unit_test(damaged_memory),
		cmocka_unit_test(truncated_memory),
		cmocka_unit_test(damaged_eh_frame),
		cmocka_unit_test(damaged_files),
	};
	return cmocka_run_group_tests(tests, work_dir_setup, work_dir_teardown);
}
