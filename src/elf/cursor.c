/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding numbers of DWARF: see cfi.h. */
#include <dwarf.h>
#include <string.h>

#include "elf/cfi.h"

const uint8_t *cursor_skip(struct cursor *c, uint64_t size)
{
	const uint8_t *at = c->at;

	if (c->bad || size > (uint64_t)(c->end - c->at)) {
		c->bad = true;
		return NULL;
	}
	c->at += size;
	return at;
}

uint64_t cursor_fixed(struct cursor *c, size_t size)
{
	const uint8_t *bytes = cursor_skip(c, size);
	uint64_t value = 0;

	if (bytes)
		memcpy(&value, bytes, size); /* little-endian, like all we read */
	return value;
}

int64_t cursor_signed(struct cursor *c, size_t size)
{
	unsigned shift = 64 - 8 * size;

	return (int64_t)(cursor_fixed(c, size) << shift) >> shift;
}

/* Bits above 64 are dropped, as everybody does. */
static uint64_t leb(struct cursor *c, unsigned *ret_bits, uint8_t *ret_last)
{
	uint64_t value = 0;
	uint8_t byte;

	*ret_bits = 0;
	do {
		byte = cursor_fixed(c, 1);
		if (*ret_bits < 64)
			value |= (uint64_t)(byte & 0x7f) << *ret_bits;
		*ret_bits = *ret_bits < 64 ? *ret_bits + 7 : 64;
	} while (byte & 0x80);
	*ret_last = byte;
	return c->bad ? 0 : value;
}

uint64_t cursor_uleb(struct cursor *c)
{
	unsigned bits;
	uint8_t last;

	return leb(c, &bits, &last);
}

int64_t cursor_sleb(struct cursor *c)
{
	unsigned bits;
	uint8_t last;
	uint64_t value = leb(c, &bits, &last);

	if (bits < 64 && (last & 0x40))
		value |= UINT64_MAX << bits;
	return (int64_t)value;
}

static uint64_t pointer_value(struct cursor *c, uint8_t format)
{
	switch (format) {
	case DW_EH_PE_absptr:
	case DW_EH_PE_udata8:
	case DW_EH_PE_sdata8:
		return cursor_fixed(c, 8);
	case DW_EH_PE_uleb128:
		return cursor_uleb(c);
	case DW_EH_PE_sleb128:
		return cursor_sleb(c);
	case DW_EH_PE_udata2:
		return cursor_fixed(c, 2);
	case DW_EH_PE_udata4:
		return cursor_fixed(c, 4);
	case DW_EH_PE_sdata2:
		return cursor_signed(c, 2);
	case DW_EH_PE_sdata4:
		return cursor_signed(c, 4);
	default:
		c->bad = true;
		return 0;
	}
}

uint64_t cursor_pointer(struct cursor *c, uint8_t encoding, remote_addr data)
{
	remote_addr here = c->addr - (c->end - c->at);
	uint64_t value = pointer_value(c, encoding & 0x0f);

	switch (encoding & 0xf0) {
	case DW_EH_PE_absptr:
		return value;
	case DW_EH_PE_pcrel:
		return value + here;
	case DW_EH_PE_datarel:
		if (data)
			return value + data;
		/* fall through */
	default: /* indirect, aligned, text- and function-relative: nobody's .eh_frame has them */
		c->bad = true;
		return 0;
	}
}
