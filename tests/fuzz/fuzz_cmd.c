/* Commands, queries, results and records as nodes exchange them.  The first byte
 * chooses which; what is accepted means the same after being written again, and
 * commands, queries and records have one spelling only. */
#include "base/assert.h"
#include "base/cursor.h"
#include "consensus/cmd.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void equal(const struct buf *b, const uint8_t *p, size_t n)
{
	AN(b->len == n);
	AN(n == 0 || memcmp(b->data, p, n) == 0);
}

static void try_cmd(const uint8_t *p, size_t n, struct buf *out)
{
	struct cmd c;
	struct err e;

	if (cmd_decode(&c, p, n, &e) == 0) {
		cmd_encode(out, &c);
		equal(out, p, n);
	}
}

static void try_query(const uint8_t *p, size_t n, struct buf *out)
{
	struct query q;
	struct err e;

	if (query_decode(&q, p, n, &e) == 0) {
		query_encode(out, &q);
		equal(out, p, n);
	}
}

static void try_result(const uint8_t *p, size_t n, struct buf *out)
{
	struct buf again = BUF_INIT;
	struct result r, s;
	struct err e;

	if (result_decode(&r, p, n, &e))
		return;
	AN(status_problem(r.status) && status_title(r.status));
	result_encode(out, &r);
	AZ(result_decode(&s, out->data, out->len, &e));
	result_encode(&again, &s);
	equal(out, again.data, again.len);
	buf_release(&again);
}

static void try_records(const uint8_t *p, size_t n, struct buf *out)
{
	struct cursor c = cursor_of(p, n);
	struct record r;

	while (cursor_left(&c)) {
		const uint8_t *start = c.p;

		if (record_get_wire(&r, &c))
			return;
		buf_clear(out);
		record_put_wire(out, &r);
		equal(out, start, (size_t)(c.p - start));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const tries[])(const uint8_t *, size_t, struct buf *) = {
		try_cmd, try_query, try_result, try_records
	};
	struct buf out = BUF_INIT;

	if (size < 1)
		return 0;
	tries[data[0] % 4](data + 1, size - 1, &out);
	buf_release(&out);
	return 0;
}
