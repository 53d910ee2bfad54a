/* A registry in a database with two tenants, for tests of what stands on it. */
#pragma once
#include "gateway/auth/auth_store.h"
#include "gateway/registry/registry.h"
#include "tests/unit/data_room.h"
#include <jansson.h>

#define BASE "smol"

struct reg_room {
    struct room r;
    struct auth *auth;
    struct registry *reg;
    char tenant[2][UUID_LEN];
};

static const struct actor tester = {"test", "", "", NULL, 0};

static int reg_setup(void **state)
{
    struct reg_room *g = calloc(1, sizeof *g);
    struct err e = {0};
    room_new(&g->r);
    room_start(&g->r);
    assert_ok(auth_open(&g->auth, g->r.db, &e), e);
    assert_ok(registry_open(&g->reg, g->r.db, &e), e);
    for (int i = 0; i < 2; i++) {
        json_t *out;
        assert_ok(tenant_create(g->auth, &tester, i ? "beta" : "alpha", 1, &out, &e), e);
        snprintf(g->tenant[i], UUID_LEN, "%s", json_string_value(json_object_get(out, "id")));
        json_decref(out);
    }
    *state = g;
    return 0;
}

static int reg_teardown(void **state)
{
    struct reg_room *g = *state;
    registry_close(g->reg);
    auth_close(g->auth);
    room_end(&g->r);
    free(g);
    return 0;
}

static int add_on(struct reg_room *g, int tenant, const char *name, int n, const char *base, bool *created)
{
    struct version_new v = {.rank = 8, .modules = 5, .scale = 2, .bytes = 1000};
    struct err e = {0};
    int version = 0;
    snprintf(v.tenant, sizeof v.tenant, "%s", g->tenant[tenant]);
    snprintf(v.name, sizeof v.name, "%s", name);
    snprintf(v.digest, sizeof v.digest, "%s", digest(n));
    snprintf(v.file_sha256, sizeof v.file_sha256, "%s", digest(n));
    snprintf(v.base, sizeof v.base, "%s", base);
    assert_ok(registry_add(g->reg, &tester, &v, &version, created, &e), e);
    return version;
}
