/* Tokens and their keys.  The JSON of both is written by this file and read by the
 * same small strict reader: one flat object of texts and whole numbers, no escapes
 * in texts, no member twice.  Whatever else a foreign token holds, it is refused. */
#include "gateway/token.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/base64.h"
#include "base/clock.h"
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEED_LEN 32
#define PUB_LEN 32
#define SIG_LEN 64
#define KID_LEN 43           /* SHA-256 in base64url */
#define MEMBERS_MAX 16

struct token_key {
	EVP_PKEY *pkey;
	char x[KID_LEN + 1]; /* public key, base64url */
	char kid[KID_LEN + 1];
};

struct token_keys {
	struct token_key key[TOKEN_KEYS_MAX];
	unsigned n;
	EVP_MD_CTX *md;
	char issuer[TOKEN_NAME_MAX + 1], audience[TOKEN_NAME_MAX + 1];
};

const char *token_problem(enum token_verdict v)
{
	switch (v) {
	case TOKEN_MISSING:
		return "token-missing";
	case TOKEN_EXPIRED:
		return "token-expired";
	default:
		return "token-invalid";
	}
}

/* ---- flat JSON -------------------------------------------------------------- */

struct member {
	const char *name, *text; /* text NULL: a number */
	size_t name_len, text_len;
	uint64_t num;
};

struct flat {
	struct member m[MEMBERS_MAX];
	unsigned n;
};

struct reader {
	const char *p, *end;
};

static void blanks(struct reader *r)
{
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' ||
				 *r->p == '\n' || *r->p == '\r'))
		r->p++;
}

static bool take(struct reader *r, char c)
{
	blanks(r);
	if (r->p == r->end || *r->p != c)
		return false;
	r->p++;
	return true;
}

static bool text(struct reader *r, const char **s, size_t *n)
{
	if (!take(r, '"'))
		return false;
	*s = r->p;
	while (r->p < r->end && *r->p != '"') {
		/* No escapes, no control characters, ASCII only. */
		unsigned char c = (unsigned char)*r->p;

		if (c == '\\' || c < 0x20 || c >= 0x7f)
			return false;
		r->p++;
	}
	*n = (size_t)(r->p - *s);
	return take(r, '"');
}

static bool number(struct reader *r, uint64_t *v)
{
	const char *start;

	blanks(r);
	start = r->p;
	*v = 0;
	while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
		if (*v > (1ull << 53) / 10)
			return false;
		*v = *v * 10 + (uint64_t)(*r->p++ - '0');
	}
	return r->p > start && (r->p == start + 1 || *start != '0');
}

static const struct member *member(const struct flat *f, const char *name)
{
	unsigned i;

	for (i = 0; i < f->n; i++)
		if (f->m[i].name_len == strlen(name) &&
		    memcmp(f->m[i].name, name, f->m[i].name_len) == 0)
			return &f->m[i];
	return NULL;
}

static bool flat_read(struct flat *f, struct reader *r)
{
	f->n = 0;
	if (!take(r, '{'))
		return false;
	if (take(r, '}'))
		return true;
	do {
		struct member *m = &f->m[f->n];
		unsigned i;

		if (f->n == MEMBERS_MAX || !text(r, &m->name, &m->name_len) ||
		    !take(r, ':'))
			return false;
		for (i = 0; i < f->n; i++)
			if (f->m[i].name_len == m->name_len &&
			    memcmp(f->m[i].name, m->name, m->name_len) == 0)
				return false;
		m->text = NULL;
		blanks(r);
		if (r->p < r->end && *r->p == '"' ?
			    !text(r, &m->text, &m->text_len) :
			    !number(r, &m->num))
			return false;
		f->n++;
	} while (take(r, ','));
	return take(r, '}');
}

static bool is_text(const struct member *m, const char *want)
{
	return m && m->text && m->text_len == strlen(want) &&
	       memcmp(m->text, want, m->text_len) == 0;
}

static bool is_num(const struct member *m, uint64_t max)
{
	return m && !m->text && m->num <= max;
}

/* ---- keys ------------------------------------------------------------------- */

/* RFC 7638: the required members in order, no blanks (RFC 8037 A.3). */
static void thumbprint(struct token_key *k)
{
	char json[128];
	uint8_t hash[SHA256_LEN];
	struct buf b = BUF_INIT;
	int n = snprintf(json, sizeof json,
			 "{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"%s\"}",
			 k->x);

	sha256(json, (size_t)n, hash);
	base64url_put(&b, hash, sizeof hash);
	memcpy(k->kid, b.data, KID_LEN);
	k->kid[KID_LEN] = 0;
	buf_release(&b);
}

static void secret_release(struct buf *b)
{
	if (b->data)
		OPENSSL_cleanse(b->data, b->cap);
	buf_release(b);
}

static int key_from_seed(struct token_key *k, const uint8_t seed[SEED_LEN],
			 struct err *e)
{
	uint8_t pub[PUB_LEN];
	size_t n = sizeof pub;
	struct buf b = BUF_INIT;

	k->pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed,
					       SEED_LEN);
	if (!k->pkey || EVP_PKEY_get_raw_public_key(k->pkey, pub, &n) != 1)
		return err_set(e, ERR_TOKEN, "OpenSSL refused the Ed25519 key");
	base64url_put(&b, pub, PUB_LEN);
	memcpy(k->x, b.data, KID_LEN);
	k->x[KID_LEN] = 0;
	buf_release(&b);
	thumbprint(k);
	return 0;
}

static int key_read(struct token_keys *k, struct reader *r, struct err *e)
{
	struct token_key *key = &k->key[k->n];
	struct flat f;
	const struct member *d, *kid;
	struct buf seed = BUF_INIT;
	int rv = 0;

	if (!flat_read(&f, r))
		return err_set(e, ERR_FORMAT, "key %u is not a flat object",
			       k->n + 1);
	d = member(&f, "d");
	if (!is_text(member(&f, "kty"), "OKP") ||
	    !is_text(member(&f, "crv"), "Ed25519") || !d || !d->text ||
	    d->text_len != KID_LEN ||
	    !base64url_get(&seed, d->text, d->text_len) ||
	    seed.len != SEED_LEN)
		rv = err_set(e, ERR_FORMAT,
			     "key %u is not a private Ed25519 JWK", k->n + 1);
	else
		rv = key_from_seed(key, seed.data, e);
	secret_release(&seed);
	if (rv)
		return rv;
	k->n++;
	kid = member(&f, "kid");
	if (!is_text(member(&f, "x"), key->x) || (kid && !is_text(kid, key->kid)))
		return err_set(e, ERR_FORMAT,
			       "key %u: public key or kid do not belong to the "
			       "private one", k->n);
	return 0;
}

static int keys_read(struct token_keys *k, const char *p, size_t n,
		     struct err *e)
{
	struct reader r = { p, p + n };
	const char *name;
	size_t len;
	int rv;

	if (!take(&r, '{') || !text(&r, &name, &len) || len != 4 ||
	    memcmp(name, "keys", 4) != 0 || !take(&r, ':') || !take(&r, '['))
		return err_set(e, ERR_FORMAT, "not a JWK Set");
	do {
		if (k->n == TOKEN_KEYS_MAX)
			return err_set(e, ERR_TOO_LARGE, "more than %d keys",
				       TOKEN_KEYS_MAX);
		rv = key_read(k, &r, e);
		if (rv)
			return rv;
	} while (take(&r, ','));
	if (!take(&r, ']') || !take(&r, '}'))
		return err_set(e, ERR_FORMAT, "not a JWK Set");
	blanks(&r);
	if (r.p != r.end)
		return err_set(e, ERR_FORMAT, "bytes after the JWK Set");
	return 0;
}

static int write_all(int fd, const void *p, size_t n, const char *path,
		     struct err *e)
{
	while (n) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return err_errno(e, errno, "write %s", path);
		p = (const char *)p + w;
		n -= (size_t)w;
	}
	return fsync(fd) ? err_errno(e, errno, "fsync %s", path) : 0;
}

static int sync_folder(const char *path, struct err *e)
{
	char *dir = xstrdup(path), *slash = strrchr(dir, '/');
	int fd, rv = 0;

	if (slash == dir)
		slash++;
	if (slash)
		*slash = 0;
	fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		rv = err_errno(e, errno, "fsync the folder of %s", path);
	if (fd >= 0)
		close(fd);
	free(dir);
	return rv;
}

/* Under a temporary name, then linked: two starts at once leave one key file. */
static int key_file_make(const char *path, struct rand *rand, struct err *e)
{
	struct buf b = BUF_INIT, d = BUF_INIT;
	struct token_key key = { 0 };
	uint8_t seed[SEED_LEN];
	char *tmp = xasprintf("%s.%ld.tmp", path, (long)getpid());
	int fd = -1, rv;

	rand_fill(rand, seed, sizeof seed);
	rv = key_from_seed(&key, seed, e);
	if (rv)
		goto out;
	base64url_put(&d, seed, sizeof seed);
	buf_printf(&b, "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\","
		   "\"kid\":\"%s\",\"x\":\"%s\",\"d\":\"%.*s\"}]}\n",
		   key.kid, key.x, (int)d.len, (const char *)d.data);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		rv = err_errno(e, errno, "create %s", tmp);
		goto out;
	}
	rv = write_all(fd, b.data, b.len, tmp, e);
	if (!rv && link(tmp, path) && errno != EEXIST)
		rv = err_errno(e, errno, "create %s", path);
	unlink(tmp);
	if (!rv)
		rv = sync_folder(path, e);
out:
	if (fd >= 0)
		close(fd);
	EVP_PKEY_free(key.pkey);
	OPENSSL_cleanse(seed, sizeof seed);
	secret_release(&b);
	secret_release(&d);
	free(tmp);
	return rv;
}

static int key_file_read(const char *path, char **out, size_t *len,
			 struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return errno == ENOENT ?
			       err_set(e, ERR_NOT_FOUND, "%s: no such file", path) :
			       err_errno(e, errno, "open %s", path);
	if (fstat(fd, &st)) {
		err_errno(e, errno, "stat %s", path);
		close(fd);
		return e ? e->code : ERR_IO;
	}
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077)) {
		close(fd);
		return err_set(e, ERR_PERM,
			       "%s: must be a file of mode 0600, for secrets "
			       "are in it", path);
	}
	if (st.st_size <= 0 || st.st_size > TOKEN_KEY_FILE_MAX) {
		close(fd);
		return err_set(e, ERR_FORMAT, "%s: empty or over %d bytes", path,
			       TOKEN_KEY_FILE_MAX);
	}
	*out = xmalloc((size_t)st.st_size);
	n = read(fd, *out, (size_t)st.st_size);
	close(fd);
	if (n != st.st_size) {
		free(*out);
		return err_set(e, ERR_IO, "%s: read cut short", path);
	}
	*len = (size_t)n;
	return 0;
}

int token_keys_open(struct token_keys **out, const char *path, bool create,
		    struct rand *rand, struct err *e)
{
	struct token_keys *k;
	struct err own;
	size_t len = 0;
	char *p = NULL;
	int rv;

	if (!e)
		e = &own;
	rv = key_file_read(path, &p, &len, e);
	if (rv == ERR_NOT_FOUND && create) {
		rv = key_file_make(path, rand, e);
		if (!rv)
			rv = key_file_read(path, &p, &len, e);
	}
	if (rv)
		return err_wrap(e, "token keys");
	k = xcalloc(1, sizeof *k);
	snprintf(k->issuer, sizeof k->issuer, "%s", TOKEN_ISSUER);
	snprintf(k->audience, sizeof k->audience, "%s", TOKEN_AUDIENCE);
	k->md = EVP_MD_CTX_new();
	rv = k->md ? keys_read(k, p, len, e) :
		     err_set(e, ERR_NOMEM, "no digest context");
	OPENSSL_cleanse(p, len);
	free(p);
	if (rv) {
		token_keys_free(k);
		return err_wrap(e, "token keys %s", path);
	}
	*out = k;
	return 0;
}

void token_keys_free(struct token_keys *k)
{
	unsigned i;

	if (!k)
		return;
	for (i = 0; i < k->n; i++)
		EVP_PKEY_free(k->key[i].pkey);
	EVP_MD_CTX_free(k->md);
	free(k);
}

static bool name_fits(const char *s)
{
	size_t n = strlen(s), i;

	for (i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
			return false;
	}
	return n > 0 && n <= TOKEN_NAME_MAX;
}

int token_keys_names(struct token_keys *k, const char *issuer,
		     const char *audience, struct err *e)
{
	if (!name_fits(issuer) || !name_fits(audience))
		return err_set(e, ERR_INVALID,
			       "issuer and audience of tokens are 1 to %d plain "
			       "ASCII characters", TOKEN_NAME_MAX);
	snprintf(k->issuer, sizeof k->issuer, "%s", issuer);
	snprintf(k->audience, sizeof k->audience, "%s", audience);
	return 0;
}

void token_keys_jwks(const struct token_keys *k, struct buf *out)
{
	unsigned i;

	buf_puts(out, "{\"keys\":[");
	for (i = 0; i < k->n; i++)
		buf_printf(out,
			   "%s{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"%s\","
			   "\"kid\":\"%s\",\"use\":\"sig\",\"alg\":\"EdDSA\"}",
			   i ? "," : "", k->key[i].x, k->key[i].kid);
	buf_puts(out, "]}");
}

/* ---- tokens ----------------------------------------------------------------- */

void token_make(const struct token_keys *k, const struct token_claims *c,
		struct rand *rand, struct buf *out)
{
	const struct token_key *key = &k->key[0];
	struct buf part = BUF_INIT;
	uint8_t jti[12], sig[SIG_LEN];
	size_t start = out->len, n = sizeof sig;

	buf_printf(&part, "{\"alg\":\"EdDSA\",\"kid\":\"%s\","
		   "\"typ\":\"quipu-at+jwt\"}", key->kid);
	base64url_put(out, part.data, part.len);
	buf_u8(out, '.');
	buf_clear(&part);
	rand_fill(rand, jti, sizeof jti);
	buf_printf(&part, "{\"aud\":\"%s\",\"dep\":%u,\"did\":%u,"
		   "\"exp\":%" PRIu64 ",\"iat\":%" PRIu64 ",\"iss\":\"%s\","
		   "\"jti\":\"", k->audience, c->epoch, c->device,
		   c->expires_s, c->issued_s, k->issuer);
	base64url_put(&part, jti, sizeof jti);
	buf_printf(&part, "\",\"scope\":\"device\",\"sub\":\"%016" PRIx64 "\"}",
		   c->account);
	base64url_put(out, part.data, part.len);
	buf_release(&part);
	EVP_MD_CTX_reset(k->md);
	if (EVP_DigestSignInit(k->md, NULL, NULL, NULL, key->pkey) != 1 ||
	    EVP_DigestSign(k->md, sig, &n, out->data + start,
			   out->len - start) != 1 ||
	    n != SIG_LEN)
		WRONG("Ed25519 signature failed");
	buf_u8(out, '.');
	base64url_put(out, sig, sizeof sig);
}

static bool hex64(const struct member *m, uint64_t *v)
{
	size_t i;

	if (!m || !m->text || m->text_len != 16)
		return false;
	*v = 0;
	for (i = 0; i < 16; i++) {
		char c = m->text[i];

		if (c >= '0' && c <= '9')
			*v = *v << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			*v = *v << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	return true;
}

/* One part: base64url to a flat object, which borrows from `space`. */
static bool part_read(const char *p, size_t n, struct buf *space,
		      struct flat *f)
{
	struct reader r;

	buf_clear(space);
	if (!n || !base64url_get(space, p, n))
		return false;
	r.p = (const char *)space->data;
	r.end = r.p + space->len;
	return flat_read(f, &r) && r.p == r.end;
}

/* alg is the key's or nothing; the kid chooses among our own keys. */
static const struct token_key *header_key(const struct token_keys *k,
					  const struct flat *f,
					  const char **why)
{
	static const char *const foreign[] = { "jwk", "jku", "x5u", "x5c",
					       "crit", "b64", "zip", "enc" };
	const struct member *kid = member(f, "kid");
	unsigned i;

	for (i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
		if (member(f, foreign[i])) {
			*why = "a header member that is never accepted";
			return NULL;
		}
	if (!is_text(member(f, "typ"), "quipu-at+jwt")) {
		*why = "not an access token (typ)";
		return NULL;
	}
	if (!is_text(member(f, "alg"), "EdDSA")) {
		*why = "the algorithm is not the key's";
		return NULL;
	}
	for (i = 0; i < k->n; i++)
		if (is_text(kid, k->key[i].kid))
			return &k->key[i];
	*why = "unknown key (kid)";
	return NULL;
}

static enum token_verdict claims_read(const struct token_keys *k,
				      const struct flat *f, uint64_t now_s,
				      struct token_claims *c, const char **why)
{
	const struct member *exp = member(f, "exp"), *iat = member(f, "iat");
	const struct member *nbf = member(f, "nbf");
	const struct member *did = member(f, "did"), *dep = member(f, "dep");
	uint64_t sub;

	if (!is_text(member(f, "iss"), k->issuer) ||
	    !is_text(member(f, "aud"), k->audience)) {
		*why = "issued by or for somebody else (iss, aud)";
		return TOKEN_INVALID;
	}
	if (!is_text(member(f, "scope"), "device")) {
		*why = "not for a device (scope)";
		return TOKEN_INVALID;
	}
	if (!hex64(member(f, "sub"), &sub) || !sub || !is_num(did, UINT32_MAX) ||
	    !did->num || !is_num(dep, UINT32_MAX) ||
	    !is_num(exp, UINT64_MAX) || !is_num(iat, UINT64_MAX) ||
	    (nbf && !is_num(nbf, UINT64_MAX))) {
		*why = "a claim is missing or malformed";
		return TOKEN_INVALID;
	}
	if (iat->num > now_s + TOKEN_SKEW_S ||
	    (nbf && nbf->num > now_s + TOKEN_SKEW_S) ||
	    exp->num < iat->num || exp->num - iat->num > TOKEN_TTL_MAX_S) {
		*why = "not valid yet, or for too long (iat, nbf, exp)";
		return TOKEN_INVALID;
	}
	if (exp->num + TOKEN_SKEW_S <= now_s) {
		*why = "expired";
		return TOKEN_EXPIRED;
	}
	c->account = sub;
	c->device = (uint32_t)did->num;
	c->epoch = (uint32_t)dep->num;
	c->issued_s = iat->num;
	c->expires_s = exp->num;
	*why = "good";
	return TOKEN_OK;
}

static enum token_verdict verify(const struct token_keys *k, const char *token,
				 size_t len, uint64_t now_s, struct buf *space,
				 struct token_claims *claims, const char **why)
{
	const struct token_key *key;
	const char *dot1, *dot2;
	struct flat f;

	dot1 = memchr(token, '.', len);
	dot2 = dot1 ? memchr(dot1 + 1, '.', len - (size_t)(dot1 + 1 - token)) :
		      NULL;
	if (!dot2) {
		*why = "not three parts";
		return TOKEN_INVALID;
	}
	if (!part_read(token, (size_t)(dot1 - token), space, &f)) {
		*why = "malformed header";
		return TOKEN_INVALID;
	}
	key = header_key(k, &f, why);
	if (!key)
		return TOKEN_INVALID;
	buf_clear(space);
	if (!base64url_get(space, dot2 + 1, len - (size_t)(dot2 + 1 - token)) ||
	    space->len != SIG_LEN) {
		*why = "malformed signature";
		return TOKEN_INVALID;
	}
	EVP_MD_CTX_reset(k->md);
	if (EVP_DigestVerifyInit(k->md, NULL, NULL, NULL, key->pkey) != 1 ||
	    EVP_DigestVerify(k->md, space->data, SIG_LEN,
			     (const uint8_t *)token,
			     (size_t)(dot2 - token)) != 1) {
		*why = "wrong signature";
		return TOKEN_INVALID;
	}
	if (!part_read(dot1 + 1, (size_t)(dot2 - dot1 - 1), space, &f)) {
		*why = "malformed claims";
		return TOKEN_INVALID;
	}
	return claims_read(k, &f, now_s, claims, why);
}

enum token_verdict token_verify(const struct token_keys *k, const char *token,
				size_t len, uint64_t now_s,
				struct token_claims *claims, const char **why)
{
	struct buf space = BUF_INIT;
	enum token_verdict v;

	if (!len) {
		*why = "no token";
		return TOKEN_MISSING;
	}
	if (len > TOKEN_MAX) {
		*why = "too long";
		return TOKEN_INVALID;
	}
	v = verify(k, token, len, now_s, &space, claims, why);
	buf_release(&space);
	return v;
}

char *token_issue(const char *key_file, uint64_t account, uint32_t device,
		  uint32_t device_epoch, uint32_t ttl_s, struct err *e)
{
	struct token_keys *k;
	struct token_claims c = { 0 };
	struct buf b = BUF_INIT;
	size_t len;

	if (!account || !device || !ttl_s || ttl_s > TOKEN_TTL_MAX_S) {
		err_set(e, ERR_INVALID, "account and device are not 0, lifetime "
			"is 1 to %d s", TOKEN_TTL_MAX_S);
		return NULL;
	}
	if (token_keys_open(&k, key_file, false, &rand_real, e))
		return NULL;
	c.account = account;
	c.device = device;
	c.epoch = device_epoch;
	c.issued_s = clock_wall_ms(&clock_real) / 1000;
	c.expires_s = c.issued_s + ttl_s;
	token_make(k, &c, &rand_real, &b);
	buf_u8(&b, 0);
	token_keys_free(k);
	return (char *)buf_take(&b, &len);
}
