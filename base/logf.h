/* Structured logging: one logfmt line per event on stderr.
 *   log_event(LOG_INFO, "leader", "shard=%u term=%" PRIu64, shard, term);
 * gives  ts=2026-01-02T03:04:05.678Z level=info event=leader shard=1 term=2
 * An event has a row in base/event.tbl, from which docs/events.md is made.
 * Values with blanks are the caller's to quote (log_quote).  Never log bodies,
 * tokens or keys. */
#ifndef QUIPU_BASE_LOGF_H
#define QUIPU_BASE_LOGF_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_set_level(enum log_level min);
/* Where lines go instead of stderr (tests, simulator); NULL: stderr. */
void log_set_sink(void (*sink)(void *arg, const char *line), void *arg);
void log_event(enum log_level level, const char *event, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* "text" with quotes and control characters escaped, in a small ring of static
 * per-thread buffers (4 uses per line). */
const char *log_quote(const char *s);

#endif
