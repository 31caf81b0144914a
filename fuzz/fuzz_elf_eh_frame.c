/* SPDX-License-Identifier: Apache-2.0 */
/* The input is an .eh_frame section. */
#include "exercise_elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	exercise_eh_frame(data, size, 0x10000);
	return 0;
}
