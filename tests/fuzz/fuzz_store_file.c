/* A device's file.  With the lowest bit of the first byte set, checksums of the
 * header and of each record that says where it ends are mended. */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "client/store_file_impl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *p, size_t n)
{
	size_t at = STORE_FILE_HEADER;

	if (n < STORE_FILE_HEADER)
		return;
	memcpy(p, "quipudev", 8);
	put_u64(p + 56, xxh3(p, 56));
	while (n - at >= STORE_FILE_RECORD) {
		uint32_t len = get_u32(p + at + 4);

		if (len == 0 || len > n - at - STORE_FILE_RECORD)
			return;
		put_u32(p + at, STORE_FILE_MAGIC);
		put_u64(p + at + 16,
			store_file_checksum(at, p + at,
					    p + at + STORE_FILE_RECORD, len));
		at += STORE_FILE_RECORD + ((len + 7) & ~7u);
		if (at > n)
			return;
	}
}

static bool count(void *arg, const struct store_op *op)
{
	unsigned *n = arg;

	(void)op;
	return ++*n < 1000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t account;
	uint32_t device;
	unsigned n = 0;
	size_t end = 0;
	struct err e;
	uint8_t *p;
	int rv;

	if (size < 1)
		return 0;
	p = malloc(size);
	AN(p);
	memcpy(p, data + 1, size - 1);
	if (data[0] & 1)
		mend(p, size - 1);
	rv = store_file_parse(p, size - 1, &account, &device, count, &n, &end, &e);
	AN(rv == 0 || (rv < 0 && e.msg[0]));
	if (rv == 0)
		AN(end <= size - 1 && end >= STORE_FILE_HEADER);
	free(p);
	return 0;
}
