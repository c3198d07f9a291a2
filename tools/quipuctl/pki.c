#include "tools/quipuctl/pki.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/rand.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- making --------------------------------------------------------------- */

static void add_ext(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *ext;
	X509V3_CTX ctx;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	AN(ext); /* the caller checked what goes into a value */
	AN(X509_add_ext(x, ext, -1));
	X509_EXTENSION_free(ext);
}

static void add_name(X509_NAME *name, const char *field, const char *value)
{
	AN(X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC,
				      (const unsigned char *)value, -1, -1, 0));
}

/* 127 bits by chance: no two certificates share one, whoever keeps no count. */
static void set_serial(X509 *x)
{
	uint8_t bytes[16];
	BIGNUM *n;

	rand_fill(&rand_real, bytes, sizeof bytes);
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40);
	n = BN_bin2bn(bytes, sizeof bytes, NULL);
	AN(n);
	AN(BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x)));
	BN_free(n);
}

void pki_make(struct pki_pair *out, enum pki_kind kind, const char *cluster,
	      const char *cn, const char *san, unsigned days,
	      const struct pki_pair *by)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new(), *issuer = by ? by->cert : x;

	AN(key && x);
	AN(X509_set_version(x, X509_VERSION_3));
	set_serial(x);
	AN(X509_gmtime_adj(X509_getm_notBefore(x), -PKI_BACK_S));
	AN(X509_gmtime_adj(X509_getm_notAfter(x), 86400L * days));
	AN(X509_set_pubkey(x, key));
	add_name(X509_get_subject_name(x), "O", cluster);
	add_name(X509_get_subject_name(x), "CN", cn);
	AN(X509_set_issuer_name(x, X509_get_subject_name(issuer)));
	if (kind == PKI_CA) {
		add_ext(x, issuer, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
		add_ext(x, issuer, NID_key_usage, "critical,keyCertSign,cRLSign");
	} else {
		add_ext(x, issuer, NID_basic_constraints, "critical,CA:FALSE");
		add_ext(x, issuer, NID_key_usage, "critical,digitalSignature");
		add_ext(x, issuer, NID_ext_key_usage,
			kind == PKI_NODE ? "serverAuth,clientAuth" : "serverAuth");
		add_ext(x, issuer, NID_subject_alt_name, san);
	}
	/* Two CAs of one cluster are told apart by their keys. */
	add_ext(x, issuer, NID_subject_key_identifier, "hash");
	add_ext(x, issuer, NID_authority_key_identifier, "keyid:always");
	AN(X509_sign(x, by ? by->key : key, EVP_sha256()));
	*out = (struct pki_pair){ x, key };
}

void pki_release(struct pki_pair *p)
{
	X509_free(p->cert);
	EVP_PKEY_free(p->key);
	*p = (struct pki_pair){ NULL, NULL };
}

/* ---- files ---------------------------------------------------------------- */

static int no_password(char *p, int n, int w, void *arg)
{
	(void)p;
	(void)n;
	(void)w;
	(void)arg;
	return -1;
}

static FILE *open_pem(const char *path, struct err *e)
{
	FILE *f = fopen(path, "re");

	if (!f)
		err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_CONFIG, "%s: %s", path,
			strerror(errno));
	return f;
}

int pki_read_cert(const char *path, X509 **out, struct err *e)
{
	FILE *f = open_pem(path, e);

	*out = NULL;
	if (!f)
		return e->code;
	*out = PEM_read_X509(f, NULL, no_password, NULL);
	fclose(f);
	if (!*out)
		return err_set(e, ERR_CONFIG, "%s: no certificate in PEM", path);
	return 0;
}

int pki_read_key(const char *path, EVP_PKEY **out, struct err *e)
{
	FILE *f = open_pem(path, e);

	*out = NULL;
	if (!f)
		return e->code;
	*out = PEM_read_PrivateKey(f, NULL, no_password, NULL);
	fclose(f);
	if (!*out)
		return err_set(e, ERR_CONFIG, "%s: no key in PEM without a password",
			       path);
	return 0;
}

static int sync_folder(const char *path, struct err *e)
{
	char *folder = xstrdup(path), *slash = strrchr(folder, '/');
	int fd, rv = 0;

	if (slash)
		slash[slash == folder] = 0;
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		rv = err_errno(e, errno, "%s", folder);
	if (fd >= 0)
		close(fd);
	free(folder);
	return rv;
}

/* From a memory BIO to a file that is either as before or whole. */
static int write_file(const char *path, BIO *b, mode_t mode, bool force,
		      struct err *e)
{
	char *temp = xasprintf("%s.new", path), *bytes;
	long n = BIO_get_mem_data(b, &bytes);
	int fd, rv = 0;

	unlink(temp); /* of a run that was cut off */
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0 || fchmod(fd, mode) || write(fd, bytes, (size_t)n) != n || fsync(fd))
		rv = err_errno(e, errno ? errno : ENOSPC, "%s", temp);
	if (fd >= 0)
		close(fd);
	/* A link fails where a file is, a rename does not. */
	if (!rv && !force && link(temp, path))
		rv = errno == EEXIST ?
			     err_set(e, ERR_EXISTS, "%s is there already; --force "
				     "writes it anew", path) :
			     err_errno(e, errno, "%s", path);
	if (!rv && force && rename(temp, path))
		rv = err_errno(e, errno, "%s", path);
	unlink(temp);
	free(temp);
	return rv ? rv : sync_folder(path, e);
}

int pki_write_cert(const char *path, X509 *const *certs, unsigned n, bool force,
		   struct err *e)
{
	BIO *b = BIO_new(BIO_s_mem());
	unsigned i;
	int rv;

	AN(b);
	for (i = 0; i < n; i++)
		AN(PEM_write_bio_X509(b, certs[i]));
	rv = write_file(path, b, 0644, force, e);
	BIO_free(b);
	return rv;
}

int pki_write_key(const char *path, EVP_PKEY *key, bool force, struct err *e)
{
	BIO *b = BIO_new(BIO_s_secmem()); /* wiped when it is freed */
	int rv;

	AN(b);
	AN(PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL));
	rv = write_file(path, b, 0600, force, e);
	BIO_free(b);
	return rv;
}

/* ---- what a certificate says ------------------------------------------------ */

void pki_name(const X509 *x, int nid, char *out, size_t n)
{
	if (X509_NAME_get_text_by_NID(X509_get_subject_name(x), nid, out, (int)n) < 0)
		*out = 0;
}

int64_t pki_until(const X509 *x)
{
	struct tm tm;

	return ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) == 1 ? timegm(&tm) : 0;
}

bool pki_signed_by(X509 *x, X509 *ca)
{
	return X509_check_issued(ca, x) == X509_V_OK &&
	       X509_verify(x, X509_get0_pubkey(ca)) == 1;
}

enum pki_kind pki_kind_of(X509 *x)
{
	if (X509_check_ca(x))
		return PKI_CA;
	return X509_get_extended_key_usage(x) & XKU_SSL_CLIENT ? PKI_NODE : PKI_GATEWAY;
}

/* ---- names ------------------------------------------------------------------ */

static bool host_ok(const char *s)
{
	size_t i, n = strlen(s);

	if (n == 0 || s[0] == '-' || s[0] == '.')
		return false;
	for (i = 0; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && s[i] != '-' && s[i] != '.')
			return false;
	return true;
}

bool pki_cluster_ok(const char *s)
{
	size_t n = strlen(s);

	return n <= PKI_CLUSTER_MAX && host_ok(s) && !strchr(s, '.') && s[n - 1] != '-';
}

bool pki_san_add(char *san, size_t n, const char *s)
{
	uint8_t address[16];
	size_t at = strlen(san);
	bool ip = inet_pton(AF_INET, s, address) == 1 ||
		  inet_pton(AF_INET6, s, address) == 1;
	int k;

	/* A CN has at most 64 bytes. */
	if (!ip && (strlen(s) > 64 || !host_ok(s)))
		return false;
	k = snprintf(san + at, n - at, "%s%s:%s", at ? "," : "", ip ? "IP" : "DNS", s);
	return k > 0 && (size_t)k < n - at;
}
