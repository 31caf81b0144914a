/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heartbeatd [-p PORT] [-w WORKERS]: the heartbeat server, on the loopback interface. The main
 * thread accepts and deals the connections out to worker threads; each waits for its own in epoll.
 *
 * There is no signal handler, so nothing here may ever be interrupted: a call that fails with EINTR
 * ends the server, loudly.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "heartbeat.h"

static struct connection *connections; /* MAX_CONNECTIONS of them */
static struct connection *free_list;
static pthread_mutex_t free_lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what)
{
	fprintf(stderr, "heartbeatd: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void connection_put(struct connection *c)
{
	pthread_mutex_lock(&free_lock);
	c->next_free = free_list;
	free_list = c;
	pthread_mutex_unlock(&free_lock);
}

static struct connection *connection_get(int fd)
{
	struct connection *c;

	pthread_mutex_lock(&free_lock);
	c = free_list;
	if (c)
		free_list = c->next_free;
	pthread_mutex_unlock(&free_lock);
	if (c) {
		memset(c, 0, sizeof(*c));
		c->fd = fd;
	}
	return c;
}

static void connection_close(struct connection *c)
{
	close(c->fd);
	free(c->out);
	memset(c, 0, sizeof(*c));
	connection_put(c);
}

static void connection_wait(struct connection *c, int operation)
{
	struct epoll_event e = {
		.events = EPOLLIN | (c->out_size ? EPOLLOUT : 0),
		.data.ptr = c,
	};

	if (epoll_ctl(c->epoll, operation, c->fd, &e))
		die("epoll_ctl");
}

/* Give the socket what it takes of the queue. */
static int connection_flush(struct connection *c)
{
	ssize_t n;

	while (c->out_size) {
		n = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN;
		c->out_size -= (size_t)n;
		memmove(c->out, c->out + n, c->out_size);
	}
	return 1;
}

int connection_send(struct connection *c, const uint8_t *body, size_t length)
{
	size_t waiting = c->out_size;
	uint8_t *out = realloc(c->out, waiting + RECORD_HEADER + length);

	if (!out)
		return 0;
	c->out = out;
	put32(out + waiting, (uint32_t)length);
	memcpy(out + waiting + RECORD_HEADER, body, length);
	c->out_size += RECORD_HEADER + length;
	if (!connection_flush(c))
		return 0;
	if (!waiting != !c->out_size)
		connection_wait(c, EPOLL_CTL_MOD);
	return 1;
}

static int process_record(struct connection *c, const struct record *r)
{
	switch (r->body[0]) {
	case HEARTBEAT_REQUEST:
		return process_heartbeat(c, r);
	case HEARTBEAT_LOGIN:
		return process_login(c, r);
	default:
		return 0;
	}
}

/* Handle the complete records that have come in. */
static int connection_records(struct connection *c)
{
	struct record r = {.body = c->in + RECORD_HEADER};

	while (c->have >= RECORD_HEADER) {
		r.length = get32(c->in);
		if (r.length < BODY_HEADER || r.length > BODY_MAX)
			return 0;
		if (c->have < RECORD_HEADER + r.length)
			break;
		if (!process_record(c, &r))
			return 0;
		c->have -= RECORD_HEADER + r.length;
		memmove(c->in, c->in + RECORD_HEADER + r.length, c->have);
	}
	return 1;
}

static int connection_event(struct connection *c, uint32_t events)
{
	ssize_t n;

	if (events & EPOLLOUT) {
		if (!connection_flush(c))
			return 0;
		if (!c->out_size)
			connection_wait(c, EPOLL_CTL_MOD);
	}
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return 1;
	n = recv(c->fd, c->in + c->have, sizeof(c->in) - c->have, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return 1;
	if (n <= 0)
		return 0;
	c->have += (size_t)n;
	return connection_records(c);
}

static void *worker(void *arg)
{
	int epoll = *(int *)arg;
	struct epoll_event events[64];

	for (;;) {
		int n = epoll_wait(epoll, events, 64, -1);

		if (n < 0)
			die("epoll_wait");
		for (int i = 0; i < n; i++)
			if (!connection_event(events[i].data.ptr, events[i].events))
				connection_close(events[i].data.ptr);
	}
	return NULL;
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	socklen_t len = sizeof(a);
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
		bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 128) ||
		getsockname(s, (struct sockaddr *)&a, &len))
		die("listen");
	printf("port %d\n", ntohs(a.sin_port));
	fflush(stdout);
	return s;
}

static void serve(int listener, const int *epolls, int workers)
{
	for (int turn = 0;; turn++) {
		int one = 1, fd = accept(listener, NULL, NULL);
		struct connection *c;

		if (fd < 0)
			die("accept");
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		c = connection_get(fd);
		if (!c) {
			close(fd);
			continue;
		}
		c->epoll = epolls[turn % workers];
		connection_wait(c, EPOLL_CTL_ADD);
	}
}

int main(int argc, char **argv)
{
	int epolls[64], opt, port = 0, workers = 4, listener;
	pthread_t t;

	while ((opt = getopt(argc, argv, "p:w:")) != -1) {
		if (opt == 'p')
			port = atoi(optarg);
		else if (opt == 'w')
			workers = atoi(optarg);
		else
			return 2;
	}
	if (workers < 1 || workers > 64 || port < 0 || port > 65535)
		return 2;
	connections = calloc(MAX_CONNECTIONS, sizeof(*connections));
	if (!connections)
		die("calloc");
	for (int i = 0; i < MAX_CONNECTIONS; i++)
		connection_put(&connections[i]);
	listener = listen_on((uint16_t)port);
	for (int i = 0; i < workers; i++) {
		epolls[i] = epoll_create1(EPOLL_CLOEXEC);
		if (epolls[i] < 0 || pthread_create(&t, NULL, worker, &epolls[i]))
			die("worker");
	}
	serve(listener, epolls, workers);
}
