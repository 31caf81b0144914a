/* SPDX-License-Identifier: Apache-2.0 */
/* What the server does with each kind of record. */
#include <stdlib.h>
#include <string.h>

#include "heartbeat.h"

/* Send the payload back. */
int process_heartbeat(struct connection *c, const struct record *r)
{
	uint16_t payload = get16(r->body + 1);
	uint8_t *answer = malloc(BODY_HEADER + payload);
	int good;

	if (!answer)
		return 0;
	answer[0] = HEARTBEAT_RESPONSE;
	put16(answer + 1, payload);
	memcpy(answer + BODY_HEADER, r->body + BODY_HEADER, payload);
	good = connection_send(c, answer, BODY_HEADER + payload);
	free(answer);
	return good;
}

/* Remember who this is. */
int process_login(struct connection *c, const struct record *r)
{
	static const uint8_t welcome[BODY_HEADER] = {HEARTBEAT_WELCOME};
	const char *text = (const char *)r->body + BODY_HEADER;
	size_t length = r->length - BODY_HEADER;
	const char *colon = memchr(text, ':', length);
	size_t user, token;

	if (!colon)
		return 0;
	user = (size_t)(colon - text);
	token = length - user - 1;
	if (user >= sizeof(c->user) || token >= sizeof(c->token))
		return 0;
	memcpy(c->user, text, user);
	c->user[user] = '\0';
	memcpy(c->token, colon + 1, token);
	c->token[token] = '\0';
	return connection_send(c, welcome, sizeof(welcome));
}
