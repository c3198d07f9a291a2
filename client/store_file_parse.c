/* Reading a device's file: store_file.h has the layout and the argument. */
#include "base/bytes.h"
#include "base/hash.h"
#include "client/store_file_impl.h"

#include <inttypes.h>
#include <string.h>

uint64_t store_file_checksum(uint64_t offset, const uint8_t *head,
			     const uint8_t *payload, size_t n)
{
	const struct hash_part part[] = { { &offset, 8 }, { head, 16 },
					  { payload, n } };

	return xxh3_parts(part, 3);
}

/* Length of the whole record at `at`; 0: none that checks. */
static size_t record_at(const uint8_t *p, size_t n, size_t at)
{
	uint32_t len;

	if (n - at < STORE_FILE_RECORD || get_u32(p + at) != STORE_FILE_MAGIC)
		return 0;
	len = get_u32(p + at + 4);
	if (len == 0 || len > STORE_OP_MAX ||
	    len > n - at - STORE_FILE_RECORD ||
	    get_u64(p + at + 8) > at ||
	    get_u64(p + at + 16) !=
		    store_file_checksum(at, p + at, p + at + STORE_FILE_RECORD, len))
		return 0;
	/* The padding may be cut: it says nothing. */
	len = (len + 7) & ~7u;
	return len < n - at - STORE_FILE_RECORD ? STORE_FILE_RECORD + len : n - at;
}

/* Is there a record behind `bad` that was written after `bad` had been synced? */
static size_t witness(const uint8_t *p, size_t n, size_t bad)
{
	size_t at = bad + 8, size;

	while (at < n) {
		size = record_at(p, n, at);
		if (size && get_u64(p + at + 8) > bad)
			return at;
		at += size ? (size + 7) & ~(size_t)7 : 8;
	}
	return 0;
}

static int header(const uint8_t *p, size_t n, uint64_t *account, uint32_t *device,
		  struct err *e)
{
	if (n < STORE_FILE_HEADER || memcmp(p, "quipudev", 8) != 0)
		return err_set(e, ERR_FORMAT, "not a device's file");
	if (get_u64(p + 56) != xxh3(p, 56))
		return err_set(e, ERR_DAMAGED, "the header is damaged");
	if (get_u32(p + 8) != STORE_FILE_VERSION || get_u32(p + 12) != STORE_FILE_HEADER)
		return err_set(e, ERR_VERSION, "format version %u; this program "
			       "knows %u", get_u32(p + 8), STORE_FILE_VERSION);
	*account = get_u64(p + 16);
	*device = get_u32(p + 24);
	return 0;
}

int store_file_parse(const uint8_t *p, size_t n, uint64_t *account,
		     uint32_t *device,
		     bool (*op)(void *arg, const struct store_op *op), void *arg,
		     size_t *end, struct err *e)
{
	int rv = header(p, n, account, device, e);
	size_t at = STORE_FILE_HEADER, size, later;

	if (rv)
		return rv;
	while (at < n && (size = record_at(p, n, at)) != 0) {
		const uint8_t *payload = p + at + STORE_FILE_RECORD;
		uint32_t len = get_u32(p + at + 4);
		struct store_op o;

		if (len == 1 && payload[0] == STORE_FILE_MARK) {
			at += size;
			continue;
		}
		rv = store_decode(&o, payload, len, NULL);
		if (rv) {
			/* The checksum is right: we wrote it, or a later
			 * version did.  Never to be cut. */
			*end = at;
			return err_set(e, ERR_DAMAGED, "the record at byte %zu is "
				       "not known to this program", at);
		}
		o.at = at;
		if (!op(arg, &o)) {
			*end = at + size;
			return 0;
		}
		at += size;
	}
	*end = at < n ? at : n;
	later = at < n ? witness(p, n, at) : 0;
	if (later)
		return err_set(e, ERR_DAMAGED, "the record at byte %zu is damaged: "
			       "the one at byte %zu was written after it had been "
			       "synced", at, later);
	return 0;
}
