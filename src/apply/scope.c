/* SPDX-License-Identifier: Apache-2.0 */
/* The dynamic linker's search order, read from the target: see scope.h. */
#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply/scope.h"
#include "base/cleanup.h"

enum {
	LINK_MAP_MAX = 8192,
	NAME_MAX_BYTES = 4096,
	LOADING_TRIES = 200,
	LOADING_PAUSE_NS = 1000000,
};

/* The part of struct r_debug and struct link_map that <link.h> promises; musl has the same. */
struct remote_r_debug {
	int32_t version, pad;
	uint64_t map, brk;
	int32_t state, pad2;
	uint64_t ldbase;
};
struct remote_link_map {
	uint64_t addr, name, ld, next, prev;
};

/* ---- the executable ---- */

static uint64_t auxv_phdr(struct process *p)
{
	uint64_t pair[2];
	_cleanup_close_ int fd = process_openat(p, "auxv", O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && read(fd, pair, sizeof(pair)) == sizeof(pair) && pair[0] != AT_NULL) {
		if (pair[0] == AT_PHDR)
			return pair[1];
	}
	return 0;
}

/* With a dynamic linker: the image whose DT_DEBUG it filled in. Without: where AT_PHDR points. */
struct target_image *scope_executable(struct target *target)
{
	vec_foreach (image, &target->images) {
		struct suture_error *err = target_module(target, image);

		suture_error_destroy(err);
		if (!err && image->module->debug)
			return image;
	}
	uint64_t phdr = auxv_phdr(target->process);
	return phdr ? target_image_at(target, phdr) : NULL;
}

/* ---- the link map ---- */

static size_t image_index(const struct target *target, const struct target_image *image)
{
	return image - target->images.at;
}

static struct suture_error *add_object(struct scope *scope, const struct remote_link_map *object)
{
	struct process *p = scope->target->process;
	_cleanup_free_ char *name = NULL;

	TRY(reader_string(&p->reader, object->name, NAME_MAX_BYTES, &name));
	struct target_image *image = target_image_at(scope->target, object->ld);
	if (!image)
		return error_create(SUTURE_ERROR_SYMBOL,
			"cannot find the image of \"%s\", which is in the link map", name);
	/* The dynamic linker lists it, but binds nobody to it. */
	if (!strcmp(image->path, "[vdso]"))
		return NULL;
	if (!vec_push(&scope->order, image_index(scope->target, image)))
		return error_nomem();
	if (!vec_push(&scope->names, name))
		return error_nomem();
	name = NULL;
	return NULL;
}

static struct suture_error *read_link_map(struct scope *scope, uint64_t r_debug)
{
	struct process *p = scope->target->process;
	struct remote_r_debug debug;
	struct remote_link_map object;
	unsigned n = 0;

	/* A library that is just being loaded is waited for. */
	for (int i = 0; i < LOADING_TRIES; i++) {
		TRY(process_read(p, r_debug, &debug, sizeof(debug)));
		if (!debug.state)
			break;
		nanosleep(&(struct timespec){.tv_nsec = LOADING_PAUSE_NS}, NULL);
	}
	if (debug.state)
		return error_hint(
			error_create(SUTURE_ERROR_BUSY,
				"the process is loading or unloading a library right now"),
			"try again");
	for (uint64_t at = debug.map; at; at = object.next) {
		if (n++ > LINK_MAP_MAX)
			return error_create(SUTURE_ERROR_INPUT, "the link map does not end");
		TRY(process_read(p, at, &object, sizeof(object)));
		TRY(add_object(scope, &object));
	}
	if (!scope->order.n)
		return error_create(SUTURE_ERROR_INPUT, "the link map is empty");
	return NULL;
}

static struct target_image *object(const struct scope *scope, size_t i)
{
	return &scope->target->images.at[scope->order.at[i]];
}

/* ---- who needs whom ---- */

static bool has_name(const struct scope *scope, size_t i, const char *needed)
{
	const struct target_image *image = object(scope, i);
	const char *soname = image->module->soname, *name = scope->names.at[i];

	return (soname && !strcmp(soname, needed)) || !strcmp(name, needed) ||
	       !strcmp(path_base(name), needed) || !strcmp(image->name, needed);
}

/* A set of objects with the order in which they came in. */
struct closure {
	VEC(size_t) v; /* indices into scope->order */
};

static bool closure_has(const struct closure *c, size_t object)
{
	vec_foreach (i, &c->v) {
		if (*i == object)
			return true;
	}
	return false;
}

/* Breadth first from what is in `c` already (_dl_map_object_deps). */
static struct suture_error *closure_fill(const struct scope *scope, struct closure *c)
{
	for (size_t next = 0; next < c->v.n; next++) {
		const struct module *m = object(scope, c->v.at[next])->module;

		vec_foreach (needed, &m->needed) {
			for (size_t i = 0; i < scope->order.n; i++) {
				if (!has_name(scope, i, *needed))
					continue;
				if (!closure_has(c, i) && !vec_push(&c->v, i))
					return error_nomem();
				break;
			}
		}
	}
	return NULL;
}

/*
 * Objects loaded at start come first in the link map: the executable, what is preloaded, and what
 * they need. The last object that any of them needs ends the global scope.
 */
static struct suture_error *find_startup(struct scope *scope)
{
	size_t n = 1, before;

	do {
		struct closure c = {};
		struct suture_error *err = NULL;

		before = n;
		for (size_t i = 0; i < n && !err; i++)
			err = vec_push(&c.v, i) ? NULL : error_nomem();
		if (!err)
			err = closure_fill(scope, &c);
		vec_foreach (i, &c.v) {
			if (*i + 1 > n)
				n = *i + 1;
		}
		vec_free(&c.v);
		if (err)
			return err;
	} while (n != before);
	scope->n_startup = n;
	return NULL;
}

struct suture_error *scope_create(struct target *target, struct scope **ret)
{
	struct target_image *exe = scope_executable(target);

	if (!exe || !exe->module->debug)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"process %d (%s) has no dynamic linker to bind names by",
			target->process->pid, target->process->comm);
	struct scope *scope = calloc(1, sizeof(*scope));
	if (!scope)
		return error_nomem();
	scope->target = target;
	struct suture_error *err = read_link_map(scope, exe->module->debug);
	if (!err)
		err = find_startup(scope);
	if (err) {
		scope_destroy(scope);
		return error_wrap(err, "link map of process %d", target->process->pid);
	}
	*ret = scope;
	return NULL;
}

void scope_destroy(struct scope *scope)
{
	if (!scope)
		return;
	vec_foreach (name, &scope->names)
		free(*name);
	vec_free(&scope->names);
	vec_free(&scope->order);
	free(scope);
}

/* ---- lookup ---- */

static struct suture_error *look_in(struct target_image *image, const char *name,
	const char *version, struct definition *ret, bool *found)
{
	TRY(module_lookup(image->module, name, version, &ret->symbol, found));
	ret->image = image;
	return NULL;
}

static bool same_definition(const struct definition *a, const struct definition *b)
{
	return a->image == b->image && a->symbol.value == b->symbol.value;
}

static struct suture_error *look_in_closure(struct scope *scope, const struct closure *c,
	const char *name, const char *version, struct definition *ret, bool *found)
{
	*found = false;
	for (size_t i = 0; i < c->v.n && !*found; i++)
		TRY(look_in(object(scope, c->v.at[i]), name, version, ret, found));
	return NULL;
}

static struct suture_error *ambiguous(
	const char *name, const struct definition *a, const struct definition *b)
{
	return error_hint(
		error_create(SUTURE_ERROR_SYMBOL,
			"%s is defined by %s and by %s, and which one is meant depends on "
			"how the library was loaded",
			name, a->image->name, b->image->name),
		"refer to it in a way that the library already does");
}

/*
 * A dlopen'ed object searches what its root (the argument of dlopen) brought along. Which of the
 * objects that need it was the root is not told; where they agree it does not matter.
 */
static struct suture_error *look_in_roots(struct scope *scope, size_t from, const char *name,
	const char *version, struct definition *ret, bool *found)
{
	*found = false;
	for (size_t root = scope->n_startup; root < scope->order.n; root++) {
		struct closure c = {};
		struct definition d;
		bool here = false;

		struct suture_error *err = vec_push(&c.v, root) ? NULL : error_nomem();
		if (!err)
			err = closure_fill(scope, &c);
		if (!err && closure_has(&c, from))
			err = look_in_closure(scope, &c, name, version, &d, &here);
		vec_free(&c.v);
		if (!err && here && *found && !same_definition(ret, &d))
			err = ambiguous(name, ret, &d);
		if (err)
			return err;
		if (here) {
			*ret = d;
			*found = true;
		}
	}
	return NULL;
}

struct suture_error *scope_lookup(struct scope *scope, struct target_image *from, const char *name,
	const char *version, struct definition *ret, bool *found)
{
	size_t index = image_index(scope->target, from), at = 0;

	while (at < scope->order.n && scope->order.at[at] != index)
		at++;
	if (at == scope->order.n)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s is not in the link map of the program (dlmopen?)", from->name);
	*found = false;
	if (from->module->symbolic)
		TRY(look_in(from, name, version, ret, found));
	for (size_t i = 0; i < scope->n_startup && !*found; i++)
		TRY(look_in(object(scope, i), name, version, ret, found));
	if (!*found && at >= scope->n_startup)
		TRY(look_in_roots(scope, at, name, version, ret, found));
	return NULL;
}
