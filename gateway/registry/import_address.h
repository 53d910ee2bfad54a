/* Which addresses a URL from a stranger may lead to: those of the public internet, and no others. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <sys/socket.h>

#define IMPORT_URL_MAX 2048
#define IMPORT_HOST_LEN 300

/* IPv4 or IPv6; any other family is refused. Pure. Sources: IANA's IPv4 and IPv6 Special-Purpose Address Registries. */
bool import_address_is_public(const struct sockaddr *a);

/* host[:port] of a URL with http or https, no user part and only bytes that URLs have; ERR_INVALID names the field. */
int import_address_host(const char *url, bool *https, char out[IMPORT_HOST_LEN], const char *field, struct err *e);
/* Is host[:port] on the operator's list (commas between), with or without its port? */
bool import_address_is_listed(const char *list, const char *host);
