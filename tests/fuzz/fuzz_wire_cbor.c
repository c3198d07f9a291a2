/* Client frames in CBOR, from either side.  What is accepted must survive being
 * written and read again: in CBOR with equal bytes (but for skipped fields), and in
 * JSON with an equal meaning. */
#include "base/assert.h"
#include "base/wire.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const struct wire *w, enum wire_side from, size_t size)
{
	struct buf cbor = BUF_INIT, json = BUF_INIT, scratch = BUF_INIT;
	struct buf again = BUF_INIT;
	struct wire in;
	struct err e;

	wire_encode(w, WIRE_CBOR, &cbor);
	AN(cbor.len <= size);
	AZ(wire_decode(&in, WIRE_CBOR, from, cbor.data, cbor.len, NULL, &e));
	AN(in.has == w->has);
	wire_encode(&in, WIRE_CBOR, &again);
	AN(again.len == cbor.len && memcmp(again.data, cbor.data, cbor.len) == 0);

	wire_encode(w, WIRE_JSON, &json);
	AZ(wire_decode(&in, WIRE_JSON, from, json.data, json.len, &scratch, &e));
	AN(in.has == w->has);
	buf_clear(&again);
	wire_encode(&in, WIRE_JSON, &again);
	AN(again.len == json.len && memcmp(again.data, json.data, json.len) == 0);
	buf_release(&cbor);
	buf_release(&json);
	buf_release(&scratch);
	buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum wire_side sides[] = { WIRE_CLIENT, WIRE_SERVER };
	struct wire w;
	struct err e;
	int i, rv;

	for (i = 0; i < 2; i++) {
		rv = wire_decode(&w, WIRE_CBOR, sides[i], data, size, NULL, &e);
		AN(rv == 0 || rv == ERR_FORMAT || rv == ERR_NOT_FOUND);
		if (rv == 0)
			round_trip(&w, sides[i], size);
		else
			AN(e.msg[0] && e.code == rv);
	}
	return 0;
}
