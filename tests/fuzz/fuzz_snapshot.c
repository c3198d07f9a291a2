/* Manifests of snapshots.  With the lowest bit of the first byte set, the checksum is
 * mended first. */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "log/snapshot.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snap_manifest m;
	struct buf b = BUF_INIT;
	struct err e = { 0 };
	uint64_t total = 0;
	uint32_t f;
	uint8_t *p;
	size_t n;
	int rv;

	if (size < 1)
		return 0;
	n = size - 1;
	p = malloc(n + 1);
	AN(p);
	memcpy(p, data + 1, n);
	if (data[0] & 1 && n >= 8)
		put_u64(p + n - 8, xxh3(p, n - 8));
	rv = snap_decode(&m, p, n, &e);
	AN(rv == 0 || (rv < 0 && e.msg[0]));
	if (!rv) {
		char path[96];

		snap_encode(&m, &b);
		AN(b.len == n && !memcmp(b.data, p, n));
		for (f = 0; f < snap_files(&m); f++) {
			total += snap_file_bytes(&m, f);
			snap_file_path(&m, f, 2, path, sizeof path);
			AN(strlen(path) + 1 < sizeof path);
		}
		AN(total >= m.rows_bytes);
		snap_release(&m);
		buf_release(&b);
	}
	free(p);
	return 0;
}
