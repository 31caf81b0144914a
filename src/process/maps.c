/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/PID/maps. The listing is made in pieces while the target runs, so two neighbours may
 * overlap when one of them changed between the pieces: read it again then. Names are what the
 * target chose: spaces, " (deleted)", newlines (which the kernel writes as \012).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "process/internal.h"

void maps_deinit(struct maps *maps)
{
	vec_foreach (m, &maps->v)
		free(m->path);
	vec_free(&maps->v);
}

static void maps_deinitp(struct maps *maps)
{
	maps_deinit(maps);
}

/* A hexadecimal (or, for the inode, decimal) number that ends in `stop`. */
static bool number(const char **s, int base, char stop, uint64_t *ret)
{
	char *end;

	if (**s == '-' || **s == '+' || **s == ' ')
		return false;
	errno = 0;
	unsigned long long value = strtoull(*s, &end, base);
	if (end == *s || errno || *end != stop)
		return false;
	*s = end + 1;
	*ret = value;
	return true;
}

static bool permissions(const char **s, struct map *m)
{
	const char *p = *s;

	/* Not strlen: what follows is all the other lines. */
	if (strnlen(p, 5) < 5 || !strchr("r-", p[0]) || !strchr("w-", p[1]) ||
		!strchr("x-", p[2]) || !strchr("ps", p[3]) || p[4] != ' ')
		return false;
	m->r = p[0] == 'r';
	m->w = p[1] == 'w';
	m->x = p[2] == 'x';
	m->shared = p[3] == 's';
	*s = p + 5;
	return true;
}

/* The name with the kernel's \012 turned back into a newline. */
static char *name(const char *s, size_t len)
{
	char *path = malloc(len + 1), *to = path;

	if (!path)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		if (len - i >= 4 && memcmp(s + i, "\\012", 4) == 0) {
			*to++ = '\n';
			i += 3;
		} else {
			*to++ = s[i];
		}
	}
	*to = '\0';
	return path;
}

/* One line, which ends in a newline (made a NUL): everything but the name. */
static bool line_parse(const char **line, struct map *m)
{
	uint64_t major, minor;

	if (!number(line, 16, '-', &m->start) || !number(line, 16, ' ', &m->end) ||
		!permissions(line, m) || !number(line, 16, ' ', &m->offset) ||
		!number(line, 16, ':', &major) || !number(line, 16, ' ', &minor))
		return false;
	/* Without a name the inode ends the line, or (older kernels) a space does. */
	char *end;
	errno = 0;
	m->inode = strtoull(*line, &end, 10);
	if (end == *line || errno || (*end != ' ' && *end != '\n'))
		return false;
	*line = end + strspn(end, " ");
	m->dev_major = (uint32_t)major;
	m->dev_minor = (uint32_t)minor;
	return major <= UINT32_MAX && minor <= UINT32_MAX && m->start < m->end;
}

struct suture_error *maps_parse(const char *text, struct maps *ret)
{
	_cleanup_(maps_deinitp) struct maps maps = {};
	remote_addr end = 0;

	for (const char *line = text; *line;) {
		const char *s = line, *newline = strchr(line, '\n');
		struct map map = {};

		if (!newline || !line_parse(&s, &map) || s > newline)
			return error_create(SUTURE_ERROR_INPUT, "malformed map line: %.80s", line);
		if (map.start < end)
			return error_create(SUTURE_ERROR_INPUT, "maps overlap at 0x%llx",
				(unsigned long long)map.start);
		end = map.end;
		map.path = name(s, (size_t)(newline - s));
		if (!map.path)
			return error_nomem();
		if (!vec_push(&maps.v, map)) {
			free(map.path);
			return error_nomem();
		}
		line = newline + 1;
	}
	*ret = maps;
	maps = (struct maps){};
	return NULL;
}

static struct suture_error *read_once(struct process *p, struct maps *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	char path[64] = "maps";

	/* A leader that has exited has no memory any more; its threads have. */
	if (p->mm_tid != p->pid)
		snprintf(path, sizeof(path), "task/%d/maps", p->mm_tid);
	int err = proc_read_all(p->dir_fd, path, &text, &size);
	if (err == -ESRCH || err == -ENOENT)
		return process_gone(p);
	if (err < 0)
		return error_errno(
			-err, "cannot read the maps of process %d (%s)", p->pid, p->comm);
	if (!size)
		return process_gone(p);
	if (strlen(text) != size)
		return error_create(SUTURE_ERROR_INPUT, "maps hold a NUL byte");
	return maps_parse(text, ret);
}

struct suture_error *process_maps(struct process *p, struct maps *ret)
{
	struct suture_error *err = NULL;

	for (int attempt = 0; attempt < 8; attempt++) {
		suture_error_destroy(err);
		err = read_once(p, ret);
		if (!err)
			return NULL;
		if (suture_error_code(err) == SUTURE_ERROR_NO_PROCESS) {
			/* The thread whose maps these were may have ended: find another. */
			struct suture_error *dead = process_alive(p);
			if (dead) {
				suture_error_destroy(err);
				return dead;
			}
		} else if (suture_error_code(err) != SUTURE_ERROR_INPUT) {
			return err;
		}
	}
	return error_wrap(err, "process %d (%s)", p->pid, p->comm);
}

const struct map *maps_find(const struct maps *maps, remote_addr addr)
{
	size_t low = 0, high = maps->v.n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct map *m = &maps->v.at[mid];

		if (addr < m->start)
			high = mid;
		else if (addr >= m->end)
			low = mid + 1;
		else
			return m;
	}
	return NULL;
}
