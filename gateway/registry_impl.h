/* What registry.c (snapshot), registry_change.c and registry_list.c (JSON) share. */
#pragma once
#include "gateway/db_audit.h"
#include "gateway/registry.h"
#include <pthread.h>

struct known {
    char tenant[UUID_LEN];
    char name[NAME_MAX_LEN + 1];
    char digest[SHA256_HEX];
    char base[128];
    int64_t adapter_row, version_row;
    int version;
    bool ready;
};

struct catalog {
    int refs;        /* under registry.lock */
    struct known *v; /* by tenant, name, version descending */
    size_t n, cap;
    const char **digests; /* sorted */
};

struct registry {
    struct db *db;
    pthread_mutex_t lock;      /* covers `now` and every refs */
    pthread_mutex_t reloading; /* one at a time, so an older state never replaces a newer one */
    struct catalog *now;
};
