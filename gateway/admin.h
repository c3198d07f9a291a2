/* The operators' door: a unix stream socket DATA/admin.sock (mode 0600).  One
 * request per line, a JSON object with "verb"; one JSON object per line as the
 * answer, in the order of the requests of a connection:
 *
 *	{"ok":true, ...}
 *	{"ok":false, "error":"NAME", "detail":"sentence"}
 *
 * Ids of accounts are strings of 16 hex digits, numbers are JSON numbers.  A line
 * is at most ADMIN_LINE_MAX bytes; one that is longer, not JSON or not known gets
 * error "bad-request" and, when it is too long, the connection ends.
 *
 *   verb             members            answer's members besides ok
 *   status           -                  id, version, uptime_s, now_ms, ready, draining,
 *                                       shards, led, faulty, calls, subs,
 *                                       sessions, http, sends_open, listen,
 *                                       disk {level, free_bytes, size_bytes},
 *                                       journal {...}
 *   nodes            -                  nodes [{id, self, up, disk}]
 *   shards           [shard]            shards [{shard, role, term, leader,
 *                                       commit, applied, last, durable,
 *                                       records, root, digest, subs, faulty,
 *                                       why, voters [{id, match}]}]
 *   leaders          -                  leaders [{shard, leader}], 0 = unknown
 *   account-add      [id]               id
 *   device-add       account            account, device, epoch
 *   device-remove    account, device    account, device
 *   account          account            account, shard, end, oldest, n_devices,
 *                                       devices [numbers 1..32]
 *   account-erase    account            -        for good: devices removed, inbox
 *                                                destroyed
 *   account-hold     account, on        -        nothing of it goes while on
 *   backup           -                  cluster, cluster_id, shards, level, epoch,
 *                                       nodes [ids]
 *   backup-mark      shard              index, clock: what is acknowledged is in it
 *   backup-shard     shard, index       ready false: ask again soon; or manifest
 *                                       (base64url), incarnation: of the folder
 *                                       whose files stay for 30 s from here
 *   backup-end       shard              -
 *   feature          -                  level, max, possible, auto, epoch,
 *                                       nodes [{id, max, lacking}]; max 0: not heard
 *   feature-raise    level              level    in force now; it never falls
 *   retention        -                  enabled, shards [{shard, leader, oldest,
 *                                       records, segments, bytes, content, live,
 *                                       held, doomed, waiting, freed, ttl_s}]
 *   retention-ttl    seconds            -        of records without their own
 *   transfer         shard, to          -        leadership of a shard
 *   node-list        -                  epoch, factor, needed, automatic, nodes [{id,
 *                                       state, address, rack, disk, up, self,
 *                                       successor, version, since_ms, replicas,
 *                                       leads, waits}]; waits: another disk that
 *                                       was turned away, "" for none
 *   node-set         id                 version   [op: set|replace; state, address,
 *                                       rack, disk, successor: what is to change;
 *                                       version: refuse when the row has another;
 *                                       made: true: only when there is no row]
 *   places           [shard]            shards [{shard, leader, busy, members [{id,
 *                                       voter, ready, match}]}], leader 0: unknown
 *   plan             -                  total, stuck, unknown, steps [{op, shard,
 *                                       node, from, why}], why [{shard, why}]
 *                                       [id, state, successor, rack: as if the node
 *                                       were so, and up; max: steps to be shown,
 *                                       500 when absent]
 *   drain            -                  -        as SIGTERM
 *   reload           -                  links_until, gateway_until: certificates
 *                                       read again; error "refused": the old
 *                                       ones are in force
 *   certs            -                  now, links_until, gateway_until (Unix time
 *                                       in seconds; 0: none)
 *   histograms       -                  histograms {name: {count, cells [[cell,
 *                                       n]]}}, cells as in base/hist.h
 *   config           -                  config {name: value}, secrets hidden
 *   stats            -                  stats {name: value}
 *   token            account, device    token, expires_s   [ttl: seconds,
 *                                       epoch: device epoch; asked when absent]
 *
 * Errors: bad-request, changed-meanwhile, wrong-state, in-use, exists, held,
 * feature-level, not-enabled, not-found, too-many-devices, unavailable
 * (detail says whether the outcome is unknown), no-leader, busy, refused,
 * internal. */
#ifndef QUIPU_GATEWAY_ADMIN_H
#define QUIPU_GATEWAY_ADMIN_H

#include "base/err.h"

#define ADMIN_LINE_MAX 4096
#define ADMIN_CONNS_MAX 16
#define ADMIN_PIPELINE_MAX 64 /* requests of a connection whose answers are not
				 yet written */

struct gateway;
struct admin;

/* Listen on `path`, replacing a socket that nobody serves. */
int admin_open(struct admin **out, struct gateway *g, const char *path,
	       struct err *e);
void admin_close(struct admin *a);

#endif
