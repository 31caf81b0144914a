/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger: what `list` and `revert` know, kept inside the target. One record per applied patch,
 * at the start of the read-only part of its payload (a guard page in front keeps the kernel from
 * merging that mapping with another). It is found by scanning the target's read-only anonymous
 * mappings for the magic; nothing outside the process is needed, and children made by fork carry
 * it.
 *
 * A record is hostile input: the target could have written anything. Decoding checks every count,
 * string and range; what does not add up is reported as damaged, never acted upon.
 *
 * One word changes after staging, with one aligned 8-byte write: the state.
 *
 * The payloads of further images have a tag in the same place. What is unmapped is only ever what
 * its record or tag, read again right before, says is ours.
 */
#ifndef APPLY_LEDGER_H
#define APPLY_LEDGER_H

#include "format/patch.h"
#include "process/process.h"

enum ledger_state {
	LEDGER_STAGED = 1, /* payload there or on its way, no detour written */
	LEDGER_COMMITTING, /* some detours may be written */
	LEDGER_APPLIED,	   /* all are */
	LEDGER_REVERTING,  /* some may be restored, payload on its way out */
};

#define LEDGER_SITE_MAX 16

struct ledger_image {
	char *name;
	uint8_t build_id[PATCH_BUILD_ID_MAX];
	size_t build_id_size;
	remote_addr base;	    /* of the image */
	remote_addr start, end;	    /* the payload's reservation, guards included; 0: none */
	remote_addr text, text_end; /* its executable part; 0: none */
	remote_addr eh_frame;	    /* its unwind information; 0: none */
	uint64_t eh_frame_size;
};

struct ledger_function {
	char *name;
	uint32_t image;	     /* index into images */
	remote_addr address; /* the old function */
	uint64_t size;
	remote_addr site; /* where the detour is, inside of it */
	uint32_t length;  /* bytes overwritten there */
	uint8_t saved[LEDGER_SITE_MAX], detour[LEDGER_SITE_MAX];
	remote_addr new_address;
	uint64_t new_size;
	/* Found by target_check_ledger(), not part of the record: the image is not mapped there. */
	bool gone;
};

/* A function of the payload, for messages; and to know which pointers may be anywhere. */
struct ledger_symbol {
	char *name;
	remote_addr address;
	uint64_t size;
	bool escapes; /* the payload takes its address */
};

struct ledger {
	remote_addr address; /* of the record in the target */
	enum ledger_state state;
	uint64_t mapped;    /* payloads that are mapped, in the order of images */
	uint64_t sequence;  /* order of application in this process */
	int64_t applied_at; /* seconds since the epoch */
	char *name, *version, *description;
	uint8_t id[PATCH_DIGEST_SIZE];
	VEC(struct ledger_image) images;
	VEC(struct ledger_function) functions;
	VEC(struct ledger_symbol) symbols;
	/*
	 * Found by target_check_ledger(), not part of the record: applied, but not in force. An image
	 * was unloaded since, or loaded anew.
	 */
	bool unloaded;
};

static inline bool ledger_in_force(const struct ledger *ledger)
{
	return ledger->state == LEDGER_APPLIED && !ledger->unloaded;
}

/* Empty; NULL when out of memory. */
struct ledger *ledger_create(void);
void ledger_destroy(struct ledger *ledger);
static inline void ledger_destroyp(struct ledger **ledger)
{
	ledger_destroy(*ledger);
}

/* Bytes that the record of `ledger` takes; does not depend on the addresses in it. */
struct suture_error *ledger_size(const struct ledger *ledger, size_t *ret) MUST_USE;
/* The record as it goes to ledger->address; malloc'ed. */
struct suture_error *ledger_encode(
	const struct ledger *ledger, void **ret, size_t *ret_size) MUST_USE;
/* The record at `address`. LEDGER when damaged. */
struct suture_error *ledger_decode(
	const struct reader *reader, remote_addr address, struct ledger **ret) MUST_USE;

/* Bytes mapped in the target, guards not counted. */
uint64_t ledger_payload_bytes(const struct ledger *ledger);

/* Change the state of a record in the target. */
struct suture_error *ledger_set_state(
	struct process *p, remote_addr ledger, enum ledger_state state) MUST_USE;
/* The state of a record right now; LEDGER when there is none. Two small reads, no allocation. */
struct suture_error *ledger_get_state(
	struct process *p, remote_addr ledger, enum ledger_state *ret) MUST_USE;

/* The tag at `at`, the start of what follows the guard of a further payload of a record. */
#define LEDGER_TAG_SIZE 32
void ledger_tag(uint8_t ret[LEDGER_TAG_SIZE], remote_addr at, remote_addr ledger);
/* Whether the payload of images.at[image] is mapped: its record or tag is there. */
struct suture_error *ledger_is_mapped(
	struct process *p, const struct ledger *ledger, size_t image, bool *ret) MUST_USE;

struct ledgers {
	VEC(struct ledger *) v;		    /* in order of application */
	VEC(struct suture_error *) damaged; /* one error for each record that cannot be read */
};
void ledgers_deinit(struct ledgers *ledgers);
struct suture_error *ledgers_scan(
	struct process *p, const struct maps *maps, struct ledgers *ret) MUST_USE;
/* By patch name; NULL: none. */
struct ledger *ledgers_find(const struct ledgers *ledgers, const char *name);

#endif
