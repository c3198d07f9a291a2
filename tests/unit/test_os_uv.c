/* Sockets under the device engine, against a gateway that is not one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after the headers that it needs */
#include <cmocka.h>

#include "client/os_uv.h"
#include "client/store_mem.h"
#include "tests/lib/certs.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_somewhere(unsigned *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), small = 4096;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

/* For something to read, but not for long: the loop has its turn. */
static void wait_for(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	poll(&p, 1, 1);
}

/* Stands still, an hour ahead of the loop's: however long the flood takes here, no
 * time limit of the device ends it first. */
static uint64_t still_us(struct clock *c)
{
	static uint64_t at;

	(void)c;
	if (!at)
		at = clock_us(&clock_real) + 3600 * UINT64_C(1000000);
	return at;
}

static uint64_t still_ms(struct clock *c)
{
	(void)c;
	return clock_wall_ms(&clock_real);
}

static struct clock still = { still_us, still_ms };

/* Each key update asks for one in answer: who reads none of them is left. */
static void a_gateway_that_reads_nothing_is_left(void **state)
{
	char dir[256], ca[300], cert[300], key[300], url[64];
	const char *urls[] = { url };
	struct store_mem mem;
	struct client_config cfg = {
		.account = 1, .device = 1, .token = "t", .agent = "test",
		.gateways = urls, .n_gateways = 1, .clock = &still,
		.rand = &rand_real, .store = &mem.store,
	};
	struct client_os *os;
	struct client *c;
	struct err e;
	uv_loop_t loop;
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	SSL *ssl;
	unsigned port, i;
	int listener = listen_somewhere(&port), fd = -1, rv;

	(void)state;
	certs_dir(dir, sizeof dir);
	certs_ca(dir, "ca");
	certs_leaf(dir, "ca", "web", "localhost", NULL, 10);
	snprintf(ca, sizeof ca, "%s/ca.crt", dir);
	snprintf(cert, sizeof cert, "%s/web.crt", dir);
	snprintf(key, sizeof key, "%s/web.key", dir);
	assert_int_equal(SSL_CTX_use_certificate_file(ctx, cert,
						      SSL_FILETYPE_PEM), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, key,
						     SSL_FILETYPE_PEM), 1);
	snprintf(url, sizeof url, "wss://localhost:%u", port);
	uv_loop_init(&loop);
	store_mem_init(&mem);
	assert_int_equal(client_open(&c, &cfg, &e), 0);
	assert_int_equal(client_os_open(&os, &loop, c, ca, &e), 0);
	certs_remove(dir);
	for (i = 0; i < 5000 && fd < 0; i++) {
		uv_run(&loop, UV_RUN_NOWAIT);
		wait_for(listener);
		fd = accept(listener, NULL, NULL);
	}
	assert_true(fd >= 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	for (i = 0; i < 5000 && SSL_accept(ssl) != 1; i++) {
		uv_run(&loop, UV_RUN_NOWAIT);
		wait_for(fd);
	}
	assert_true(SSL_is_init_finished(ssl));
	for (i = 0; i < 3000000 && !*client_os_error(os); i++) {
		SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED);
		while ((rv = SSL_do_handshake(ssl)) != 1 &&
		       SSL_get_error(ssl, rv) == SSL_ERROR_WANT_WRITE &&
		       !*client_os_error(os))
			uv_run(&loop, UV_RUN_NOWAIT);
		if (rv != 1) /* gone: it says why in the next turn, or fails here */
			break;
	}
	for (i = 0; i < 1000 && !*client_os_error(os); i++) {
		uv_run(&loop, UV_RUN_NOWAIT);
		wait_for(fd);
	}
	assert_non_null(strstr(client_os_error(os), "reads nothing"));
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(fd);
	close(listener);
	client_os_close(os, NULL, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
	client_free(c);
	store_mem_release(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_gateway_that_reads_nothing_is_left),
	};

	/* The client may leave between two of the gateway's writes. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
