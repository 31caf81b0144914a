/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sources that the fix brings. No recorded command compiles them and no target holds them, so two
 * questions have no certain answer: with which flags, and whether at all (a test is no part of a
 * server). The flags are those of the nearest unit; and a new source belongs to the patch exactly
 * when what is in the patch refers to something that it defines. See capture.h.
 */
#include <fcntl.h>
#include <gelf.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/capture.h"
#include "build/path.h"
#include "build/strmap.h"

struct new_source {
	struct change *change;
	size_t command; /* whose flags it gets */
	char *name;	/* as that command would write it */
	char *object;	/* NULL: it does not compile */
	bool needed;
};

struct new_sources {
	VEC(struct new_source) v;
	struct strmap wanted; /* symbols that the fix newly refers to */
};

static void new_sources_deinit(struct new_sources *news)
{
	vec_foreach (source, &news->v) {
		free(source->name);
		free(source->object);
	}
	vec_free(&news->v);
	strmap_deinit(&news->wanted);
}

bool capture_is_new_source(const struct change *change)
{
	enum language language;

	return change->brought && !change->existed && !change->deleted && !change->reached &&
	       compdb_language_of(change->below, &language) && language == LANGUAGE_C;
}

/* ---- symbols of objects ---- */

static void elf_endp(Elf **elf)
{
	if (*elf)
		elf_end(*elf);
}

static struct suture_error *damaged(const char *path)
{
	return error_create(SUTURE_ERROR_COMPILE, "%s: the compiler's object is damaged: %s", path,
		elf_errmsg(-1));
}

static struct suture_error *add_symbols(
	Elf *elf, Elf_Scn *scn, const GElf_Shdr *shdr, bool defined, struct strmap *ret)
{
	Elf_Data *data = elf_getdata(scn, NULL);
	size_t n = data && shdr->sh_entsize ? data->d_size / shdr->sh_entsize : 0;

	for (size_t i = 1; i < n; i++) {
		GElf_Sym sym;
		const char *name = NULL;

		if (gelf_getsym(data, i, &sym))
			name = elf_strptr(elf, shdr->sh_link, sym.st_name);
		if (!name || !*name || GELF_ST_BIND(sym.st_info) == STB_LOCAL ||
			(sym.st_shndx != SHN_UNDEF) != defined)
			continue;
		if (!strmap_add(ret, name, 0))
			return error_nomem();
	}
	return NULL;
}

/* Names of the global symbols that an object defines, or that it leaves undefined. */
static struct suture_error *read_symbols(const char *path, bool defined, struct strmap *ret)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	__attribute__((cleanup(elf_endp))) Elf *elf = NULL;
	Elf_Scn *scn = NULL;
	GElf_Shdr shdr;

	if (fd < 0)
		return error_errno(errno, "cannot open %s", path);
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (!elf || elf_kind(elf) != ELF_K_ELF)
		return damaged(path);
	while ((scn = elf_nextscn(elf, scn))) {
		if (!gelf_getshdr(scn, &shdr))
			return damaged(path);
		if (shdr.sh_type == SHT_SYMTAB)
			TRY(add_symbols(elf, scn, &shdr, defined, ret));
	}
	return NULL;
}

/* What `after` needs from elsewhere that `before` (may be NULL) did not. */
static struct suture_error *add_wanted(struct strmap *wanted, const char *before, const char *after)
{
	_cleanup_strmap_ struct strmap old = {}, new = {};

	if (before)
		TRY(read_symbols(before, false, &old));
	TRY(read_symbols(after, false, &new));
	for (size_t i = 0; i < new.room; i++) {
		const char *name = new.slots[i].key;

		if (name && !strmap_find(&old, name) && !strmap_add(wanted, name, 0))
			return error_nomem();
	}
	return NULL;
}

static struct suture_error *defines_wanted(
	const struct strmap *wanted, const char *object, bool *ret)
{
	_cleanup_strmap_ struct strmap defined = {};

	TRY(read_symbols(object, true, &defined));
	*ret = false;
	for (size_t i = 0; i < defined.room; i++)
		*ret |= defined.slots[i].key && strmap_find(wanted, defined.slots[i].key);
	return NULL;
}

/* ---- compiling ---- */

static size_t common_length(const char *a, const char *b)
{
	size_t n = 0, slash = 0;

	for (; a[n] && a[n] == b[n]; n++)
		slash = a[n] == '/' ? n : slash;
	return slash;
}

/* The command of the unit that is nearest in the tree, one that the fix reaches if it can be. */
static bool nearest_command(const struct capture *cap, const struct change *change, size_t *ret)
{
	size_t best = 0;

	for (size_t i = 0; i < cap->db.commands.n; i++) {
		const struct command *cmd = &cap->db.commands.at[i];

		if (!cap->in_target[i] || cmd->broken || cmd->lto || cmd->language != LANGUAGE_C)
			continue;
		size_t near = 2 * common_length(cmd->physical, change->physical) + cap->affected[i];
		if (near > best) {
			best = near;
			*ret = i;
		}
	}
	return best > 0;
}

static struct suture_error *compile_new(
	struct capture *cap, struct new_sources *news, struct change *change)
{
	struct new_source *source = vec_add(&news->v);
	const struct command *cmd;

	if (!source)
		return error_nomem();
	source->change = change;
	if (!change->applied || !nearest_command(cap, change, &source->command))
		return NULL;
	cmd = &cap->db.commands.at[source->command];
	source->name =
		capture_respell(cmd->argv.v.at[cmd->source_at], cmd->physical, change->physical);
	if (!source->name)
		return error_nomem();
	return capture_compile_other(cap, source->command, cap->db.commands.n + news->v.n,
		source->name, &source->object);
}

/* ---- choosing ---- */

static struct suture_error *choose(struct new_sources *news)
{
	bool more = true;

	while (more) {
		more = false;
		vec_foreach (source, &news->v) {
			if (source->needed || !source->object)
				continue;
			TRY(defines_wanted(&news->wanted, source->object, &source->needed));
			if (source->needed)
				TRY(add_wanted(&news->wanted, NULL, source->object));
			more |= source->needed;
		}
	}
	return NULL;
}

static struct suture_error *add_unit(struct capture *cap, struct new_source *source)
{
	const struct command *cmd = &cap->db.commands.at[source->command];
	struct unit *unit = vec_add(&cap->units->v);

	if (!unit)
		return error_nomem();
	*unit = (struct unit){
		.source = strdup(source->change->physical),
		.name = cflags_debug_path(cmd, source->name),
		.directory = cflags_debug_path(cmd, cmd->directory),
		.compiler = strdup(cmd->argv.v.at[0]),
		.after = take(source->object),
	};
	source->change->reached = true;
	if (!unit->source || !unit->name || !unit->directory || !unit->compiler)
		return error_nomem();
	return capture_note(cap, "%s: a new source, compiled with the flags of %s",
		source->change->below, cmd->file);
}

static struct suture_error *note_unused(struct capture *cap, const struct new_source *source)
{
	const char *below = source->change->below;

	if (source->name && !source->object)
		return capture_note(cap,
			"%s: a new source, set aside: it does not compile with the flags of %s",
			below, cap->db.commands.at[source->command].file);
	return capture_note(
		cap, "%s: a new source, set aside: nothing in the patch refers to it", below);
}

static struct suture_error *run(struct capture *cap, struct new_sources *news)
{
	size_t n = cap->units->v.n;

	for (size_t i = 0; i < n; i++) {
		const struct unit *unit = &cap->units->v.at[i];

		if (unit->after)
			TRY(add_wanted(&news->wanted, unit->before, unit->after));
	}
	vec_foreach (change, &cap->changes.v) {
		if (!capture_is_new_source(change))
			continue;
		/* Nothing is missing: no need to know what it defines. */
		if (!news->wanted.n)
			TRY(note_unused(cap, &(struct new_source){.change = change}));
		else
			TRY(compile_new(cap, news, change));
	}
	TRY(choose(news));
	vec_foreach (source, &news->v)
		TRY(source->needed ? add_unit(cap, source) : note_unused(cap, source));
	return NULL;
}

static bool brings_sources(const struct capture *cap)
{
	vec_foreach (change, &cap->changes.v) {
		if (capture_is_new_source(change))
			return true;
	}
	return false;
}

struct suture_error *capture_new_sources(struct capture *cap)
{
	struct new_sources news = {};

	if (!brings_sources(cap))
		return NULL;
	struct suture_error *err = run(cap, &news);
	new_sources_deinit(&news);
	return err;
}
