#include "base/hash.h"
#include "base/assert.h"

#include <openssl/evp.h>
#include <pthread.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t xxh3(const void *p, size_t n)
{
	return XXH3_64bits(p, n);
}

uint64_t xxh3_parts(const struct hash_part *parts, size_t n)
{
	XXH3_state_t st;
	size_t i;

	XXH3_64bits_reset(&st);
	for (i = 0; i < n; i++)
		XXH3_64bits_update(&st, parts[i].p, parts[i].n);
	return XXH3_64bits_digest(&st);
}

/* One EVP context and one fetched digest per thread: fetching by name costs
 * more than hashing a record. */
static __thread EVP_MD_CTX *sha_ctx;
static EVP_MD *sha_md;
static pthread_key_t sha_key; /* frees the context of a thread that ends */
static pthread_once_t sha_once = PTHREAD_ONCE_INIT;

static void sha_drop(void *ctx)
{
	EVP_MD_CTX_free(ctx);
}

static void sha_fetch(void)
{
	AZ(pthread_key_create(&sha_key, sha_drop));
	sha_md = EVP_MD_fetch(NULL, "SHA256", NULL);
	AN(sha_md);
}

void sha256_parts(const struct hash_part *parts, size_t n,
		  uint8_t out[SHA256_LEN])
{
	size_t i;

	if (!sha_ctx) {
		pthread_once(&sha_once, sha_fetch);
		sha_ctx = EVP_MD_CTX_new();
		AN(sha_ctx);
		AZ(pthread_setspecific(sha_key, sha_ctx));
		AN(EVP_DigestInit_ex2(sha_ctx, sha_md, NULL));
	} else {
		AN(EVP_DigestInit_ex2(sha_ctx, NULL, NULL));
	}
	for (i = 0; i < n; i++)
		AN(EVP_DigestUpdate(sha_ctx, parts[i].p, parts[i].n));
	AN(EVP_DigestFinal_ex(sha_ctx, out, NULL));
}

void sha256(const void *p, size_t n, uint8_t out[SHA256_LEN])
{
	struct hash_part part = { p, n };

	sha256_parts(&part, 1, out);
}

void sha1_parts(const struct hash_part *parts, size_t n, uint8_t out[SHA1_LEN])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t i;

	AN(ctx);
	AN(EVP_DigestInit_ex(ctx, EVP_sha1(), NULL));
	for (i = 0; i < n; i++)
		AN(EVP_DigestUpdate(ctx, parts[i].p, parts[i].n));
	AN(EVP_DigestFinal_ex(ctx, out, NULL));
	EVP_MD_CTX_free(ctx);
}
