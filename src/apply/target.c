/* SPDX-License-Identifier: Apache-2.0 */
/* Finding images, ledgers and everything else in a running process: see target.h. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "apply/target.h"
#include "base/cleanup.h"

#define DELETED " (deleted)"

const char *path_base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

void hex_format(char *ret, const uint8_t *bytes, size_t size)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < size; i++) {
		*ret++ = digits[bytes[i] >> 4];
		*ret++ = digits[bytes[i] & 15];
	}
	*ret = '\0';
}

static struct suture_error *lock_memory(struct process *process, uint64_t deadline_ns)
{
	const struct timespec pause = {.tv_nsec = 2000000};

	while (flock(process->mem_fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_errno(
				errno, "cannot lock the memory of process %d", process->pid);
		if (monotonic_ns() >= deadline_ns)
			return error_hint(
				error_create(SUTURE_ERROR_BUSY,
					"another suture is working on process %d", process->pid),
				"wait for it, or give more --timeout");
		nanosleep(&pause, NULL);
	}
	return NULL;
}

struct suture_error *target_open(
	pid_t pid, uint64_t deadline_ns, struct process **ret_lock, struct process **ret)
{
	_cleanup_(process_closep) struct process *lock = NULL;

	TRY(process_open(pid, false, &lock));
	TRY(lock_memory(lock, deadline_ns));
	TRY(process_open(pid, true, ret));
	*ret_lock = take(lock);
	return NULL;
}

/* ---- images ---- */

static bool is_elf(struct process *p, const struct map *map)
{
	char magic[SELFMAG];

	struct suture_error *err = process_read(p, map->start, magic, sizeof(magic));
	suture_error_destroy(err);
	return !err && !memcmp(magic, ELFMAG, SELFMAG);
}

static char *clean_path(const char *path)
{
	size_t n = strlen(path), cut = strlen(DELETED);

	if (n > cut && !strcmp(path + n - cut, DELETED))
		n -= cut;
	return strndup(path, n);
}

/*
 * A program may also map an ELF file to read it, or a small image may map its first page twice
 * (headers, then data): an image is where code is mapped as its program headers say.
 */
static bool is_loaded(const struct target *target, const struct module *m)
{
	vec_foreach (ph, &m->phdrs) {
		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		const struct map *map = maps_find(&target->maps, m->bias + ph->p_vaddr);
		if (!map || !map->x)
			return false;
	}
	return true;
}

static struct suture_error *add_image(struct target *target, const struct map *map)
{
	struct target_image image = {.base = map->start};

	image.path = clean_path(map->path);
	if (!image.path)
		return error_nomem();
	image.name = path_base(image.path);
	struct suture_error *err = module_build_id(
		&target->process->reader, map->start, image.build_id, &image.build_id_size);
	if (err) {
		/* Something that only starts like ELF is no image of ours. */
		log_debug(target->ctx, "%s: %s", image.path, suture_error_message(err));
		suture_error_destroy(err);
		free(image.path);
		return NULL;
	}
	if (!vec_push(&target->images, image)) {
		free(image.path);
		return error_nomem();
	}
	return NULL;
}

static struct suture_error *find_images(struct target *target)
{
	vec_foreach (map, &target->maps.v) {
		bool vdso = !strcmp(map->path, "[vdso]");

		if (map->offset || !map->r || (!map->inode && !vdso))
			continue;
		if (is_elf(target->process, map))
			TRY(add_image(target, map));
	}
	return NULL;
}

struct suture_error *target_module(struct target *target, struct target_image *image)
{
	if (image->module)
		return NULL;
	return module_open(&target->process->reader, image->base, image->path, &image->module);
}

struct target_image *target_image_at(struct target *target, remote_addr address)
{
	/* Images do not nest: the last one that starts at or below is the only candidate... */
	for (size_t i = target->images.n; i--;) {
		struct target_image *image = &target->images.at[i];

		if (image->base > address)
			continue;
		struct suture_error *err = target_module(target, image);
		if (err) {
			suture_error_destroy(err);
			continue;
		}
		if (address < image->module->high && is_loaded(target, image->module))
			return image;
		/* ...unless its first page was mapped twice, or it is no loaded image at all. */
		if (is_loaded(target, image->module))
			return NULL;
	}
	return NULL;
}

struct unwind_table *target_unwind(struct target *target, struct target_image *image)
{
	if (!image->unwind_tried) {
		image->unwind_tried = true;
		struct suture_error *err = target_module(target, image);
		if (!err)
			err = unwind_table_from_module(image->module, &image->unwind);
		if (err)
			log_debug(target->ctx, "%s: no unwind information: %s", image->path,
				suture_error_message(err));
		suture_error_destroy(err);
	}
	return image->unwind;
}

/* ---- the image that a patch means ---- */

static struct suture_error *not_mapped(struct target *target, const struct patch_image *wanted)
{
	struct process *p = target->process;

	vec_foreach (image, &target->images) {
		char have[2 * PATCH_BUILD_ID_MAX + 1] = "none", want[2 * PATCH_BUILD_ID_MAX + 1];
		const char *soname = NULL;

		struct suture_error *err = target_module(target, image);
		suture_error_destroy(err);
		if (!err)
			soname = image->module->soname;
		if (strcmp(image->name, wanted->name) && (!soname || strcmp(soname, wanted->name)))
			continue;
		if (image->build_id_size)
			hex_format(have, image->build_id, image->build_id_size);
		hex_format(want, wanted->build_id, wanted->build_id_size);
		return error_hint(
			error_create(SUTURE_ERROR_BUILD_ID,
				"process %d (%s) runs another build of %s: its build-id is %s, the "
				"patch is for %s",
				p->pid, p->comm, wanted->name, have, want),
			"build the patch against the file that this process runs");
	}
	return error_create(SUTURE_ERROR_NO_IMAGE, "process %d (%s) does not map %s", p->pid,
		p->comm, wanted->name);
}

static bool same_build(const struct target_image *image, const struct patch_image *wanted)
{
	return wanted->build_id_size && image->build_id_size == wanted->build_id_size &&
	       !memcmp(image->build_id, wanted->build_id, wanted->build_id_size);
}

struct suture_error *target_find_image(
	struct target *target, const struct patch_image *wanted, struct target_image **ret)
{
	struct target_image *found = NULL;

	vec_foreach (image, &target->images) {
		if (!same_build(image, wanted))
			continue;
		TRY(target_module(target, image));
		if (!is_loaded(target, image->module))
			continue;
		/* The headers again, as part of the data segment of the same small image. */
		if (found && image->base < found->module->high)
			continue;
		if (found)
			return error_hint(
				error_create(SUTURE_ERROR_UNSUPPORTED,
					"process %d (%s) has loaded %s twice, at 0x%llx and "
					"0x%llx (dlmopen?)",
					target->process->pid, target->process->comm, wanted->name,
					(unsigned long long)found->base,
					(unsigned long long)image->base),
				"patching every copy of an image is not supported yet");
		found = image;
	}
	if (!found)
		return not_mapped(target, wanted);
	*ret = found;
	return NULL;
}

/* ---- are the patches in force? ---- */

static bool is_there(struct process *process, const struct ledger_image *image)
{
	uint8_t build_id[PATCH_BUILD_ID_MAX];
	size_t size = 0;

	struct suture_error *err = module_build_id(&process->reader, image->base, build_id, &size);
	suture_error_destroy(err);
	return !err && size == image->build_id_size && !memcmp(build_id, image->build_id, size);
}

static struct suture_error *check_images(struct process *process, struct ledger *ledger)
{
	_cleanup_free_ bool *there = calloc(ledger->images.n ?: 1, sizeof(there[0]));

	if (!there)
		return error_nomem();
	for (size_t i = 0; i < ledger->images.n; i++)
		there[i] = is_there(process, &ledger->images.at[i]);
	vec_foreach (f, &ledger->functions)
		f->gone = !there[f->image];
	return NULL;
}

/*
 * The page was written to (bits 63 and 62 of /proc/PID/pagemap: there, or swapped out; 61: still the
 * file's). Where that cannot be told, it counts as written.
 */
static bool was_written(struct process *process, remote_addr at)
{
	_cleanup_close_ int fd = process_openat(process, "pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry;

	if (fd < 0 || pread(fd, &entry, sizeof(entry), at / 4096 * 8) != sizeof(entry))
		return true;
	return entry >> 62 && !(entry >> 61 & 1);
}

/*
 * A library that was loaded again at the very same place has its original code, from its file. The
 * same bytes written over a detour are somebody else's doing: that is for revert to refuse.
 */
static struct suture_error *check_sites(struct process *process, struct ledger *ledger)
{
	size_t n = ledger->functions.n;
	_cleanup_free_ struct piece *pieces = calloc(n ?: 1, sizeof(pieces[0]));
	_cleanup_free_ uint8_t *bytes = calloc(n ?: 1, LEDGER_SITE_MAX);

	if (!pieces || !bytes)
		return error_nomem();
	for (size_t i = 0; i < n; i++) {
		const struct ledger_function *f = &ledger->functions.at[i];

		pieces[i] = (struct piece){f->site, bytes + i * LEDGER_SITE_MAX, f->length, 0};
	}
	TRY(process_read_pieces(process, pieces, n));
	for (size_t i = 0; i < n; i++) {
		struct ledger_function *f = &ledger->functions.at[i];

		f->gone = f->gone || pieces[i].got < f->length;
		if (f->gone || (!memcmp(pieces[i].buf, f->saved, f->length) &&
				       !was_written(process, f->site)))
			ledger->unloaded = ledger->state == LEDGER_APPLIED;
	}
	return NULL;
}

struct suture_error *target_check_ledger(struct process *process, struct ledger *ledger)
{
	TRY(check_images(process, ledger));
	return check_sites(process, ledger);
}

/* ---- the whole ---- */

struct suture_error *target_look(struct suture *ctx, struct process *process, struct target **ret)
{
	_cleanup_(target_destroyp) struct target *target = calloc(1, sizeof(*target));

	if (!target)
		return error_nomem();
	target->ctx = ctx;
	target->process = process;
	TRY(process_maps(process, &target->maps));
	TRY(find_images(target));
	TRY(ledgers_scan(process, &target->maps, &target->ledgers));
	vec_foreach (ledger, &target->ledgers.v)
		TRY(target_check_ledger(process, *ledger));
	*ret = take(target);
	return NULL;
}

struct suture_error *target_reread_maps(struct target *target)
{
	struct maps maps = {};

	TRY(process_maps(target->process, &maps));
	maps_deinit(&target->maps);
	target->maps = maps;
	return NULL;
}

void target_destroy(struct target *target)
{
	if (!target)
		return;
	vec_foreach (image, &target->images) {
		unwind_table_destroy(image->unwind);
		module_close(image->module);
		free(image->path);
	}
	vec_free(&target->images);
	ledgers_deinit(&target->ledgers);
	maps_deinit(&target->maps);
	free(target);
}
