/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heartbeat-client load PORT USER:TOKEN...
 *     Logs in once per USER and keeps the connections: sends good requests on all of them without
 *     end and verifies every answer. For each line on standard input it prints the totals so far
 *     and starts a new maximum of the latency; ends at the end of input, with status 1 when any
 *     request failed.
 *
 * heartbeat-client leak PORT [BYTES]
 *     Sends one request that claims to carry BYTES (4000), but carries four, and prints what came
 *     back. Then a good request on the same connection, to see that it still works.
 *     Status 0: memory of the server leaked; 1: the server did not answer the bad request;
 *     2: anything else.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "heartbeat.h"

enum { ANSWER_MAX = BODY_HEADER + 65535, TIMEOUT_MS = 5000, DISCARDED_MS = 500 };

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int connect_to(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof(a))) {
		perror("heartbeat-client: connect");
		exit(2);
	}
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return s;
}

/* A record whose body claims `claimed` bytes of payload and carries `length`. */
static int send_record(int s, uint8_t type, const void *payload, uint16_t length, uint16_t claimed)
{
	uint8_t record[RECORD_HEADER + BODY_MAX];
	size_t size = RECORD_HEADER + BODY_HEADER + length;

	put32(record, BODY_HEADER + length);
	record[RECORD_HEADER] = type;
	put16(record + RECORD_HEADER + 1, claimed);
	memcpy(record + RECORD_HEADER + BODY_HEADER, payload, length);
	return send(s, record, size, MSG_NOSIGNAL) == (ssize_t)size;
}

/* Exactly n bytes within the time: 1, none came: 0, anything else: -1. */
static int receive(int s, uint8_t *buf, size_t n, int timeout_ms)
{
	struct pollfd p = {.fd = s, .events = POLLIN};
	size_t have = 0;

	while (have < n) {
		ssize_t got;
		int ready = poll(&p, 1, timeout_ms);

		if (!ready)
			return have ? -1 : 0;
		got = recv(s, buf + have, n - have, 0);
		if (got <= 0)
			return -1;
		have += (size_t)got;
	}
	return 1;
}

/* The body of the next record into buf (ANSWER_MAX): as receive(). */
static int receive_record(int s, uint8_t *buf, size_t *length, int timeout_ms)
{
	uint8_t header[RECORD_HEADER];
	int got = receive(s, header, sizeof(header), timeout_ms);

	if (got != 1)
		return got;
	*length = get32(header);
	if (*length < BODY_HEADER || *length > ANSWER_MAX)
		return -1;
	return receive(s, buf, *length, timeout_ms) == 1 ? 1 : -1;
}

static int log_in(int s, const char *credentials)
{
	uint8_t body[ANSWER_MAX];
	size_t length, n = strlen(credentials);

	return n <= BODY_MAX - BODY_HEADER &&
	       send_record(s, HEARTBEAT_LOGIN, credentials, (uint16_t)n, (uint16_t)n) &&
	       receive_record(s, body, &length, TIMEOUT_MS) == 1 && body[0] == HEARTBEAT_WELCOME;
}

/* One good request: 1 answered rightly, 0 answered wrongly or late, -1 connection lost. */
static int beat(int s, unsigned number)
{
	char payload[64];
	uint8_t body[ANSWER_MAX];
	size_t length, n = (size_t)snprintf(payload, sizeof(payload), "are you there? %u", number);
	int got;

	if (!send_record(s, HEARTBEAT_REQUEST, payload, (uint16_t)n, (uint16_t)n))
		return -1;
	got = receive_record(s, body, &length, TIMEOUT_MS);
	if (got != 1)
		return got;
	return length == BODY_HEADER + n && body[0] == HEARTBEAT_RESPONSE && get16(body + 1) == n &&
	       !memcmp(body + BODY_HEADER, payload, n);
}

/* ---- load ---- */

static atomic_ulong requests, failures, resets, slowest;
static atomic_int ending;

static void note_latency(unsigned long us)
{
	unsigned long old = atomic_load(&slowest);

	while (us > old && !atomic_compare_exchange_weak(&slowest, &old, us))
		;
}

static void *beat_all_the_time(void *arg)
{
	int s = *(int *)arg, good;
	struct timespec pause = {.tv_nsec = 1000 * 1000};

	for (unsigned n = 0; !atomic_load(&ending); n++) {
		uint64_t start = now_us();

		good = beat(s, n);
		note_latency(now_us() - start);
		atomic_fetch_add(&requests, 1);
		if (good != 1)
			atomic_fetch_add(good ? &resets : &failures, 1);
		if (good < 0)
			break;
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static void print_totals(void)
{
	printf("requests=%lu failures=%lu resets=%lu slowest_us=%lu\n", atomic_load(&requests),
		atomic_load(&failures), atomic_load(&resets), atomic_exchange(&slowest, 0));
	fflush(stdout);
}

static int load(int port, char **users, int n)
{
	int *sockets = calloc((size_t)n, sizeof(*sockets));
	pthread_t *threads = calloc((size_t)n, sizeof(*threads));
	char line[64];

	if (!sockets || !threads)
		return 2;
	for (int i = 0; i < n; i++) {
		sockets[i] = connect_to(port);
		if (!log_in(sockets[i], users[i])) {
			fprintf(stderr, "heartbeat-client: login failed\n");
			return 2;
		}
	}
	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, beat_all_the_time, &sockets[i]))
			return 2;
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		print_totals();
	atomic_store(&ending, 1);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	print_totals();
	free(sockets);
	free(threads);
	return atomic_load(&failures) || atomic_load(&resets);
}

/* ---- leak ---- */

static void dump_row(const uint8_t *data, size_t at, size_t size)
{
	printf("%06zx  ", at);
	for (size_t i = at; i < at + 16; i++)
		printf(i < size ? "%02x " : "   ", i < size ? data[i] : 0);
	printf(" |");
	for (size_t i = at; i < at + 16 && i < size; i++)
		putchar(isprint(data[i]) ? data[i] : '.');
	printf("|\n");
}

/* The rows that hold anything, as hexdump does: a run of zeros becomes one star. */
static void dump(const uint8_t *data, size_t size)
{
	static const uint8_t zero[16];
	int starred = 0;

	for (size_t at = 0; at < size; at += 16) {
		size_t n = size - at < 16 ? size - at : 16;

		if (memcmp(data + at, zero, n)) {
			dump_row(data, at, size);
			starred = 0;
		} else if (!starred) {
			printf("*\n");
			starred = 1;
		}
	}
}

static int leak(int port, unsigned long claimed)
{
	static const char payload[] = {'p', 'i', 'n', 'g'};
	uint8_t body[ANSWER_MAX];
	size_t length;
	int got, s = connect_to(port);

	if (claimed > 65535 || !log_in(s, "mallory:no-secret"))
		return 2;
	if (!send_record(s, HEARTBEAT_REQUEST, payload, sizeof(payload), (uint16_t)claimed))
		return 2;
	got = receive_record(s, body, &length, DISCARDED_MS);
	if (got < 0) {
		fprintf(stderr, "heartbeat-client: connection lost\n");
		return 2;
	}
	if (got) {
		printf("sent 4 bytes, got %zu back:\n", length - BODY_HEADER);
		dump(body + BODY_HEADER, length - BODY_HEADER);
	} else {
		printf("no answer to the bad request\n");
	}
	if (beat(s, 1) != 1) {
		fprintf(stderr, "heartbeat-client: a good request failed afterwards\n");
		return 2;
	}
	printf("a good request on the same connection is answered\n");
	close(s);
	return got ? 0 : 1;
}

int main(int argc, char **argv)
{
	int port = argc > 2 ? atoi(argv[2]) : 0;

	if (argc > 3 && !strcmp(argv[1], "load"))
		return load(port, argv + 3, argc - 3);
	if ((argc == 3 || argc == 4) && !strcmp(argv[1], "leak"))
		return leak(port, argc == 4 ? strtoul(argv[3], NULL, 10) : 4000);
	fprintf(stderr, "usage: heartbeat-client load PORT USER:TOKEN...\n"
			"       heartbeat-client leak PORT [BYTES]\n");
	return 2;
}
