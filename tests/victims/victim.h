/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every victim does: it says "ready", then answers each line of its input by one line. The
 * victim defines answer(), which prints the rest of the answer without the newline.
 */
#ifndef VICTIM_H
#define VICTIM_H

#include <stdio.h>
#include <string.h>

static inline int victim_serve(void (*answer)(const char *line))
{
	char line[4096];

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		answer(line);
		putchar('\n');
		fflush(stdout);
	}
	return 0;
}

#endif
