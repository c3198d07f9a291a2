/* A record: one event in a shard's log, what apply made of a command.  The
 * in-memory form borrows all bytes.  Wire form: docs/format.md, log-engine 5. */
#ifndef QUIPU_LOG_RECORD_H
#define QUIPU_LOG_RECORD_H

#include <stdint.h>

enum record_kind {
	RECORD_MESSAGE = 1, RECORD_RECEIPT = 2, RECORD_DIRECTORY = 3,
	RECORD_ERASE = 4, RECORD_TRIM = 5, RECORD_CHECKPOINT = 6,
	RECORD_FEATURE = 7,
};
enum record_flags { RECORD_STUB = 1, RECORD_HAS_ORIGIN = 2 };

struct record {
	uint8_t kind, flags;   /* enum record_kind, record_flags */
	uint8_t cls;           /* message class, protocol.md 9 */
	uint32_t msg_flags;    /* protocol flags (own copy, request, urgent) */
	uint32_t ttl;          /* seconds, 0: default */
	uint64_t offset;       /* dense in the shard, from 0 */
	uint64_t time_ms;      /* never falling in a shard */
	uint64_t lamport;      /* stamp: own Lamport in this shard */
	uint64_t key;          /* account or group; 0: none */
	uint64_t n;            /* inbox number, 1.. ; 0: not in the inbox */
	uint64_t sender;       /* account */
	uint32_t device;
	uint64_t seq, after;
	uint8_t part;
	uint8_t mid[16];
	uint64_t origin_offset, origin_lamport; /* RECORD_HAS_ORIGIN: copies */
	uint32_t origin_shard;
	const uint8_t *headers; /* opaque, <= 16 KiB */
	uint32_t headers_len;
	uint8_t nonce[16];
	const uint8_t *payload; /* <= 64 KiB less the rest (leaf input < 64 KiB) */
	uint32_t payload_len;
	/* RECORD_STUB: nonce and payload are gone, these 32 bytes are
	 * SHA-256(nonce, payload).  Others: not looked at. */
	const uint8_t *content;
};

#define RECORD_HEADERS_MAX (16u << 10)
#define RECORD_PAYLOAD_MAX (64u << 10)
#define FRAME_RAW_MAX (1u << 20)

#endif
