/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Symbol versions of a mapped image: DT_VERDEF and DT_VERNEED turned into names by index, as
 * _dl_check_map_versions() of ld.so does. The base definition has no name there, nor here.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elf/module_private.h"

enum { INDEX_MASK = 0x7fff, ENTRIES_MAX = 0x8000 };

static struct suture_error *read_inside(
	const struct module *m, remote_addr addr, void *buf, size_t size)
{
	if (!module_spans(m, addr, size))
		return module_bad("table reaches outside the image");
	return module_read(m, addr, buf, size);
}

static struct suture_error *add_version(const struct module *m, uint16_t raw, uint32_t name)
{
	struct module_private *p = module_private(m);
	size_t index = raw & INDEX_MASK;

	while (p->versions.n <= index)
		if (!vec_add(&p->versions))
			return error_nomem();
	if (p->versions.at[index])
		return module_bad("version %zu is there twice", index);
	return module_string(m, name, &p->versions.at[index]);
}

static struct suture_error *read_definitions(const struct module *m)
{
	const struct module_private *p = module_private(m);
	remote_addr at = p->verdef;

	for (uint64_t i = 0; at && i < p->verdef_n && i < ENTRIES_MAX; i++) {
		Elf64_Verdaux aux;
		Elf64_Verdef def;

		TRY(read_inside(m, at, &def, sizeof(def)));
		if (!(def.vd_flags & VER_FLG_BASE)) {
			TRY(read_inside(m, at + def.vd_aux, &aux, sizeof(aux)));
			TRY(add_version(m, def.vd_ndx, aux.vda_name));
		}
		if (def.vd_next == 0)
			break;
		at += def.vd_next;
	}
	return NULL;
}

static struct suture_error *read_needs_of(
	const struct module *m, remote_addr at, unsigned n, size_t *total)
{
	for (unsigned i = 0; i < n; i++) {
		Elf64_Vernaux aux;

		if (++*total > ENTRIES_MAX)
			return module_bad("too many versions");
		TRY(read_inside(m, at, &aux, sizeof(aux)));
		TRY(add_version(m, aux.vna_other, aux.vna_name));
		if (aux.vna_next == 0)
			break;
		at += aux.vna_next;
	}
	return NULL;
}

static struct suture_error *read_needs(const struct module *m)
{
	const struct module_private *p = module_private(m);
	remote_addr at = p->verneed;
	size_t total = 0;

	for (uint64_t i = 0; at && i < p->verneed_n && i < ENTRIES_MAX; i++) {
		Elf64_Verneed need;

		TRY(read_inside(m, at, &need, sizeof(need)));
		TRY(read_needs_of(m, at + need.vn_aux, need.vn_cnt, &total));
		if (need.vn_next == 0)
			break;
		at += need.vn_next;
	}
	return NULL;
}

struct suture_error *module_versions_read(const struct module *m)
{
	struct module_private *p = module_private(m);

	if (p->versions_read)
		return NULL;
	vec_foreach (name, &p->versions)
		free(*name);
	vec_free(&p->versions);
	TRY(error_wrap(read_definitions(m), "version definitions"));
	TRY(error_wrap(read_needs(m), "version needs"));
	p->versions_read = true;
	return NULL;
}

struct suture_error *module_version_name(
	const struct module *m, uint16_t version_index, const char **ret)
{
	const struct module_private *p = module_private(m);
	size_t index = version_index & INDEX_MASK;

	TRY(module_versions_read(m));
	*ret = index < p->versions.n ? p->versions.at[index] : NULL;
	return NULL;
}
