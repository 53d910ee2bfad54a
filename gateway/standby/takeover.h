/* Takeover: how often these books were taken over by a standby, as engines are told (schema/ENGINE_API.md, X-Weft-Takeover). */
#pragma once
#include "gateway/db/db.h"

#define TAKEOVER_LEN 48

/* "TAG-N": TAG stands for the books that primary and standby share (an HMAC under their pepper), N counts. */
int takeover_read(struct db *d, char out[TAKEOVER_LEN], struct err *e);
