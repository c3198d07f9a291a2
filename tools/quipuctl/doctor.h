/* quipuctl doctor: what the nodes said (doctor.c), and what is wrong with it
 * (doctor_checks.c). */
#ifndef QUIPU_TOOLS_QUIPUCTL_DOCTOR_H
#define QUIPU_TOOLS_QUIPUCTL_DOCTOR_H

#include <jansson.h>
#include <stdint.h>

#define DOCTOR_NODES_MAX 64 /* node ids are 1..63 */

enum doctor_check {
#define X(id, name, means, what) DOCTOR_##id,
#include "tools/quipuctl/doctor.tbl"
#undef X
	DOCTOR_CHECKS
};

/* How bad: the exit status is that of the worst. */
enum doctor_grade { DOCTOR_GOOD, DOCTOR_WARN, DOCTOR_ERROR };

/* One node, as its admin socket answered. */
struct doctor_node {
	const char *where;   /* its data folder or socket, as it was given */
	char why[256];       /* it gave no answer; empty: the rest is there */
	json_t *status, *nodes, *shards, *stats, *config, *certs;
	int64_t skew_ms;     /* its clock minus ours; the way there is not in it */
};

struct doctor {
	struct doctor_node node[DOCTOR_NODES_MAX];
	unsigned n;
	json_t *findings;    /* [{id, grade, where, what}] */
	enum doctor_grade worst;
};

void doctor_find(struct doctor *d, enum doctor_check check, enum doctor_grade grade,
		 const char *where, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
/* All checks, over what is there. */
void doctor_checks(struct doctor *d);

#endif
