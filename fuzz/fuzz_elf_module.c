/* SPDX-License-Identifier: Apache-2.0 */
/* The input is the memory of a mapped image. */
#include "exercise_elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	exercise_module(data, size, 0x7f0000000000);
	return 0;
}
