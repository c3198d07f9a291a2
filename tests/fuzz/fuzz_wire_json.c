/* Client frames in JSON, from either side: what is accepted is the same frame after
 * a trip through CBOR. */
#include "base/assert.h"
#include "base/wire.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const struct wire *w, enum wire_side from)
{
	struct buf cbor = BUF_INIT, json = BUF_INIT, again = BUF_INIT;
	struct wire in;
	struct err e;

	wire_encode(w, WIRE_CBOR, &cbor);
	wire_encode(w, WIRE_JSON, &json);
	AZ(wire_decode(&in, WIRE_CBOR, from, cbor.data, cbor.len, NULL, &e));
	AN(in.has == w->has);
	wire_encode(&in, WIRE_JSON, &again);
	AN(again.len == json.len && memcmp(again.data, json.data, json.len) == 0);
	buf_release(&cbor);
	buf_release(&json);
	buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum wire_side sides[] = { WIRE_CLIENT, WIRE_SERVER };
	struct buf scratch = BUF_INIT;
	struct wire w;
	struct err e;
	int i, rv;

	for (i = 0; i < 2; i++) {
		rv = wire_decode(&w, WIRE_JSON, sides[i], data, size, &scratch, &e);
		AN(rv == 0 || rv == ERR_FORMAT || rv == ERR_NOT_FOUND);
		if (rv == 0)
			round_trip(&w, sides[i]);
	}
	buf_release(&scratch);
	return 0;
}
