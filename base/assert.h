/* Assertions stay on in every build: a broken invariant ends the process, and
 * the journal makes the next one whole again.
 *   AN(x)  x must be true     AZ(x)  x must be zero     WRONG(why)  never here */
#ifndef QUIPU_BASE_ASSERT_H
#define QUIPU_BASE_ASSERT_H

void assert_fail(const char *expr, const char *file, int line, const char *func)
	__attribute__((noreturn, cold));

#define AN(x)                                                                  \
	do {                                                                   \
		if (__builtin_expect(!(x), 0))                                 \
			assert_fail(#x, __FILE__, __LINE__, __func__);         \
	} while (0)
#define AZ(x)                                                                  \
	do {                                                                   \
		if (__builtin_expect(!!(x), 0))                                \
			assert_fail("!(" #x ")", __FILE__, __LINE__,           \
				    __func__);                                 \
	} while (0)
#define WRONG(why) assert_fail(why, __FILE__, __LINE__, __func__)

#endif
