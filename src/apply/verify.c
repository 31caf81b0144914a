/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing live code with what a patch was built against: see verify.h. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "apply/verify.h"
#include "base/cleanup.h"

enum { NOP_MAX = 15 };

struct suture_error *verify_ledger(struct target *target, const struct patch *patch)
{
	struct process *p = target->process;

	if (target->ledgers.damaged.n)
		return error_hint(
			error_create(SUTURE_ERROR_LEDGER, "process %d (%s): %s", p->pid, p->comm,
				suture_error_message(target->ledgers.damaged.at[0])),
			"which code is patched is not certain any more; restart the process");
	vec_foreach (at, &target->ledgers.v) {
		const struct ledger *ledger = *at;

		if (!ledger_in_force(ledger))
			continue;
		if (!memcmp(ledger->id, patch->id, sizeof(patch->id)))
			return error_create(SUTURE_ERROR_ALREADY,
				"patch %s is already applied to process %d (%s)", patch->name,
				p->pid, p->comm);
		if (!strcmp(ledger->name, patch->name))
			return error_hint(
				error_create(SUTURE_ERROR_DEPENDENCY,
					"process %d (%s) carries another patch named %s (version "
					"%s)",
					p->pid, p->comm, patch->name, ledger->version),
				"revert it first: suture revert %s -p %d", patch->name, p->pid);
	}
	return NULL;
}

struct suture_error *verify_image(struct target *target, const struct target_image *image)
{
	if (image->module->textrel)
		return error_create(SUTURE_ERROR_REFUSED,
			"process %d (%s): the dynamic linker changed the code of %s when it loaded "
			"it (DT_TEXTREL), so it cannot be compared with the patch",
			target->process->pid, target->process->comm, image->name);
	return NULL;
}

/* ---- bytes ---- */

/* Put back what detours of other patches replaced in bytes read from `start`. */
static void undo_detours(
	const struct ledgers *ledgers, remote_addr start, uint8_t *bytes, size_t size)
{
	vec_foreach (ledger, &ledgers->v) {
		vec_foreach (f, &(*ledger)->functions) {
			for (uint32_t i = 0; i < f->length; i++) {
				if (f->site + i - start < size && f->site + i >= start &&
					bytes[f->site + i - start] == f->detour[i])
					bytes[f->site + i - start] = f->saved[i];
			}
		}
	}
}

/* All of [start, start + size) is private memory that can be executed. */
static struct suture_error *check_code(
	const struct target *target, const char *name, remote_addr start, uint64_t size)
{
	for (remote_addr at = start; at < start + size;) {
		const struct map *map = maps_find(&target->maps, at);

		if (!map || !map->x)
			return error_create(SUTURE_ERROR_CODE_MISMATCH,
				"%s: 0x%llx is not executable memory of process %d", name,
				(unsigned long long)at, target->process->pid);
		if (map->shared)
			return error_create(SUTURE_ERROR_REFUSED,
				"%s: its code is in memory shared with other processes (%s)", name,
				map->path);
		at = map->end;
	}
	return NULL;
}

/* "55 48 89 e5 (push %rbp)" of the instruction that holds byte `at`. */
static void describe_code(const struct arch *arch, const uint8_t *code, size_t size, size_t start,
	uint64_t address, char *buf, size_t len)
{
	char text[128] = "no instruction";
	struct insn insn = {.length = 1};

	if (arch->decode(code + start, size - start, address + start, &insn))
		arch->format(code + start, size - start, address + start, text, sizeof(text));
	size_t n = 0;
	for (size_t i = 0; i < insn.length && start + i < size && n + 4 < len; i++)
		n += snprintf(buf + n, len - n, "%02x ", code[start + i]);
	snprintf(buf + n, len - n, "(%s)", text);
}

/* Where the instruction that holds byte `at` starts, decoding from the beginning. */
static size_t insn_start(
	const struct arch *arch, const uint8_t *code, size_t size, uint64_t address, size_t at)
{
	struct insn insn;
	size_t start = 0;

	while (start < at && arch->decode(code + start, size - start, address + start, &insn) &&
		insn.length && start + insn.length <= at)
		start += insn.length;
	return start;
}

static struct suture_error *mismatch(struct target *target, const struct arch *arch,
	const struct target_image *image, const struct patch_function *f, const uint8_t *live)
{
	char want[256], have[256];
	remote_addr address = f->address + image->module->bias;
	size_t at = 0;

	while (at + 1 < f->size && live[at] == f->old_bytes[at])
		at++;
	size_t start = insn_start(arch, f->old_bytes, f->size, address, at);
	describe_code(arch, f->old_bytes, f->size, start, address, want, sizeof(want));
	describe_code(arch, live, f->size, start, address, have, sizeof(have));
	struct suture_error *err = error_create(SUTURE_ERROR_CODE_MISMATCH,
		"process %d (%s): %s+0x%zx in %s is %s, the patch expects %s", target->process->pid,
		target->process->comm, f->name, start, image->name, have, want);
	if (live[at] == 0xcc && at == start)
		return error_hint(err, "a debugger or a uprobe has put a breakpoint there");
	return error_hint(err, "another tool has changed the code, or the patch is damaged");
}

/* A detour may reach into the padding behind a short function: whole NOPs up to `want`. */
static struct suture_error *check_padding(const struct arch *arch, const struct patch_function *f,
	const uint8_t *live, size_t have, remote_addr address, size_t want, size_t *ret_size)
{
	struct insn insn;
	size_t at = f->size;

	while (at < want) {
		if (!arch->decode(live + at, have - at, address + at, &insn) || !insn.is_nop)
			return error_create(SUTURE_ERROR_TOO_SMALL,
				"%s is too small for a detour: %u bytes at offset %u, it has %llu",
				f->name, f->site_size, f->site, (unsigned long long)f->size);
		at += insn.length;
	}
	*ret_size = at;
	return NULL;
}

/* The builder chose the site by the same rule; a patch that says otherwise is not trusted. */
static struct suture_error *check_site(const struct arch *arch, const struct patch_function *f,
	const uint8_t *live, size_t size, remote_addr address)
{
	uint32_t site, length;

	if (f->site_size != arch->detour_size)
		return error_create(SUTURE_ERROR_INPUT, "%s: a detour has %u bytes, not %u",
			f->name, arch->detour_size, f->site_size);
	TRY(arch->detour_site(f->name, live, size, address, NULL, 0, &site, &length));
	if (site != f->site)
		return error_create(SUTURE_ERROR_INPUT,
			"%s: the patch puts its detour at offset %u, it belongs at %u", f->name,
			f->site, site);
	return NULL;
}

/* Two patches must not replace one function, nor parts of each other's. */
static struct suture_error *check_free(
	struct target *target, const struct patch_function *f, remote_addr start, uint64_t size)
{
	vec_foreach (at, &target->ledgers.v) {
		const struct ledger *ledger = *at;

		if (!ledger_in_force(ledger))
			continue;
		vec_foreach (other, &ledger->functions) {
			if (other->address >= start + size || start >= other->address + other->size)
				continue;
			return error_hint(
				error_create(SUTURE_ERROR_DEPENDENCY,
					"process %d (%s): %s is already replaced by patch %s",
					target->process->pid, target->process->comm, f->name,
					ledger->name),
				"revert that patch first, or build one patch with both fixes");
		}
	}
	return NULL;
}

struct suture_error *verify_function(struct target *target, const struct arch *arch,
	const struct target_image *image, const struct patch_function *f)
{
	const struct module *m = image->module;
	remote_addr start = f->address + m->bias;
	uint64_t want = (uint64_t)f->site + f->site_size, size = 0;

	if (want < f->size)
		want = f->size;
	if (start < m->low || start >= m->high || want > m->high - start)
		return error_create(
			SUTURE_ERROR_INPUT, "%s lies outside of %s", f->name, image->name);
	/* The last NOP of the padding may be longer than what is needed of it. */
	uint64_t read = m->high - start - want < NOP_MAX ? m->high - start : want + NOP_MAX;
	_cleanup_free_ uint8_t *live = malloc(read);
	if (!live)
		return error_nomem();
	TRY(check_free(target, f, start, want));
	TRY(check_code(target, f->name, start, want));
	if (maps_find(&target->maps, start + read - 1) !=
		maps_find(&target->maps, start + want - 1))
		read = want;
	TRY(error_wrap(process_read(target->process, start, live, read), "%s", f->name));
	undo_detours(&target->ledgers, start, live, read);
	if (memcmp(live, f->old_bytes, f->size))
		return mismatch(target, arch, image, f, live);
	TRY(check_padding(arch, f, live, read, start, want, &size));
	return check_site(arch, f, live, size, start);
}

struct suture_error *verify_expect(
	struct target *target, const struct target_image *image, const struct patch_expect *e)
{
	remote_addr start = e->address + image->module->bias;
	uint8_t digest[crypto_hash_sha256_BYTES];

	if (start < image->module->low || start >= image->module->high ||
		e->size > image->module->high - start)
		return error_create(
			SUTURE_ERROR_INPUT, "%s lies outside of %s", e->name, image->name);
	_cleanup_free_ uint8_t *live = malloc(e->size ?: 1);
	if (!live)
		return error_nomem();
	TRY(error_wrap(process_read(target->process, start, live, e->size), "%s", e->name));
	undo_detours(&target->ledgers, start, live, e->size);
	crypto_hash_sha256(digest, live, e->size);
	if (memcmp(digest, e->digest, sizeof(digest)))
		return error_create(SUTURE_ERROR_CODE_MISMATCH,
			"process %d (%s): %s in %s, which the patch leans on, is not what the patch "
			"was built against",
			target->process->pid, target->process->comm, e->name, image->name);
	return NULL;
}
