/* Imports: an adapter's two files fetched from where a tenant says, without becoming a way into our own network. */
#pragma once
#include "gateway/gateway.h"
#include "gateway/registry/import_address.h"
#include <stdatomic.h>

/* What POST .../import says, as the text that an upload's row keeps. url: a folder that holds both files, or both their
 * own; sha256: of the weights, or NULL. ERR_INVALID names the field. *text is malloc'ed. */
struct import_ask {
    const char *url, *config_url, *weights_url, *sha256;
};
int import_write(const struct gateway *g, const struct import_ask *a, char **text, struct err *e);

/* Fetches both files into `dir`. Blocks up to the setting import_s for each. ERR_INVALID: an address, redirect or sum that is
 * refused; ERR_TOO_LARGE; ERR_UPSTREAM_TIMEOUT; ERR_UNAVAILABLE, ERR_ENGINE: the other side. */
int import_fetch(struct gateway *g, const char *text, const char *dir, const atomic_bool *stop, struct err *e);
