/* The follower's side of a snapshot (install.h): fetch, check, put in force.
 *
 *   PREPARE   folder made; sealed segments of the old folder copied   helper thread
 *   FETCH     file after file, a window of pieces, rows last
 *   CHECK     all of it read and synced                               helper thread
 *   FREEZE    the group deaf; a checkpoint that runs ends
 *   RECORD    INSTALL on its way into the journal
 *   SWAP      group and store closed, opened on the new folder
 *   KEEP      of a repair (repair.h): the damaged folder moves    helper thread
 *
 * For a repair group and store are closed from the start. */
#include "consensus/install.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/node_impl.h"
#include "log/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MS 100
#define FREEZE_TICK_MS 20
#define ASK_AGAIN_MS 2000   /* nothing came: what was asked for is lost */
#define GIVE_UP_MS 20000    /* nothing came at all: another may offer */
#define RETRY_MS 5000       /* after a full disk */
#define BAD_RETRY_MS 500    /* after damage: what was bad comes again */
#define COPY_CHUNK (1u << 20)
#define SLICE (64u << 20) /* bytes copied before others have their turn */

enum install_state { PREPARE, FETCH, CHECK, FREEZE, RECORD, SWAP, KEEP };

struct install {
	struct shard *shard;
	struct node *node;
	enum install_state state;
	bool repair;
	uint64_t peer;
	struct snap_manifest m;
	uint32_t incarnation;
	/* FETCH: files 1, 2, ..., then 0 */
	uint32_t nth;
	struct disk_file *out;
	uint64_t size, got, asked;
	uint64_t begun_ms, heard_ms, fetched;
	/* work of PREPARE and CHECK */
	struct disk_work work;
	bool running, dropped, done;
	uint32_t step;
	int status;
	struct err err;
	struct snap_check *check;
	struct journal_req req;
	unsigned kept;           /* number in quarantine; 0: nowhere */
};

bool install_holds(const struct shard *s)
{
	return s->going || (s->install && s->install->state >= RECORD);
}

const char *install_state(const struct shard *s)
{
	static const char *const names[] = { "prepare", "fetch", "check",
					     "freeze", "record", "swap",
					     "keep" };

	return s->install ? names[s->install->state] : NULL;
}

static void install_free(struct install *in)
{
	snap_check_free(in->check);
	if (in->out)
		in->node->env.disk->ops->close(in->out);
	snap_release(&in->m);
	free(in);
}

/* What was fetched stays, for the next manifest. */
static void install_end(struct install *in)
{
	struct shard *s = in->shard;

	if (in->running) {
		in->dropped = true;
		return;
	}
	AN(s->install == in);
	s->install = NULL;
	in->node->snap.installs--;
	install_free(in);
}

static void install_failed(struct install *in, int status, const char *why)
{
	struct node *n = in->node;

	log_event(LOG_WARN, "install_failed",
		  "shard=%u index=%" PRIu64 " peer=%" PRIu64 " why=%s",
		  in->shard->id, in->m.index, in->peer, log_quote(why));
	in->shard->install_bad |= status == ERR_DAMAGED;
	in->shard->install_retry_ms = clock_ms(n->env.clock) +
				      (status == ERR_DAMAGED ? BAD_RETRY_MS
							     : RETRY_MS);
	install_end(in);
}

/* A failed write or sync ends the process, as everywhere; a full disk and bad bytes
 * end this install. */
static void install_error(struct install *in, int status, const struct err *e)
{
	if (status == ERR_NOSPACE || status == ERR_DAMAGED ||
	    status == ERR_NOT_FOUND || status == ERR_FORMAT ||
	    status == ERR_CHECKSUM || status == ERR_VERSION)
		install_failed(in, status, e->msg);
	else
		node_fatal(in->node, e);
}

/* ---- fetch ---------------------------------------------------------------------- */

static uint32_t file_no(const struct install *in)
{
	return in->nth + 1 < snap_files(&in->m) ? in->nth + 1 : 0;
}

static void ask(struct install *in)
{
	struct node *n = in->node;
	struct buf *b = &n->snap.out;

	while (in->asked < in->size && in->asked - in->got < SNAP_WINDOW) {
		uint64_t len = in->size - in->asked;

		if (len > SNAP_CHUNK)
			len = SNAP_CHUNK;
		buf_clear(b);
		buf_u8(b, MSG_SNAP_GET);
		buf_u32(b, in->shard->id);
		buf_u64(b, in->m.id);
		buf_u32(b, file_no(in));
		buf_u32(b, (uint32_t)len);
		buf_u64(b, in->asked);
		if (n->env.net->ops->send(n->env.net, in->peer, b->data,
					  b->len, NULL, 0))
			return;
		in->asked += len;
	}
}

static void check_start(struct install *in);

/* The next file that is not here whole; of a segment what is here is kept, since it
 * was written in order and is read again before it counts. */
static void next_file(struct install *in)
{
	const struct disk_ops *ops = in->node->env.disk->ops;
	struct err e = { 0 };
	char path[96];
	int rv = 0;

	while (in->nth < snap_files(&in->m)) {
		uint32_t file = file_no(in);

		in->size = snap_file_bytes(&in->m, file);
		in->got = in->asked = 0;
		if (!in->size) {
			in->nth++;
			continue;
		}
		snap_file_path(&in->m, file, in->incarnation, path, sizeof path);
		rv = ops->open(in->node->env.disk, path,
			       DISK_WRITE | DISK_CREATE, &in->out, &e);
		if (!rv)
			rv = ops->size(in->out, &in->got, &e);
		if (!rv && (in->got > in->size || !file)) {
			in->got = 0;
			rv = ops->truncate(in->out, 0, &e);
		}
		if (rv) {
			install_error(in, rv, &e);
			return;
		}
		in->asked = in->got;
		if (in->got < in->size) {
			ask(in);
			return;
		}
		ops->close(in->out);
		in->out = NULL;
		in->nth++;
	}
	check_start(in);
}

static struct install *install_of(struct node *n, uint64_t peer,
				  struct cursor *c)
{
	uint32_t shard = cursor_u32(c);
	uint64_t id = cursor_u64(c);
	struct install *in;

	if (c->bad || shard >= n->n_shards)
		return NULL;
	in = n->shards[shard].install;
	return in && in->state == FETCH && !in->dropped && in->peer == peer &&
			       in->m.id == id
		       ? in
		       : NULL;
}

static void on_data(struct node *n, uint64_t peer, struct cursor *c)
{
	struct install *in = install_of(n, peer, c);
	uint32_t file = cursor_u32(c);
	uint64_t off = cursor_u64(c);
	size_t len = cursor_left(c);
	struct err e = { 0 };
	struct iovec iov = { (void *)(uintptr_t)c->p, len };
	int rv;

	/* Not in order: an answer to a question that was given up. */
	if (!in || c->bad || !len || !in->out || file != file_no(in) ||
	    off != in->got || len > in->size - in->got)
		return;
	rv = n->env.disk->ops->pwritev(in->out, &iov, 1, off, &e);
	if (rv) {
		install_error(in, rv, &e);
		return;
	}
	in->got += len;
	in->fetched += len;
	in->heard_ms = clock_ms(n->env.clock);
	if (in->got < in->size) {
		ask(in);
		return;
	}
	n->env.disk->ops->close(in->out);
	in->out = NULL;
	in->nth++;
	next_file(in);
}

static void on_gone(struct node *n, uint64_t peer, struct cursor *c)
{
	struct install *in = install_of(n, peer, c);

	if (in)
		install_end(in);
}

/* ---- work on the helper thread ---------------------------------------------------- */

static void work_start(struct install *in, void (*run)(struct disk_work *w),
		       void (*done)(struct disk_work *w))
{
	in->running = true;
	in->node->snap.works++;
	in->work = (struct disk_work){ .run = run, .done = done, .arg = in };
	in->node->env.disk->ops->work(in->node->env.disk, &in->work);
}

/* True: the install lives, and its work went well. */
static bool work_over(struct install *in)
{
	struct node *n = in->node;

	in->running = false;
	n->snap.works--;
	if (n->dead)
		return false;
	if (in->dropped || n->stopping) {
		install_end(in);
		return false;
	}
	in->heard_ms = clock_ms(n->env.clock);
	if (in->status) {
		install_error(in, in->status, &in->err);
		return false;
	}
	return true;
}

static int copy_file(struct install *in, const char *from, const char *to,
		     uint64_t size, uint64_t *copied)
{
	struct disk *d = in->node->env.disk;
	struct disk_file *a, *b = NULL;
	uint64_t have = 0, off;
	uint8_t *p;
	size_t got;
	int rv = d->ops->open(d, from, DISK_READ, &a, NULL);

	/* Not here, or not readable: to be fetched. */
	if (rv)
		return 0;
	if (!d->ops->size(a, &have, NULL) && have == size)
		rv = d->ops->open(d, to, DISK_WRITE | DISK_CREATE, &b,
				  &in->err);
	have = 0;
	if (b && !rv)
		rv = d->ops->size(b, &have, &in->err);
	p = xmalloc(COPY_CHUNK);
	for (off = have; b && !rv && off < size; off += got) {
		struct iovec iov = { p, COPY_CHUNK };

		if (d->ops->pread(a, p, COPY_CHUNK, off, &got, NULL) || !got)
			break;
		iov.iov_len = got;
		rv = d->ops->pwritev(b, &iov, 1, off, &in->err);
		*copied += got;
	}
	free(p);
	d->ops->close(a);
	if (b)
		d->ops->close(b);
	return rv;
}

static void prepare_run(struct disk_work *w)
{
	struct install *in = w->arg;
	struct disk *d = in->node->env.disk;
	uint32_t shard = in->shard->id;
	uint64_t copied = 0;
	char from[96], to[96];
	unsigned f;

	in->status = 0;
	memset(&in->err, 0, sizeof in->err);
	if (!in->step) {
		in->step = 1;
		in->status = snap_folder_make(d, shard, in->incarnation,
					      &in->err);
		if (!in->status)
			in->status = snap_folder_clear(d, shard, in->incarnation,
						       true, &in->err);
		return;
	}
	/* Sealed segments come first in the manifest. */
	for (; in->step <= in->m.n_segments && copied < SLICE && !in->status;
	     in->step++) {
		for (f = 1; f <= 2 && !in->status; f++) {
			uint32_t file = 2 * (in->step - 1) + f;
			uint64_t size = snap_file_bytes(&in->m, file);

			if (!size || !in->m.segments[in->step - 1].sealed)
				continue;
			snap_file_path(&in->m, file, in->incarnation - 1, from,
				       sizeof from);
			snap_file_path(&in->m, file, in->incarnation, to,
				       sizeof to);
			in->status = copy_file(in, from, to, size, &copied);
		}
	}
}

static void prepare_done(struct disk_work *w)
{
	struct install *in = w->arg;

	if (!work_over(in))
		return;
	/* Bad bytes may have come from the old folder: then all are fetched. */
	if (in->step <= in->m.n_segments && !in->shard->install_bad) {
		work_start(in, prepare_run, prepare_done);
		return;
	}
	in->state = FETCH;
	next_file(in);
}

static void check_run(struct disk_work *w)
{
	struct install *in = w->arg;

	in->status = snap_check_step(in->check, &in->done, &in->err);
}

static void check_done(struct disk_work *w)
{
	struct install *in = w->arg;

	if (!work_over(in))
		return;
	if (!in->done) {
		work_start(in, check_run, check_done);
		return;
	}
	snap_check_free(in->check);
	in->check = NULL;
	in->state = FREEZE;
	in->node->snap.due_ms = 0;
}

static void check_start(struct install *in)
{
	struct node *n = in->node;

	in->state = CHECK;
	in->check = snap_check_new(n->env.disk, n->env.kv, n->env.kv_arg, &in->m,
				   in->incarnation);
	work_start(in, check_run, check_done);
}

/* ---- in force ----------------------------------------------------------------------- */

static void on_recorded(struct journal_req *r)
{
	struct install *in = r->arg;

	in->state = SWAP;
	in->node->snap.due_ms = 0;
}

static void record(struct install *in)
{
	struct node *n = in->node;
	struct err e = { 0 };

	in->state = RECORD;
	in->req = (struct journal_req){ .cb = on_recorded, .arg = in };
	repair_record(in->shard, &in->m, in->incarnation, &in->req);
	/* The group of a sound replica has not got the entry. */
	AN(in->repair || !in->req.install_keeps);
	if (journal_submit(n->journal, &in->req)) {
		err_set(&e, ERR_IO, "the journal takes no install");
		node_fatal(n, &e);
	}
}

static void freeze(struct install *in)
{
	struct shard *s = in->shard;
	struct node *n = in->node;

	if (in->repair) {
		if (n->stopping || !repair_takes(s, &in->m))
			install_end(in);
		else
			record(in);
		return;
	}
	if (n->stopping ||
	    !group_wants_snapshot(s->group, in->m.index, in->m.term)) {
		group_freeze(s->group, false);
		shard_refresh_deadline(s);
		install_end(in);
		return;
	}
	group_freeze(s->group, true);
	shard_refresh_deadline(s);
	if (store_checkpoint_running(s->store) || source_busy(s))
		return;
	source_drop(s); /* its folder goes */
	group_void(s->group);
	record(in);
}

static void in_force(struct install *in)
{
	struct shard *s = in->shard;
	struct node *n = in->node;

	s->install_bad = false;
	install_end(in);
	shard_reopen(s);
	if (s->id || !shard_works(s))
		return;
	if (!n->slots_epoch)
		node_slots_load(n);
	feature_load(n);
}

static void keep_run(struct disk_work *w)
{
	struct install *in = w->arg;

	in->status = repair_keep(in->node->env.disk, in->shard->id,
				 in->incarnation - 1, &in->kept, &in->err);
}

static void repaired(struct install *in)
{
	struct shard *s = in->shard;
	uint64_t now_ms = clock_ms(in->node->env.clock);

	log_event(LOG_INFO, "shard_repaired",
		  "shard=%u index=%" PRIu64 " peer=%" PRIu64 " bytes=%" PRIu64
		  " ms=%" PRIu64 " log=%s quarantine=%06u", s->id, in->m.index,
		  in->peer, in->fetched, now_ms - s->repair.found_ms,
		  in->req.install_keeps ? "kept" : "replaced", in->kept);
	metric_add(M_REPAIRS, 1);
	metric_observe_us(M_REPAIR_SECONDS,
			  (now_ms - s->repair.found_ms) * 1000);
	in_force(in);
}

static void keep_done(struct disk_work *w)
{
	struct install *in = w->arg;

	/* What could not be moved is removed like any folder of the past. */
	if (in->status) {
		log_event(LOG_WARN, "quarantine_failed", "shard=%u why=%s",
			  in->shard->id, log_quote(in->err.msg));
		in->status = 0;
		in->kept = 0;
	}
	if (work_over(in))
		repaired(in);
}

static void swap(struct install *in)
{
	struct shard *s = in->shard;
	struct node *n = in->node;

	if (in->repair) {
		/* A full disk has no room for what is of no use. */
		if (n->level >= LEVEL_WARN) {
			repaired(in);
		} else {
			in->state = KEEP;
			work_start(in, keep_run, keep_done);
		}
		return;
	}
	/* What waits for the old group is answered. */
	group_run(s->group);
	if (n->dead || s->absent || !list_empty(&s->reads) || s->marking ||
	    !group_quiet(s->group) || s->role == GROUP_LEADER)
		return;
	log_event(LOG_INFO, "snapshot_installed",
		  "shard=%u index=%" PRIu64 " peer=%" PRIu64 " bytes=%" PRIu64
		  " ms=%" PRIu64, s->id, in->m.index, in->peer, in->fetched,
		  clock_ms(n->env.clock) - in->begun_ms);
	n->snap.installed++;
	in_force(in);
}

static void install_tick(struct install *in, uint64_t now_ms)
{
	struct node *n = in->node;

	switch (in->state) {
	case FETCH:
		if (n->stopping || n->level >= LEVEL_READONLY ||
		    now_ms - in->heard_ms >= GIVE_UP_MS) {
			install_end(in);
		} else if (now_ms - in->heard_ms >= ASK_AGAIN_MS) {
			in->asked = in->got;
			ask(in);
		}
		break;
	case FREEZE:
		freeze(in);
		break;
	case SWAP:
		swap(in);
		break;
	default:
		break;
	}
}

/* ---- offers --------------------------------------------------------------------------- */

static void on_offer(struct node *n, uint64_t peer, struct cursor *c)
{
	struct snap_manifest m;
	struct err e = { 0 };
	struct install *in;
	struct shard *s;
	uint64_t now_ms = clock_ms(n->env.clock);
	const struct journal_shard *js;

	if (snap_decode(&m, c->p, cursor_left(c), &e) ||
	    m.shard >= n->n_shards ||
	    memcmp(m.cluster_id, n->cfg.cluster_id, 16)) {
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " why=%s", peer,
			  log_quote(e.code ? e.msg : "foreign snapshot"));
		if (!e.code)
			snap_release(&m);
		return;
	}
	s = &n->shards[m.shard];
	in = s->install;
	/* A full disk has other use for its reserve. */
	if (s->absent || s->going || n->stopping || n->level >= LEVEL_REFUSE ||
	    (s->faulty && !repair_takes(s, &m)))
		goto no;
	if (!s->faulty && !group_wants_snapshot(s->group, m.index, m.term)) {
		group_tell_matched(s->group, peer);
		goto no;
	}
	/* A newer one takes over from one that is gone or has fallen silent. */
	if (in && in->state == FETCH && in->m.id != m.id &&
	    (in->peer == peer || now_ms - in->heard_ms >= ASK_AGAIN_MS)) {
		install_end(in);
		in = NULL;
	}
	if (in || s->install || now_ms < s->install_retry_ms ||
	    n->snap.installs >= SNAP_INSTALLS_MAX)
		goto no;
	js = journal_shard(n->journal, s->id);
	in = s->install = xcalloc(1, sizeof *in);
	n->snap.installs++;
	in->shard = s;
	in->node = n;
	in->repair = s->faulty;
	in->peer = peer;
	in->m = m;
	in->incarnation = (js->incarnation ? js->incarnation : 1) + 1;
	in->begun_ms = in->heard_ms = now_ms;
	log_event(LOG_INFO, in->repair ? "repair_begins" : "install_begins",
		  "shard=%u index=%" PRIu64 " peer=%" PRIu64 " segments=%u"
		  " id=%016" PRIx64, s->id, m.index, peer, m.n_segments, m.id);
	work_start(in, prepare_run, prepare_done);
	return;
no:
	snap_release(&m);
}

/* ---- for the node ----------------------------------------------------------------------- */

bool snap_on_message(struct node *n, uint64_t peer, uint8_t type,
		     struct cursor *c)
{
	switch (type) {
	case MSG_SNAP_OFFER:
		on_offer(n, peer, c);
		return true;
	case MSG_SNAP_GET:
		source_on_get(n, peer, c);
		return true;
	case MSG_SNAP_DATA:
		on_data(n, peer, c);
		return true;
	case MSG_SNAP_GONE:
		on_gone(n, peer, c);
		return true;
	case MSG_REPAIR_ASK:
		repair_on_ask(n, peer, c);
		return true;
	default:
		return false;
	}
}

/* What was asked for on the old link does not come any more. */
void snap_on_up(struct node *n, uint64_t peer)
{
	uint32_t i;

	for (i = 0; i < n->n_shards && n->snap.installs; i++) {
		struct install *in = n->shards[i].install;

		if (!in || in->state != FETCH || in->peer != peer)
			continue;
		in->asked = in->got;
		ask(in);
	}
}

/* An install that was under way when the damage was found: before its record there
 * is nothing of it, after that its folder is the cure. */
static void faulty_tick(struct shard *s, uint64_t now_ms)
{
	source_drop(s);
	if (s->install && (s->install->repair || s->install->state == SWAP))
		install_tick(s->install, now_ms);
	else if (s->install && s->install->state < RECORD)
		install_end(s->install);
	if (s->faulty)
		repair_tick(s, now_ms);
}

void snap_tick(struct node *n, uint64_t now_ms)
{
	uint32_t i;

	n->snap.due_ms = now_ms + TICK_MS;
	for (i = 0; i < n->n_shards && !n->dead; i++) {
		struct shard *s = &n->shards[i];
		bool swapping;

		if (s->absent) {
			if (s->install && s->install->state < RECORD)
				install_end(s->install);
			source_drop(s);
			continue;
		}
		if (s->faulty) {
			faulty_tick(s, now_ms);
			continue;
		}
		swapping = s->install && s->install->state >= FREEZE;
		if (s->install)
			install_tick(s->install, now_ms); /* may end it */
		if (swapping)
			n->snap.due_ms = now_ms + FREEZE_TICK_MS;
		else if (shard_works(s) && !n->dead)
			source_tick(s, now_ms);
	}
	if (n->snap.gets_n)
		n->snap.due_ms = now_ms + FREEZE_TICK_MS;
}

uint64_t snap_deadline_ms(const struct node *n)
{
	return n->snap.installs || n->snap.sources || n->snap.gets_n
		       ? n->snap.due_ms
		       : UINT64_MAX;
}

/* ---- folders of the past ------------------------------------------------------------------ */

struct snap_removal {
	struct disk_work work;
	struct shard *shard;
	struct disk *disk;
	uint32_t shard_no, below;
	int status;
	struct err err;
};

static void old_folder(void *arg, const char *name, bool is_dir)
{
	struct snap_removal *r = arg;
	unsigned shard, inc;
	int end = 0;

	if (!is_dir || r->status ||
	    sscanf(name, "%4u-%u%n", &shard, &inc, &end) != 2 || name[end] ||
	    shard != r->shard_no || inc >= r->below)
		return;
	r->status = snap_folder_clear(r->disk, shard, inc, false, &r->err);
}

static void removal_run(struct disk_work *w)
{
	struct snap_removal *r = w->arg;

	r->status = 0;
	r->disk->ops->list(r->disk, "shards", old_folder, r, NULL);
}

static void removal_done(struct disk_work *w)
{
	struct snap_removal *r = w->arg;
	struct node *n = r->shard->node;

	n->snap.works--;
	if (r->status)
		log_event(LOG_WARN, "old_folder_stays", "shard=%u why=%s",
			  r->shard_no, log_quote(r->err.msg));
	if (n->dead)
		return;
	r->shard->removal = NULL;
	free(r);
}

void snap_clean(struct shard *s, uint32_t incarnation)
{
	struct node *n = s->node;
	struct snap_removal *r;

	snap_export_drop(n->env.disk, s->id, incarnation);
	if (incarnation < 2 || s->removal)
		return;
	r = s->removal = xcalloc(1, sizeof *r);
	r->shard = s;
	r->disk = n->env.disk;
	r->shard_no = s->id;
	r->below = incarnation;
	r->work = (struct disk_work){ .run = removal_run,
				      .done = removal_done,
				      .arg = r };
	n->snap.works++;
	n->env.disk->ops->work(n->env.disk, &r->work);
}

bool snap_gone(struct shard *s)
{
	if (s->install && s->install->state < RECORD)
		install_end(s->install);
	if (!source_busy(s))
		source_drop(s);
	return !s->install && !s->source && !s->removal;
}

void snap_close(struct shard *s)
{
	if (s->install) {
		s->install->running = false;
		install_end(s->install);
	}
	source_drop(s);
	free(s->removal);
	s->removal = NULL;
}
