/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every value of the manifest taken away, and replaced by values of every other type: refused with
 * a message that names the place, or of no consequence. Nothing is written down twice here: the
 * places are those of a patch that has them all.
 */
#include <jansson.h>

#include "fixture.h"
#include "format/format.h"

struct file {
	uint8_t *data;
	size_t size;
	json_t *manifest;
};

static int setup(void **state)
{
	struct file *f = calloc(1, sizeof(*f));
	struct patch *p = make_patch();
	void *data;

	assert_non_null(f);
	assert_ok(patch_serialize(p, &data, &f->size));
	f->data = data;
	f->manifest = json_loads(p->manifest, 0, NULL);
	assert_non_null(f->manifest);
	patch_destroy(p);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct file *f = *state;

	json_decref(f->manifest);
	free(f->data);
	free(f);
	return 0;
}

static Elf64_Shdr *manifest_header(uint8_t *data)
{
	const Elf64_Ehdr *h = (const Elf64_Ehdr *)data;
	Elf64_Shdr *s = (Elf64_Shdr *)(data + h->e_shoff);

	while (s->sh_type != SHT_PROGBITS || s->sh_flags || data[s->sh_offset] != '{')
		s++;
	return s;
}

/* The file with this manifest behind everything else, where it can have any length. */
static struct suture_error *parse_text(const struct file *f, const char *text)
{
	size_t n = strlen(text), size = f->size + n, at;
	uint8_t *data = malloc(size), digest[PATCH_DIGEST_SIZE];
	char hex[ID_HEX_SIZE + 1];
	struct patch *p = NULL;

	assert_non_null(data);
	memcpy(data, f->data, f->size);
	memcpy(data + f->size, text, n);
	Elf64_Shdr *s = manifest_header(data);
	s->sh_offset = f->size;
	s->sh_size = n;
	struct suture_error *err = seal_compute(data, size, f->size, n, digest, &at);
	if (!err) {
		hex_encode(hex, digest, sizeof(digest));
		memcpy(data + at, hex, ID_HEX_SIZE);
		err = patch_parse(data, size, "x", &p);
	}
	patch_destroy(p);
	free(data);
	return err;
}

static struct suture_error *parse_json(const struct file *f)
{
	char *text = json_dumps(f->manifest, JSON_SORT_KEYS | JSON_INDENT(2));

	assert_non_null(text);
	struct suture_error *err = parse_text(f, text);
	free(text);
	return err;
}

static void the_way_there_works(void **state)
{
	assert_ok(parse_json(*state));
}

/* ---- every place ---- */

typedef void (*visit)(struct file *f, json_t *parent, const char *key, size_t i, const char *path);

static void walk(struct file *f, json_t *node, const char *path, visit visit)
{
	char sub[256];

	if (json_is_object(node)) {
		/* The visitor changes the object: keep the keys apart. */
		json_t *keys = json_copy(node);
		const char *key;
		json_t *value;

		json_object_foreach(keys, key, value)
		{
			snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "." : "", key);
			visit(f, node, key, 0, sub);
			walk(f, value, sub, visit);
		}
		json_decref(keys);
	}
	for (size_t i = 0; json_is_array(node) && i < json_array_size(node); i++) {
		snprintf(sub, sizeof(sub), "%s[%zu]", path, i);
		visit(f, node, NULL, i, sub);
		walk(f, json_array_get(node, i), sub, visit);
	}
}

static json_t *get(json_t *parent, const char *key, size_t i)
{
	return key ? json_object_get(parent, key) : json_array_get(parent, i);
}

static void set(json_t *parent, const char *key, size_t i, json_t *value)
{
	if (key)
		assert_int_equal(json_object_set_new(parent, key, value), 0);
	else
		assert_int_equal(json_array_set_new(parent, i, value), 0);
}

static bool is_optional(const char *key)
{
	static const char *const words[] = {"description", "compiler", "unit", "reason", "version"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(key, words[i]))
			return true;
	return false;
}

static size_t visited;

static void without(struct file *f, json_t *parent, const char *key, size_t i, const char *path)
{
	char want[300];

	(void)i;
	if (!key)
		return;
	json_t *value = json_incref(json_object_get(parent, key));
	assert_int_equal(json_object_del(parent, key), 0);
	struct suture_error *err = parse_json(f);
	set(parent, key, 0, value);
	visited++;
	/* The version of the patch is not optional, that of a symbol is. */
	if (is_optional(key) && strcmp(path, "version")) {
		if (err)
			fail_msg("without %s: %s", path, suture_error_message(err));
		return;
	}
	if (!err)
		fail_msg("without %s: accepted", path);
	snprintf(want, sizeof(want), "%s: missing", path);
	bool first = !strcmp(path, "id") || !strcmp(path, "format");
	/* Without an address a function is a new one, with keys that those do not have. */
	bool is_new = !strcmp(key, "address") && strstr(path, "functions[");
	if (!first && !is_new && !strstr(suture_error_message(err), want))
		fail_msg("without %s: %s", path, suture_error_message(err));
	suture_error_destroy(err);
}

static void nothing_can_be_missing(void **state)
{
	struct file *f = *state;

	visited = 0;
	walk(f, f->manifest, "", without);
	assert_true(visited > 100);
	assert_ok(parse_json(f));
}

static void replaced(struct file *f, json_t *parent, const char *key, size_t i, const char *path)
{
	static const char *const values[] = {"null", "true", "-1", "1.5", "99999999999999999",
		"\"\"", "\"x\\u001by\"", "\"0x\"", "\"0xffffffffffffffff\"", "[]", "[null]", "{}",
		"{\"a\": {}}"};
	json_t *old = json_incref(get(parent, key, i));

	for (size_t k = 0; k < sizeof(values) / sizeof(values[0]); k++) {
		json_t *value = json_loads(values[k], JSON_DECODE_ANY, NULL);

		assert_non_null(value);
		bool same_type = json_typeof(value) == json_typeof(old) ||
				 (json_is_boolean(value) && json_is_boolean(old));
		set(parent, key, i, value);
		struct suture_error *err = parse_json(f);
		visited++;
		if (!err && !same_type)
			fail_msg("%s as %s: accepted", path, values[k]);
		const char *message = err ? suture_error_message(err) : "";
		bool first = !strcmp(path, "id") || !strcmp(path, "format");
		if (err && !same_type && !first && !strstr(message, path))
			fail_msg("%s as %s: %s", path, values[k], message);
		/* Hostile text must not come out as it went in. */
		if (strchr(message, '\033'))
			fail_msg("%s: the message has a control character", path);
		suture_error_destroy(err);
	}
	set(parent, key, i, old);
}

static void nothing_can_be_of_another_type(void **state)
{
	struct file *f = *state;

	visited = 0;
	walk(f, f->manifest, "", replaced);
	assert_true(visited > 1000);
	assert_ok(parse_json(f));
}

static void added(struct file *f, json_t *parent, const char *key, size_t i, const char *path)
{
	json_t *object = get(parent, key, i);
	char want[300];

	if (!json_is_object(object))
		return;
	set(object, "hook", 0, json_string("x"));
	snprintf(want, sizeof(want), "%s.hook: not known to this suture", path);
	assert_error(parse_json(f), SUTURE_ERROR_INPUT, want);
	json_object_del(object, "hook");
	visited++;
}

static void nothing_can_be_added(void **state)
{
	struct file *f = *state;

	visited = 0;
	walk(f, f->manifest, "", added);
	assert_true(visited > 20);
	set(f->manifest, "hook", 0, json_true());
	assert_error(parse_json(f), SUTURE_ERROR_INPUT, "hook: not known to this suture");
}

/* ---- lists against the file ---- */

static void lists_fit_the_file(void **state)
{
	struct file *f = *state;
	json_t *sections = json_object_get(f->manifest, "sections");
	json_t *externals = json_object_get(f->manifest, "externals");

	json_array_append(externals, json_array_get(externals, 0));
	assert_error(parse_json(f), SUTURE_ERROR_INPUT, "externals[9]: the symbol is defined");
	json_array_remove(externals, json_array_size(externals) - 1);
	json_array_remove(externals, 3);
	assert_error(parse_json(f), SUTURE_ERROR_INPUT, "symbol 9 is not defined and not among");
	json_array_remove(sections, json_array_size(sections) - 1);
	assert_error(parse_json(f), SUTURE_ERROR_INPUT, "the file has more payload sections");
}

static void deep_and_strange_text(void **state)
{
	struct file *f = *state;
	enum { DEPTH = 100000 };
	char *deep = malloc(DEPTH + 128);
	char head[128] =
		"{\"id\": \"0000000000000000000000000000000000000000000000000000000000000000\""
		", \"x\": ";

	assert_non_null(deep);
	strcpy(deep, head);
	memset(deep + strlen(head), '[', DEPTH - 200);
	deep[DEPTH - 200 + strlen(head)] = '\0';
	assert_error(parse_text(f, deep), SUTURE_ERROR_INPUT, "maximum parsing depth");
	free(deep);
	assert_error(parse_text(f, ""), SUTURE_ERROR_INPUT, "id");
	assert_error(parse_text(f, "{"), SUTURE_ERROR_INPUT, "id");
	strcat(head, "\"\xff\"}");
	assert_error(parse_text(f, head), SUTURE_ERROR_INPUT, "unable to decode byte 0xff");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define WITH_FILE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		WITH_FILE(the_way_there_works),
		WITH_FILE(nothing_can_be_missing),
		WITH_FILE(nothing_can_be_of_another_type),
		WITH_FILE(nothing_can_be_added),
		WITH_FILE(lists_fit_the_file),
		WITH_FILE(deep_and_strange_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
