/* replicas.meta: what is decoded is what would be written.  First byte: bit 0, the
 * checksum is mended. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "log/replicameta.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct replicameta m, again;
	uint8_t out[REPLICAMETA_SIZE], twice[REPLICAMETA_SIZE], *b;
	struct err e;
	size_t n;
	int rv;

	if (!size)
		return 0;
	n = size - 1;
	b = xmalloc(n ? n : 1); /* its end is the end of what may be read */
	memcpy(b, data + 1, n);
	if (data[0] & 1 && n == REPLICAMETA_SIZE)
		put_u64(b + n - 8, xxh3(b, n - 8));
	rv = replicameta_decode(&m, b, n, &e);
	AN(rv == 0 || rv == ERR_FORMAT || rv == ERR_CHECKSUM || rv == ERR_VERSION);
	if (!rv) {
		replicameta_encode(&m, out);
		AZ(replicameta_decode(&again, out, sizeof out, &e));
		replicameta_encode(&again, twice);
		AZ(memcmp(out, twice, sizeof out));
	}
	free(b);
	return 0;
}
