/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a manifest to a patch. The text is hostile: every type and number is checked, and a message
 * names the place as `functions[3].address`. A key that this version does not know is an error: it
 * may ask for something that we would silently not do.
 */
#include <jansson.h>
#include <sodium.h>

#include "base/cleanup.h"
#include "format/manifest.h"

/* A value and the way to it from the root. */
struct at {
	const json_t *json;
	const struct at *up;
	const char *key; /* NULL: element `index` of the list above */
	size_t index;
};

static void print_path(const struct at *at, FILE *out)
{
	if (!at->up)
		return;
	print_path(at->up, out);
	if (at->key)
		fprintf(out, "%s%s", at->up->up ? "." : "", at->key);
	else
		fprintf(out, "[%zu]", at->index);
}

/* "manifest: functions[3].address: text" */
static struct suture_error *bad_at(const struct at *at, const char *text)
{
	_cleanup_free_ char *path = NULL;
	size_t size;
	FILE *out = open_memstream(&path, &size);

	if (!out)
		return error_nomem();
	print_path(at, out);
	if (fclose(out))
		return error_nomem();
	return bad("manifest: %s%s%s", path, *path ? ": " : "", text);
}

/* A member; ret->json is NULL when it is absent and may be so. */
static struct suture_error *member(
	const struct at *at, const char *key, bool optional, struct at *ret)
{
	*ret = (struct at){.json = json_object_get(at->json, key), .up = at, .key = key};
	if (!ret->json && !optional)
		return bad_at(ret, "missing");
	return NULL;
}

/* `at` is an object without keys beyond these (a NULL-terminated list). */
static struct suture_error *check_object(const struct at *at, const char *const *keys)
{
	const char *key;
	json_t *value;

	if (!json_is_object(at->json))
		return bad_at(at, "must be an object");
	json_object_foreach((json_t *)at->json, key, value)
	{
		const char *const *k = keys;

		while (*k && strcmp(*k, key))
			k++;
		if (*k)
			continue;
		struct at unknown = {.json = value, .up = at, .key = key};
		return error_hint(bad_at(&unknown, "not known to this suture"),
			"the patch may have been made by a newer suture");
	}
	return NULL;
}

static struct suture_error *get_text(
	const struct at *at, const char *key, bool optional, const char **ret)
{
	struct at m;

	TRY(member(at, key, optional, &m));
	*ret = m.json ? json_string_value(m.json) : NULL;
	if (m.json && !*ret)
		return bad_at(&m, "must be a string");
	return NULL;
}

static struct suture_error *get_string(
	const struct at *at, const char *key, bool optional, char **ret)
{
	const char *text;

	TRY(get_text(at, key, optional, &text));
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? error_nomem() : NULL;
}

static struct suture_error *get_number(
	const struct at *at, const char *key, uint64_t max, uint64_t *ret)
{
	struct at m;

	TRY(member(at, key, false, &m));
	if (!json_is_integer(m.json))
		return bad_at(&m, "must be an integer");
	json_int_t value = json_integer_value(m.json);
	if (value < 0 || (uint64_t)value > max)
		return bad_at(&m, "is out of range");
	*ret = value;
	return NULL;
}

static struct suture_error *get_u32(const struct at *at, const char *key, uint32_t *ret)
{
	uint64_t value;

	TRY(get_number(at, key, UINT32_MAX, &value));
	*ret = value;
	return NULL;
}

static struct suture_error *get_bool(const struct at *at, const char *key, bool *ret)
{
	struct at m;

	TRY(member(at, key, false, &m));
	if (!json_is_boolean(m.json))
		return bad_at(&m, "must be true or false");
	*ret = json_is_true(m.json);
	return NULL;
}

/* "0x" and 1 to 16 lower-case digits. */
static struct suture_error *get_address(const struct at *at, const char *key, uint64_t *ret)
{
	struct at m = {.up = at, .key = key};
	const char *text;

	TRY(get_text(at, key, false, &text));
	size_t digits = strncmp(text, "0x", 2) ? 0 : strlen(text + 2);
	if (digits < 1 || digits > 16 || strspn(text + 2, "0123456789abcdef") != digits)
		return bad_at(&m, "must be a hexadecimal address");
	*ret = strtoull(text + 2, NULL, 16);
	return NULL;
}

static struct suture_error *get_hex(
	const struct at *at, const char *key, uint8_t *ret, size_t max, size_t *ret_size)
{
	struct at m = {.up = at, .key = key};
	const char *text;

	TRY(get_text(at, key, false, &text));
	if (!hex_decode(text, ret, max, ret_size))
		return bad_at(&m, "must be lower-case hexadecimal digits, not too many");
	return NULL;
}

static struct suture_error *get_digest(
	const struct at *at, const char *key, uint8_t ret[PATCH_DIGEST_SIZE])
{
	struct at m = {.up = at, .key = key};
	size_t size;

	TRY(get_hex(at, key, ret, PATCH_DIGEST_SIZE, &size));
	if (size != PATCH_DIGEST_SIZE)
		return bad_at(&m, "must have 64 digits");
	return NULL;
}

/* What an element of a list becomes. */
struct parser {
	struct patch *patch;
	struct patch_function *function; /* parts: of this one */
	const uint8_t *old;
	size_t old_size;
	uint64_t old_total;
};
typedef struct suture_error *(*parse_item)(const struct at *at, struct parser *parser);

static struct suture_error *each(
	const struct at *at, const char *key, size_t max, parse_item item, struct parser *parser)
{
	struct at list;

	TRY(member(at, key, false, &list));
	if (!json_is_array(list.json))
		return bad_at(&list, "must be a list");
	if (json_array_size(list.json) > max)
		return bad_at(&list, "is too long");
	for (size_t i = 0; i < json_array_size(list.json); i++) {
		struct at element = {.json = json_array_get(list.json, i), .up = &list, .index = i};

		TRY(item(&element, parser));
	}
	return NULL;
}

static struct suture_error *parse_reference(const struct at *at, struct parser *parser)
{
	char **ret = vec_add(&parser->patch->references);

	if (!json_is_string(at->json))
		return bad_at(at, "must be a string");
	if (!ret || !(*ret = strdup(json_string_value(at->json))))
		return error_nomem();
	return NULL;
}

static struct suture_error *parse_image(const struct at *at, struct parser *parser)
{
	static const char *const keys[] = {"build_id", "fixed", "name", NULL};
	struct patch_image *image = vec_add(&parser->patch->images);

	if (!image)
		return error_nomem();
	TRY(check_object(at, keys));
	TRY(get_string(at, "name", false, &image->name));
	TRY(get_hex(
		at, "build_id", image->build_id, sizeof(image->build_id), &image->build_id_size));
	return get_bool(at, "fixed", &image->fixed);
}

/* Section i of the payload stands at index i + 1 of the file. */
static struct suture_error *parse_section(const struct at *at, struct parser *parser)
{
	static const char *const keys[] = {"image", "index", "name", NULL};
	const char *name;
	uint64_t index;

	TRY(check_object(at, keys));
	TRY(get_number(at, "index", MAX_SECTIONS, &index));
	if (index != at->index + 1 || index > parser->patch->sections.n)
		return bad_at(at, "index is not that of a payload section of the file");
	struct patch_section *section = &parser->patch->sections.at[at->index];
	TRY(get_text(at, "name", false, &name));
	if (strcmp(name, section->name))
		return bad_at(at, "the name is not that of the file's section");
	return get_u32(at, "image", &section->image);
}

/* Entry `symbol` of the file's .symtab; 0 is the null symbol. */
static struct suture_error *get_symbol(const struct at *at, struct parser *parser, uint32_t *ret)
{
	struct at m = {.up = at, .key = "symbol"};
	uint32_t index;

	TRY(get_u32(at, "symbol", &index));
	if (index == 0 || index > parser->patch->symbols.n)
		return bad_at(&m, "the file has no such symbol");
	*ret = index - 1;
	return NULL;
}

static struct suture_error *get_kind(const struct at *at, enum patch_symbol_kind *ret)
{
	struct at m = {.up = at, .key = "kind"};
	const char *text;

	TRY(get_text(at, "kind", false, &text));
	for (int kind = PATCH_SYMBOL_ADDRESS; manifest_kinds[kind]; kind++) {
		if (!strcmp(text, manifest_kinds[kind])) {
			*ret = kind;
			return NULL;
		}
	}
	return bad_at(&m, "no such kind");
}

static struct suture_error *get_type(const struct at *at, uint8_t *ret)
{
	struct at m = {.up = at, .key = "type"};
	const char *text;

	TRY(get_text(at, "type", false, &text));
	for (const struct manifest_type *t = manifest_types; t->name; t++) {
		if (!strcmp(text, t->name)) {
			*ret = t->elf_type;
			return NULL;
		}
	}
	return bad_at(&m, "no such type");
}

static struct suture_error *get_value(const struct at *at, struct patch_symbol *symbol)
{
	static const char *const of_kind[] = {[PATCH_SYMBOL_ADDRESS] = "address",
		[PATCH_SYMBOL_TLS] = "tls_offset",
		[PATCH_SYMBOL_TLS_DYNAMIC] = NULL};
	const char *key = of_kind[symbol->kind];

	if (json_object_get(at->json, "address") && (!key || strcmp(key, "address")))
		return bad_at(at, "a symbol of this kind has no address");
	if (json_object_get(at->json, "tls_offset") && (!key || strcmp(key, "tls_offset")))
		return bad_at(at, "a symbol of this kind has no tls_offset");
	return key ? get_address(at, key, &symbol->value) : NULL;
}

static struct suture_error *parse_external(const struct at *at, struct parser *parser)
{
	static const char *const keys[] = {"address", "image", "kind", "name", "size", "symbol",
		"tls_offset", "type", "version", "weak", NULL};
	uint32_t index;

	TRY(check_object(at, keys));
	TRY(get_symbol(at, parser, &index));
	struct patch_symbol *symbol = &parser->patch->symbols.at[index];
	if (symbol->name)
		return bad_at(at, "the symbol is defined in the file, or is in the list twice");
	TRY(get_string(at, "name", false, &symbol->name));
	TRY(get_kind(at, &symbol->kind));
	TRY(get_type(at, &symbol->elf_type));
	TRY(get_u32(at, "image", &symbol->image));
	TRY(get_number(at, "size", INT64_MAX, &symbol->size));
	TRY(get_bool(at, "weak", &symbol->weak));
	TRY(get_string(at, "version", true, &symbol->version));
	return get_value(at, symbol);
}

static struct suture_error *parse_part(const struct at *at, struct parser *parser)
{
	static const char *const keys[] = {"address", "size", NULL};
	struct patch_range *part = vec_add(&parser->function->parts);

	if (!part)
		return error_nomem();
	TRY(check_object(at, keys));
	TRY(get_address(at, "address", &part->address));
	return get_number(at, "size", INT64_MAX, &part->size);
}

/* The old bytes must be in the file and have the digest that the manifest says. */
static struct suture_error *parse_old_bytes(
	const struct at *at, struct parser *parser, struct patch_function *f)
{
	static const char *const keys[] = {"offset", "sha256", NULL};
	uint8_t want[PATCH_DIGEST_SIZE], have[PATCH_DIGEST_SIZE];
	uint64_t offset;
	struct at old;

	TRY(member(at, "old", false, &old));
	TRY(check_object(&old, keys));
	TRY(get_number(&old, "offset", parser->old_size, &offset));
	TRY(get_digest(&old, "sha256", want));
	if (f->size > parser->old_size - offset)
		return bad_at(&old, "not in section " SECTION_OLD);
	if (f->size > MAX_OLD_BYTES - parser->old_total)
		return bad_at(&old, "too many old bytes");
	parser->old_total += f->size;
	f->old_bytes = malloc(f->size + 1);
	if (!f->old_bytes)
		return error_nomem();
	memcpy(f->old_bytes, parser->old + offset, f->size);
	crypto_hash_sha256(have, f->old_bytes, f->size);
	if (memcmp(have, want, sizeof(have)))
		return bad_at(&old, "the old bytes do not have this sha256");
	return NULL;
}

static struct suture_error *parse_old_code(
	const struct at *at, struct parser *parser, struct patch_function *f)
{
	TRY(get_address(at, "address", &f->address));
	if (!f->address)
		return bad_at(at, "address is 0");
	TRY(get_number(at, "size", MAX_OLD_BYTES, &f->size));
	TRY(get_u32(at, "site", &f->site));
	TRY(get_u32(at, "site_size", &f->site_size));
	parser->function = f;
	TRY(each(at, "parts", MAX_PARTS, parse_part, parser));
	return parse_old_bytes(at, parser, f);
}

static struct suture_error *parse_function(const struct at *at, struct parser *parser)
{
	static const char *const keys_new[] = {
		"image", "name", "new_size", "reason", "symbol", "unit", NULL};
	static const char *const keys_replaced[] = {"address", "image", "name", "new_size", "old",
		"parts", "reason", "site", "site_size", "size", "symbol", "unit", NULL};
	struct patch_function *f = vec_add(&parser->patch->functions);
	bool replaces = json_object_get(at->json, "address") != NULL;

	if (!f)
		return error_nomem();
	TRY(check_object(at, replaces ? keys_replaced : keys_new));
	TRY(get_string(at, "name", false, &f->name));
	TRY(get_u32(at, "image", &f->image));
	TRY(get_symbol(at, parser, &f->symbol));
	TRY(get_number(at, "new_size", MAX_PAYLOAD, &f->new_size));
	TRY(get_string(at, "unit", true, &f->unit));
	TRY(get_string(at, "reason", true, &f->reason));
	return replaces ? parse_old_code(at, parser, f) : NULL;
}

static struct suture_error *parse_expect(const struct at *at, struct parser *parser)
{
	static const char *const keys[] = {"address", "image", "name", "sha256", "size", NULL};
	struct patch_expect *e = vec_add(&parser->patch->expects);

	if (!e)
		return error_nomem();
	TRY(check_object(at, keys));
	TRY(get_string(at, "name", false, &e->name));
	TRY(get_u32(at, "image", &e->image));
	TRY(get_address(at, "address", &e->address));
	TRY(get_number(at, "size", MAX_OLD_BYTES, &e->size));
	return get_digest(at, "sha256", e->digest);
}

static struct suture_error *parse_head(const struct at *root, struct patch *patch)
{
	const char *machine;

	TRY(get_text(root, "machine", false, &machine));
	if (strcmp(machine, "x86_64"))
		return error_create(SUTURE_ERROR_UNSUPPORTED, "a patch for another machine");
	TRY(get_digest(root, "id", patch->id));
	TRY(get_string(root, "name", false, &patch->name));
	TRY(get_string(root, "version", false, &patch->version));
	TRY(get_string(root, "created_by", false, &patch->created_by));
	TRY(get_string(root, "description", true, &patch->description));
	return get_string(root, "compiler", true, &patch->compiler);
}

struct suture_error *manifest_parse(
	const json_t *json, const uint8_t *old, size_t old_size, struct patch *patch)
{
	static const char *const keys[] = {"compiler", "created_by", "description", "expects",
		"externals", "format", "functions", "id", "images", "machine", "name", "references",
		"sections", "version", NULL};
	struct parser parser = {.patch = patch, .old = old, .old_size = old_size};
	struct at root = {.json = json};

	TRY(check_object(&root, keys));
	TRY(parse_head(&root, patch));
	TRY(each(&root, "references", MAX_REFERENCES, parse_reference, &parser));
	TRY(each(&root, "images", MAX_IMAGES, parse_image, &parser));
	TRY(each(&root, "sections", MAX_SECTIONS, parse_section, &parser));
	if (json_array_size(json_object_get(json, "sections")) != patch->sections.n)
		return bad("manifest: sections: the file has more payload sections");
	TRY(each(&root, "externals", MAX_SYMBOLS, parse_external, &parser));
	TRY(each(&root, "functions", MAX_FUNCTIONS, parse_function, &parser));
	return each(&root, "expects", MAX_EXPECTS, parse_expect, &parser);
}

struct suture_error *manifest_load(const char *text, size_t size, json_t **ret)
{
	json_error_t why;
	json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);

	if (!root)
		return bad("manifest: line %d: %s", why.line, why.text);
	const json_t *format = json_object_get(root, "format");
	if (!json_is_integer(format)) {
		json_decref(root);
		return bad("manifest: format: must be an integer");
	}
	json_int_t version = json_integer_value(format);
	if (version != PATCH_FORMAT_VERSION) {
		json_decref(root);
		return error_hint(error_create(SUTURE_ERROR_UNSUPPORTED,
					  "format %lld; this suture reads format %d",
					  (long long)version, PATCH_FORMAT_VERSION),
			"use a newer suture, or build the patch again with this one");
	}
	*ret = root;
	return NULL;
}
