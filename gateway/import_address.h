/* Which addresses a URL from a stranger may lead to: those of the public internet, and no others. */
#pragma once
#include <stdbool.h>
#include <sys/socket.h>

/* IPv4 or IPv6; any other family is refused. Pure. Sources: IANA's IPv4 and IPv6 Special-Purpose Address Registries. */
bool import_address_is_public(const struct sockaddr *a);
