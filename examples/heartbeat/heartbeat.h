/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heartbeat service: a client sends a payload, the server sends it back, both know that the
 * other is alive.
 *
 * A record on the wire is a 32-bit length and that many bytes of body. A body is a type, a 16-bit
 * payload length, and the payload. All numbers are big endian. So the length of the payload is
 * said twice, and somebody has to compare.
 */
#ifndef HEARTBEAT_H
#define HEARTBEAT_H

#include <stddef.h>
#include <stdint.h>

enum {
	HEARTBEAT_REQUEST = 1, /* answered by RESPONSE with the same payload */
	HEARTBEAT_RESPONSE = 2,
	HEARTBEAT_LOGIN = 3, /* payload "user:token", answered by WELCOME without payload */
	HEARTBEAT_WELCOME = 4,
};

enum {
	RECORD_HEADER = 4,
	BODY_HEADER = 3,
	BODY_MAX = 512, /* of what clients may send */
	MAX_CONNECTIONS = 256,
};

struct record {
	const uint8_t *body;
	size_t length;
};

/* One client. The slots lie side by side in one table, as in many servers. */
struct connection {
	int fd, epoll;
	size_t have; /* bytes in `in` */
	uint8_t in[RECORD_HEADER + BODY_MAX];
	char user[32];
	char token[64]; /* what the client proved its identity with: nobody else's business */
	uint8_t *out;	/* what the socket has not taken yet */
	size_t out_size;
	struct connection *next_free;
};

/* Queue a record with this body; false when the connection is of no use any more. */
int connection_send(struct connection *c, const uint8_t *body, size_t length);

/* heartbeat.c. Both answer false when the connection shall be closed. */
int process_heartbeat(struct connection *c, const struct record *r);
int process_login(struct connection *c, const struct record *r);

static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static inline void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

#endif
