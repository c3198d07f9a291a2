#include "base/tls.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One process may hold many thousand connections, so nothing is kept beside
 * OpenSSL's own state: its BIO reads from the caller's bytes and writes to the
 * caller's buffer, both lent only for the time of a call. */
struct tls {
	SSL *ssl;
	const uint8_t *in; /* lent by tls_feed() */
	size_t in_len;
	struct buf *out;   /* lent by every call */
	bool client, failed;
	bool closed; /* their close_notify has come: nothing more to read */
};

struct tls_ctx {
	SSL_CTX *ssl;
	enum tls_role role;
};

static bool is_mutual(enum tls_role r)
{
	return r == TLS_MUTUAL_CLIENT || r == TLS_MUTUAL_SERVER;
}

static bool is_client(enum tls_role r)
{
	return r == TLS_CLIENT || r == TLS_MUTUAL_CLIENT;
}

/* Reason of the oldest error in OpenSSL's queue, which is emptied. */
static const char *reason(void)
{
	static __thread char text[160];
	unsigned long code = ERR_get_error();
	const char *s;

	if (code == 0)
		return "unknown reason";
	s = ERR_reason_error_string(code);
	if (s)
		snprintf(text, sizeof text, "%s", s);
	else
		ERR_error_string_n(code, text, sizeof text);
	ERR_clear_error();
	return text;
}

/* ---- BIO over lent bytes -------------------------------------------------- */

static int bio_read(BIO *b, char *p, int n)
{
	struct tls *t = BIO_get_data(b);
	size_t k = (size_t)n < t->in_len ? (size_t)n : t->in_len;

	BIO_clear_retry_flags(b);
	if (k == 0) {
		BIO_set_retry_read(b);
		return -1;
	}
	memcpy(p, t->in, k);
	t->in += k;
	t->in_len -= k;
	return (int)k;
}

static int bio_write(BIO *b, const char *p, int n)
{
	struct tls *t = BIO_get_data(b);

	BIO_clear_retry_flags(b);
	AN(t->out);
	buf_put(t->out, p, (size_t)n);
	return n;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	(void)b;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *method;

static void method_make(void)
{
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK,
			      "lent bytes");
	AN(method);
	BIO_meth_set_read(method, bio_read);
	BIO_meth_set_write(method, bio_write);
	BIO_meth_set_ctrl(method, bio_ctrl);
}

static BIO_METHOD *bio_method(void)
{
	static CRYPTO_ONCE once = CRYPTO_ONCE_STATIC_INIT;

	AN(CRYPTO_THREAD_run_once(&once, method_make));
	return method;
}

/* ---- contexts ------------------------------------------------------------- */

/* A key with a password would make OpenSSL ask on the terminal. */
static int no_password(char *p, int n, int w, void *arg)
{
	(void)p;
	(void)n;
	(void)w;
	*(bool *)arg = true;
	return -1;
}

/* OpenSSL tells little about files it cannot open; the system does. */
static int check_file(const char *what, const char *path, struct err *e)
{
	FILE *f;

	if (!path || !*path)
		return err_set(e, ERR_CONFIG, "no %s file is given", what);
	f = fopen(path, "r");
	if (!f)
		return err_errno(e, errno, "cannot open %s file %s", what,
				 path);
	fclose(f);
	return 0;
}

static int load_own(SSL_CTX *c, const struct tls_files *f, struct err *e)
{
	bool asked = false;
	int rv = check_file("certificate", f->cert, e);

	if (!rv)
		rv = check_file("key", f->key, e);
	if (rv)
		return rv;
	SSL_CTX_set_default_passwd_cb(c, no_password);
	SSL_CTX_set_default_passwd_cb_userdata(c, &asked);
	if (SSL_CTX_use_certificate_chain_file(c, f->cert) != 1)
		rv = err_set(e, ERR_TLS, "certificate file %s: %s", f->cert,
			     reason());
	else if (SSL_CTX_use_PrivateKey_file(c, f->key, SSL_FILETYPE_PEM) != 1)
		rv = err_set(e, ERR_TLS, "key file %s: %s", f->key,
			     asked ? "it has a password" : reason());
	else if (SSL_CTX_check_private_key(c) != 1)
		rv = err_set(e, ERR_TLS, "key file %s does not belong to the "
			     "certificate %s", f->key, f->cert);
	ERR_clear_error();
	SSL_CTX_set_default_passwd_cb_userdata(c, NULL);
	SSL_CTX_set_default_passwd_cb(c, NULL);
	return rv;
}

static int load_ca(SSL_CTX *c, const struct tls_files *f, bool required,
		   struct err *e)
{
	int rv;

	if (!f->ca && !required) {
		if (SSL_CTX_set_default_verify_paths(c) != 1)
			return err_set(e, ERR_TLS, "the system's CAs: %s",
				       reason());
		return 0;
	}
	rv = check_file("CA", f->ca, e);
	if (rv)
		return rv;
	if (SSL_CTX_load_verify_locations(c, f->ca, NULL) != 1)
		return err_set(e, ERR_TLS, "CA file %s: %s", f->ca, reason());
	return 0;
}

int tls_ctx_new(struct tls_ctx **out, enum tls_role role,
		const struct tls_files *files, struct err *e)
{
	struct tls_ctx *ctx = xcalloc(1, sizeof *ctx);
	SSL_CTX *c;
	int rv = 0;

	*out = NULL;
	ERR_clear_error();
	ctx->role = role;
	ctx->ssl = c = SSL_CTX_new(TLS_method());
	AN(c);
	AN(SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION));
	/* AES-128-GCM first: the cheapest per byte, and enough. */
	AN(SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:"
				       "TLS_CHACHA20_POLY1305_SHA256:"
				       "TLS_AES_256_GCM_SHA384"));
	SSL_CTX_set_options(c, SSL_OP_CIPHER_SERVER_PREFERENCE |
				       SSL_OP_NO_RENEGOTIATION |
				       SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS |
				    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
	/* Links live long: tickets would be bytes for nothing. */
	SSL_CTX_set_num_tickets(c, role == TLS_SERVER ? 1 : 0);
	if (role != TLS_CLIENT)
		rv = load_own(c, files, e);
	if (!rv && role != TLS_SERVER)
		rv = load_ca(c, files, is_mutual(role), e);
	if (rv) {
		tls_ctx_free(ctx);
		return rv;
	}
	SSL_CTX_set_verify(c, role == TLS_SERVER ? SSL_VERIFY_NONE :
		SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	*out = ctx;
	return 0;
}

void tls_ctx_free(struct tls_ctx *ctx)
{
	if (!ctx)
		return;
	SSL_CTX_free(ctx->ssl);
	free(ctx);
}

/* ---- names ---------------------------------------------------------------- */

static int cert_name(X509 *x, char name[TLS_NAME_MAX], struct err *e)
{
	X509_NAME *subject = X509_get_subject_name(x);
	GENERAL_NAMES *alts;
	bool found = false;
	int i, at, n;

	at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (at < 0)
		return err_set(e, ERR_TLS, "the certificate has no CN");
	if (X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
		return err_set(e, ERR_TLS, "the certificate has two CNs");
	n = X509_NAME_get_text_by_NID(subject, NID_commonName, name,
				      TLS_NAME_MAX);
	/* It is cut when too long and may hold zeros or wildcards. */
	if (n <= 0 || n >= TLS_NAME_MAX - 1 || strlen(name) != (size_t)n ||
	    strchr(name, '*'))
		return err_set(e, ERR_TLS, "the certificate's CN is no plain "
			       "host name");
	for (i = 0; i < n; i++)
		if (name[i] <= ' ' || name[i] > '~')
			return err_set(e, ERR_TLS, "the certificate's CN is no "
				       "plain host name");
	alts = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	for (i = 0; i < sk_GENERAL_NAME_num(alts); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(alts, i);
		const ASN1_STRING *s;

		if (g->type != GEN_DNS)
			continue;
		s = g->d.dNSName;
		if (ASN1_STRING_length(s) == n &&
		    memcmp(ASN1_STRING_get0_data(s), name, (size_t)n) == 0)
			found = true;
	}
	GENERAL_NAMES_free(alts);
	if (!found)
		return err_set(e, ERR_TLS, "the certificate's CN %s is not one "
			       "of its dNSNames", name);
	return 0;
}

int tls_peer_name(struct tls *t, char name[TLS_NAME_MAX], struct err *e)
{
	X509 *x = SSL_get1_peer_certificate(t->ssl);
	int rv;

	if (!x)
		return err_set(e, ERR_TLS, "the peer showed no certificate");
	rv = cert_name(x, name, e);
	X509_free(x);
	return rv;
}

/* One time as every peer of a link will: by the store, for this purpose. */
static int verify_own(const struct tls_ctx *ctx, X509 *x, const char *purpose,
		      const char *own, struct err *e)
{
	STACK_OF(X509) *chain = NULL;
	X509_STORE_CTX *sc = X509_STORE_CTX_new();
	int rv = 0;

	AN(sc);
	SSL_CTX_get0_chain_certs(ctx->ssl, &chain);
	AN(X509_STORE_CTX_init(sc, SSL_CTX_get_cert_store(ctx->ssl), x, chain));
	AN(X509_STORE_CTX_set_default(sc, purpose));
	if (X509_verify_cert(sc) != 1)
		rv = err_set(e, ERR_TLS, "the certificate of %s: %s", own,
			     X509_verify_cert_error_string(
				     X509_STORE_CTX_get_error(sc)));
	X509_STORE_CTX_free(sc);
	ERR_clear_error();
	return rv;
}

int tls_ctx_check_own(const struct tls_ctx *ctx, const char *name,
		      struct err *e)
{
	X509 *x = SSL_CTX_get0_certificate(ctx->ssl);
	char own[TLS_NAME_MAX];
	int rv;

	AN(x);
	rv = cert_name(x, own, e);
	if (rv)
		return rv;
	if (strcmp(own, name) != 0)
		return err_set(e, ERR_TLS, "the certificate is for %s, not for "
			       "%s", own, name);
	if (is_mutual(ctx->role)) {
		/* A node is the server of some links and the client of others. */
		rv = verify_own(ctx, x, "ssl_server", own, e);
		return rv ? rv : verify_own(ctx, x, "ssl_client", own, e);
	}
	if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
		return err_set(e, ERR_TLS, "the certificate of %s has expired",
			       own);
	return 0;
}

static int64_t cert_expires(const X509 *x)
{
	struct tm tm;

	if (ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) != 1)
		return 0; /* as good as expired */
	return timegm(&tm);
}

int64_t tls_ctx_expires(const struct tls_ctx *ctx)
{
	STACK_OF(X509) *chain = NULL;
	int64_t first = cert_expires(SSL_CTX_get0_certificate(ctx->ssl));
	int i;

	SSL_CTX_get0_chain_certs(ctx->ssl, &chain);
	for (i = 0; i < sk_X509_num(chain); i++) {
		int64_t t = cert_expires(sk_X509_value(chain, i));

		if (t < first)
			first = t;
	}
	return first;
}

/* ---- connections ---------------------------------------------------------- */

static int expect_host(SSL *s, const char *host, struct err *e)
{
	X509_VERIFY_PARAM *p = SSL_get0_param(s);

	if (X509_VERIFY_PARAM_set1_ip_asc(p, host) == 1)
		return 0;
	ERR_clear_error();
	SSL_set_hostflags(s, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (SSL_set1_host(s, host) != 1 ||
	    SSL_set_tlsext_host_name(s, host) != 1)
		return err_set(e, ERR_TLS, "host name \"%s\": %s", host,
			       reason());
	return 0;
}

int tls_new(struct tls **out, struct tls_ctx *ctx, const char *host,
	    struct err *e)
{
	struct tls *t = xcalloc(1, sizeof *t);
	BIO *b;
	int rv;

	*out = NULL;
	t->client = is_client(ctx->role);
	t->ssl = SSL_new(ctx->ssl);
	AN(t->ssl);
	b = BIO_new(bio_method());
	AN(b);
	BIO_set_data(b, t);
	BIO_set_init(b, 1);
	SSL_set_bio(t->ssl, b, b);
	if (t->client)
		SSL_set_connect_state(t->ssl);
	else
		SSL_set_accept_state(t->ssl);
	if (ctx->role == TLS_CLIENT) {
		AN(host); /* a client that checks no name checks nothing */
		rv = expect_host(t->ssl, host, e);
		if (rv) {
			tls_free(t);
			return rv;
		}
	}
	*out = t;
	return 0;
}

void tls_free(struct tls *t)
{
	struct buf drop = BUF_INIT;

	if (!t)
		return;
	t->out = &drop; /* should OpenSSL want to say good-bye */
	SSL_free(t->ssl);
	buf_release(&drop);
	free(t);
}

bool tls_is_up(const struct tls *t)
{
	return !t->failed && SSL_is_init_finished(t->ssl);
}

/* What a call that failed means: 0 for "more bytes, please". */
static int outcome(struct tls *t, int ret, struct err *e)
{
	int why = SSL_get_error(t->ssl, ret);
	long verify;

	if (why == SSL_ERROR_WANT_READ)
		return 0;
	if (why == SSL_ERROR_ZERO_RETURN) {
		t->closed = true;
		return err_set(e, ERR_CLOSED, "closed by the peer");
	}
	t->failed = true;
	verify = SSL_get_verify_result(t->ssl);
	if (verify != X509_V_OK) {
		ERR_clear_error();
		return err_set(e, ERR_TLS, "the peer's certificate: %s",
			       X509_verify_cert_error_string(verify));
	}
	return err_set(e, ERR_TLS, "%s", reason());
}

static int handshake(struct tls *t, struct err *e)
{
	int ret;

	ERR_clear_error();
	ret = SSL_do_handshake(t->ssl);
	return ret == 1 ? 0 : outcome(t, ret, e);
}

int tls_start(struct tls *t, struct buf *out, struct err *e)
{
	int rv;

	t->out = out;
	rv = handshake(t, e);
	t->out = NULL;
	return rv;
}

static int feed(struct tls *t, struct buf *plain, struct err *e)
{
	if (t->failed)
		return err_set(e, ERR_TLS, "the connection has failed before");
	if (t->closed)
		return err_set(e, ERR_CLOSED, "closed by the peer");
	if (!SSL_is_init_finished(t->ssl)) {
		int rv = handshake(t, e);

		if (rv || !SSL_is_init_finished(t->ssl))
			return rv;
	}
	for (;;) {
		/* A record at a time, without more room than could come. */
		size_t room = t->in_len + (size_t)SSL_pending(t->ssl) + 1;
		int ret;

		if (room > TLS_RECORD_MAX)
			room = TLS_RECORD_MAX;
		ERR_clear_error();
		ret = SSL_read(t->ssl, buf_reserve(plain, room), (int)room);
		if (ret <= 0)
			return outcome(t, ret, e);
		plain->len += (size_t)ret;
	}
}

int tls_feed(struct tls *t, const void *p, size_t n, struct buf *plain,
	     struct buf *out, struct err *e)
{
	int rv;

	t->in = p;
	t->in_len = n;
	t->out = out;
	rv = feed(t, plain, e);
	AN(rv || t->in_len == 0);
	t->in = NULL;
	t->in_len = 0;
	t->out = NULL;
	return rv;
}

int tls_write(struct tls *t, const void *p, size_t n, struct buf *out,
	      struct err *e)
{
	const uint8_t *q = p;
	int rv = 0;

	AN(tls_is_up(t) || t->failed);
	if (t->failed)
		return err_set(e, ERR_TLS, "the connection has failed before");
	t->out = out;
	buf_reserve(out, n + (n / TLS_RECORD_MAX + 1) * 32);
	while (n) {
		int k = n > TLS_RECORD_MAX ? TLS_RECORD_MAX : (int)n, ret;

		ERR_clear_error();
		ret = SSL_write(t->ssl, q, k);
		if (ret <= 0) {
			rv = outcome(t, ret, e);
			AN(rv); /* nothing that writing could wait for */
			break;
		}
		q += ret;
		n -= (size_t)ret;
	}
	t->out = NULL;
	return rv;
}

void tls_close(struct tls *t, struct buf *out)
{
	if (t->failed || !SSL_is_init_finished(t->ssl))
		return;
	t->out = out;
	ERR_clear_error();
	SSL_shutdown(t->ssl);
	ERR_clear_error();
	t->out = NULL;
}
