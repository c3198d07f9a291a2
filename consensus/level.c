#include "consensus/level.h"
#include "base/assert.h"

static const char *const names[] = { "ok", "warn", "refuse", "readonly" };

const char *level_name(enum level l)
{
	return (unsigned)l <= LEVEL_READONLY ? names[l] : "?";
}

static uint64_t percent(uint64_t total, unsigned points)
{
	return total / 100 * points + total % 100 * points / 100;
}

uint64_t level_reserve(const struct level_config *c, uint64_t total)
{
	return c->reserve < total / LEVEL_RESERVE_PART ? c->reserve
						       : total / LEVEL_RESERVE_PART;
}

uint64_t level_begin(const struct level_config *c, enum level l, uint64_t total)
{
	const unsigned used[] = { 0, c->warn, c->refuse, c->readonly };
	uint64_t reserve = level_reserve(c, total), room = 0;

	AN(l > LEVEL_OK && l <= LEVEL_READONLY);
	if (l == LEVEL_WARN)
		reserve *= 2;
	else if (l == LEVEL_READONLY)
		reserve /= 2;
	if (used[l] && used[l] < 100)
		room = percent(total, 100 - used[l]);
	return room > reserve ? room : reserve;
}

enum level level_of(const struct level_config *c, enum level was, uint64_t left,
		    uint64_t total)
{
	enum level l;

	for (l = LEVEL_READONLY; l > LEVEL_OK; l--) {
		uint64_t room = level_begin(c, l, total);

		/* One that never begins is never left behind either. */
		if (room && l <= was)
			room += percent(total, LEVEL_LEAVE_POINTS);
		if (left < room)
			return l;
	}
	return LEVEL_OK;
}

enum level level_median(enum level *v, unsigned n)
{
	unsigned i, k;

	AN(n);
	for (i = 1; i < n; i++) {
		enum level x = v[i];

		for (k = i; k && v[k - 1] > x; k--)
			v[k] = v[k - 1];
		v[k] = x;
	}
	return v[n / 2];
}
