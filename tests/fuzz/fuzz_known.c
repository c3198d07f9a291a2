/* The file `known`: which disk each peer came with.  The first byte says whether the
 * checksum is mended, so that what lies behind it is reached too. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "consensus/known.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *b, out[KNOWN_SIZE], twice[KNOWN_SIZE];
	struct known k, again;
	struct err e;
	size_t n;
	int rv;

	if (size < 1)
		return 0;
	n = size - 1;
	b = xmalloc(n ? n : 1);
	memcpy(b, data + 1, n);
	if (data[0] & 1 && n == KNOWN_SIZE)
		put_u64(b + n - 8, xxh3(b, n - 8));
	memset(&k, 0, sizeof k);
	memset(&again, 0, sizeof again);
	rv = known_decode(&k, b, n, &e);
	AN(rv == 0 || rv == ERR_FORMAT || rv == ERR_CHECKSUM || rv == ERR_VERSION);
	if (rv == 0) {
		known_encode(&k, out);
		AZ(known_decode(&again, out, sizeof out, &e));
		known_encode(&again, twice);
		AZ(memcmp(out, twice, sizeof out));
	}
	free(b);
	return 0;
}
