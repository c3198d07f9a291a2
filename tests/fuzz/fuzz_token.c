/* Access tokens.  The first byte chooses: even, the rest is the token; odd, the
 * rest is "header LF payload", which is signed by the server's own key, so that the
 * search gets behind the signature: what a stolen or careless signer could make. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/base64.h"
#include "gateway/token.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { NOW_S = 1764000000 };

static struct token_keys *keys;
static EVP_PKEY *signer;
static EVP_MD_CTX *md;

/* Key file of a fixed seed; its kid stands in the corpus. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char dir[] = "/tmp/quipu-fuzz-XXXXXX", *path;
	uint8_t seed[32];
	struct rand rand;
	struct err e;

	(void)argc;
	(void)argv;
	AN(mkdtemp(dir));
	path = xasprintf("%s/keys", dir);
	rand_seeded(&rand, 1);
	AZ(token_keys_open(&keys, path, true, &rand, &e));
	unlink(path);
	rmdir(dir);
	free(path);
	rand_seeded(&rand, 1);
	rand_fill(&rand, seed, sizeof seed);
	signer = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, 32);
	md = EVP_MD_CTX_new();
	AN(signer && md);
	return 0;
}

static void sign(const uint8_t *p, size_t n, struct buf *out)
{
	const uint8_t *cut = n ? memchr(p, '\n', n) : NULL;
	size_t header = cut ? (size_t)(cut - p) : n, len = 64;
	uint8_t sig[64];

	base64url_put(out, p, header);
	buf_u8(out, '.');
	if (cut)
		base64url_put(out, cut + 1, n - header - 1);
	AN(EVP_MD_CTX_reset(md));
	AN(EVP_DigestSignInit(md, NULL, NULL, NULL, signer) == 1);
	AN(EVP_DigestSign(md, sig, &len, out->data, out->len) == 1);
	buf_u8(out, '.');
	base64url_put(out, sig, sizeof sig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct token_claims c;
	struct buf token = BUF_INIT;
	enum token_verdict v;
	const char *why = NULL;

	if (size < 1)
		return 0;
	if (data[0] & 1)
		sign(data + 1, size - 1, &token);
	else
		buf_put(&token, data + 1, size - 1);
	v = token_verify(keys, (const char *)token.data, token.len, NOW_S, &c, &why);
	AN(why);
	if (v == TOKEN_OK) {
		AN(token.len <= TOKEN_MAX);
		AN(c.account && c.device);
		AN(c.issued_s <= NOW_S + TOKEN_SKEW_S);
		AN(c.expires_s + TOKEN_SKEW_S > NOW_S);
		AN(c.expires_s - c.issued_s <= TOKEN_TTL_MAX_S);
	} else {
		AN(token_problem(v));
	}
	buf_release(&token);
	return 0;
}
