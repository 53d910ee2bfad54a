/* What the pull*.c files share. Not for others. */
#pragma once
#include "adapters/store.h"
#include "engine/pull.h"
#include <sys/types.h>

#define PULL_JOBS 4 /* files of so many adapters come at a time */
#define PULL_FILES 2
#define PULL_MESSAGE 160
#define PULL_KEEP_S 3 /* from the longest pull to the end of its keeper; twice that, and what it does is ended */
#define PULL_KILLED_WORDS "the process that fetched it ended"
#define PULL_GRACE_S 15 /* what a load waits beyond pull_s: by then the puller has ended any pull. With the longest pull_s below the gateway's 120 s for a load */

/* One message of the socket pair each; both ends are the same program. */
enum pull_op { PULL_GET, PULL_GO, PULL_NO, PULL_DROP };
struct pull_ask {
    enum pull_op op;
    uint32_t id; /* of the pull; not of a DROP */
    int max_rank;
    char digest[SHA256_HEX];
    struct base_desc base; /* of a GET: what the adapter is checked against */
};

enum pull_event { PULL_NEED, PULL_FULL, PULL_DONE };
struct pull_tell {
    enum pull_event what;
    uint32_t id;
    int64_t bytes;
    enum err_code code; /* of DONE; ERR_NONE: it is in the store */
    char why[PULL_MESSAGE];
};

/* The files of a digest as the gateway lists them. */
struct pull_file {
    const char *name; /* a constant */
    int64_t bytes;
    char sha256[SHA256_HEX];
};
struct pull_list {
    struct pull_file file[PULL_FILES];
    int64_t bytes;
};

/* pull_helper.c: forks. *fd is our end; *pid the process. */
int pull_helper_start(const struct pull_options *o, int *fd, pid_t *pid, struct err *e);
/* What its processes give up: of the store they have `folder` alone; `alone`: and start no process. 0 too where the setting says so. */
int pull_shut_in(const struct pull_options *o, const char *folder, bool alone, struct err *e);
int pull_ask_check(const struct pull_ask *a, struct err *e); /* ERR_INVALID: no engine says such a thing */

/* pull_keep.c: the whole life of a process; what it says goes to `up`. */
_Noreturn void pull_keep(const struct pull_options *o, const struct pull_ask *a, int up, bool confined, pid_t puller);
int pull_tell(int fd, enum pull_event what, uint32_t id, int64_t bytes, const struct err *e);
/* Away from its place, removed as far as that goes; what stays lies in tmp, and the log names it. ERR_IO: it is where it was. */
int pull_put_aside(const char *store, const char *digest, struct err *e);

/* pull_fetch.c: the header that says who asks. */
#define PULL_AUTH_MAX 544
int pull_read_auth(const char *token_file, char auth[PULL_AUTH_MAX], struct err *e);
/* In a process of its own, into the folder `dir`. need() is asked before a file is begun: 0, or -1 there is no room; full(), once, where the
 * disk is: 0, some of it is free now; is_cut() again and again: true ends it. */
struct pull_way {
    int (*need)(void *u, int64_t bytes, struct err *e);
    int (*full)(void *u, struct err *e);
    bool (*is_cut)(void *u);
    void *u;
};
int pull_fetch(const struct pull_options *o, const struct pull_ask *a, const struct pull_way *way, const char *dir, const char *auth, struct err *e);
/* ERR_ENGINE: it is no list of this digest's files, or they are larger than max_bytes together. */
int pull_list_parse(struct pull_list *out, const char *text, size_t n, const char *digest, int64_t max_bytes, struct err *e);
/* STORE/tmp, and in it the folder of a pull. */
int pull_temp(const char *store, char out[STORE_PATH_MAX], struct err *e);
int pull_temp_of(const char *store, uint32_t id, char out[STORE_PATH_MAX], struct err *e);

/* pull_cache.c: what the store holds. Under the caller's lock. */
struct pull_blob {
    char digest[SHA256_HEX];
    int64_t bytes, used_us, pulled_us; /* monotonic; pulled_us 0: before this start */
    struct pull_blob *next;
};
#define PULL_BUCKETS 1024
struct pull_cache {
    int64_t bytes, max_bytes; /* with what is reserved */
    int n;
    struct pull_blob *bucket[PULL_BUCKETS];
};
int pull_cache_read(struct pull_cache *c, const char *store, struct err *e); /* at the start */
void pull_cache_free(struct pull_cache *c);
struct pull_blob *pull_cache_find(struct pull_cache *c, const char *digest);
/* The room for it was reserved. NULL: no memory. */
struct pull_blob *pull_cache_add(struct pull_cache *c, const char *digest, int64_t bytes);
void pull_cache_remove(struct pull_cache *c, const char *digest); /* and its room */
/* Makes room for n bytes and reserves them: drop(u, digest) for the longest unused first of those that let_go(u, digest) gives. used_us(u, digest) is
 * when it was used last beside what the blob says; 0: never. -1: what is in use leaves too little (may_go(u, digest) says so of each beforehand); then
 * nothing was reserved, and nothing dropped. */
struct pull_keeper {
    bool (*may_go)(void *u, const char *digest);
    bool (*let_go)(void *u, const char *digest);
    int64_t (*used_us)(void *u, const char *digest);
    void (*drop)(void *u, const char *digest);
    void *u;
};
int pull_cache_reserve(struct pull_cache *c, int64_t n, const struct pull_keeper *k);
/* Drops, in the same order, until so many bytes went or nothing is left that may go; how many went. */
int64_t pull_cache_evict(struct pull_cache *c, int64_t bytes, const struct pull_keeper *k);
