#include "tools/bench/traffic.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"
#include "base/map.h"
#include "base/rand.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define LINE_BYTES_MAX 65536
#define COLUMNS 5

static void add(struct traffic *t, uint32_t from, uint32_t to, size_t at)
{
	if ((t->n & (t->n - 1)) == 0)
		t->texts = xrealloc(t->texts, (t->n ? 2 * (size_t)t->n : 1) *
						      sizeof *t->texts);
	t->texts[t->n++] = (struct text){ .from = from, .to = to,
					  .at = (uint32_t)at,
					  .len = (uint32_t)(t->bytes.len - at) };
}

/* Ranks and chains, once all messages are there. */
static void link_up(struct traffic *t)
{
	uint32_t *last = xcalloc(t->n_users, sizeof *last), i;
	struct map pairs;

	map_init(&pairs);
	t->first = xcalloc(t->n_users, sizeof *t->first);
	t->expected = xcalloc(t->n_users, sizeof *t->expected);
	for (i = 0; i < t->n; i++) {
		struct text *x = &t->texts[i], *prev;
		uint64_t pair = ((uint64_t)x->from << 32 | x->to) + 1;

		x->rank = 1;
		if (last[x->from]) {
			prev = &t->texts[last[x->from] - 1];
			prev->next = i + 1;
			x->rank = prev->rank + 1;
		} else {
			t->first[x->from] = i + 1;
			t->n_senders++;
		}
		last[x->from] = i + 1;
		prev = map_put(&pairs, pair, x);
		if (prev) {
			/* texts does not move any more */
			x->after = prev->rank;
			x->prev = (uint32_t)(prev - t->texts) + 1;
		}
		t->n_recipients += !t->expected[x->to]++;
	}
	map_release(&pairs);
	free(last);
}

/* ---- from a file ---------------------------------------------------------------------- */

static uint32_t user_of(struct traffic *t, struct map *names, const char *s,
			size_t n)
{
	uint64_t key = xxh3(s, n);
	void *v = map_get(names, key);

	if (!v) {
		v = (void *)(size_t)(++t->n_users);
		map_put(names, key, v);
	}
	return (uint32_t)(size_t)v - 1;
}

static bool unescape(struct buf *out, const char *s, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		char c = s[i];

		if (c == '\\') {
			if (++i == n)
				return false;
			switch (s[i]) {
			case '\\': c = '\\'; break;
			case 't': c = '\t'; break;
			case 'n': c = '\n'; break;
			case 'r': c = '\r'; break;
			default: return false;
			}
		}
		buf_u8(out, (uint8_t)c);
	}
	return true;
}

static bool take_line(struct traffic *t, struct map *names, const char *line,
		      size_t n)
{
	const char *col[COLUMNS], *end = line + n;
	size_t len[COLUMNS], at = t->bytes.len;
	unsigned i;

	for (i = 0; i < COLUMNS; i++) {
		const char *tab = memchr(line, '\t', (size_t)(end - line));

		col[i] = line;
		len[i] = (size_t)((tab ? tab : end) - line);
		if ((tab == NULL) != (i == COLUMNS - 1))
			return false;
		line = tab ? tab + 1 : end;
	}
	if (!unescape(&t->bytes, col[4], len[4]))
		return false;
	add(t, user_of(t, names, col[1], len[1]),
	    user_of(t, names, col[2], len[2]), at);
	return true;
}

int traffic_load(struct traffic *t, const char *path, uint32_t max,
		 struct err *e)
{
	char *line = xmalloc(LINE_BYTES_MAX);
	gzFile f = gzopen(path, "rb");
	struct map names;
	uint32_t number = 0;
	int rv = 0, z;

	memset(t, 0, sizeof *t);
	if (!f) {
		free(line);
		return err_errno(e, errno, "%s", path);
	}
	map_init(&names);
	while (!rv && gzgets(f, line, LINE_BYTES_MAX)) {
		size_t n = strlen(line);

		if (n && line[n - 1] == '\n')
			n--;
		if (number++ == 0)
			continue; /* names of the columns */
		if (max && t->n == max)
			break;
		if (!take_line(t, &names, line, n))
			rv = err_set(e, ERR_FORMAT, "%s: line %u is not id, from, "
				     "to, time, text", path, number);
	}
	if (!rv && gzerror(f, &z) && z != Z_OK && z != Z_STREAM_END)
		rv = err_set(e, ERR_FORMAT, "%s: %s", path, gzerror(f, &z));
	if (!rv && !t->n)
		rv = err_set(e, ERR_FORMAT, "%s: no messages", path);
	gzclose(f);
	free(line);
	map_release(&names);
	if (!rv)
		link_up(t);
	return rv;
}

/* ---- made up --------------------------------------------------------------------------- */

#define SENDERS 343
#define RECIPIENTS 2699
#define UNKNOWN_PERMILLE 215 /* 12,017 of 55,835 go to one recipient */

static double unit(struct rand *r) /* (0, 1) */
{
	return ((double)(rand_u64(r) >> 11) + 0.5) / 9007199254740992.0;
}

/* Median 36 bytes, 99 of 100 under 255, none over 910. */
static size_t size_of(struct rand *r)
{
	double z = sqrt(-2 * log(unit(r))) * cos(6.283185307179586 * unit(r));
	double v = 36 * exp(0.842 * z);

	return v < 1 ? 1 : v > 910 ? 910 : (size_t)v;
}

static void put_text(struct buf *out, size_t n, struct rand *r)
{
	static const char *const words[] = {
		"ok ", "see ", "you ", "later ", "haha ", "where ", "are ", "we ",
		"eating ", "tonight? ", "the bus is late ", "call me ", "\xf0\x9f"
		"\x98\x80 ", "\xe5\xa5\xbd ", "lah ", "can't, sorry\n", "1830 ",
		"\\o/ ", "what\ttime ", "home already ",
	};
	size_t at = out->len;

	while (out->len - at < n)
		buf_puts(out, words[rand_below(r, sizeof words / sizeof *words)]);
	out->len = at + n; /* may cut a character: bodies are bytes */
}

/* Index with weight 1/(i + shift)^power, of n; `sums` are running sums. */
static uint32_t pick(const double *sums, uint32_t n, struct rand *r)
{
	double v = unit(r) * sums[n - 1];
	uint32_t lo = 0, hi = n - 1;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (sums[mid] < v)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void traffic_make(struct traffic *t, uint32_t n, uint64_t seed)
{
	double senders[SENDERS], pals[RECIPIENTS / SENDERS + 1], sum = 0;
	uint32_t counts[SENDERS] = { 0 }, i, k, n_pals = RECIPIENTS / SENDERS + 1;
	struct rand r;

	memset(t, 0, sizeof *t);
	rand_seeded(&r, seed);
	for (i = 0; i < SENDERS; i++)
		senders[i] = sum += pow(i + 4.0, -1.5);
	for (i = 0, sum = 0; i < n_pals; i++)
		pals[i] = sum += 1.0 / (i + 1.0);
	for (i = 0; i < n; i++)
		counts[pick(senders, SENDERS, &r)]++;
	/* As in the corpus, where one giver's messages stand together. */
	for (i = 0; i < SENDERS; i++) {
		for (k = 0; k < counts[i]; k++) {
			uint32_t pal = i + SENDERS * pick(pals, n_pals, &r);
			size_t at = t->bytes.len;

			put_text(&t->bytes, size_of(&r), &r);
			if (rand_permille(&r, UNKNOWN_PERMILLE))
				pal = 0;
			add(t, i, SENDERS + pal % RECIPIENTS, at);
		}
	}
	t->n_users = SENDERS + RECIPIENTS;
	link_up(t);
}

void traffic_release(struct traffic *t)
{
	free(t->texts);
	free(t->first);
	free(t->expected);
	buf_release(&t->bytes);
}
