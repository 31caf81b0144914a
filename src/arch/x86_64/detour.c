/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jumps that suture writes itself. They touch no register and no flag: with -fipa-ra a caller may
 * rely on any of them.
 */
#include <string.h>

#include "arch/x86_64/x86_64.h"

static bool fits_rel32(uint64_t delta)
{
	return (int64_t)delta == (int32_t)delta;
}

static void put_rel32(uint8_t *field, uint64_t delta)
{
	int32_t rel = (int32_t)delta;

	memcpy(field, &rel, sizeof(rel));
}

/* jmp rel32 */
bool x86_64_detour_encode(uint8_t *buf, uint64_t from, uint64_t to)
{
	uint64_t delta = to - (from + X86_64_DETOUR_SIZE);

	if (!fits_rel32(delta))
		return false;
	buf[0] = 0xe9;
	put_rel32(buf + 1, delta);
	return true;
}

/* jmp *slot(%rip) */
bool x86_64_veneer_encode(uint8_t *buf, uint64_t at, uint64_t slot)
{
	uint64_t delta = slot - (at + X86_64_VENEER_SIZE);

	if (!fits_rel32(delta))
		return false;
	buf[0] = 0xff;
	buf[1] = 0x25;
	put_rel32(buf + 2, delta);
	return true;
}
