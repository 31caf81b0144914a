/* SPDX-License-Identifier: Apache-2.0 */
/* What is applied where, and which processes there are to work on. */
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "apply/target.h"
#include "base/cleanup.h"

/* ---- one process ---- */

static struct suture_error *list_functions(
	const struct ledger *ledger, struct suture_applied *applied)
{
	applied->functions = calloc(ledger->functions.n ?: 1, sizeof(applied->functions[0]));
	if (!applied->functions)
		return error_nomem();
	vec_foreach (f, &ledger->functions) {
		struct suture_applied_function *to = &applied->functions[applied->n_functions++];

		to->name = strdup(f->name);
		to->image = strdup(ledger->images.at[f->image].name);
		to->old_address = f->address;
		to->new_address = f->new_address;
		if (!to->name || !to->image)
			return error_nomem();
	}
	return NULL;
}

static const char *state_name(const struct ledger *ledger)
{
	if (ledger->state != LEDGER_APPLIED)
		return "interrupted";
	return ledger->unloaded ? "unloaded" : "applied";
}

static struct suture_error *list_one(const struct ledger *ledger, struct suture_applied *applied)
{
	char id[2 * PATCH_DIGEST_SIZE + 1];

	hex_format(id, ledger->id, sizeof(ledger->id));
	applied->name = strdup(ledger->name);
	applied->version = strdup(ledger->version);
	applied->id = strdup(id);
	applied->description = strdup(ledger->description);
	applied->state = strdup(state_name(ledger));
	applied->applied_at = ledger->applied_at;
	applied->payload_bytes = ledger_payload_bytes(ledger);
	if (!applied->name || !applied->version || !applied->id || !applied->description ||
		!applied->state)
		return error_nomem();
	return list_functions(ledger, applied);
}

static struct suture_error *list_all(const struct ledgers *ledgers, struct suture_listing *listing)
{
	listing->patches = calloc(ledgers->v.n ?: 1, sizeof(listing->patches[0]));
	if (!listing->patches)
		return error_nomem();
	vec_foreach (ledger, &ledgers->v)
		TRY(list_one(*ledger, &listing->patches[listing->n_patches++]));
	return NULL;
}

static struct suture_error *read_ledgers(struct process *process, struct ledgers *ret)
{
	struct maps maps = {};

	TRY(process_maps(process, &maps));
	struct suture_error *err = ledgers_scan(process, &maps, ret);
	maps_deinit(&maps);
	TRY(err);
	vec_foreach (ledger, &ret->v)
		TRY(target_check_ledger(process, *ledger));
	return NULL;
}

struct suture_error *suture_list(struct suture *ctx, pid_t pid, struct suture_listing **ret)
{
	_cleanup_(process_closep) struct process *process = NULL;
	_cleanup_(ledgers_deinit) struct ledgers ledgers = {};
	struct suture_error *err;

	(void)ctx;
	TRY(process_open(pid, false, &process));
	TRY(read_ledgers(process, &ledgers));
	struct suture_listing *listing = calloc(1, sizeof(*listing));
	if (!listing)
		return error_nomem();
	listing->pid = pid;
	memcpy(listing->comm, process->comm, sizeof(listing->comm));
	err = list_all(&ledgers, listing);
	if (err) {
		suture_listing_destroy(listing);
		return err;
	}
	*ret = listing;
	if (ledgers.damaged.n)
		return error_wrap(
			take(ledgers.damaged.at[0]), "process %d (%s)", pid, process->comm);
	return NULL;
}

/* ---- all processes ---- */

/* Whether a file is an image of the patch, remembered: most processes map the same ones. */
struct known_file {
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	bool wanted;
};

struct search {
	const struct patch *patch;
	const char *name;
	VEC(struct known_file) known;
	VEC(pid_t) found;
};

static bool is_wanted(const struct patch *patch, const uint8_t *build_id, size_t size)
{
	vec_foreach (image, &patch->images) {
		if (size && image->build_id_size == size &&
			!memcmp(image->build_id, build_id, size))
			return true;
	}
	return false;
}

static struct suture_error *maps_image(
	struct search *search, struct process *process, const struct map *map, bool *ret)
{
	uint8_t build_id[PATCH_BUILD_ID_MAX];
	size_t size = 0;

	vec_foreach (k, &search->known) {
		if (k->inode == map->inode && k->dev_major == map->dev_major &&
			k->dev_minor == map->dev_minor) {
			*ret = k->wanted;
			return NULL;
		}
	}
	/* No ELF, or gone meanwhile: not an image. */
	suture_error_destroy(module_build_id(&process->reader, map->start, build_id, &size));
	*ret = is_wanted(search->patch, build_id, size);
	struct known_file file = {map->dev_major, map->dev_minor, map->inode, *ret};
	return vec_push(&search->known, file) ? NULL : error_nomem();
}

static struct suture_error *maps_any_image(
	struct search *search, struct process *process, const struct maps *maps, bool *ret)
{
	*ret = false;
	vec_foreach (map, &maps->v) {
		if (map->offset || !map->inode || !map->r || *ret)
			continue;
		TRY(maps_image(search, process, map, ret));
	}
	return NULL;
}

static struct suture_error *carries_patch(
	struct search *search, struct process *process, const struct maps *maps, bool *ret)
{
	_cleanup_(ledgers_deinit) struct ledgers ledgers = {};

	TRY(ledgers_scan(process, maps, &ledgers));
	*ret = search->name ? ledgers_find(&ledgers, search->name) != NULL
			    : ledgers.v.n || ledgers.damaged.n;
	return NULL;
}

static struct suture_error *examine(struct search *search, pid_t pid, bool *ret)
{
	_cleanup_(process_closep) struct process *process = NULL;
	struct maps maps = {};

	TRY(process_open(pid, false, &process));
	TRY(process_maps(process, &maps));
	struct suture_error *err = search->patch ? maps_any_image(search, process, &maps, ret)
						 : carries_patch(search, process, &maps, ret);
	maps_deinit(&maps);
	return err;
}

static struct suture_error *find_in(struct search *search, const struct pids *pids)
{
	vec_foreach (pid, &pids->v) {
		bool found = false;
		struct suture_error *err = examine(search, *pid, &found);

		/* Gone, a kernel thread, or not ours to look into: left out. */
		if (err && suture_error_code(err) == SUTURE_ERROR_NOMEM)
			return err;
		suture_error_destroy(err);
		if (!err && found && !vec_push(&search->found, *pid))
			return error_nomem();
	}
	return NULL;
}

struct suture_error *suture_find_processes(struct suture *ctx, const struct suture_patch *patch,
	const char *applied_name, pid_t **ret, size_t *ret_n)
{
	struct search search = {.patch = patch ? patch->patch : NULL, .name = applied_name};
	struct pids pids = {};

	(void)ctx;
	TRY(process_list_pids(&pids));
	struct suture_error *err = find_in(&search, &pids);
	vec_free(&pids.v);
	vec_free(&search.known);
	if (err) {
		vec_free(&search.found);
		return err;
	}
	*ret = search.found.at;
	*ret_n = search.found.n;
	return NULL;
}
