/* The TLS bridge with a client that speaks TLS and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after the headers that it needs */
#include <cmocka.h>

#include "base/alloc.h"
#include "gateway/impl.h"
#include "tests/lib/certs.h"

#include <openssl/ssl.h>
#include <stdio.h>
#include <unistd.h>

/* gateway.c and http.c are not linked: they would bring the real node along. */
void gateway_socket_new(struct gateway *g)
{
	g->n_sockets++;
}

void gateway_socket_gone(struct gateway *g)
{
	assert_true(g->n_sockets > 0);
	g->n_sockets--;
}

static bool was_taken; /* by the HTTP parser */

void http_take(struct gateway *g, int fd, const struct sockaddr *addr, socklen_t len)
{
	(void)g;
	(void)addr;
	(void)len;
	was_taken = true;
	close(fd);
}

struct bench {
	uv_loop_t loop;
	struct gateway g;
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof *b);
	struct sockaddr addr = { .sa_family = AF_UNIX };
	char dir[256], cert[300], key[300];
	struct tls_files files = { .cert = cert, .key = key };
	struct err e;
	int fds[2];

	certs_dir(dir, sizeof dir);
	certs_ca(dir, "ca");
	certs_leaf(dir, "ca", "web", "localhost", NULL, 10);
	snprintf(cert, sizeof cert, "%s/web.crt", dir);
	snprintf(key, sizeof key, "%s/web.key", dir);
	assert_int_equal(tls_ctx_new(&b->g.tls, TLS_SERVER, &files, &e), 0);
	certs_remove(dir);
	uv_loop_init(&b->loop);
	b->g.loop = &b->loop;
	b->g.clock = &clock_real;
	b->g.rand = &rand_real;
	b->g.read_buf = xcalloc(1, GATEWAY_READ_MAX);
	list_init(&b->g.bridges);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds),
			 0);
	bridge_open(&b->g, fds[1], &addr, sizeof addr);
	b->fd = fds[0];
	b->ctx = SSL_CTX_new(TLS_client_method());
	b->ssl = SSL_new(b->ctx);
	SSL_set_fd(b->ssl, b->fd);
	was_taken = false;
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	bridge_close_all(&b->g);
	uv_run(&b->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&b->loop), 0);
	assert_int_equal(b->g.n_sockets, 0);
	tls_ctx_free(b->g.tls);
	free(b->g.read_buf);
	SSL_free(b->ssl);
	SSL_CTX_free(b->ctx);
	close(b->fd);
	free(b);
	return 0;
}

static void shake(struct bench *b)
{
	unsigned i;

	for (i = 0; i < 100 && SSL_connect(b->ssl) != 1; i++)
		uv_run(&b->loop, UV_RUN_NOWAIT);
	assert_true(SSL_is_init_finished(b->ssl));
}

/* Each key update asks for one in answer.  A client that reads none of them must
 * not make the queue of answers grow as long as it likes. */
static void answers_that_nobody_reads_stop_the_reading(void **state)
{
	struct bench *b = *state;
	unsigned i, idle = 0;

	shake(b);
	for (i = 0; i < 60000 && idle < 100; i++) {
		assert_int_equal(SSL_key_update(b->ssl, SSL_KEY_UPDATE_REQUESTED),
				 1);
		for (idle = 0; idle < 100 && SSL_do_handshake(b->ssl) != 1; idle++)
			uv_run(&b->loop, UV_RUN_NOWAIT);
	}
	assert_int_equal(idle, 100);
	assert_int_equal(b->g.n_sockets, 1); /* it waits, it has not failed */
	assert_false(was_taken);
}

/* The room for a record that never comes whole is given back (LeakSanitizer says). */
static void half_a_record_and_the_end(void **state)
{
	struct bench *b = *state;
	unsigned i;

	shake(b);
	uv_run(&b->loop, UV_RUN_NOWAIT);
	assert_int_equal(write(b->fd, "\x17\x03\x03\x40\x00", 5), 5);
	for (i = 0; i < 4; i++)
		assert_int_equal(write(b->fd, b->g.read_buf, 1000), 1000);
	uv_run(&b->loop, UV_RUN_NOWAIT);
	assert_int_equal(shutdown(b->fd, SHUT_WR), 0);
	for (i = 0; i < 100 && b->g.n_sockets; i++)
		uv_run(&b->loop, UV_RUN_NOWAIT);
	assert_int_equal(b->g.n_sockets, 0);
	assert_false(was_taken);
}

static void the_first_plain_bytes_go_to_the_parser(void **state)
{
	struct bench *b = *state;
	unsigned i;

	shake(b);
	assert_int_equal(SSL_write(b->ssl, "GET /", 5), 5);
	for (i = 0; i < 100 && !was_taken; i++)
		uv_run(&b->loop, UV_RUN_NOWAIT);
	assert_true(was_taken);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(answers_that_nobody_reads_stop_the_reading),
		T(half_a_record_and_the_end),
		T(the_first_plain_bytes_go_to_the_parser),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
