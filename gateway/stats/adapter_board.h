/* Board of adapters: every version with what was asked of it in some days, to be filtered, ordered and turned by pages in
 * memory: the operator's list of ten thousand adapters by requests, size, last use or cold loads.
 *
 * A board is immutable and shared. Those of everybody are kept, one for each of the last BOARDS_KEPT ranges, for BOARD_REST
 * times as long as they took to make, so that looking at one all day costs a small part of one core. One that took long
 * (BOARD_LONG_US: some thousand adapters, or a long range) is then still told for BOARD_STALE_S while it is made anew
 * behind the answer: only the first one who asks waits, and the ranges that dashboards open with are made before anybody asks.
 * All that are kept take BOARD_BYTES_MAX at most, or are one. A tenant's own is made for each question. */
#pragma once
#include "gateway/auth/auth.h"
#include "gateway/db/db.h"
#include "gateway/registry/registry.h"

#define BOARD_REST 20
#define BOARDS_KEPT 8
#define BOARD_LONG_US 25000
#define BOARD_STALE_S 300
#define BOARD_MAX 200000 /* versions */
#define BOARD_BYTES_MAX (96u << 20)

struct board_row {
    char tenant_id[UUID_LEN], tenant[NAME_MAX_LEN + 1], adapter[NAME_MAX_LEN + 1];
    int version, rank;
    bool pinned;
    char state[16], kind[16], digest[SHA256_HEX];
    int64_t adapter_row, bytes, created;   /* created: wall us */
    int64_t last_used;                     /* wall us, whenever it was; 0: never */
    int64_t n, tokens, cost, errors, cold; /* of the days */
    int64_t ttft_us, load_us;
};

struct board {
    int n;
    struct board_row *row; /* by tenant's name, adapter, version */
};

struct boards;
struct boards *boards_new(struct db *d); /* NULL: no memory */
void boards_free(struct boards *b); /* after db_close() */

/* Of one tenant (id), or all (NULL); days from start's to end's, Unix seconds. Blocks. Give it back by board_unref(). */
int board_get(struct boards *b, const char *tenant, int64_t start, int64_t end, const struct board **out, struct err *e);
void board_unref(struct boards *b, const struct board *x);
/* To be called now and then: makes, behind, those of the last 1, 7, 30 and 90 days once a day (UTC), the first time at once. */
void boards_tick(struct boards *b, int64_t now);
int boards_kept(struct boards *b); /* how many */

enum board_sort { BOARD_NAME, BOARD_LAST_USED, BOARD_REQUESTS, BOARD_BYTES, BOARD_COLD, BOARD_SORTS };
extern const char *const board_sort_word[BOARD_SORTS + 1]; /* ended by NULL */

struct board_ask {
    const char *state, *q;    /* only these; NULL: any. q: a part of TENANT/ADAPTER */
    int64_t idle_since;       /* only those not used since, wall us; 0: any */
    enum board_sort sort;     /* by name upwards, by all else downwards */
    const char *after;        /* a cursor of board_cursor(); NULL or "": from the first */
    int limit;
    /* The state of a row at this moment, "" of one that is gone; NULL: what the board says, which may be old. */
    const char *(*state_now)(void *u, const struct board_row *r);
    void *user;
};
#define BOARD_CURSOR_LEN 192
/* The rows that answer, at most limit + 1; ERR_INVALID: no cursor of this order. */
int board_pick(const struct board *x, const struct board_ask *a, const struct board_row **out, int *n, struct err *e);
void board_cursor(const struct board_row *row, enum board_sort sort, char out[BOARD_CURSOR_LEN]);
