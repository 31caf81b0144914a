/* SPDX-License-Identifier: Apache-2.0 */
/* From a string to a number: an open-addressing table, see strmap.h. */
#include <stdlib.h>
#include <string.h>

#include "build/strmap.h"

/* FNV-1a */
static size_t hash(const char *s)
{
	uint64_t h = 0xcbf29ce484222325;

	while (*s)
		h = (h ^ (uint8_t)*s++) * 0x100000001b3;
	return h ^ h >> 32;
}

/* The slot of key, or the free one where it belongs. */
static struct strmap_slot *locate(struct strmap_slot *slots, size_t room, const char *key)
{
	size_t i = hash(key) & (room - 1);

	while (slots[i].key && strcmp(slots[i].key, key) != 0)
		i = (i + 1) & (room - 1);
	return &slots[i];
}

static bool grow(struct strmap *map)
{
	size_t room = map->room ? map->room * 2 : 16;
	struct strmap_slot *slots = calloc(room, sizeof(*slots));

	if (!slots)
		return false;
	for (size_t i = 0; i < map->room; i++) {
		if (map->slots[i].key)
			*locate(slots, room, map->slots[i].key) = map->slots[i];
	}
	free(map->slots);
	map->slots = slots;
	map->room = room;
	return true;
}

size_t *strmap_add(struct strmap *map, const char *key, size_t initial)
{
	if (map->n >= map->room / 2 && !grow(map))
		return NULL;
	struct strmap_slot *slot = locate(map->slots, map->room, key);
	if (!slot->key) {
		slot->key = strdup(key);
		if (!slot->key)
			return NULL;
		slot->value = initial;
		map->n++;
	}
	return &slot->value;
}

size_t *strmap_find(const struct strmap *map, const char *key)
{
	if (!map->room)
		return NULL;
	struct strmap_slot *slot = locate(map->slots, map->room, key);
	return slot->key ? &slot->value : NULL;
}

void strmap_deinit(struct strmap *map)
{
	for (size_t i = 0; i < map->room; i++)
		free(map->slots[i].key);
	free(map->slots);
	*map = (struct strmap){};
}
