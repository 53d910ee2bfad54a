/* What a standby may ask for: pages by a body's numbers, files by their paths. Read here, apart from who answers (feed.c). */
#pragma once
#include "base/json.h"
#include "gateway/db/db_pages.h"

struct feed_ask {
    struct db_snap_want want; /* its strings and ranges are in here */
    uint32_t range[DB_SNAP_RANGES][2];
    char names[SHA256_HEX];
    int64_t have; /* generation of the state that the standby keeps: what it asks for may be more than that */
    json_t *body; /* the caller's */
};

/* a->body -> the rest. ERR_INVALID. */
int feed_ask_read(struct feed_ask *a, struct err *e);

/* pepper, archive/usage_YYYYMM.db, blobs/ab/DIGEST/{adapter_config.json,adapter_model.safetensors}: nothing else is given. */
bool feed_gives(const char *path);
