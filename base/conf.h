/* Configuration of quipud: defaults, then an INI file, then the environment
 * (QUIPU_SECTION_KEY), then the command line (conf_set).  The parameters are the
 * rows of conf.tbl; docs/params.md is made from them.
 *
 *   struct conf c;
 *   if (conf_load(&c, path, &e) || conf_check(&c, &e)) ...
 *   c.gateway.max_connections, c.raft.election_ms ...
 *
 * A struct conf owns nothing and may be copied. */
#ifndef QUIPU_BASE_CONF_H
#define QUIPU_BASE_CONF_H

#include "base/err.h"
#include "base/logf.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CONF_STRING_MAX 512
#define CONF_PEERS_MAX 9
#define CONF_NODE_MAX 63 /* greatest node id */

#define CONF_CTYPE_STR(key) char key[CONF_STRING_MAX]
#define CONF_CTYPE_LIST(key) char key[CONF_STRING_MAX]
#define CONF_CTYPE_U64(key) uint64_t key
#define CONF_CTYPE_BOOL(key) bool key
#define CONF_CTYPE_LEVEL(key) enum log_level key

struct conf_peer {
	uint64_t id;
	char addr[CONF_STRING_MAX];
};

struct conf {
#define SECTION(name, doc) struct {
#define X(section, key, type, def, min, max, unit, doc) CONF_CTYPE_##type(key);
#define END(name) } name;
#include "base/conf.tbl"
#undef SECTION
#undef X
#undef END
	/* Rows `N = host:port` of [peers], ascending by id; this node too. */
	struct conf_peer peer[CONF_PEERS_MAX];
	unsigned n_peers;
};

/* Defaults only. */
void conf_init(struct conf *c);
/* Defaults, then the file (NULL: none), then the environment.  The message of an
 * error begins with file:line or the variable's name. */
int conf_load(struct conf *c, const char *path, struct err *e);
/* "gateway.listen", "127.0.0.1:9000" */
int conf_set(struct conf *c, const char *name, const char *value,
	     struct err *e);
/* Parse the text of a file; `path` is only for messages. */
int conf_parse(struct conf *c, const char *text, size_t len, const char *path,
	       struct err *e);
/* What rows cannot say alone: peers, certificates that belong together, plain
 * text on other addresses than loopback.  Opens no file. */
int conf_check(const struct conf *c, struct err *e);

/* Address of a node, NULL if it has no row. */
const char *conf_peer_addr(const struct conf *c, uint64_t id);
/* Where this node waits for its peers: peers.listen or its own row. */
const char *conf_peer_listen(const struct conf *c);
/* The 16 bytes that stand for the cluster in files and links: SHA-256 of its
 * name, cut. */
void conf_cluster_id(const struct conf *c, uint8_t out[16]);

/* All parameters with defaults and docs, for --help. */
void conf_help(FILE *f);
/* As an INI file that conf_load reads back. */
void conf_print(const struct conf *c, FILE *f);
/* One page of Markdown (docs/params.md). */
void conf_doc(FILE *f);

#endif
