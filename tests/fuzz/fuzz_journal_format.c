/* File header, groups and records of the journal; as in fuzz_frame.c the first
 * byte can have checksums mended.  Groups and records that pass have one spelling
 * where the format says so. */
#include "base/assert.h"
#include "log/journal_format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void file_header(const uint8_t *p, size_t n, bool mend)
{
	uint8_t *whole = calloc(1, JF_HEADER);
	struct jf_header h;
	int rv;

	AN(whole);
	memcpy(whole, p, n < JF_HEADER ? n : JF_HEADER);
	if (mend)
		jf_seal_header(whole);
	rv = jf_get_header(&h, whole);
	AN(rv == 0 || rv == ERR_FORMAT || rv == ERR_CHECKSUM || rv == ERR_VERSION);
	if (rv == 0)
		AN(h.n_shards <= JOURNAL_SHARDS_MAX);
	free(whole);
}

static void group(uint8_t *p, size_t n, bool mend)
{
	struct jg_header h;
	uint8_t *copy;
	size_t rows;

	if (mend && n >= JG_HEADER) {
		memcpy(p, "QJG1", 4);
		rows = (size_t)get_u16(p + 30) * JG_ROW;
		if (rows <= n - JG_HEADER)
			put_u64(p + 32, xxh3(p + JG_HEADER, rows));
		put_u32(p + 4, (uint32_t)xxh3(p + 8, JG_HEADER - 8));
	}
	if (jg_get(&h, p, n))
		return;
	AN(h.length <= n && h.rows <= JOURNAL_SHARDS_MAX);
	rows = JG_HEADER + (size_t)h.rows * JG_ROW;
	AN(rows <= h.length);
	copy = malloc(rows);
	AN(copy);
	memcpy(copy, p, rows);
	jg_put(copy, &h);
	AN(memcmp(copy, p, rows) == 0);
	free(copy);
}

static void record(uint8_t *p, size_t n, bool mend)
{
	struct jr r;
	uint32_t len;

	if (mend && n >= JOURNAL_RECORD_HEADER) {
		memcpy(p, "QJR1", 4);
		len = get_u32(p + 8);
		if (len <= n - JOURNAL_RECORD_HEADER)
			put_u64(p + 48, xxh3(p + JOURNAL_RECORD_HEADER, len));
		put_u32(p + 4, (uint32_t)xxh3(p + 8, JOURNAL_RECORD_HEADER - 8));
	}
	if (jr_get(&r, p, n))
		return;
	AN(r.total <= n && r.total % 8 == 0 && r.shard < JOURNAL_SHARDS_MAX);
	AN(r.payload + r.len <= p + n);
	AN(r.len <= ENTRY_PAYLOAD_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool mend;
	uint8_t *p;

	if (size < 1)
		return 0;
	mend = data[0] & 1;
	p = malloc(size);
	AN(p);
	memcpy(p, data + 1, size - 1);
	if (data[0] >> 1 == 0)
		file_header(p, size - 1, mend);
	else if (data[0] >> 1 == 1)
		group(p, size - 1, mend);
	else
		record(p, size - 1, mend);
	free(p);
	return 0;
}
