/* What the pool*.c files share. Not for others. */
#pragma once
#include "gateway/auth/auth.h"
#include "gateway/pool/engine.h"
#include "gateway/pool/place.h"
#include "gateway/pool/pool.h"
#include <pthread.h>

#define ENGINE_URL_LEN 256
#define ENGINE_PATH_LEN 1024
#define ENGINE_SECRET_LEN 512
#define ENGINE_CAPACITY 64 /* where the row does not say */
#define ENGINE_CAPACITY_MAX 100000
#define HOT_BUCKETS 1024
#define HOT_MAX 4096 /* adapters in flight that are counted one by one */

_Static_assert(POOL_ENGINES <= PLACE_MAX && POOL_ENGINES <= 64, "a bit each");

/* A row of the table `engine`, or what the settings say. */
struct engine_row {
    char name[NAME_MAX_LEN + 1];
    enum engine_kind kind;
    char base[ENGINE_BASE_LEN]; /* "" (settings): the engine's own */
    char url[ENGINE_URL_LEN], model[ENGINE_PATH_LEN], secret[ENGINE_SECRET_LEN];
    struct json_t *settings; /* owned; an object */
    bool local;
    int capacity;
    enum member_state state;
    int64_t revision, created; /* s */
};

enum member_news { NEWS_EJECTED = 1, NEWS_DOWN = 2, NEWS_BACK = 4 };

struct member {
    struct pool *pool;
    struct engine *g;
    struct engine_row row;
    bool own; /* of the settings: not in the table */
    uint64_t hash;
    int slot;

    /* Covered by the pool's lock. */
    int refs; /* the pool's own, picks, and who looks */
    bool removed;
    int in_flight;
    struct place_health health;
    uint64_t lives;             /* of the engine, when last seen */
    char base[ENGINE_BASE_LEN]; /* served; "" not known yet */
    char digest[SHA256_HEX];    /* of the base; "" it does not say */
    int max_context;
    bool conflict; /* an older member serves another base under this name */
    bool was_up;
    unsigned news; /* for the keeper to tell */
    int64_t picked, lost, ejections, refused;
};

/* An adapter that has requests in flight. */
struct pool_hot {
    char digest[SHA256_HEX];
    int in_flight;
    int at[POOL_ENGINES];
    struct pool_hot *next;
};

struct pool {
    struct pool_options o;
    struct engine_options spawn; /* strings belong to the program */
    char run[768];
    pthread_mutex_t changing; /* one change of rows at a time; before `lock` */
    pthread_mutex_t lock;     /* covers the rest; the engines' own locks may be taken under it */
    pthread_cond_t wake;
    struct member *m[POOL_ENGINES];     /* by slot; NULL: free */
    struct member *dying[POOL_ENGINES]; /* removed, by slot: it stays taken until nothing is in flight there */
    struct pool_hot *hot[HOT_BUCKETS];
    int nhot;
    pthread_t keeper;
    bool kept, stop;
};

/* pool.c */
void member_refresh(struct member *m, int64_t now_us);       /* under the lock */
bool member_usable(const struct member *m);                  /* under the lock: it may be picked, if its state allows */
struct member *member_ref(struct pool *p, const char *name); /* NULL: none */
void member_unref(struct member *m);
/* Refs of all that are there, in slots' order; the count. */
int members_ref(struct pool *p, struct member *out[POOL_ENGINES]);

/* pool_keep.c: members begin and end. */
int member_add(struct pool *p, const struct engine_row *row, const struct engine_options *own, struct err *e);
/* The same in the place of one that is retired in that moment; where it fails, that one stays. */
int member_replace(struct pool *p, struct member *old, const struct engine_row *row, struct err *e);
/* Would member_add() take it? What can't be opened must not come into the table. */
int member_check(const struct pool *p, const struct engine_row *row, struct err *e);
void member_retire(struct pool *p, struct member *m); /* nothing new goes there; closed when nothing is in flight */
int keeper_start(struct pool *p, struct err *e);
void keeper_stop(struct pool *p, bool keep, int grace_ms);

/* pool_rows.c */
int rows_load(struct pool *p, struct err *e);
void row_close(struct engine_row *r);
/* With settings of its own: rows, engines and answers end in threads of their own, and what json_decref() does is not ordered between threads (it reads
 * the count plainly, and the last one frees without having acquired what the others did). -1: no memory, *to untouched. */
int row_copy(struct engine_row *to, const struct engine_row *from, struct err *e);

/* pool_view.c */
struct json_t *member_json(struct member *m);
/* The same of a row that is about to be in force; m NULL: there is no such engine yet. */
struct json_t *row_answer(const struct engine_row *r, struct member *m);
