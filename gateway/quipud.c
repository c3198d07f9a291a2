/* quipud: one server with every role.
 *
 *   options -> conf -> disk, node.meta, known -> link -> node -> gateway -> loop
 *
 * One turn of the loop: events of sockets and disks, node_turn(),
 * gateway_flush(), block until the next event or timer. */
#include "base/addr.h"
#include "base/alloc.h"
#include "base/conf.h"
#include "base/logf.h"
#include "consensus/link.h"
#include "consensus/node.h"
#include "gateway/gateway.h"
#include "gateway/peers.h"
#include "log/nodemeta.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

struct quipud {
	uv_loop_t loop;
	uv_prepare_t prepare;
	uv_timer_t timer;
	uv_signal_t sigint, sigterm, sighup;
	struct conf conf;
	struct nodemeta meta; /* what the data folder says */
	struct known known;   /* disks of the peers */
	struct peers peers;
	struct disk *disk;
	struct net *net;
	struct node *node;
	struct gateway *gateway;
	uint64_t armed_us;
	bool ready, stopping;
};

/* sd_notify by hand: one datagram to the service manager, if there is one. */
static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	if (!path || strlen(path) >= sizeof sa.sun_path)
		return;
	memcpy(sa.sun_path, path, strlen(path));
	if (sa.sun_path[0] == '@')
		sa.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL,
		   (struct sockaddr *)&sa,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
			       strlen(path))) < 0)
		log_event(LOG_WARN, "notify_failed", "why=%s",
			  log_quote(strerror(errno)));
	close(fd);
}

/* A failed write or sync, or a log that this version cannot apply: what memory
 * holds may not be what the disk holds, so there is nothing to save.  A configuration
 * that the log contradicts, or a cluster that needs a newer program, found only now
 * (a node that begins empty, or was away): likewise. */
static void on_fatal(void *arg, const struct err *e)
{
	bool config = e->code == ERR_CONFIG || e->code == ERR_VERSION;

	(void)arg;
	fprintf(stderr, "quipud: %s%s\n", config ? "" : "fatal: ", e->msg);
	fflush(stderr);
	_exit(config ? 1 : 3);
}

/* ---- loop ------------------------------------------------------------------- */

static void on_timer(uv_timer_t *t);

static void arm(struct quipud *q)
{
	uint64_t due = node_deadline_us(q->node), now = clock_us(&clock_real);
	uint64_t other = gateway_deadline_us(q->gateway), ms;

	if (other < due)
		due = other;
	if (due == q->armed_us && uv_is_active((uv_handle_t *)&q->timer))
		return;
	q->armed_us = due;
	ms = due <= now ? 0 : (due - now + 999) / 1000;
	uv_update_time(&q->loop);
	uv_timer_start(&q->timer, on_timer, ms, 0);
}

static void turn(struct quipud *q)
{
	node_turn(q->node);
	gateway_flush(q->gateway);
	if (!q->ready && node_ready(q->node)) {
		char *address = gateway_address(q->gateway);

		q->ready = true;
		log_event(LOG_INFO, "ready", "node=%" PRIu64 " gateway=%s",
			  q->conf.node.id, address);
		free(address);
		notify("READY=1");
	}
}

static void on_timer(uv_timer_t *t)
{
	struct quipud *q = t->data;

	q->armed_us = 0;
	node_tick(q->node);
	gateway_tick(q->gateway);
}

static void on_prepare(uv_prepare_t *p)
{
	struct quipud *q = p->data;

	turn(q);
	arm(q);
}

/* ---- stopping: hand leaderships over, drain clients, checkpoint, leave -------- */

static void on_links_closed(void *arg)
{
	(void)arg;
}

static void on_node_stopped(void *arg)
{
	struct quipud *q = arg;

	uv_stop(&q->loop);
}

static void on_drained(void *arg)
{
	struct quipud *q = arg;

	node_stop(q->node, on_node_stopped, q);
}

/* Clients are told when there is nothing here any more that they would wait for. */
static void on_left(void *arg)
{
	struct quipud *q = arg;

	gateway_drain(q->gateway, on_drained, q);
}

static void stop(void *arg)
{
	struct quipud *q = arg;

	if (q->stopping) {
		/* Writes are in flight and nobody waits for them: as after a kill,
		 * the journal has what was acknowledged. */
		log_event(LOG_WARN, "stop_now", "why=\"asked twice\"");
		fflush(stderr);
		_exit(4);
	}
	q->stopping = true;
	log_event(LOG_INFO, "stopping", "node=%" PRIu64, q->conf.node.id);
	notify("STOPPING=1");
	if (!q->gateway) { /* it still waits to be let in */
		uv_stop(&q->loop);
		return;
	}
	gateway_leave(q->gateway);
	node_leave(q->node, on_left, q);
}

static void on_signal(uv_signal_t *s, int signum)
{
	(void)signum;
	stop(s->data);
}

static void on_hangup(uv_signal_t *s, int signum)
{
	struct quipud *q = s->data;
	struct err e = { 0 };

	(void)signum;
	if (q->gateway && !q->stopping)
		gateway_reload(q->gateway, &e); /* it says what it found */
}

/* ---- opening -------------------------------------------------------------------- */

static unsigned shards_default(unsigned founders)
{
	return founders > 1 ? 64 : 16;
}

/* What the configuration would make of an empty folder. */
static void wanted(const struct conf *c, struct nodemeta *m)
{
	unsigned i;

	memset(m, 0, sizeof *m);
	m->node_id = c->node.id;
	m->joined = c->node.join;
	m->shards = (uint32_t)c->shards.count;
	conf_cluster_id(c, m->cluster_id);
	if (m->joined)
		return;
	m->founders = 1ull << c->node.id;
	for (i = 0; i < c->n_peers; i++)
		m->founders |= 1ull << c->peer[i].id;
	if (!m->shards)
		m->shards = shards_default(c->n_peers);
}

static int open_disk(struct quipud *q, struct err *e)
{
	struct nodemeta *m = &q->meta;
	bool made;
	int rv = disk_uv_open(&q->disk, &q->loop, q->conf.node.data, e);

	if (rv)
		return err_wrap(e, "data folder %s", q->conf.node.data);
	rv = q->disk->ops->lock(q->disk, "lock", e);
	if (rv)
		return err_wrap(e, "data folder %s", q->conf.node.data);
	wanted(&q->conf, m);
	rv = nodemeta_open(q->disk, m, &rand_real, &made, e);
	if (!rv)
		rv = known_open(&q->known, q->disk, m, e);
	if (rv)
		return err_wrap(e, "data folder %s", q->conf.node.data);
	if (made)
		log_event(LOG_INFO, "folder_made", "node=%" PRIu64 " joins=%s",
			  m->node_id, m->joined ? "yes" : "no");
	else if (q->conf.node.join && !m->joined)
		log_event(LOG_WARN, "join_ignored", "node=%" PRIu64, m->node_id);
	if (q->conf.shards.count)
		m->shards = (uint32_t)q->conf.shards.count; /* checked by the log */
	return 0;
}

static int open_links(struct quipud *q, struct err *e)
{
	const struct conf *c = &q->conf;
	struct link_peer_config peers[CONF_PEERS_MAX];
	struct link_config lc = {
		.self = c->node.id,
		.cluster_name = c->node.cluster,
		.listen = conf_peer_listen(c),
		.peers = peers,
		.n_peers = c->n_peers,
		.ca = c->tls.ca[0] ? c->tls.ca : NULL,
		.cert = c->tls.cert[0] ? c->tls.cert : NULL,
		.key = c->tls.key[0] ? c->tls.key : NULL,
		.joined = q->meta.joined,
		.founders = q->meta.founders,
		.shards = q->meta.shards,
		.admit = peers_admit(&q->peers),
		.keepalive_ms = (unsigned)c->peers.keepalive_ms,
		.dead_ms = (unsigned)c->peers.dead_ms,
	};
	unsigned i;

	/* One row, its own: alone now, and others may join. */
	if (c->n_peers == 0)
		return 0;
	conf_cluster_id(c, lc.cluster_id);
	memcpy(lc.disk_id, q->meta.disk_id, sizeof lc.disk_id);
	q->peers.known = &q->known;
	for (i = 0; i < c->n_peers; i++) {
		peers[i] = (struct link_peer_config){ c->peer[i].id,
						      c->peer[i].addr };
		q->peers.configured |= 1ull << c->peer[i].id;
	}
	return link_open(&q->net, &q->loop, &lc, &rand_real, e);
}

static void on_asked_up(void *arg, uint64_t peer)
{
	struct quipud *q = arg;
	struct link_stats st;

	if (link_stats(q->net, peer, &st) || !st.shards || q->meta.shards)
		return;
	q->meta.shards = st.shards;
	log_event(LOG_INFO, "join_told", "peer=%" PRIu64 " shards=%u", peer,
		  st.shards);
	uv_stop(&q->loop);
}

static void on_asked_closed(void *arg)
{
	struct quipud *q = arg;

	q->net = NULL;
	uv_stop(&q->loop);
}

/* A node that joins learns from the hello of a peer how many shards the cluster has,
 * once; it waits until one lets it in.  Then the links begin anew, for the node. */
static int ask_shards(struct quipud *q, struct err *e)
{
	if (!q->meta.joined || q->meta.shards || !q->net)
		return 0;
	log_event(LOG_INFO, "join_waits", "node=%" PRIu64, q->conf.node.id);
	q->net->on_up = on_asked_up;
	q->net->arg = q;
	uv_run(&q->loop, UV_RUN_DEFAULT);
	if (q->stopping)
		return 0;
	link_close(q->net, on_asked_closed, q);
	while (q->net)
		uv_run(&q->loop, UV_RUN_DEFAULT);
	if (nodemeta_save(q->disk, &q->meta, e))
		return err_wrap(e, "data folder %s", q->conf.node.data);
	return open_links(q, e);
}

static int open_node(struct quipud *q, struct err *e)
{
	const struct conf *c = &q->conf;
	struct node_config nc = {
		.id = c->node.id,
		.shards = q->meta.shards,
		.joined = q->meta.joined,
		.election_ms = (unsigned)c->raft.election_ms,
		.heartbeat_ms = (unsigned)c->raft.heartbeat_ms,
		.journal = { .node_id = c->node.id,
			     .file_size = c->journal.file_size,
			     .max_bytes = c->journal.max,
			     .queue_bytes = c->journal.queue },
		.store = { .segment_bytes = c->store.segment_size,
			   .dirty_max_bytes = c->store.dirty_max,
			   .tail_cache_bytes = c->store.tail_cache,
			   .row_cache_max = (uint32_t)c->store.row_cache },
		.checkpoint_bytes = c->checkpoint.bytes,
		.checkpoint_age_ms = c->checkpoint.age_s * 1000,
		.batch_bytes = (uint32_t)c->batch.bytes,
		.batch_records = (uint32_t)c->batch.records,
		.batch_inflight = (uint32_t)c->batch.inflight,
		.level = { .warn = (unsigned)c->disk.warn,
			   .refuse = (unsigned)c->disk.refuse,
			   .readonly = (unsigned)c->disk.readonly,
			   .reserve = c->disk.reserve },
		.retain = { .enabled = c->retain.enabled,
			    .period_ms = c->retain.period_s * 1000,
			    .rate = c->retain.rate,
			    .roll_ms = c->retain.roll_s * 1000,
			    .live = (uint32_t)c->retain.live },
		.placement = { .replicas = (unsigned)c->placement.replicas,
			       .automatic = c->placement.automatic },
		.meta = q->meta,
		.feature_auto = c->feature.auto_raise,
		.feature_max = (uint32_t)c->feature.max,
	};
	struct node_env env = {
		.disk = q->disk,
		.kv = &kv_lmdb,
		.net = q->net,
		.clock = &clock_real,
		.rand = &rand_real,
		.fatal = on_fatal,
		.fatal_arg = q,
	};
	unsigned i;

	conf_cluster_id(c, nc.cluster_id);
	memcpy(nc.journal.cluster_id, nc.cluster_id, 16);
	memcpy(nc.store.cluster_id, nc.cluster_id, 16);
	memcpy(nc.disk_id, q->meta.disk_id, 16);
	for (i = 1; i < NET_NODE_MAX && nc.n_members < GROUP_VOTERS_MAX; i++) {
		if (!(q->meta.founders >> i & 1))
			continue;
		nc.addresses[nc.n_members] = conf_peer_addr(c, i);
		if (!nc.addresses[nc.n_members])
			nc.addresses[nc.n_members] = "";
		nc.members[nc.n_members++] = i;
	}
	return node_open(&q->node, &nc, &env, e);
}

static void on_walk_close(uv_handle_t *h, void *arg)
{
	(void)arg;
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

static void run(struct quipud *q)
{
	gateway_on_drain(q->gateway, stop, q);
	peers_watch(&q->peers, q->net, q->node);
	if (q->net)
		gateway_links(q->gateway, q->net);
	uv_prepare_init(&q->loop, &q->prepare);
	uv_timer_init(&q->loop, &q->timer);
	q->prepare.data = q->timer.data = q;
	uv_prepare_start(&q->prepare, on_prepare);
	uv_run(&q->loop, UV_RUN_DEFAULT);
	uv_prepare_stop(&q->prepare);
}

/* Before anything is opened, so that an early signal waits for the loop. */
static void catch_signals(struct quipud *q)
{
	uv_signal_init(&q->loop, &q->sigint);
	uv_signal_init(&q->loop, &q->sigterm);
	uv_signal_init(&q->loop, &q->sighup);
	q->sigint.data = q->sigterm.data = q->sighup.data = q;
	uv_signal_start(&q->sigint, on_signal, SIGINT);
	uv_signal_start(&q->sigterm, on_signal, SIGTERM);
	uv_signal_start(&q->sighup, on_hangup, SIGHUP);
}

/* ---- descriptors ------------------------------------------------------------- */

#define FDS_PER_SHARD 24 /* rows, segments, tree, a folder being synced */
#define FDS_OTHER 96     /* peers, admin, threads, listening, in passing */
#define FDS_PER_TLS_CLIENT 3 /* its socket and the pair behind it */

/* The log's descriptors come first: without one a checkpoint cannot end, and a
 * failed checkpoint is the process's end.  Clients share what is left. */
static void share_descriptors(struct conf *c)
{
	uint64_t shards = c->shards.count ? c->shards.count :
					    shards_default(c->n_peers);
	uint64_t own = shards * FDS_PER_SHARD + c->journal.max / c->journal.file_size +
		       FDS_OTHER;
	struct rlimit rl;
	uint64_t clients;

	if (getrlimit(RLIMIT_NOFILE, &rl))
		return;
	if (rl.rlim_cur < rl.rlim_max) {
		rl.rlim_cur = rl.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &rl) || getrlimit(RLIMIT_NOFILE, &rl))
			return;
	}
	clients = rl.rlim_cur > own ? rl.rlim_cur - own : 0;
	if (clients < rl.rlim_cur / 4)
		clients = rl.rlim_cur / 4; /* a shard rarely needs all of its own */
	if (c->gateway.tls_cert[0])
		clients /= FDS_PER_TLS_CLIENT;
	if (clients >= c->gateway.max_connections)
		return;
	log_event(LOG_WARN, "few_descriptors",
		  "limit=%" PRIu64 " max_connections=%" PRIu64 " now=%" PRIu64,
		  (uint64_t)rl.rlim_cur, c->gateway.max_connections, clients);
	c->gateway.max_connections = clients;
}

static int serve(struct quipud *q)
{
	struct err e = { 0 };
	int rv;

	share_descriptors(&q->conf);
	uv_loop_init(&q->loop);
	catch_signals(q);
	rv = open_disk(q, &e);
	if (!rv)
		rv = open_links(q, &e);
	if (!rv)
		rv = ask_shards(q, &e);
	if (!rv && !q->stopping)
		rv = open_node(q, &e);
	if (!rv && !q->stopping)
		rv = gateway_open(&q->gateway, &q->loop, q->node, &q->conf, &e);
	if (rv)
		fprintf(stderr, "quipud: %s\n", e.msg);
	else if (q->gateway)
		run(q);
	if (q->gateway)
		gateway_close(q->gateway);
	if (q->net)
		link_close(q->net, on_links_closed, q);
	if (q->node)
		node_close(q->node);
	if (q->disk)
		disk_uv_close(q->disk);
	uv_walk(&q->loop, on_walk_close, NULL);
	uv_run(&q->loop, UV_RUN_DEFAULT);
	uv_loop_close(&q->loop);
	if (!rv)
		log_event(LOG_INFO, "stopped", "node=%" PRIu64,
			  q->conf.node.id);
	return rv ? 1 : 0;
}

/* ---- options ----------------------------------------------------------------------- */

static void usage(FILE *f)
{
	fputs("usage: quipud [--config FILE] [--data DIR] [--listen ADDR:PORT]\n"
	      "              [--set SECTION.KEY=VALUE] [--join] [--check-config]\n"
	      "\n"
	      "Quipu's server: replicated log and gateway in one process.  Without a\n"
	      "configuration it is a whole single-node system on 127.0.0.1:8080 with\n"
	      "its data in ./data.\n"
	      "\n"
	      "  --config FILE        INI file; unknown keys are errors\n"
	      "  --data DIR           data folder (node.data)\n"
	      "  --listen ADDR:PORT   where clients connect (gateway.listen)\n"
	      "  --set NAME=VALUE     any parameter below\n"
	      "  --join               an empty data folder joins a cluster (node.join)\n"
	      "  --check-config       say whether the configuration is good; exit 0 or 1\n"
	      "  --print-config       print it with all defaults\n"
	      "  --version, --help\n"
	      "\n"
	      "exit status: 0 stopped, 1 could not start, 2 usage, 3 storage failed,\n"
	      "             4 stopped at once, asked twice\n"
	      "\nParameters (also from the environment as QUIPU_SECTION_KEY):\n",
	      f);
	conf_help(f);
}

struct setting {
	const char *name, *value;
};

#define SETTINGS_MAX 64

static int load(struct quipud *q, const char *config, struct setting *set,
		unsigned n, struct err *e)
{
	unsigned i;
	int rv = conf_load(&q->conf, config, e);

	for (i = 0; !rv && i < n; i++)
		rv = conf_set(&q->conf, set[i].name, set[i].value, e);
	return rv ? rv : conf_check(&q->conf, e);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "data", required_argument, NULL, 'd' },
		{ "listen", required_argument, NULL, 'l' },
		{ "set", required_argument, NULL, 's' },
		{ "join", no_argument, NULL, 'j' },
		{ "check-config", no_argument, NULL, 'k' },
		{ "print-config", no_argument, NULL, 'p' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct setting set[SETTINGS_MAX];
	const char *config = NULL;
	bool check = false, print = false;
	struct quipud *q;
	struct err e = { 0 };
	unsigned n = 0;
	char *eq;
	int c, rv;

	while ((c = getopt_long(argc, argv, "c:d:l:s:h", options, NULL)) != -1) {
		if (n == SETTINGS_MAX) {
			fprintf(stderr, "quipud: more than %d settings\n",
				SETTINGS_MAX);
			return 2;
		}
		switch (c) {
		case 'c':
			config = optarg;
			break;
		case 'd':
			set[n++] = (struct setting){ "node.data", optarg };
			break;
		case 'l':
			set[n++] = (struct setting){ "gateway.listen", optarg };
			break;
		case 's':
			eq = strchr(optarg, '=');
			if (!eq) {
				fprintf(stderr, "quipud: --set %s: no '='\n",
					optarg);
				return 2;
			}
			*eq = 0;
			set[n++] = (struct setting){ optarg, eq + 1 };
			break;
		case 'j':
			set[n++] = (struct setting){ "node.join", "yes" };
			break;
		case 'k':
			check = true;
			break;
		case 'p':
			print = true;
			break;
		case 'V':
			puts("quipud " QUIPU_VERSION);
			return 0;
		case 'h':
			usage(stdout);
			return 0;
		default:
			fputs("try quipud --help\n", stderr);
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "quipud: unexpected argument %s\n",
			argv[optind]);
		return 2;
	}
	q = xcalloc(1, sizeof *q);
	if (load(q, config, set, n, &e)) {
		fprintf(stderr, "quipud: %s\n", e.msg);
		free(q);
		return 1;
	}
	if (print)
		conf_print(&q->conf, stdout);
	if (check)
		puts("configuration is good");
	if (check || print) {
		free(q);
		return 0;
	}
	log_set_level(q->conf.node.loglevel);
	signal(SIGPIPE, SIG_IGN);
#ifndef __SANITIZE_ADDRESS__ /* whose search for leaks is a ptrace */
	/* Tokens and keys are in memory: no core dumps, no ptrace by others. */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	rv = serve(q);
	free(q);
	return rv;
}
