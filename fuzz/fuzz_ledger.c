/* SPDX-License-Identifier: Apache-2.0 */
/* The input is a record in a target's memory, with its checksum made right. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD = 72, SIZE_AT = 20, ADDRESS_AT = 24, DIGEST_AT = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const remote_addr address = 0x7f0000001000;
	crypto_hash_sha256_state state;
	struct reader_buffer memory;
	struct ledger *ledger = NULL;
	uint32_t body = size < HEAD ? 0 : size - HEAD;

	if (size < HEAD)
		return 0;
	uint8_t *copy = malloc(size);
	memcpy(copy, data, size);
	memcpy(copy + SIZE_AT, &body, sizeof(body));
	memcpy(copy + ADDRESS_AT, &address, sizeof(address));
	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, copy, DIGEST_AT);
	crypto_hash_sha256_update(&state, copy + HEAD, body);
	crypto_hash_sha256_final(&state, copy + DIGEST_AT);
	reader_buffer_init(&memory, copy, size, address);
	struct suture_error *err = ledger_decode(&memory.reader, address, &ledger);
	if (!err != (ledger != NULL))
		abort();
	suture_error_destroy(err);
	ledger_destroy(ledger);
	free(copy);
	return 0;
}
