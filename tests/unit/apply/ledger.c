/* SPDX-License-Identifier: Apache-2.0 */
/* A record comes back as it was written; a damaged one is refused, whatever the damage is. */
#include <sodium.h>

#include "../unit.h"
#include "apply/ledger.h"
#include "ledger_sample.h"

/* Where the head keeps the word that may change. */
enum { HEAD = 72, DIGEST_AT = 32, STATE_AT = 64 };

static void *encode(const struct ledger *ledger, size_t *size)
{
	void *data;

	assert_ok(ledger_encode(ledger, &data, size));
	return data;
}

static void seal(uint8_t *data, size_t size)
{
	crypto_hash_sha256_state state;

	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, data, DIGEST_AT);
	crypto_hash_sha256_update(&state, data + HEAD, size - HEAD);
	crypto_hash_sha256_final(&state, data + DIGEST_AT);
}

static struct suture_error *decode(const void *data, size_t size, struct ledger **ret)
{
	struct reader_buffer memory;

	reader_buffer_init(&memory, data, size, SAMPLE_BASE + 0x1000);
	return ledger_decode(&memory.reader, SAMPLE_BASE + 0x1000, ret);
}

static void round_trip(void **state)
{
	(void)state;
	struct ledger *in = sample_ledger(), *out;
	size_t size, again;
	uint8_t *data = encode(in, &size);

	assert_ok(ledger_size(in, &again));
	assert_int_equal(size, again);
	assert_ok(decode(data, size, &out));
	assert_int_equal(out->state, LEDGER_APPLIED);
	assert_int_equal(out->sequence, 3);
	assert_int_equal(out->applied_at, 1700000000);
	assert_string_equal(out->name, in->name);
	assert_string_equal(out->version, in->version);
	assert_string_equal(out->description, in->description);
	assert_memory_equal(out->id, in->id, sizeof(in->id));
	assert_int_equal(out->images.n, 2);
	assert_int_equal(out->functions.n, 2);
	for (size_t i = 0; i < 2; i++) {
		const struct ledger_image *a = &in->images.at[i], *b = &out->images.at[i];
		const struct ledger_function *f = &in->functions.at[i], *g = &out->functions.at[i];

		assert_string_equal(a->name, b->name);
		assert_int_equal(a->build_id_size, b->build_id_size);
		assert_memory_equal(a->build_id, b->build_id, a->build_id_size);
		assert_memory_equal(&a->base, &b->base, sizeof(*a) - offsetof(typeof(*a), base));
		assert_string_equal(f->name, g->name);
		assert_int_equal(f->length, g->length);
		assert_int_equal(f->image, g->image);
		assert_int_equal(f->site, g->site);
		assert_memory_equal(f->saved, g->saved, f->length);
		assert_memory_equal(f->detour, g->detour, f->length);
		assert_int_equal(f->new_address, g->new_address);
		assert_int_equal(f->new_size, g->new_size);
		assert_string_equal(in->symbols.at[i].name, out->symbols.at[i].name);
		assert_int_equal(in->symbols.at[i].escapes, out->symbols.at[i].escapes);
	}
	ledger_destroy(out);
	/* Addresses do not change the size: it is needed before they are known. */
	in->address += 0x123000;
	in->functions.at[0].new_address = 0;
	in->images.at[1].start = in->images.at[1].end = 0;
	assert_ok(ledger_size(in, &again));
	assert_int_equal(size, again);
	free(data);
	ledger_destroy(in);
}

/* Any bit that flips outside of the word that may change is noticed. */
static void flipped_bits(void **state)
{
	(void)state;
	struct ledger *in = sample_ledger(), *out = NULL;
	size_t size;
	uint8_t *data = encode(in, &size);

	for (size_t i = 0; i < size; i++) {
		if (i >= STATE_AT && i < HEAD)
			continue;
		data[i] ^= 1 << i % 8;
		assert_error(decode(data, size, &out), SUTURE_ERROR_LEDGER, "ledger record");
		data[i] ^= 1 << i % 8;
	}
	assert_null(out);
	for (uint64_t s = 0; s < 8; s++) {
		memcpy(data + STATE_AT, &s, sizeof(s));
		struct suture_error *err = decode(data, size, &out);
		assert_int_equal(err == NULL, s >= LEDGER_STAGED && s <= LEDGER_REVERTING);
		if (err)
			assert_int_equal(suture_error_code(err), SUTURE_ERROR_LEDGER);
		else
			ledger_destroy(out);
		suture_error_destroy(err);
	}
	free(data);
	ledger_destroy(in);
}

static void cut_short(void **state)
{
	(void)state;
	struct ledger *in = sample_ledger(), *out = NULL;
	size_t size;
	uint8_t *data = encode(in, &size);

	for (size_t i = 0; i < size; i++) {
		struct suture_error *err = decode(data, i, &out);
		assert_non_null(err);
		suture_error_destroy(err);
	}
	assert_null(out);
	free(data);
	ledger_destroy(in);
}

/* The checksum is no secret: a record that lies with a right one must not get through either. */
static void sealed_lies(void **state)
{
	(void)state;
	struct ledger *out = NULL;
	size_t size;

#define LIE(change)                                                                      \
	do {                                                                             \
		struct ledger *in = sample_ledger();                                     \
		change;                                                                  \
		uint8_t *data = encode(in, &size);                                       \
		assert_error(decode(data, size, &out), SUTURE_ERROR_LEDGER, "no sense"); \
		free(data);                                                              \
		ledger_destroy(in);                                                      \
	} while (0)

	LIE(in->images.at[0].start -= 0x1000);
	LIE(in->name[0] = '\0');
	LIE(in->images.at[0].end = in->images.at[0].start);
	LIE(in->images.at[0].end = in->images.at[0].start - 0x1000);
	LIE(in->images.at[0].start += 0x10);
	LIE(in->images.at[0].end = UINT64_MAX & -4096ULL);
	LIE(in->images.at[0].text_end = in->images.at[0].end + 1);
	LIE(in->images.at[0].text = 1);
	LIE(in->images.at[0].eh_frame_size = UINT64_MAX);
	LIE(in->images.at[0].eh_frame = in->images.at[0].end);
	/* The record would be in a payload that is unmapped before the last one. */
	LIE(in->images.at[0].start = in->images.at[0].end = 0);
	LIE(in->functions.at[0].image = 2);
	LIE(in->functions.at[0].length = 0);
	LIE(in->functions.at[0].size = UINT64_MAX);
	LIE(in->functions.at[0].site = in->functions.at[0].address - 1);
	LIE(in->functions.at[0].site += 0x1000);
	LIE(in->functions.at[0].new_address += 0x1000);
	LIE(in->functions.at[0].new_size = UINT64_MAX);
	LIE(in->symbols.at[0].size = UINT64_MAX);
#undef LIE
	assert_null(out);
}

/* Random bytes behind a right head and a right checksum: an error or a ledger, never a crash. */
static void sealed_noise(void **state)
{
	(void)state;
	struct ledger *in = sample_ledger();
	size_t size;
	uint8_t *data = encode(in, &size);
	uint64_t random = 88172645463325252ULL;

	for (int i = 0; i < 20000; i++) {
		uint8_t *copy = malloc(size);
		struct ledger *out = NULL;

		memcpy(copy, data, size);
		for (int n = 0; n < 1 + i % 4; n++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			copy[HEAD + random % (size - HEAD)] = random >> 32;
		}
		seal(copy, size);
		struct suture_error *err = decode(copy, size, &out);
		assert_true((err == NULL) == (out != NULL));
		suture_error_destroy(err);
		ledger_destroy(out);
		free(copy);
	}
	free(data);
	ledger_destroy(in);
}

static void terminal_text(void **state)
{
	(void)state;
	struct ledger *in = sample_ledger(), *out;
	size_t size;

	free(in->description);
	in->description = strdup("\033[2Jtwo\nlines\x7f");
	uint8_t *data = encode(in, &size);
	assert_ok(decode(data, size, &out));
	assert_string_equal(out->description, "?[2Jtwo lines?");
	ledger_destroy(out);
	free(data);
	ledger_destroy(in);
}

/* For the fuzzer: the first input. */
static int write_sample(const char *path)
{
	struct ledger *in = sample_ledger();
	void *data = NULL;
	size_t size = 0;

	struct suture_error *err = ledger_encode(in, &data, &size);
	FILE *f = err ? NULL : fopen(path, "w");
	bool ok = f && fwrite(data, 1, size, f) == size;
	if (f)
		ok = !fclose(f) && ok;
	free(data);
	suture_error_destroy(err);
	ledger_destroy(in);
	return !ok;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(flipped_bits),
		cmocka_unit_test(cut_short),
		cmocka_unit_test(sealed_lies),
		cmocka_unit_test(sealed_noise),
		cmocka_unit_test(terminal_text),
	};

	if (argc == 3 && !strcmp(argv[1], "--write"))
		return write_sample(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
