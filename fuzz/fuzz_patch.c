/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a patch file: refused with an error or read. What was read can be shown and written,
 * and what is then written is read back the same.
 *
 * Half of the mutations change the manifest's text alone and put it where it can have any length:
 * bytes changed at random would hardly get past the JSON parser.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "format/patch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

static void must(struct suture_error *err)
{
	if (!err)
		return;
	fprintf(stderr, "failed: %s\n", suture_error_message(err));
	abort();
}

static void use(struct patch *patch)
{
	_cleanup_(patch_destroyp) struct patch *again = NULL;
	_cleanup_free_ void *first = NULL, *second = NULL;
	_cleanup_free_ char *text = NULL;
	struct suture_patch handle = {patch};
	struct suture ctx = {};
	size_t n, m;

	must(suture_patch_describe(&ctx, &handle, true, &text));
	must(patch_serialize(patch, &first, &n));
	must(patch_parse(first, n, "what was written", &again));
	must(patch_serialize(again, &second, &m));
	if (n != m || memcmp(first, second, n))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(patch_destroyp) struct patch *patch = NULL;
	struct suture_error *err = patch_parse(data, size, "x", &patch);

	if (!err)
		use(patch);
	else if (!*suture_error_message(err))
		abort();
	suture_error_destroy(err);
	return 0;
}

/* The header of the manifest's section, found by its content. */
static Elf64_Shdr *find_manifest(uint8_t *data, size_t size)
{
	Elf64_Ehdr *h = (Elf64_Ehdr *)data;

	if (size < sizeof(*h) || h->e_shoff > size ||
		h->e_shnum > (size - h->e_shoff) / sizeof(Elf64_Shdr) || h->e_shoff % 8)
		return NULL;
	Elf64_Shdr *s = (Elf64_Shdr *)(data + h->e_shoff);
	for (unsigned i = 0; i < h->e_shnum; i++)
		if (s[i].sh_type == SHT_PROGBITS && !s[i].sh_flags && s[i].sh_offset < size &&
			s[i].sh_size <= size - s[i].sh_offset && s[i].sh_size > 2 &&
			data[s[i].sh_offset] == '{')
			return &s[i];
	return NULL;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	Elf64_Shdr *s = seed % 2 ? find_manifest(data, size) : NULL;

	if (!s)
		return LLVMFuzzerMutate(data, size, max);
	/* Behind everything else; if it is there already, in place. */
	size_t at = s->sh_offset + s->sh_size == size ? s->sh_offset : size;
	if (at + s->sh_size + 256 > max)
		return LLVMFuzzerMutate(data, size, max);
	memmove(data + at, data + s->sh_offset, s->sh_size);
	s->sh_offset = at;
	s->sh_size = LLVMFuzzerMutate(data + at, s->sh_size, max - at);
	return at + s->sh_size;
}
