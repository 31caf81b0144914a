/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The patch file: what is written is read back the same, the bytes depend on nothing but the patch,
 * and no damaged or hostile file is taken for a good one or brings us down.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "fixture.h"
#include "format/format.h"

static struct patch *parse_ok(const void *data, size_t size)
{
	struct patch *p = NULL;

	assert_ok(patch_parse(data, size, "test.suture", &p));
	assert_non_null(p);
	return p;
}

/* A parser that reads beyond the end is caught by the sanitizer only on a block of its own. */
static struct suture_error *parse_copy(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct patch *p = NULL;

	assert_non_null(copy);
	memcpy(copy, data, size);
	struct suture_error *err = patch_parse(copy, size, "x", &p);
	free(copy);
	assert_true(!p == !!err);
	patch_destroy(p);
	return err;
}

static void assert_texts(const char *a, const char *b)
{
	assert_int_equal(!a, !b);
	if (a)
		assert_string_equal(a, b);
}

static void assert_same_sections(const struct patch *a, const struct patch *b)
{
	assert_int_equal(a->sections.n, b->sections.n);
	for (size_t i = 0; i < a->sections.n; i++) {
		const struct patch_section *x = &a->sections.at[i], *y = &b->sections.at[i];

		assert_string_equal(x->name, y->name);
		assert_int_equal(x->image, y->image);
		assert_int_equal(x->type, y->type);
		assert_int_equal(x->flags, y->flags);
		assert_int_equal(x->align, y->align);
		assert_int_equal(x->size, y->size);
		assert_int_equal(!x->data, !y->data);
		if (x->data)
			assert_memory_equal(x->data, y->data, x->size);
		assert_int_equal(x->relocs.n, y->relocs.n);
		for (size_t k = 0; k < x->relocs.n; k++) {
			assert_int_equal(x->relocs.at[k].offset, y->relocs.at[k].offset);
			assert_int_equal(x->relocs.at[k].type, y->relocs.at[k].type);
			assert_int_equal(x->relocs.at[k].symbol, y->relocs.at[k].symbol);
			assert_int_equal(x->relocs.at[k].addend, y->relocs.at[k].addend);
		}
	}
}

static void assert_same_symbols(const struct patch *a, const struct patch *b)
{
	assert_int_equal(a->symbols.n, b->symbols.n);
	for (size_t i = 0; i < a->symbols.n; i++) {
		const struct patch_symbol *x = &a->symbols.at[i], *y = &b->symbols.at[i];

		assert_string_equal(x->name, y->name);
		assert_int_equal(x->kind, y->kind);
		assert_int_equal(x->elf_type, y->elf_type);
		assert_int_equal(x->weak, y->weak);
		assert_int_equal(x->local, y->local);
		assert_int_equal(x->section, y->section);
		assert_int_equal(x->image, y->image);
		assert_int_equal(x->value, y->value);
		assert_int_equal(x->size, y->size);
		assert_texts(x->version, y->version);
	}
}

static void assert_same_functions(const struct patch *a, const struct patch *b)
{
	assert_int_equal(a->functions.n, b->functions.n);
	for (size_t i = 0; i < a->functions.n; i++) {
		const struct patch_function *x = &a->functions.at[i], *y = &b->functions.at[i];

		assert_string_equal(x->name, y->name);
		assert_int_equal(x->image, y->image);
		assert_int_equal(x->address, y->address);
		assert_int_equal(x->size, y->size);
		assert_int_equal(!x->old_bytes, !y->old_bytes);
		if (x->old_bytes)
			assert_memory_equal(x->old_bytes, y->old_bytes, x->size);
		assert_int_equal(x->site, y->site);
		assert_int_equal(x->site_size, y->site_size);
		assert_int_equal(x->symbol, y->symbol);
		assert_int_equal(x->new_size, y->new_size);
		assert_texts(x->unit, y->unit);
		assert_texts(x->reason, y->reason);
		assert_int_equal(x->parts.n, y->parts.n);
		if (x->parts.n)
			assert_memory_equal(
				x->parts.at, y->parts.at, x->parts.n * sizeof(struct patch_range));
	}
}

static void assert_same_rest(const struct patch *a, const struct patch *b)
{
	assert_texts(a->name, b->name);
	assert_texts(a->version, b->version);
	assert_texts(a->description, b->description);
	assert_texts(a->created_by, b->created_by);
	assert_texts(a->compiler, b->compiler);
	assert_texts(a->manifest, b->manifest);
	assert_memory_equal(a->id, b->id, sizeof(a->id));
	assert_int_equal(a->references.n, b->references.n);
	for (size_t i = 0; i < a->references.n; i++)
		assert_string_equal(a->references.at[i], b->references.at[i]);
	assert_int_equal(a->images.n, b->images.n);
	for (size_t i = 0; i < a->images.n; i++) {
		const struct patch_image *x = &a->images.at[i], *y = &b->images.at[i];

		assert_string_equal(x->name, y->name);
		assert_int_equal(x->fixed, y->fixed);
		assert_int_equal(x->build_id_size, y->build_id_size);
		assert_memory_equal(x->build_id, y->build_id, x->build_id_size);
	}
	assert_int_equal(a->expects.n, b->expects.n);
	for (size_t i = 0; i < a->expects.n; i++) {
		const struct patch_expect *x = &a->expects.at[i], *y = &b->expects.at[i];

		assert_string_equal(x->name, y->name);
		assert_int_equal(x->image, y->image);
		assert_int_equal(x->address, y->address);
		assert_int_equal(x->size, y->size);
		assert_memory_equal(x->digest, y->digest, sizeof(x->digest));
	}
}

/* The fixture and the bytes of its file. */
struct fixture {
	struct patch *patch;
	uint8_t *data;
	size_t size;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	void *data;

	assert_non_null(f);
	f->patch = make_patch();
	assert_ok(patch_serialize(f->patch, &data, &f->size));
	f->data = data;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	patch_destroy(f->patch);
	free(f->data);
	free(f);
	return 0;
}

static void what_is_written_is_read_back(void **state)
{
	struct fixture *f = *state;
	struct patch *p = parse_ok(f->data, f->size);

	assert_same_sections(f->patch, p);
	assert_same_symbols(f->patch, p);
	assert_same_functions(f->patch, p);
	assert_same_rest(f->patch, p);
	patch_destroy(p);
}

static void the_same_patch_gives_the_same_bytes(void **state)
{
	struct fixture *f = *state;
	struct patch *fresh = make_patch(), *read = parse_ok(f->data, f->size);
	struct patch *const again[] = {fresh, read, f->patch};

	for (int i = 0; i < 3; i++) {
		void *data;
		size_t size;

		assert_ok(patch_serialize(again[i], &data, &size));
		assert_int_equal(size, f->size);
		assert_memory_equal(data, f->data, size);
		free(data);
	}
	patch_destroy(fresh);
	patch_destroy(read);
}

/* ELF wants local symbols first; whoever gave them in another order gets his references right. */
static void local_symbols_move_to_the_front(void **state)
{
	struct fixture *f = *state;
	struct patch *p = parse_ok(f->data, f->size), *q;
	struct patch_symbol swap = p->symbols.at[SYM_HELPER];
	void *data;
	size_t size;

	p->symbols.at[SYM_HELPER] = p->symbols.at[SYM_PARSE];
	p->symbols.at[SYM_PARSE] = swap;
	p->functions.at[0].new_size = 10;
	p->functions.at[1].new_size = 24;
	assert_ok(patch_serialize(p, &data, &size));
	q = parse_ok(data, size);
	assert_string_equal(q->symbols.at[q->functions.at[0].symbol].name, "helper");
	assert_string_equal(q->symbols.at[q->functions.at[1].symbol].name, "parse");
	assert_string_equal(
		q->symbols.at[q->sections.at[TEXT_PARSE].relocs.at[0].symbol].name, "parse");
	assert_true(q->symbols.at[1].local);
	free(data);
	patch_destroy(p);
	patch_destroy(q);
}

static void the_id_is_of_the_content(void **state)
{
	struct fixture *f = *state;
	struct patch *p = make_patch();
	char hex[ID_HEX_SIZE + 1];
	void *data;
	size_t size;

	hex_encode(hex, f->patch->id, PATCH_DIGEST_SIZE);
	assert_non_null(strstr(f->patch->manifest, hex));
	p->sections.at[DATA].data[3]++;
	assert_ok(patch_serialize(p, &data, &size));
	assert_memory_not_equal(p->id, f->patch->id, sizeof(p->id));
	free(data);
	patch_destroy(p);
}

static void files(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/tmp/suture-unit-XXXXXX", path[64], sub[64];
	struct patch *p;
	struct stat st;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a.suture", dir);
	snprintf(sub, sizeof(sub), "%s/no/a.suture", dir);
	assert_ok(patch_write(f->patch, path));
	assert_ok(patch_write(f->patch, path));
	assert_ok(patch_read(path, &p));
	assert_same_rest(f->patch, p);
	patch_destroy(p);

	assert_error(patch_write(f->patch, sub), SUTURE_ERROR_SYSTEM, "No such file");
	assert_error(patch_write(f->patch, dir), SUTURE_ERROR_SYSTEM, "cannot rename");
	assert_error(patch_read(sub, &p), SUTURE_ERROR_SYSTEM, "/no/a.suture: No such file");
	assert_error(patch_read(dir, &p), SUTURE_ERROR_INPUT, "not a regular file");
	assert_int_equal(truncate(path, 1000), 0);
	assert_error(patch_read(path, &p), SUTURE_ERROR_INPUT, "a.suture: truncated");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_error(patch_read(path, &p), SUTURE_ERROR_INPUT, "not a regular file");
	assert_int_equal(unlink(path), 0);
	/* Nothing temporary is left behind. */
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(stat(dir, &st), -1);
}

/* ---- damage ---- */

static void cut_short_anywhere(void **state)
{
	struct fixture *f = *state;

	assert_error(parse_copy(f->data, 0), SUTURE_ERROR_INPUT, "empty");
	for (size_t size = 0; size < f->size; size++) {
		/* Every length near the ends and in the tables, samples of the padding. */
		if (size > 4096 && size + 8192 < f->size && size % 7)
			continue;
		struct suture_error *err = parse_copy(f->data, size);

		assert_non_null(err);
		assert_int_equal(suture_error_code(err), SUTURE_ERROR_INPUT);
		if (size >= SELFMAG && !strstr(suture_error_message(err), "truncated"))
			fail_msg("%zu bytes: %s", size, suture_error_message(err));
		suture_error_destroy(err);
	}
}

static void a_flipped_bit_is_noticed(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < f->size; i++) {
		f->data[i] ^= 1 << i % 8;
		struct suture_error *err = parse_copy(f->data, f->size);
		f->data[i] ^= 1 << i % 8;
		if (!err)
			fail_msg("byte %zu: flipped unnoticed", i);
		suture_error_destroy(err);
	}
}

/* Whoever damages a file on purpose computes the id too. */
static void reseal(struct fixture *f)
{
	const uint8_t *manifest = memmem(f->data, f->size, "{\n  \"", 5);
	uint8_t digest[PATCH_DIGEST_SIZE];
	char hex[ID_HEX_SIZE + 1];
	size_t at;

	if (!manifest)
		return;
	struct suture_error *err = seal_compute(
		f->data, f->size, manifest - f->data, f->data + f->size - manifest, digest, &at);
	if (err) {
		suture_error_destroy(err);
		return;
	}
	hex_encode(hex, digest, sizeof(digest));
	memcpy(f->data + at, hex, ID_HEX_SIZE);
}

static void hostile_bytes_do_no_harm(void **state)
{
	static const uint8_t values[] = {0, 0xff, 0x80, 0x7f};
	struct fixture *f = *state;
	size_t accepted = 0, refused = 0;

	for (size_t i = 0; i < f->size; i++) {
		uint8_t old = f->data[i];

		/* Padding and zeros of the page-aligned section: a sample will do. */
		if (!old && i % 5)
			continue;
		f->data[i] = values[i % 4] == old ? old ^ 1 : values[i % 4];
		reseal(f);
		struct suture_error *err = parse_copy(f->data, f->size);
		f->data[i] = old;
		*(err ? &refused : &accepted) += 1;
		suture_error_destroy(err);
	}
	/* Payload bytes may be anything; structure may not. */
	assert_true(accepted > 50);
	assert_true(refused > 1000);
}

/* ---- messages ---- */

/* The file with its first `from` replaced by `to` of the same length, and a right id. */
static struct suture_error *parse_edited(const struct fixture *f, const char *from, const char *to)
{
	struct fixture copy = {.data = malloc(f->size), .size = f->size};

	assert_non_null(copy.data);
	assert_int_equal(strlen(from), strlen(to));
	memcpy(copy.data, f->data, f->size);
	char *at = memmem(copy.data, copy.size, from, strlen(from));
	if (!at)
		fail_msg("the file has no %s", from);
	memcpy(at, to, strlen(to));
	reseal(&copy);
	struct suture_error *err = parse_copy(copy.data, copy.size);
	free(copy.data);
	return err;
}

static void wrong_files_are_named(void **state)
{
	struct fixture *f = *state;
	Elf64_Ehdr *h = (Elf64_Ehdr *)f->data, keep = *h;

	assert_error(parse_copy((const uint8_t *)"#!/bin/sh\n", 10), SUTURE_ERROR_INPUT,
		"x: not a patch file (no ELF header)");
	h->e_type = ET_DYN;
	assert_error(parse_copy(f->data, f->size), SUTURE_ERROR_INPUT, "not a relocatable object");
	*h = keep;
	h->e_machine = EM_AARCH64;
	assert_error(parse_copy(f->data, f->size), SUTURE_ERROR_UNSUPPORTED, "ELF machine 183");
	*h = keep;
	h->e_ident[EI_CLASS] = ELFCLASS32;
	assert_error(parse_copy(f->data, f->size), SUTURE_ERROR_INPUT, "not 64-bit");
	*h = keep;
	assert_error(parse_edited(f, ".suture.manifest", ".sutur3.manifest"), SUTURE_ERROR_INPUT,
		"no section .suture.manifest");
	f->data[sizeof(Elf64_Ehdr)] ^= 1;
	assert_error(parse_copy(f->data, f->size), SUTURE_ERROR_INPUT, "damaged");
}

static void manifest_errors_name_the_place(void **state)
{
	static const struct {
		const char *from, *to, *message;
	} cases[] = {
		{"\"format\": 1", "\"format\": 2", "format 2; this suture reads format 1"},
		{"\"format\": 1", "\"format\":\"\"", "format: must be an integer"},
		{"\"format\": 1", "\"format\"; 1", "manifest: line 104: ':' expected"},
		{"\"expects\": [", "\"expectZ\": [", "manifest: expectZ: not known"},
		{"\"address\": \"0x401000\",\n      \"image\"",
			"\"address\": 4194304000,\n      \"image\"",
			"externals[6].address: must be a string"},
		{"\"address\": \"0x2000\"", "\"address\": \"0X2000\"",
			"functions[2].address: must be a hexadecimal address"},
		{"\"address\": \"0x400800\"", "\"addre55\": \"0x400800\"",
			"functions[0].parts[0].addre55: not known"},
		{"\"new_size\": 10", "\"new_siz3\": 10", "functions[1].new_siz3: not known"},
		{"\"new_size\": 10", "\"new_size\": -1", "functions[1].new_size: is out of range"},
		{"\"new_size\": 10", "\"new_size\": 99", "functions[1] (helper): new_size 99"},
		{"\"symbol\": 2", "\"symbol\": 0", "functions[1].symbol: the file has no such"},
		{"\"site_size\": 5", "\"site_size\": 0", "functions[0] (parse): site_size 0"},
		{"\"site\": 4,", "\"site\":32,", "functions[0] (parse): site 32"},
		{"\"fixed\": true", "\"fixed\": 1234", "images[0].fixed: must be true or false"},
		{"\"build_id\": \"ab", "\"build_id\": \"AB", "images[0].build_id: must be lower"},
		{"\"kind\": \"tls\"", "\"kind\": \"tlx\"", "externals[3].kind: no such kind"},
		{"\"type\": \"tls\"", "\"type\": \"tlx\"", "externals[3].type: no such type"},
		{"\"tls_offset\"", "\"address\"   ", "has no address"},
		{"\"name\": \"log_line\",\n      \"sha", "\"name\": \"log\\u001b\",\n     \"sha",
			"expects[0]: name has a control character (0x1b)"},
		{"\"name\": \"CVE-2014-0160\"", "\"name\": \"../../../etc/\"", "name is malf"},
		{"\"name\": \".bss.seen\"", "\"name\": \".bss.seeN\"",
			"sections[4]: the name is not"},
		{"\"machine\": \"x86_64\"", "\"machine\": \"x86-64\"", "another machine"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *to = cases[i].to;
		struct suture_error *err = parse_edited(*state, cases[i].from, to);

		if (!err)
			fail_msg("%s: accepted", to);
		if (!strstr(suture_error_message(err), cases[i].message))
			fail_msg("%s: %s", to, suture_error_message(err));
		suture_error_destroy(err);
	}
}

/* ---- other people's tools ---- */

/* readelf and objdump read the file to its end and have nothing to complain about. */
static void inspectable(void **state)
{
	static const char *const tools[] = {"readelf -aW", "objdump -drwC", "objdump -xs"};
	struct fixture *f = *state;
	char dir[] = "/tmp/suture-unit-XXXXXX", path[64], command[160], line[1024];
	bool relocation = false, manifest = false;

	if (system("readelf --version >/dev/null 2>&1"))
		skip();
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a.suture", dir);
	assert_ok(patch_write(f->patch, path));
	for (size_t i = 0; i < sizeof(tools) / sizeof(tools[0]); i++) {
		snprintf(command, sizeof(command), "LC_ALL=C %s %s 2>&1", tools[i], path);
		FILE *out = popen(command, "r");
		assert_non_null(out);
		while (fgets(line, sizeof(line), out)) {
			if (strcasestr(line, "warning") || strcasestr(line, "error:") ||
				strstr(line, "corrupt") || strstr(line, "<unknown>"))
				fail_msg("%s: %s", tools[i], line);
			relocation |= strstr(line, "R_X86_64_PLT32\thelper-0x4") != NULL;
			manifest |= strstr(line, ".suture.manifest  PROGBITS") != NULL;
		}
		assert_int_equal(pclose(out), 0);
	}
	assert_true(relocation);
	assert_true(manifest);
	unlink(path);
	rmdir(dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define WITH_FILE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		WITH_FILE(what_is_written_is_read_back),
		WITH_FILE(the_same_patch_gives_the_same_bytes),
		WITH_FILE(local_symbols_move_to_the_front),
		WITH_FILE(the_id_is_of_the_content),
		WITH_FILE(files),
		WITH_FILE(cut_short_anywhere),
		WITH_FILE(a_flipped_bit_is_noticed),
		WITH_FILE(hostile_bytes_do_no_harm),
		WITH_FILE(wrong_files_are_named),
		WITH_FILE(manifest_errors_name_the_place),
		WITH_FILE(inspectable),
	};

	/* Seeds for the fuzzer: --write FILE. */
	if (argc == 3 && !strcmp(argv[1], "--write")) {
		struct patch *p = make_patch();
		struct suture_error *err = patch_write(p, argv[2]);

		if (err)
			fprintf(stderr, "%s\n", suture_error_message(err));
		patch_destroy(p);
		suture_error_destroy(err);
		return err != NULL;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
