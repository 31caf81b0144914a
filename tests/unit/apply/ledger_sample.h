/* SPDX-License-Identifier: Apache-2.0 */
/* A record with everything in it, for the tests and as the fuzzer's first input. */
#ifndef TESTS_LEDGER_SAMPLE_H
#define TESTS_LEDGER_SAMPLE_H

#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"

#define SAMPLE_BASE 0x7f0000000000ULL

static inline struct ledger *sample_ledger(void)
{
	struct ledger *ledger = ledger_create();
	const char *const names[] = {"prog", "libf.so.1"};

	ledger->address = SAMPLE_BASE + 0x1000;
	ledger->state = LEDGER_APPLIED;
	ledger->sequence = 3;
	ledger->applied_at = 1700000000;
	ledger->name = strdup("CVE-2014-0160");
	ledger->version = strdup("1.2");
	ledger->description = strdup("stop the bleeding");
	memset(ledger->id, 0x5a, sizeof(ledger->id));
	for (uint64_t i = 0; i < 2; i++) {
		struct ledger_image *image = vec_add(&ledger->images);
		remote_addr start = SAMPLE_BASE + i * 0x100000;

		*image = (struct ledger_image){
			.name = strdup(names[i]),
			.build_id = {1, 2, 3},
			.build_id_size = 20,
			.base = start + 0x10000,
			.start = start,
			.end = start + 0x5000,
			.text = start + 0x2000,
			.text_end = start + 0x3000,
			.eh_frame = start + 0x1800,
			.eh_frame_size = 0x80,
		};
		struct ledger_function *f = vec_add(&ledger->functions);
		*f = (struct ledger_function){
			.name = strdup(i ? "g" : "f"),
			.image = i,
			.address = start + 0x11000,
			.size = 0x40,
			.site = start + 0x11004,
			.length = 5,
			.saved = {0x55, 0x48, 0x89, 0xe5, 0x90},
			.detour = {0xe9, 1, 2, 3, 4},
			.new_address = start + 0x2000,
			.new_size = 0x30,
		};
		struct ledger_symbol *symbol = vec_add(&ledger->symbols);
		*symbol = (struct ledger_symbol){
			strdup(f->name), f->new_address, f->new_size, i == 1};
	}
	return ledger;
}

#endif
