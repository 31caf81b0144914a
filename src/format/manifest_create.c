/* SPDX-License-Identifier: Apache-2.0 */
/* From a patch to its manifest: what ELF has no place for, as JSON with sorted keys. */
#include <elf.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>

#include "base/cleanup.h"
#include "format/manifest.h"

const char *const manifest_kinds[] = {
	[PATCH_SYMBOL_ADDRESS] = "address",
	[PATCH_SYMBOL_DYNAMIC] = "dynamic",
	[PATCH_SYMBOL_TLS] = "tls",
	[PATCH_SYMBOL_TLS_DYNAMIC] = "tls-dynamic",
	NULL,
};

const struct manifest_type manifest_types[] = {
	{STT_NOTYPE, "notype"},
	{STT_OBJECT, "object"},
	{STT_FUNC, "function"},
	{STT_TLS, "tls"},
	{STT_GNU_IFUNC, "ifunc"},
	{0, NULL},
};

/* Addresses are strings: JSON numbers lose bits above 2^53 in many readers. */
static json_t *address_json(uint64_t address)
{
	return json_sprintf("0x%" PRIx64, address);
}

static json_t *digest_json(const uint8_t *bytes, size_t size)
{
	uint8_t digest[PATCH_DIGEST_SIZE];
	char hex[ID_HEX_SIZE + 1];

	crypto_hash_sha256(digest, bytes, size);
	hex_encode(hex, digest, sizeof(digest));
	return json_string(hex);
}

static json_t *image_json(const struct patch *p, size_t i)
{
	const struct patch_image *image = &p->images.at[i];
	char hex[2 * PATCH_BUILD_ID_MAX + 1];

	hex_encode(hex, image->build_id, image->build_id_size);
	return json_pack("{s:s, s:s, s:b}", "name", image->name, "build_id", hex, "fixed",
		(int)image->fixed);
}

static json_t *section_json(const struct patch *p, size_t i)
{
	const struct patch_section *s = &p->sections.at[i];

	return json_pack("{s:I, s:s, s:I}", "index", (json_int_t)i + 1, "name", s->name, "image",
		(json_int_t)s->image);
}

static const char *type_name(uint8_t elf_type)
{
	const struct manifest_type *t = manifest_types;

	while (t->name && t->elf_type != elf_type)
		t++;
	return t->name;
}

static json_t *external_json(const struct patch_symbol *s, uint32_t elf_symbol)
{
	json_t *json = json_pack("{s:I, s:s, s:s, s:s, s:I, s:I, s:b, s:s*}", "symbol",
		(json_int_t)elf_symbol, "name", s->name, "kind", manifest_kinds[s->kind], "type",
		type_name(s->elf_type), "image", (json_int_t)s->image, "size", (json_int_t)s->size,
		"weak", (int)s->weak, "version", s->version);

	if (!json || s->kind == PATCH_SYMBOL_DYNAMIC || s->kind == PATCH_SYMBOL_TLS_DYNAMIC)
		return json;
	const char *key = s->kind == PATCH_SYMBOL_TLS ? "tls_offset" : "address";
	if (json_object_set_new(json, key, address_json(s->value)) < 0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

static json_t *parts_json(const struct patch_function *f)
{
	json_t *list = json_array();

	vec_foreach (part, &f->parts) {
		json_t *item = json_pack("{s:o, s:I}", "address", address_json(part->address),
			"size", (json_int_t)part->size);

		if (json_array_append_new(list, item) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *function_json(
	const struct patch_function *f, const uint32_t *elf_symbol, uint64_t old_offset)
{
	json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:s*, s:s*}", "name", f->name, "image",
		(json_int_t)f->image, "symbol", (json_int_t)elf_symbol[f->symbol], "new_size",
		(json_int_t)f->new_size, "unit", f->unit, "reason", f->reason);

	if (!json || !f->address)
		return json;
	json_t *old = json_pack("{s:o, s:I, s:I, s:I, s:o, s:{s:I, s:o}}", "address",
		address_json(f->address), "size", (json_int_t)f->size, "site", (json_int_t)f->site,
		"site_size", (json_int_t)f->site_size, "parts", parts_json(f), "old", "offset",
		(json_int_t)old_offset, "sha256", digest_json(f->old_bytes, f->size));
	if (!old || json_object_update(json, old) < 0) {
		json_decref(json);
		json = NULL;
	}
	json_decref(old);
	return json;
}

static json_t *expect_json(const struct patch *p, size_t i)
{
	const struct patch_expect *e = &p->expects.at[i];
	char hex[ID_HEX_SIZE + 1];

	hex_encode(hex, e->digest, sizeof(e->digest));
	return json_pack("{s:s, s:I, s:o, s:I, s:s}", "name", e->name, "image",
		(json_int_t)e->image, "address", address_json(e->address), "size",
		(json_int_t)e->size, "sha256", hex);
}

static json_t *reference_json(const struct patch *p, size_t i)
{
	return json_string(p->references.at[i]);
}

static json_t *list_json(
	const struct patch *p, size_t n, json_t *(*item)(const struct patch *p, size_t i))
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < n; i++) {
		if (json_array_append_new(list, item(p, i)) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *externals_json(const struct patch *p, const uint32_t *elf_symbol)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < p->symbols.n; i++) {
		const struct patch_symbol *s = &p->symbols.at[i];

		if (s->kind == PATCH_SYMBOL_PAYLOAD)
			continue;
		if (json_array_append_new(list, external_json(s, elf_symbol[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *functions_json(const struct patch *p, const uint32_t *elf_symbol)
{
	json_t *list = json_array();
	uint64_t old_offset = 0;

	for (size_t i = 0; list && i < p->functions.n; i++) {
		const struct patch_function *f = &p->functions.at[i];

		if (json_array_append_new(list, function_json(f, elf_symbol, old_offset)) < 0) {
			json_decref(list);
			return NULL;
		}
		old_offset += f->size;
	}
	return list;
}

struct suture_error *manifest_create(const struct patch *p, const uint32_t *elf_symbol, char **ret)
{
	static const char no_id[] =
		"0000000000000000000000000000000000000000000000000000000000000000";
	_Static_assert(sizeof(no_id) == ID_HEX_SIZE + 1, "an id of another size");
	_cleanup_(json_decrefp) json_t *root = json_pack(
		"{s:i, s:s, s:s, s:s, s:s, s:s, s:s*, s:s*, s:o, s:o, s:o, s:o, s:o, s:o}",
		"format", PATCH_FORMAT_VERSION, "machine", "x86_64", "id", no_id, "name", p->name,
		"version", p->version, "created_by", p->created_by, "description", p->description,
		"compiler", p->compiler, "references",
		list_json(p, p->references.n, reference_json), "images",
		list_json(p, p->images.n, image_json), "sections",
		list_json(p, p->sections.n, section_json), "externals",
		externals_json(p, elf_symbol), "functions", functions_json(p, elf_symbol),
		"expects", list_json(p, p->expects.n, expect_json));

	if (!root)
		return error_nomem();
	_cleanup_free_ char *text = json_dumps(root, JSON_SORT_KEYS | JSON_INDENT(2));
	/* The newline makes `readelf -p` and `objcopy -O binary -j` end in a clean line. */
	if (!text || asprintf(ret, "%s\n", text) < 0)
		return error_nomem();
	return NULL;
}
