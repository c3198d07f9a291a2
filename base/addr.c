#include "base/addr.h"

#include <arpa/inet.h>
#include <string.h>

int addr_parse(struct addr *a, const char *text, struct err *e)
{
	const char *colon, *host = text, *p;
	size_t len;
	uint32_t port = 0;

	if (*text == '[') {
		const char *end = strchr(text, ']');

		if (!end || end[1] != ':')
			return err_set(e, ERR_CONFIG,
				       "\"%s\": expected [address]:port", text);
		host = text + 1;
		len = (size_t)(end - host);
		colon = end + 1;
	} else {
		colon = strrchr(text, ':');
		if (!colon)
			return err_set(e, ERR_CONFIG,
				       "\"%s\": expected host:port", text);
		len = (size_t)(colon - host);
		if (memchr(host, ':', len))
			return err_set(e, ERR_CONFIG,
				       "\"%s\": an IPv6 address needs "
				       "brackets: [address]:port", text);
	}
	if (len == 0)
		return err_set(e, ERR_CONFIG, "\"%s\": no host before the port",
			       text);
	if (len >= sizeof a->host)
		return err_set(e, ERR_CONFIG, "host name of %zu bytes is too "
			       "long", len);
	for (p = host; p < host + len; p++)
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return err_set(e, ERR_CONFIG,
				       "\"%s\": blank in the host", text);
	p = colon + 1;
	if (!*p)
		return err_set(e, ERR_CONFIG, "\"%s\": no port", text);
	for (; *p; p++) {
		if (*p < '0' || *p > '9')
			return err_set(e, ERR_CONFIG,
				       "\"%s\": the port is not a number", text);
		port = port * 10 + (uint32_t)(*p - '0');
		if (port > 65535)
			return err_set(e, ERR_CONFIG,
				       "\"%s\": the port is above 65535", text);
	}
	memcpy(a->host, host, len);
	a->host[len] = 0;
	a->port = (uint16_t)port;
	return 0;
}

bool addr_is_loopback(const struct addr *a)
{
	struct in6_addr six;
	struct in_addr four;

	if (strcmp(a->host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, a->host, &four) == 1)
		return ntohl(four.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, a->host, &six) == 1)
		return IN6_IS_ADDR_LOOPBACK(&six);
	return false;
}
