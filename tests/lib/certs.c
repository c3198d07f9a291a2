#include "tests/lib/certs.h"
#include "base/assert.h"

#include <dirent.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long serial = 1;

static FILE *open_in(const char *dir, const char *name, const char *ext,
		     const char *mode)
{
	char path[512];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s.%s", dir, name, ext);
	f = fopen(path, mode);
	AN(f);
	return f;
}

static void save(const char *dir, const char *name, X509 *x, EVP_PKEY *k)
{
	FILE *f = open_in(dir, name, "crt", "w");

	AN(PEM_write_X509(f, x));
	fclose(f);
	f = open_in(dir, name, "key", "w");
	AN(PEM_write_PrivateKey(f, k, NULL, NULL, 0, NULL, NULL));
	fclose(f);
}

static void add_ext(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	AN(ext);
	AN(X509_add_ext(x, ext, -1));
	X509_EXTENSION_free(ext);
}

static X509 *new_cert(const char *cn, EVP_PKEY *k, int days)
{
	X509 *x = X509_new();
	X509_NAME *name;

	AN(x);
	AN(X509_set_version(x, 2));
	AN(ASN1_INTEGER_set(X509_get_serialNumber(x), serial++));
	AN(X509_gmtime_adj(X509_getm_notBefore(x), -30 * 86400));
	AN(X509_gmtime_adj(X509_getm_notAfter(x), 86400L * days));
	AN(X509_set_pubkey(x, k));
	name = X509_get_subject_name(x);
	AN(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
				      (const unsigned char *)cn, -1, -1, 0));
	return x;
}

void certs_ca(const char *dir, const char *name)
{
	EVP_PKEY *k = EVP_EC_gen("P-256");
	X509 *x = new_cert(name, k, 30);

	AN(X509_set_issuer_name(x, X509_get_subject_name(x)));
	add_ext(x, x, NID_basic_constraints, "critical,CA:TRUE");
	add_ext(x, x, NID_key_usage, "critical,keyCertSign,cRLSign");
	AN(X509_sign(x, k, EVP_sha256()));
	save(dir, name, x, k);
	X509_free(x);
	EVP_PKEY_free(k);
}

static void leaf(const char *dir, const char *ca, const char *name,
		 const char *cn, const char *san, int days, const char *usage)
{
	EVP_PKEY *k = EVP_EC_gen("P-256"), *ca_key;
	X509 *x = new_cert(cn, k, days), *ca_cert;
	char value[256];
	FILE *f = open_in(dir, ca, "crt", "r");

	ca_cert = PEM_read_X509(f, NULL, NULL, NULL);
	fclose(f);
	f = open_in(dir, ca, "key", "r");
	ca_key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
	fclose(f);
	AN(ca_cert && ca_key);
	AN(X509_set_issuer_name(x, X509_get_subject_name(ca_cert)));
	add_ext(x, ca_cert, NID_basic_constraints, "critical,CA:FALSE");
	add_ext(x, ca_cert, NID_ext_key_usage, usage);
	if (!san || *san) {
		snprintf(value, sizeof value, "DNS:%s", san ? san : cn);
		add_ext(x, ca_cert, NID_subject_alt_name, value);
	}
	AN(X509_sign(x, ca_key, EVP_sha256()));
	save(dir, name, x, k);
	X509_free(x);
	X509_free(ca_cert);
	EVP_PKEY_free(k);
	EVP_PKEY_free(ca_key);
}

void certs_leaf(const char *dir, const char *ca, const char *name,
		const char *cn, const char *san, int days)
{
	leaf(dir, ca, name, cn, san, days, "serverAuth,clientAuth");
}

void certs_leaf_for(const char *dir, const char *ca, const char *name,
		    const char *cn, const char *usage)
{
	leaf(dir, ca, name, cn, NULL, 10, usage);
}

void certs_dir(char *out, size_t n)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(out, n, "%s/quipu-certs-XXXXXX", tmp ? tmp : "/tmp");
	AN(mkdtemp(out));
}

void certs_remove(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	char path[800];

	AN(d);
	while ((de = readdir(d))) {
		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", dir, de->d_name);
		AZ(unlink(path));
	}
	closedir(d);
	AZ(rmdir(dir));
}
