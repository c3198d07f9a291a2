/* Access tokens against RFC 7515, 8037 and 8725: what is ours is taken, and nothing
 * that was signed, spelt or meant otherwise. */
#include "base/alloc.h"
#include "base/base64.h"
#include "gateway/token.h"

#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
/* after the four headers that it needs */
#include <cmocka.h>

#define NOW 1800000000ull

/* RFC 8037, appendix A. */
#define RFC_D "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
#define RFC_X "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
#define RFC_KID "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
#define RFC_KEY                                                                \
	"{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"d\":\"" RFC_D                  \
	"\",\"x\":\"" RFC_X "\"}"

static char dir[] = "/tmp/quipu-token-XXXXXX";
static char path[64];

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/token.key", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static void write_file(const char *text, mode_t mode)
{
	int fd;

	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL, mode);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static struct token_keys *keys_of(const char *text)
{
	struct token_keys *k = NULL;
	struct err e = { 0 };

	write_file(text, 0600);
	if (token_keys_open(&k, path, false, NULL, &e))
		fail_msg("%s", e.msg);
	return k;
}

static struct token_keys *rfc_keys(void)
{
	return keys_of("{\"keys\":[" RFC_KEY "]}\n");
}

/* ---- making tokens that token_make() would not ------------------------------- */

static void put64(struct buf *b, const char *s)
{
	base64url_put(b, s, strlen(s));
}

static char *sign(const char *seed64, const char *header, const char *payload)
{
	struct buf t = BUF_INIT, seed = BUF_INIT;
	uint8_t sig[64];
	size_t n = sizeof sig;
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	EVP_PKEY *key;

	assert_true(base64url_get(&seed, seed64, strlen(seed64)));
	key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed.data,
					   seed.len);
	put64(&t, header);
	buf_u8(&t, '.');
	put64(&t, payload);
	assert_int_equal(EVP_DigestSignInit(md, NULL, NULL, NULL, key), 1);
	assert_int_equal(EVP_DigestSign(md, sig, &n, t.data, t.len), 1);
	buf_u8(&t, '.');
	base64url_put(&t, sig, n);
	buf_u8(&t, 0);
	EVP_MD_CTX_free(md);
	EVP_PKEY_free(key);
	buf_release(&seed);
	return (char *)buf_take(&t, &n);
}

#define HEADER(more)                                                           \
	"{\"alg\":\"EdDSA\",\"kid\":\"" RFC_KID                                \
	"\",\"typ\":\"quipu-at+jwt\"" more "}"
#define PAYLOAD                                                                \
	"{\"aud\":\"quipu\",\"dep\":1,\"did\":2,\"exp\":1800000600,"           \
	"\"iat\":1800000000,\"iss\":\"quipu\",\"jti\":\"abc\","                \
	"\"scope\":\"device\",\"sub\":\"4f0c9a1be2d37715\"}"

static enum token_verdict verify(const struct token_keys *k, const char *t,
				 uint64_t now_s)
{
	struct token_claims c = { .account = 77 };
	const char *why = NULL;
	enum token_verdict v = token_verify(k, t, strlen(t), now_s, &c, &why);

	assert_non_null(why);
	assert_true(v == TOKEN_OK || c.account == 77);
	return v;
}

static enum token_verdict verdict(const char *header, const char *payload)
{
	struct token_keys *k = rfc_keys();
	char *t = sign(RFC_D, header, payload);
	enum token_verdict v = verify(k, t, NOW);

	free(t);
	token_keys_free(k);
	return v;
}

/* ---- tokens ------------------------------------------------------------------ */

static void what_is_made_is_taken(void **state)
{
	struct token_claims c = { .account = 0xfedcba9876543210, .device = 7,
				  .epoch = 3, .issued_s = NOW,
				  .expires_s = NOW + 600 }, got;
	struct token_keys *k = rfc_keys();
	struct buf t = BUF_INIT;
	const char *why;

	(void)state;
	token_make(k, &c, &rand_real, &t);
	assert_int_equal(token_verify(k, (char *)t.data, t.len, NOW, &got, &why),
			 TOKEN_OK);
	assert_true(got.account == c.account && got.device == 7 &&
		    got.epoch == 3 && got.issued_s == NOW &&
		    got.expires_s == NOW + 600);
	buf_release(&t);
	token_keys_free(k);
}

static void a_token_by_other_hands_is_taken(void **state)
{
	(void)state;
	assert_int_equal(verdict(HEADER(""), PAYLOAD), TOKEN_OK);
	/* Members that we do not know, blanks, another order. */
	assert_int_equal(verdict("{ \"typ\" : \"quipu-at+jwt\",\"x\":1,\n"
				 "\"kid\":\"" RFC_KID "\",\"alg\":\"EdDSA\"}",
				 PAYLOAD), TOKEN_OK);
}

static void every_changed_bit_is_refused(void **state)
{
	struct token_keys *k = rfc_keys();
	char *t = sign(RFC_D, HEADER(""), PAYLOAD);
	size_t i;

	(void)state;
	for (i = 0; t[i]; i++) {
		char c = t[i];

		t[i] = (char)(c ^ 1);
		if (verify(k, t, NOW) == TOKEN_OK)
			fail_msg("byte %zu changed and taken", i);
		t[i] = c;
	}
	assert_int_equal(verify(k, t, NOW), TOKEN_OK);
	free(t);
	token_keys_free(k);
}

static void the_key_fixes_the_algorithm(void **state)
{
	static const char *const algs[] = { "none", "None", "HS256", "ES256",
					    "RS256", "EdDSA ", "eddsa",
					    "Ed25519", "" };
	char header[200];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof algs / sizeof algs[0]; i++) {
		snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\""
			 RFC_KID "\",\"typ\":\"quipu-at+jwt\"}", algs[i]);
		if (verdict(header, PAYLOAD) != TOKEN_INVALID)
			fail_msg("alg %s passed", algs[i]);
	}
	assert_int_equal(verdict("{\"kid\":\"" RFC_KID
				 "\",\"typ\":\"quipu-at+jwt\"}", PAYLOAD),
			 TOKEN_INVALID);
}

static void the_kid_is_one_of_ours(void **state)
{
	(void)state;
	assert_int_equal(verdict("{\"alg\":\"EdDSA\",\"typ\":\"quipu-at+jwt\"}",
				 PAYLOAD), TOKEN_INVALID);
	assert_int_equal(verdict("{\"alg\":\"EdDSA\",\"kid\":\"../token.key\","
				 "\"typ\":\"quipu-at+jwt\"}", PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict("{\"alg\":\"EdDSA\",\"kid\":1,"
				 "\"typ\":\"quipu-at+jwt\"}", PAYLOAD),
			 TOKEN_INVALID);
}

static void the_type_keeps_other_tokens_out(void **state)
{
	(void)state;
	assert_int_equal(verdict("{\"alg\":\"EdDSA\",\"kid\":\"" RFC_KID "\"}",
				 PAYLOAD), TOKEN_INVALID);
	assert_int_equal(verdict("{\"alg\":\"EdDSA\",\"kid\":\"" RFC_KID
				 "\",\"typ\":\"JWT\"}", PAYLOAD),
			 TOKEN_INVALID);
}

static void headers_bring_no_keys_along(void **state)
{
	(void)state;
	assert_int_equal(verdict(HEADER(",\"jku\":\"x\""), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"jwk\":\"x\""), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"jwk\":{\"kty\":\"OKP\"}"), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"x5u\":\"x\""), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"x5c\":[\"x\"]"), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"crit\":[\"exp\"]"), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"b64\":false"), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"zip\":\"DEF\""), PAYLOAD),
			 TOKEN_INVALID);
}

static void members_come_once_and_without_escapes(void **state)
{
	(void)state;
	assert_int_equal(verdict(HEADER(",\"alg\":\"none\""), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(""),
				 "{\"aud\":\"quipu\",\"dep\":1,\"did\":2,"
				 "\"exp\":1800000600,\"iat\":1800000000,"
				 "\"iss\":\"quipu\",\"scope\":\"device\","
				 "\"sub\":\"4f0c9a1be2d37715\","
				 "\"sub\":\"4f0c9a1be2d37716\"}"),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"x\":\"\\u0061\""), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(",\"x\":\"caf\xc3\xa9\""), PAYLOAD),
			 TOKEN_INVALID);
	assert_int_equal(verdict(HEADER("") "x", PAYLOAD), TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(""), PAYLOAD "{}"), TOKEN_INVALID);
	assert_int_equal(verdict("[]", PAYLOAD), TOKEN_INVALID);
	assert_int_equal(verdict(HEADER(""), "1"), TOKEN_INVALID);
}

/* One claim of PAYLOAD replaced: `name` from its quote to the comma or brace. */
static enum token_verdict with_claim(const char *name, const char *text)
{
	char quoted[32], p[512];
	const char *at, *end;

	snprintf(quoted, sizeof quoted, "\"%s\":", name);
	at = strstr(PAYLOAD, quoted);
	assert_non_null(at);
	end = at + strcspn(at, ",}");
	if (!*text && *end == ',') /* left out, its comma too */
		end++;
	snprintf(p, sizeof p, "%.*s%s%s", (int)(at - PAYLOAD), PAYLOAD, text,
		 end);
	return verdict(HEADER(""), p);
}

static void claims_are_all_there_and_ours(void **state)
{
	static const char *const needed[] = { "aud", "dep", "did", "exp", "iat",
					      "iss", "scope" };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof needed / sizeof needed[0]; i++)
		if (with_claim(needed[i], "") != TOKEN_INVALID)
			fail_msg("a token without %s passed", needed[i]);
	assert_int_equal(with_claim("jti", "\"jti\":\"other\""), TOKEN_OK);
	assert_int_equal(with_claim("aud", "\"aud\":\"other\""), TOKEN_INVALID);
	assert_int_equal(with_claim("aud", "\"aud\":[\"quipu\"]"),
			 TOKEN_INVALID);
	assert_int_equal(with_claim("iss", "\"iss\":\"quip\""), TOKEN_INVALID);
	assert_int_equal(with_claim("scope", "\"scope\":\"admin\""),
			 TOKEN_INVALID);
	assert_int_equal(with_claim("did", "\"did\":0"), TOKEN_INVALID);
	assert_int_equal(with_claim("did", "\"did\":\"2\""), TOKEN_INVALID);
	assert_int_equal(with_claim("did", "\"did\":4294967296"), TOKEN_INVALID);
	assert_int_equal(with_claim("did", "\"did\":2.0"), TOKEN_INVALID);
	assert_int_equal(with_claim("did", "\"did\":-2"), TOKEN_INVALID);
	assert_int_equal(with_claim("did", "\"did\":02"), TOKEN_INVALID);
	assert_int_equal(with_claim("dep", "\"dep\":true"), TOKEN_INVALID);
	assert_int_equal(with_claim("exp", "\"exp\":1e10"), TOKEN_INVALID);
	assert_int_equal(with_claim("exp", "\"exp\":99999999999999999999"),
			 TOKEN_INVALID);
	assert_int_equal(with_claim("sub", "\"sub\":\"4F0C9A1BE2D37715\""),
			 TOKEN_INVALID);
	assert_int_equal(with_claim("sub", "\"sub\":\"4f0c9a1be2d3771\""),
			 TOKEN_INVALID);
	assert_int_equal(with_claim("sub", "\"sub\":\"0000000000000000\""),
			 TOKEN_INVALID);
}

static void tokens_have_a_time(void **state)
{
	struct token_keys *k = rfc_keys();
	char *t = sign(RFC_D, HEADER(""), PAYLOAD);

	(void)state;
	assert_int_equal(verify(k, t, NOW - TOKEN_SKEW_S), TOKEN_OK);
	assert_int_equal(verify(k, t, NOW - TOKEN_SKEW_S - 1), TOKEN_INVALID);
	assert_int_equal(verify(k, t, NOW + 600 + TOKEN_SKEW_S - 1), TOKEN_OK);
	assert_int_equal(verify(k, t, NOW + 600 + TOKEN_SKEW_S), TOKEN_EXPIRED);
	free(t);
	token_keys_free(k);
	/* Before it was issued it cannot end, and not years after. */
	assert_int_equal(with_claim("exp", "\"exp\":1799999999"), TOKEN_INVALID);
	assert_int_equal(with_claim("exp", "\"exp\":1900000000"), TOKEN_INVALID);
	assert_int_equal(with_claim("jti", "\"nbf\":1800000060"), TOKEN_OK);
	assert_int_equal(with_claim("jti", "\"nbf\":1800000061"), TOKEN_INVALID);
	assert_int_equal(with_claim("jti", "\"nbf\":\"0\""), TOKEN_INVALID);
}

static void only_strict_base64url_in_three_parts(void **state)
{
	struct token_keys *k = rfc_keys();
	char *t = sign(RFC_D, HEADER(""), PAYLOAD), bad[TOKEN_MAX + 2];
	size_t n = strlen(t);

	(void)state;
	assert_int_equal(verify(k, "", NOW), TOKEN_MISSING);
	assert_int_equal(verify(k, "abc", NOW), TOKEN_INVALID);
	assert_int_equal(verify(k, "a.b", NOW), TOKEN_INVALID);
	assert_int_equal(verify(k, "..", NOW), TOKEN_INVALID);
	snprintf(bad, sizeof bad, "%s=", t);
	assert_int_equal(verify(k, bad, NOW), TOKEN_INVALID);
	snprintf(bad, sizeof bad, "%s.", t);
	assert_int_equal(verify(k, bad, NOW), TOKEN_INVALID);
	snprintf(bad, sizeof bad, " %s", t);
	assert_int_equal(verify(k, bad, NOW), TOKEN_INVALID);
	snprintf(bad, sizeof bad, "%s\n", t);
	assert_int_equal(verify(k, bad, NOW), TOKEN_INVALID);
	snprintf(bad, sizeof bad, "%.*s", (int)n - 1, t);
	assert_int_equal(verify(k, bad, NOW), TOKEN_INVALID);
	/* 64 bytes end in 2 characters with 4 bits that must be zero. */
	snprintf(bad, sizeof bad, "%s", t);
	bad[n - 1]++;
	assert_int_equal(verify(k, bad, NOW), TOKEN_INVALID);
	memset(bad, 'A', sizeof bad - 1);
	bad[sizeof bad - 1] = 0;
	assert_int_equal(verify(k, bad, NOW), TOKEN_INVALID);
	free(t);
	token_keys_free(k);
}

static void another_signer_is_not_believed(void **state)
{
	struct token_keys *k = rfc_keys();
	char *t = sign("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		       HEADER(""), PAYLOAD);

	(void)state;
	assert_int_equal(verify(k, t, NOW), TOKEN_INVALID);
	free(t);
	token_keys_free(k);
}

static void names_of_issuer_and_audience_count(void **state)
{
	struct token_claims c = { .account = 1, .device = 1, .issued_s = NOW,
				  .expires_s = NOW + 1 };
	struct token_keys *k = rfc_keys();
	struct buf t = BUF_INIT;
	struct err e = { 0 };

	(void)state;
	assert_int_equal(token_keys_names(k, "https://a.example", "b", &e), 0);
	token_make(k, &c, &rand_real, &t);
	buf_u8(&t, 0);
	assert_int_equal(verify(k, (char *)t.data, NOW), TOKEN_OK);
	assert_int_equal(token_keys_names(k, "quipu", "quipu", &e), 0);
	assert_int_equal(verify(k, (char *)t.data, NOW), TOKEN_INVALID);
	assert_int_equal(token_keys_names(k, "", "b", &e), ERR_INVALID);
	assert_int_equal(token_keys_names(k, "a\"b", "b", &e), ERR_INVALID);
	assert_int_equal(token_keys_names(k, "a", "caf\xc3\xa9", &e),
			 ERR_INVALID);
	buf_release(&t);
	token_keys_free(k);
}

/* ---- keys -------------------------------------------------------------------- */

static void the_thumbprint_is_that_of_the_rfc(void **state)
{
	struct token_keys *k = rfc_keys();
	struct buf b = BUF_INIT;

	(void)state;
	token_keys_jwks(k, &b);
	buf_u8(&b, 0);
	assert_string_equal((char *)b.data,
			    "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\","
			    "\"x\":\"" RFC_X "\",\"kid\":\"" RFC_KID
			    "\",\"use\":\"sig\",\"alg\":\"EdDSA\"}]}");
	assert_null(strstr((char *)b.data, RFC_D));
	buf_release(&b);
	token_keys_free(k);
}

static void a_key_file_is_made_once(void **state)
{
	struct token_claims c = { .account = 1, .device = 1, .issued_s = NOW,
				  .expires_s = NOW + 600 };
	struct token_keys *k;
	struct buf t = BUF_INIT;
	struct stat st;
	struct err e = { 0 };

	(void)state;
	unlink(path);
	assert_int_equal(token_keys_open(&k, path, false, &rand_real, &e),
			 ERR_NOT_FOUND);
	assert_int_equal(token_keys_open(&k, path, true, &rand_real, &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	token_make(k, &c, &rand_real, &t);
	buf_u8(&t, 0);
	token_keys_free(k);
	assert_int_equal(token_keys_open(&k, path, true, &rand_real, &e), 0);
	assert_int_equal(verify(k, (char *)t.data, NOW), TOKEN_OK);
	buf_release(&t);
	token_keys_free(k);
}

static void the_first_key_signs_and_all_verify(void **state)
{
	struct token_keys *one, *two;
	struct token_claims c = { .account = 1, .device = 1, .issued_s = NOW,
				  .expires_s = NOW + 600 };
	struct buf old = BUF_INIT, new = BUF_INIT;
	char other[400], text[800];
	struct err e = { 0 };
	char *p;
	FILE *f;

	(void)state;
	unlink(path);
	assert_int_equal(token_keys_open(&two, path, true, &rand_real, &e), 0);
	token_keys_free(two);
	f = fopen(path, "r");
	assert_non_null(f);
	other[fread(other, 1, sizeof other - 1, f)] = 0;
	fclose(f);
	p = strrchr(other, ']');
	assert_non_null(p);
	*p = 0;
	snprintf(text, sizeof text, "%s," RFC_KEY "]}", other);
	two = keys_of(text);
	one = rfc_keys();
	token_make(one, &c, &rand_real, &old);
	buf_u8(&old, 0);
	token_make(two, &c, &rand_real, &new);
	buf_u8(&new, 0);
	assert_int_equal(verify(two, (char *)old.data, NOW), TOKEN_OK);
	assert_int_equal(verify(two, (char *)new.data, NOW), TOKEN_OK);
	assert_int_equal(verify(one, (char *)new.data, NOW), TOKEN_INVALID);
	buf_release(&old);
	buf_release(&new);
	token_keys_free(one);
	token_keys_free(two);
}

static int open_text(const char *text, mode_t mode)
{
	struct token_keys *k = NULL;
	struct err e = { 0 };
	int rv;

	write_file(text, mode);
	rv = token_keys_open(&k, path, true, &rand_real, &e);
	if (rv)
		assert_non_null(strstr(e.msg, path));
	token_keys_free(k);
	return rv;
}

static void bad_key_files_are_refused(void **state)
{
	struct buf many = BUF_INIT;
	unsigned i;

	(void)state;
	assert_int_equal(open_text("{\"keys\":[" RFC_KEY "]}", 0600), 0);
	assert_int_equal(open_text("{\"keys\":[" RFC_KEY "]}", 0640), ERR_PERM);
	assert_int_equal(open_text("{\"keys\":[" RFC_KEY "]}", 0604), ERR_PERM);
	assert_int_equal(open_text("", 0600), ERR_FORMAT);
	assert_int_equal(open_text("{\"keys\":[]}", 0600), ERR_FORMAT);
	assert_int_equal(open_text("{\"keys\":[" RFC_KEY "]", 0600), ERR_FORMAT);
	assert_int_equal(open_text("{\"keys\":[" RFC_KEY "]}x", 0600),
			 ERR_FORMAT);
	/* The public half of one and the private half of another. */
	assert_int_equal(open_text("{\"keys\":[{\"kty\":\"OKP\",\"crv\":"
				   "\"Ed25519\",\"d\":\"" RFC_X "\",\"x\":\""
				   RFC_X "\"}]}", 0600), ERR_FORMAT);
	assert_int_equal(open_text("{\"keys\":[{\"kty\":\"OKP\",\"crv\":"
				   "\"X25519\",\"d\":\"" RFC_D "\",\"x\":\""
				   RFC_X "\"}]}", 0600), ERR_FORMAT);
	assert_int_equal(open_text("{\"keys\":[{\"kty\":\"OKP\",\"crv\":"
				   "\"Ed25519\",\"x\":\"" RFC_X "\"}]}", 0600),
			 ERR_FORMAT);
	buf_puts(&many, "{\"keys\":[" RFC_KEY);
	for (i = 0; i < TOKEN_KEYS_MAX; i++)
		buf_puts(&many, "," RFC_KEY);
	buf_puts(&many, "]}");
	buf_u8(&many, 0);
	assert_int_equal(open_text((char *)many.data, 0600), ERR_TOO_LARGE);
	buf_release(&many);
}

static void a_token_is_issued_from_the_file_alone(void **state)
{
	struct err e = { 0 };
	struct token_keys *k = rfc_keys();
	struct token_claims c;
	const char *why;
	char *t = token_issue(path, 0xabc, 2, 5, 60, &e);

	(void)state;
	assert_non_null(t);
	assert_int_equal(token_verify(k, t, strlen(t), 0, &c, &why),
			 TOKEN_INVALID);
	assert_int_equal(verify(k, t, (uint64_t)time(NULL)), TOKEN_OK);
	free(t);
	assert_null(token_issue(path, 0, 2, 5, 60, &e));
	assert_null(token_issue(path, 1, 0, 5, 60, &e));
	assert_null(token_issue(path, 1, 2, 5, 0, &e));
	assert_null(token_issue(path, 1, 2, 5, TOKEN_TTL_MAX_S + 1, &e));
	token_keys_free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_made_is_taken),
		cmocka_unit_test(a_token_by_other_hands_is_taken),
		cmocka_unit_test(every_changed_bit_is_refused),
		cmocka_unit_test(the_key_fixes_the_algorithm),
		cmocka_unit_test(the_kid_is_one_of_ours),
		cmocka_unit_test(the_type_keeps_other_tokens_out),
		cmocka_unit_test(headers_bring_no_keys_along),
		cmocka_unit_test(members_come_once_and_without_escapes),
		cmocka_unit_test(claims_are_all_there_and_ours),
		cmocka_unit_test(tokens_have_a_time),
		cmocka_unit_test(only_strict_base64url_in_three_parts),
		cmocka_unit_test(another_signer_is_not_believed),
		cmocka_unit_test(names_of_issuer_and_audience_count),
		cmocka_unit_test(the_thumbprint_is_that_of_the_rfc),
		cmocka_unit_test(a_key_file_is_made_once),
		cmocka_unit_test(the_first_key_signs_and_all_verify),
		cmocka_unit_test(bad_key_files_are_refused),
		cmocka_unit_test(a_token_is_issued_from_the_file_alone),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
