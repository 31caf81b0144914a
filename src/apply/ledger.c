/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger record: see ledger.h. A fixed head, then a body of little-endian integers and counted
 * strings, covered by a digest together with the constant part of the head. The record says where
 * it is: a copy that somebody made elsewhere is not a record.
 */
#include <ctype.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "base/cleanup.h"

#define LEDGER_VERSION 1
#define PAGE	       4096ULL

enum {
	BODY_MAX = 16 << 20,
	STRING_MAX = 64 << 10,
	IMAGES_MAX = 1024,
	FUNCTIONS_MAX = 1 << 16,
	SYMBOLS_MAX = 1 << 18,
};

#define USER_ADDRESS_MAX ((uint64_t)1 << 56)

static const char ledger_magic[16] = "\177SUTURE-LEDGER\n";
static const char tag_magic[16] = "\177SUTURE-PIECE\n";

struct ledger_head {
	char magic[16];
	uint32_t version;
	uint32_t body_size;
	uint64_t address;
	uint8_t digest[crypto_hash_sha256_BYTES];
	uint64_t state; /* this changes */
};

struct ledger *ledger_create(void)
{
	return calloc(1, sizeof(struct ledger));
}

void ledger_destroy(struct ledger *ledger)
{
	if (!ledger)
		return;
	vec_foreach (image, &ledger->images)
		free(image->name);
	vec_foreach (f, &ledger->functions)
		free(f->name);
	vec_foreach (symbol, &ledger->symbols)
		free(symbol->name);
	vec_free(&ledger->images);
	vec_free(&ledger->functions);
	vec_free(&ledger->symbols);
	free(ledger->name);
	free(ledger->version);
	free(ledger->description);
	free(ledger);
}

/* ---- encode ---- */

static void put(FILE *f, const void *data, size_t size)
{
	fwrite(data, 1, size, f);
}

static void put_u64(FILE *f, uint64_t value)
{
	put(f, &value, sizeof(value));
}

static void put_bytes(FILE *f, const void *data, size_t size)
{
	put_u64(f, size);
	put(f, data, size);
}

static void put_string(FILE *f, const char *s)
{
	put_bytes(f, s ? s : "", s ? strlen(s) : 0);
}

static void put_image(FILE *f, const struct ledger_image *image)
{
	put_string(f, image->name);
	put_bytes(f, image->build_id, image->build_id_size);
	put_u64(f, image->base);
	put_u64(f, image->start);
	put_u64(f, image->end);
	put_u64(f, image->text);
	put_u64(f, image->text_end);
	put_u64(f, image->eh_frame);
	put_u64(f, image->eh_frame_size);
}

static void put_function(FILE *f, const struct ledger_function *function)
{
	put_string(f, function->name);
	put_u64(f, function->image);
	put_u64(f, function->address);
	put_u64(f, function->size);
	put_u64(f, function->site);
	put_bytes(f, function->saved, function->length);
	put_bytes(f, function->detour, function->length);
	put_u64(f, function->new_address);
	put_u64(f, function->new_size);
}

static void put_body(FILE *f, const struct ledger *ledger)
{
	put_string(f, ledger->name);
	put_string(f, ledger->version);
	put_string(f, ledger->description);
	put(f, ledger->id, sizeof(ledger->id));
	put_u64(f, ledger->sequence);
	put_u64(f, (uint64_t)ledger->applied_at);
	put_u64(f, ledger->images.n);
	vec_foreach (image, &ledger->images)
		put_image(f, image);
	put_u64(f, ledger->functions.n);
	vec_foreach (function, &ledger->functions)
		put_function(f, function);
	put_u64(f, ledger->symbols.n);
	vec_foreach (symbol, &ledger->symbols) {
		put_string(f, symbol->name);
		put_u64(f, symbol->address);
		put_u64(f, symbol->size);
		put_u64(f, symbol->escapes);
	}
}

static void digest(const struct ledger_head *head, const void *body, uint8_t *ret)
{
	crypto_hash_sha256_state state;

	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, (const void *)head, offsetof(struct ledger_head, digest));
	crypto_hash_sha256_update(&state, body, head->body_size);
	crypto_hash_sha256_final(&state, ret);
}

struct suture_error *ledger_encode(const struct ledger *ledger, void **ret, size_t *ret_size)
{
	char *data = NULL;
	size_t size = 0;
	struct ledger_head head = {
		.version = LEDGER_VERSION,
		.address = ledger->address,
		.state = ledger->state,
	};

	FILE *f = open_memstream(&data, &size);
	if (!f)
		return error_nomem();
	put(f, &head, sizeof(head));
	put_body(f, ledger);
	bool bad = ferror(f);
	if (fclose(f) || bad) {
		free(data);
		return error_nomem();
	}
	if (size - sizeof(head) > BODY_MAX) {
		free(data);
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"patch %s is too large for the ledger (%zu bytes)", ledger->name, size);
	}
	memcpy(head.magic, ledger_magic, sizeof(head.magic));
	head.body_size = size - sizeof(head);
	digest(&head, data + sizeof(head), head.digest);
	memcpy(data, &head, sizeof(head));
	*ret = data;
	*ret_size = size;
	return NULL;
}

struct suture_error *ledger_size(const struct ledger *ledger, size_t *ret)
{
	_cleanup_free_ void *data = NULL;

	return ledger_encode(ledger, &data, ret);
}

/* ---- decode ---- */

/* A place in the body; `bad` sticks, and what is read afterwards is zero. */
struct cursor {
	const uint8_t *at;
	size_t left;
	bool bad, nomem;
};

static const uint8_t *get(struct cursor *c, size_t size)
{
	const uint8_t *at = c->at;

	if (c->bad || size > c->left) {
		c->bad = true;
		return NULL;
	}
	c->at += size;
	c->left -= size;
	return at;
}

static uint64_t get_u64(struct cursor *c)
{
	uint64_t value = 0;
	const uint8_t *at = get(c, sizeof(value));

	if (at)
		memcpy(&value, at, sizeof(value));
	return value;
}

/* At most max bytes; *ret_size tells how many. */
static void get_bytes(struct cursor *c, void *buf, size_t max, size_t *ret_size)
{
	uint64_t size = get_u64(c);

	if (size > max)
		c->bad = true;
	const uint8_t *at = get(c, size);
	if (at)
		memcpy(buf, at, size);
	*ret_size = at ? size : 0;
}

/* These strings end up on terminals: what could steer one becomes a question mark. */
static char *get_string(struct cursor *c)
{
	uint64_t size = get_u64(c);

	if (size > STRING_MAX)
		c->bad = true;
	const uint8_t *at = get(c, size);
	if (!at)
		return NULL;
	char *s = malloc(size + 1);
	if (!s) {
		c->bad = c->nomem = true;
		return NULL;
	}
	for (size_t i = 0; i < size; i++)
		s[i] = at[i] == '\n' ? ' ' : iscntrl(at[i]) ? '?' : at[i];
	s[size] = '\0';
	return s;
}

/* How many elements follow, each of at least `size` bytes. */
static uint64_t get_count(struct cursor *c, uint64_t max, size_t size)
{
	uint64_t n = get_u64(c);

	if (n > max || n * size > c->left) {
		c->bad = true;
		return 0;
	}
	return n;
}

static bool range_ok(remote_addr start, remote_addr end)
{
	return start <= end && end <= USER_ADDRESS_MAX;
}

static void get_image(struct cursor *c, struct ledger_image *image)
{
	image->name = get_string(c);
	get_bytes(c, image->build_id, sizeof(image->build_id), &image->build_id_size);
	image->base = get_u64(c);
	image->start = get_u64(c);
	image->end = get_u64(c);
	image->text = get_u64(c);
	image->text_end = get_u64(c);
	image->eh_frame = get_u64(c);
	image->eh_frame_size = get_u64(c);
	if (!range_ok(image->start, image->end) || (image->start | image->end) % PAGE ||
		(image->start && image->end - image->start < 3 * PAGE) ||
		!range_ok(image->text, image->text_end) || image->eh_frame > USER_ADDRESS_MAX ||
		image->eh_frame_size > USER_ADDRESS_MAX)
		c->bad = true;
	else if (image->text && (image->text < image->start || image->text_end > image->end))
		c->bad = true;
	else if (image->eh_frame && (image->eh_frame < image->start ||
					    image->eh_frame + image->eh_frame_size > image->end))
		c->bad = true;
}

static bool function_ok(const struct ledger *ledger, const struct ledger_function *function)
{
	if (function->image >= ledger->images.n || !function->length)
		return false;
	if (!range_ok(function->address, function->address + function->size) ||
		function->site < function->address || function->site > USER_ADDRESS_MAX ||
		function->site - function->address > function->size)
		return false;
	const struct ledger_image *image = &ledger->images.at[function->image];
	return function->new_address >= image->text && function->new_address < image->text_end &&
	       function->new_size <= image->text_end - function->new_address;
}

static void get_function(
	struct cursor *c, const struct ledger *ledger, struct ledger_function *function)
{
	size_t saved, detour;

	function->name = get_string(c);
	uint64_t image = get_u64(c);
	if (image >= ledger->images.n)
		c->bad = true;
	function->image = image;
	function->address = get_u64(c);
	function->size = get_u64(c);
	function->site = get_u64(c);
	get_bytes(c, function->saved, sizeof(function->saved), &saved);
	get_bytes(c, function->detour, sizeof(function->detour), &detour);
	function->length = saved;
	function->new_address = get_u64(c);
	function->new_size = get_u64(c);
	if (saved != detour || !function_ok(ledger, function))
		c->bad = true;
}

static void get_symbol(struct cursor *c, struct ledger_symbol *symbol)
{
	symbol->name = get_string(c);
	symbol->address = get_u64(c);
	symbol->size = get_u64(c);
	uint64_t escapes = get_u64(c);
	symbol->escapes = escapes;
	if (escapes > 1 || !range_ok(symbol->address, symbol->address + symbol->size))
		c->bad = true;
}

#define GET_ALL(c, vec, max, size, fn, ...)                                          \
	do {                                                                         \
		for (uint64_t n_ = get_count(c, max, size); n_ && !(c)->bad; n_--) { \
			__typeof__((vec)->at) e_ = vec_add(vec);                     \
			if (!e_) {                                                   \
				(c)->bad = (c)->nomem = true;                        \
				break;                                               \
			}                                                            \
			fn(c, ##__VA_ARGS__, e_);                                    \
		}                                                                    \
	} while (0)

static void get_body(struct cursor *c, struct ledger *ledger)
{
	ledger->name = get_string(c);
	ledger->version = get_string(c);
	ledger->description = get_string(c);
	const uint8_t *id = get(c, sizeof(ledger->id));
	if (id)
		memcpy(ledger->id, id, sizeof(ledger->id));
	ledger->sequence = get_u64(c);
	ledger->applied_at = (int64_t)get_u64(c);
	GET_ALL(c, &ledger->images, IMAGES_MAX, 9 * 8, get_image);
	GET_ALL(c, &ledger->functions, FUNCTIONS_MAX, 9 * 8, get_function, ledger);
	GET_ALL(c, &ledger->symbols, SYMBOLS_MAX, 4 * 8, get_symbol);
	if (c->left)
		c->bad = true;
}

/* The record lies in its own first payload; nothing else may be unmapped with it. */
static bool ledger_ok(const struct ledger *ledger)
{
	uint64_t payloads = 0;
	bool home = false;

	vec_foreach (image, &ledger->images) {
		if (!image->start)
			continue;
		if (!payloads++)
			home = ledger->address == image->start + PAGE;
	}
	return home && ledger->name && ledger->name[0];
}

#define DAMAGED(address, why)                                                                     \
	error_hint(                                                                               \
		error_create(SUTURE_ERROR_LEDGER, "the ledger record at 0x%llx is damaged: " why, \
			(unsigned long long)(address)),                                           \
		"the process wrote over its own record, or it was made by another version; restart it")

static struct suture_error *read_head(
	const struct reader *reader, remote_addr address, struct ledger_head *head)
{
	TRY(reader_read(reader, address, head, sizeof(*head)));
	if (memcmp(head->magic, ledger_magic, sizeof(head->magic)))
		return error_create(SUTURE_ERROR_LEDGER, "no ledger record at 0x%llx",
			(unsigned long long)address);
	if (head->address != address)
		return DAMAGED(address, "it was written for another address");
	if (head->version != LEDGER_VERSION)
		return DAMAGED(address, "unknown version");
	if (head->body_size > BODY_MAX)
		return DAMAGED(address, "too large");
	if (head->state < LEDGER_STAGED || head->state > LEDGER_REVERTING)
		return DAMAGED(address, "unknown state");
	return NULL;
}

struct suture_error *ledger_decode(
	const struct reader *reader, remote_addr address, struct ledger **ret)
{
	_cleanup_(ledger_destroyp) struct ledger *ledger = ledger_create();
	_cleanup_free_ uint8_t *body = NULL;
	struct ledger_head head;
	uint8_t want[sizeof(head.digest)];

	if (!ledger)
		return error_nomem();
	TRY(read_head(reader, address, &head));
	body = malloc(head.body_size + 1);
	if (!body)
		return error_nomem();
	struct suture_error *err =
		reader_read(reader, address + sizeof(head), body, head.body_size);
	if (err && suture_error_code(err) != SUTURE_ERROR_NO_PROCESS) {
		suture_error_destroy(err);
		return DAMAGED(address, "it cannot be read to its end");
	}
	TRY(err);
	digest(&head, body, want);
	if (memcmp(want, head.digest, sizeof(want)))
		return DAMAGED(address, "its checksum is wrong");

	struct cursor c = {.at = body, .left = head.body_size};
	ledger->address = address;
	ledger->state = head.state;
	get_body(&c, ledger);
	if (c.nomem)
		return error_nomem();
	if (c.bad || !ledger_ok(ledger))
		return DAMAGED(address, "its content makes no sense");
	*ret = take(ledger);
	return NULL;
}

uint64_t ledger_payload_bytes(const struct ledger *ledger)
{
	uint64_t bytes = 0;

	vec_foreach (image, &ledger->images) {
		if (image->start)
			bytes += image->end - image->start - 2 * PAGE;
	}
	return bytes;
}

/* ---- in the target ---- */

struct suture_error *ledger_set_state(
	struct process *p, remote_addr ledger, enum ledger_state state)
{
	uint64_t word = state;

	return process_write(p, ledger + offsetof(struct ledger_head, state), &word, sizeof(word));
}

struct suture_error *ledger_get_state(struct process *p, remote_addr ledger, enum ledger_state *ret)
{
	struct ledger_head head;

	TRY(read_head(&p->reader, ledger, &head));
	*ret = head.state;
	return NULL;
}

struct tag {
	char magic[16];
	uint64_t at, ledger;
};
_Static_assert(sizeof(struct tag) == LEDGER_TAG_SIZE, "the size that ledger.h tells");

void ledger_tag(uint8_t ret[LEDGER_TAG_SIZE], remote_addr at, remote_addr ledger)
{
	struct tag tag = {.at = at, .ledger = ledger};

	memcpy(tag.magic, tag_magic, sizeof(tag.magic));
	memcpy(ret, &tag, sizeof(tag));
}

static size_t first_payload(const struct ledger *ledger)
{
	size_t i = 0;

	while (i < ledger->images.n && !ledger->images.at[i].start)
		i++;
	return i;
}

struct suture_error *ledger_is_mapped(
	struct process *p, const struct ledger *ledger, size_t image, bool *ret)
{
	remote_addr start = ledger->images.at[image].start;
	uint8_t want[LEDGER_TAG_SIZE], have[LEDGER_TAG_SIZE];
	struct suture_error *err;
	enum ledger_state state;

	*ret = false;
	if (!start)
		return NULL;
	if (image == first_payload(ledger)) {
		err = ledger_get_state(p, ledger->address, &state);
		*ret = !err;
	} else {
		ledger_tag(want, start + PAGE, ledger->address);
		err = process_read(p, start + PAGE, have, sizeof(have));
		*ret = !err && !memcmp(want, have, sizeof(have));
	}
	if (err && suture_error_code(err) == SUTURE_ERROR_NO_PROCESS)
		return err;
	suture_error_destroy(err);
	return NULL;
}

void ledgers_deinit(struct ledgers *ledgers)
{
	vec_foreach (ledger, &ledgers->v)
		ledger_destroy(*ledger);
	vec_foreach (err, &ledgers->damaged)
		suture_error_destroy(*err);
	vec_free(&ledgers->v);
	vec_free(&ledgers->damaged);
}

/*
 * Where a record would be in this mapping; 0: nowhere. Behind the guard page of a payload that a
 * tool was just beginning to map (stage.c), it is not a mapping of its own yet.
 */
static remote_addr record_place(const struct map *map)
{
	if (map->x || map->shared || map->inode || (map->path[0] && strncmp(map->path, "[anon", 5)))
		return 0;
	if (map->r && !map->w)
		return map->start;
	return map->w && !map->r && map->end - map->start > 2 * PAGE ? map->start + PAGE : 0;
}

static struct suture_error *scan_one(struct process *p, remote_addr at, struct ledgers *ret)
{
	char magic[sizeof(ledger_magic)];
	struct ledger *ledger;

	/* Unmapped since, or not readable: not a record. */
	struct suture_error *err = process_read(p, at, magic, sizeof(magic));
	if (err || memcmp(magic, ledger_magic, sizeof(magic))) {
		suture_error_destroy(err);
		return NULL;
	}
	err = ledger_decode(&p->reader, at, &ledger);
	if (!err)
		return vec_push(&ret->v, ledger) ? NULL : error_nomem();
	if (suture_error_code(err) != SUTURE_ERROR_LEDGER)
		return err;
	if (!vec_push(&ret->damaged, err)) {
		suture_error_destroy(err);
		return error_nomem();
	}
	return NULL;
}

static int by_sequence(const void *a, const void *b)
{
	const struct ledger *x = *(struct ledger *const *)a, *y = *(struct ledger *const *)b;

	if (x->sequence != y->sequence)
		return x->sequence < y->sequence ? -1 : 1;
	return x->address < y->address ? -1 : x->address > y->address;
}

struct suture_error *ledgers_scan(struct process *p, const struct maps *maps, struct ledgers *ret)
{
	struct ledgers found = {};

	vec_foreach (map, &maps->v) {
		remote_addr at = record_place(map);

		if (!at)
			continue;
		struct suture_error *err = scan_one(p, at, &found);
		if (err) {
			ledgers_deinit(&found);
			return err;
		}
	}
	if (found.v.n)
		qsort(found.v.at, found.v.n, sizeof(found.v.at[0]), by_sequence);
	*ret = found;
	return NULL;
}

struct ledger *ledgers_find(const struct ledgers *ledgers, const char *name)
{
	vec_foreach (ledger, &ledgers->v) {
		if (!strcmp((*ledger)->name, name))
			return *ledger;
	}
	return NULL;
}
