/* Header and footer of segments, index files, node.meta: the first byte chooses
 * which, and with its lowest bit set the checksum is mended first. */
#include "base/assert.h"
#include "base/bytes.h"
#include "log/nodemeta.h"
#include "log/segment.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *p, size_t n)
{
	if (n >= 8)
		put_u64(p + n - 8, xxh3(p, n - 8));
}

/* Input as a block of `size` bytes, zeros behind it. */
static uint8_t *block(const uint8_t *p, size_t n, size_t size, bool fix)
{
	uint8_t *b = calloc(1, size);

	AN(b);
	memcpy(b, p, n < size ? n : size);
	if (fix)
		mend(b, size);
	return b;
}

static void try_head(const uint8_t *p, size_t n, bool fix)
{
	uint8_t *b = block(p, n, SEGMENT_HEADER, fix), out[SEGMENT_HEADER];
	struct segment_head h, again;
	struct err e;

	if (segment_head_decode(&h, b, &e) == 0) {
		segment_head_encode(&h, out);
		AZ(segment_head_decode(&again, out, &e));
		AN(h.number == again.number && h.base == again.base &&
		   h.clock == again.clock && h.index == again.index &&
		   memcmp(h.chain, again.chain, sizeof h.chain) == 0);
	}
	free(b);
}

static void try_foot(const uint8_t *p, size_t n, bool fix)
{
	uint8_t *b = block(p, n, SEGMENT_FOOTER, fix), out[SEGMENT_FOOTER];
	struct segment_foot f, again;
	struct err e;

	if (segment_foot_decode(&f, b, &e) == 0) {
		segment_foot_encode(&f, out);
		AZ(segment_foot_decode(&again, out, &e));
		AN(f.base == again.base && f.end == again.end &&
		   f.bytes == again.bytes && f.index_sum == again.index_sum &&
		   memcmp(f.root, again.root, sizeof f.root) == 0);
	}
	free(b);
}

static void try_index(const uint8_t *p, size_t n, bool fix)
{
	uint8_t *b = block(p, n, n ? n : 1, fix && n);
	struct index_reader r;
	const uint8_t *frames;
	struct place place;
	struct kidx k;
	struct err e;
	uint32_t i;
	int rv;

	if (index_open(&r, b, n, &e) == 0) {
		for (i = 0; i < r.n_places; i++)
			index_place(&r, i, &place);
		while ((rv = index_key(&r, &k, &frames)) == 1)
			for (i = 0; i < k.n; i++)
				AN(get_u32(frames + (size_t)i * 12 + 8) <
				   r.n_places);
		AN(rv == 0 || rv == ERR_DAMAGED);
	}
	free(b);
}

static void try_meta(const uint8_t *p, size_t n, bool fix)
{
	uint8_t *b = block(p, n, n ? n : 1, fix && n), out[NODEMETA_SIZE];
	struct nodemeta m;
	struct err e;
	int rv = nodemeta_decode(&m, b, n, &e);

	AN(rv == 0 || rv == ERR_FORMAT || rv == ERR_CHECKSUM || rv == ERR_VERSION);
	if (rv == 0) {
		uint8_t twice[NODEMETA_SIZE];
		struct nodemeta again;

		nodemeta_encode(&m, out);
		AZ(nodemeta_decode(&again, out, sizeof out, &e));
		nodemeta_encode(&again, twice);
		AZ(memcmp(out, twice, sizeof out));
	}
	free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const tries[])(const uint8_t *, size_t, bool) = {
		try_head, try_foot, try_index, try_meta
	};

	if (size < 1)
		return 0;
	tries[data[0] >> 1 & 3](data + 1, size - 1, data[0] & 1);
	return 0;
}
