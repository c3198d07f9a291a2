/* Rows of the state machine, shared by machine.c and machine_retain.c only. */
#ifndef QUIPU_CONSENSUS_MACHINE_IMPL_H
#define QUIPU_CONSENSUS_MACHINE_IMPL_H

#include "base/bytes.h"
#include "consensus/machine.h"

enum account_row {
	A_NEXT_DEVICE = 0,  /* u32, next number to give */
	A_N_DEVICES = 4,    /* u32 */
	A_LAST_N = 8,       /* u64, last inbox number */
	A_FLOOR = 16,       /* u64, lowest cursor of its devices, or what is gone */
	A_CREATED = 24,     /* u64, ms */
	A_LIST = 32,        /* u32, device list epoch */
	A_FLAGS = 36,       /* u32, ACCOUNT_*; from ACCOUNT_TRIMS on P_TRIMS when
			       somebody last looked what is gone of it */
	A_DEVICES = 40,     /* DEVICES_MAX x u32, numbers, 0: free */
	ACCOUNT_ROW = 64,
};
#define ACCOUNT_HELD 1u   /* audit hold: nothing of it goes */
#define ACCOUNT_ERASED 2u /* for good */
#define ACCOUNT_TRIMS 8   /* bits to shift */

enum device_row {
	D_CURSOR = 0,  /* u64, highest number acknowledged */
	D_CREATED = 8, /* u64, ms */
	D_EPOCH = 16,  /* u32, raised to revoke */
	D_FLAGS = 20,  /* u32, DEVICE_REMOVED */
	DEVICE_ROW = 24,
};
#define DEVICE_REMOVED 1u

enum dedupe_row { U_FLOOR = 0, U_COUNT = 8, U_SET = 16, DEDUPE_SLOT = 16 };

enum policy_row {
	P_EPOCH = 0,  /* u64, raised when less may go than before */
	P_TTL = 8,    /* u64, ms; 0: TTL_MAX_S */
	P_KEPT = 16,  /* u64, T_RECEIPT may have rows of records before this one */
	P_TRIMS = 24, /* u64, trims so far */
	POLICY_ROW = 32,
};

enum receipt_row {
	R_MID = 0,      /* 16 */
	R_LAMPORT = 16, /* u64s */
	R_STAMP = 24,
	R_TIME = 32,
	R_N = 40,
	RECEIPT_ROW = 48,
};

enum node_row {
	N_VERSION = 0,   /* u64 */
	N_SINCE = 8,     /* u64, ms: in this state since */
	N_DISK = 16,     /* 16; zeros: not known yet */
	N_FORMER = 32,   /* 16, the disk before it, which is never taken back */
	N_STATE = 48,    /* u8, enum place_state */
	N_SUCCESSOR = 49, /* u8 */
	N_REPLACED = 50, /* u8, 1: by NODE_REPLACE, ever */
	N_RACK = 56,     /* 32, zeros behind it */
	N_ADDRESS = 88,  /* 304, zeros behind it */
	NODE_ROW = 392,
};
_Static_assert(N_ADDRESS - N_RACK >= PLACE_RACK_MAX, "a rack fits");
_Static_assert(NODE_ROW - N_ADDRESS >= MEMBER_ADDRESS_MAX, "an address fits");

enum nodes_row {
	NS_EPOCH = 0,    /* u64 */
	NS_FOUNDERS = 8, /* u64, bits by id */
	NODES_ROW = 16,
};

uint8_t *machine_account(struct machine *m, uint64_t account);
uint8_t *machine_device_row(struct machine *m, uint64_t account,
			    uint32_t device);
bool machine_set_has(const uint8_t *row, uint64_t id, uint64_t *offset);
/* Lamport of the last record, those of this batch included. */
uint64_t machine_clock(const struct machine *m);

/* machine_node.c */
int machine_apply_node(struct machine *m, const struct cmd_node *c,
		       struct result *r);
void machine_query_nodes(struct machine *m, struct result *r, struct buf *out);

/* machine_retain.c */
int machine_apply_retain(struct machine *m, const struct cmd *c,
			 const uint8_t nonce[16]);
/* Value of a field of the policy row; 0: no row. */
uint64_t machine_policy(struct machine *m, enum policy_row field);
/* The answer to a repeated send whose record was trimmed; NULL: nothing is kept. */
const uint8_t *machine_receipt(struct machine *m, uint64_t account,
			       uint32_t device, uint64_t id);
void machine_receipt_drop(struct machine *m, uint64_t account, uint32_t device,
			  uint64_t id);
/* A mailbox that is full may be full of what is gone.  Raises A_FLOOR. */
int machine_floor_by_trim(struct machine *m, uint64_t account, struct err *e);

#endif
