/* Access tokens: JWS compact, EdDSA with Ed25519 (RFC 7515, 8037), typ
 * "quipu-at+jwt" (protocol.md 13, RFC 8725).
 *
 *   header   {"alg":"EdDSA","kid":THUMBPRINT,"typ":"quipu-at+jwt"}
 *   payload  {"aud":AUDIENCE,"dep":DEVICE_EPOCH,"did":DEVICE,"exp":S,"iat":S,
 *             "iss":ISSUER,"jti":RANDOM,"scope":"device","sub":ACCOUNT_HEX}
 *
 * The key fixes the algorithm; kid is looked up in the key file alone; a header
 * with jwk, jku, x5u, x5c or crit is refused, as are double members, lax
 * base64url and anything over TOKEN_MAX bytes.  Nothing is ever fetched.
 *
 * The key file is a JWK Set with private keys, mode 0600.  The first key signs,
 * all verify and are published: the next key is appended before its first use,
 * an old one is removed after its last token ran out. */
#ifndef QUIPU_GATEWAY_TOKEN_H
#define QUIPU_GATEWAY_TOKEN_H

#include "base/buf.h"
#include "base/err.h"
#include "base/rand.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKEN_MAX 2048
#define TOKEN_KEYS_MAX 8
#define TOKEN_KEY_FILE_MAX 16384
#define TOKEN_SKEW_S 60
#define TOKEN_TTL_S 600
#define TOKEN_TTL_MAX_S (366 * 86400)
#define TOKEN_ISSUER "quipu"
#define TOKEN_AUDIENCE "quipu"
#define TOKEN_NAME_MAX 200  /* bytes of issuer and audience */

struct token_claims {
	uint64_t account;
	uint32_t device;
	uint32_t epoch;          /* device epoch, dep */
	uint64_t issued_s, expires_s;
};

enum token_verdict {
	TOKEN_OK, TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID,
};
/* "token-missing", "token-expired", "token-invalid" */
const char *token_problem(enum token_verdict v);

struct token_keys;

/* Load the key file; when it is absent and `create` is set, make one key and
 * write the file (0600, synced).  A file that others may read, more than
 * TOKEN_KEYS_MAX keys, keys that are not Ed25519 or do not match: refused. */
int token_keys_open(struct token_keys **out, const char *path, bool create,
		    struct rand *rand, struct err *e);
void token_keys_free(struct token_keys *k);
/* Other names than TOKEN_ISSUER and TOKEN_AUDIENCE, in tokens made and expected;
 * ERR_INVALID: empty, too long, or characters that JSON escapes. */
int token_keys_names(struct token_keys *k, const char *issuer,
		     const char *audience, struct err *e);
/* {"keys":[...]}: public halves, for /.well-known/jwks.json */
void token_keys_jwks(const struct token_keys *k, struct buf *out);

/* Append the token to `out` (not terminated by NUL). */
void token_make(const struct token_keys *k, const struct token_claims *c,
		struct rand *rand, struct buf *out);
/* `claims` is filled only with TOKEN_OK; *why is a static sentence, never text of
 * the token's. */
enum token_verdict token_verify(const struct token_keys *k, const char *token,
				size_t len, uint64_t now_s,
				struct token_claims *claims, const char **why);

/* For quipuctl, without a server: the token, allocated (free()), or NULL with
 * `e`.  Issued now, for ttl_s seconds. */
char *token_issue(const char *key_file, uint64_t account, uint32_t device,
		  uint32_t device_epoch, uint32_t ttl_s, struct err *e);

#endif
