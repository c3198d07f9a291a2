/* The file `members`: what is accepted has one spelling.  The checksum is put right
 * first, or nothing would get past it. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"
#include "consensus/members.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct members *t = xcalloc(1, sizeof *t);
	struct buf out = BUF_INIT;
	uint8_t *p = xmalloc(size + 1);
	struct err e;

	memcpy(p, data, size);
	if (size >= 64) {
		if (get_u32(p + 8) < MEMBERS_VERSION)
			put_u32(p + 8, MEMBERS_VERSION);
		put_u32(p + 12, (uint32_t)size);
		put_u32(p + 52, 0); /* not looked at */
		put_u64(p + size - 8, xxh3(p, size - 8));
	}
	if (!members_decode(t, NULL, p, size, &e)) {
		members_encode(&out, t, p + 16);
		AN(out.len == size);
		AZ(memcmp(out.data, p, size));
	}
	buf_release(&out);
	free(p);
	free(t);
	return 0;
}
