/* What the parts of the standby share: standby.c (the process), follow.c and fetch.c (the network), redo.c (what is received), apply.c (the folder), promote.c. Nobody
 * else includes it. */
#pragma once
#include "base/json.h"
#include "base/sha256.h"
#include "gateway/registry/files.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define STANDBY_MARK ".standby"
#define STANDBY_DIR_MAX 500
#define STANDBY_NAMES_MAX (32u << 20)
#define LOOK_S 60    /* a look that lasts longer is broken off between two answers; the next goes on */
#define MISSING_A_LOOK 16 /* files that the primary could not give, and that are asked for again */
#define BLOB_LINE 74 /* "blobs/ab/" and 64 digits and a line's end */

/* Which state of the primary it is. gen 0: what the folder holds is not known to be one of this epoch. */
struct state {
    char epoch[UUID_LEN], tag[SHA256_HEX], names[SHA256_HEX];
    int64_t gen, pages, page_size;
    int64_t wall_us;  /* the moment, by the primary's clock */
    int64_t asked_us; /* by ours: it was not yet over when this was noted */
};

/* What a digest, or a tag, said of something that came or lies here; the metric's label. */
enum standby_check { CHECK_ANSWER, CHECK_LIST, CHECK_MONTH, CHECK_PEPPER, CHECK_REDO, CHECKS };

struct standby_stats {
    int64_t syncs, failures, received, last_bytes, last_pages, took_us, compared;
    int64_t receiving; /* pages of the next state that are here */
    int64_t missing;   /* files of the state that the primary could not give */
    int64_t unverified[CHECKS];
    char why[400];     /* of the last failure; "" after a success */
    char warning[400]; /* what would be wrong with a promotion now, though the last look went well; "": nothing */
    bool too_new;      /* this program can't open the state */
};

/* What is received, until it is a whole state. fd -1: nothing is. */
struct redo {
    const struct standby *s;
    int fd;
    int64_t page_size;
    uint32_t *slot; /* [cap], of page 1 and on: where it stands among the records, from 1 on; 0: it did not come */
    uint32_t cap, count;
};

/* How far the next state is. Kept from look to look: one that is cut, or takes too long, is gone on with. */
struct receiving {
    struct redo redo;
    bool known;           /* else redo and weft.db together are no state that the primary knows: their pages are compared */
    char epoch[UUID_LEN]; /* the next question: of this epoch, */
    int64_t since, from;  /* what changed after `since`, from page `from` on; */
    uint32_t (*range)[2]; /* and these pages, changed or not */
    int nranges;
    int64_t first; /* generation of this round's first answer: what the next round asks for changed after it */
    int rounds;    /* that took several answers */
    bool is_newer; /* the primary knows what PARCEL_VERSION says */
};

struct standby {
    const char *from, *token_file, *ca_file, *dir;
    char token[512], headers[600];
    double every_s;
    int lock;
    struct state state; /* the last complete one; epoch "": there is none. Changed under `lock_stats` */
    struct buf names;   /* the list of it */
    struct buf missing; /* those of its lines whose files the primary could not give; as in DIR/standby/missing */
    int64_t missing_turn; /* the first of those lines that the next look asks for */
    bool was_walked;    /* the whole list was looked through since the start */
    bool has_foreign;   /* standby/redo is another version's: it stays until a whole state takes its place */
    char odd[200];      /* the line of a month that was another file at the last look */
    struct receiving rx;
    bool (*is_asked_to_end)(void);
    pthread_mutex_t lock_stats;
    struct standby_stats stats;
};

/* DIR/NAME */
void standby_path(const struct standby *s, const char *name, char out[FILES_PATH_MAX]);

/* Something was not what its digest says: one more of those. */
void standby_count(struct standby *s, enum standby_check what);

/* --- redo.c --- */

#define REDO_MAGIC "WEFTRED"
#define REDO_MAGIC_LEN 7
#define REDO_VERSION '2' /* of redo, fresh and state.json: a new one where a program that knows only the old could misread what is there */
#define REDO_HEAD 16
#define REDO_UNCHANGED 0xFFFFFFFFu
#define REDO_PAGE_MAX 65536
#define STATE_TEXT_MAX 4096

/* Takes up what a process before left: which pages it has is known, not of which moments. Nothing: fd -1. */
void redo_take_up(struct redo *r, const struct standby *s);
int redo_begin(struct redo *r, const struct standby *s, int64_t page_size, struct err *e); /* goes on where there is one */
int redo_pages(struct redo *r, uint32_t count, const void *records, struct err *e);        /* each: be32 number, page */
bool redo_page(const struct redo *r, uint32_t pgno, void *out);                            /* false: it did not come */
/* From here on it is the state: a kill later is followed by apply_redo(). Room for the database was taken before. list NULL: as before. */
int redo_seal(struct redo *r, const struct state *to, const struct buf *list, struct err *e);
void redo_drop(struct redo *r); /* not sealed */
void redo_close(struct redo *r); /* the file stays */

/* --- apply.c --- */

json_t *state_json(const struct state *t);

/* Where there is a sealed one: applies it. *applied: there was. ERR_INVALID: it is torn, and nothing was changed. ERR_UNSUPPORTED: another version's. */
int apply_redo(struct standby *s, bool *applied, struct err *e);
/* Where a kill, or a disk that refused, left one. One that is torn, or another version's: who follows goes on as if there were no state, promote refuses. */
int apply_left(struct standby *s, bool follows, struct err *e);

int state_read(const struct standby *s, struct state *out, struct err *e); /* ERR_NOT_FOUND */
int state_write(const struct standby *s, const struct state *st, struct err *e);
int names_read(struct standby *s, struct err *e); /* of the last complete state; absent is fine */
int missing_read(struct standby *s, struct err *e); /* the same */
/* The tag (parcel.h) of a pepper in DIR/NAME; "": there is none, "?": that is none. */
int pepper_tag(const struct standby *s, const char *name, char out[SHA256_HEX], struct err *e);

int check_version(const struct standby *s, struct err *e); /* ERR_CONFLICT: of a newer program */

/* The lock, the folders, the mark; finishes or throws away what a kill left. from NULL: DIR must be a standby's already. */
int standby_open(struct standby *s, const char *from, struct err *e);
void standby_close(struct standby *s);

/* --- follow.c, fetch.c --- */

/* One look. */
struct follow {
    struct standby *s;
    char pepper[SHA256_HEX]; /* the tag of the one that is here */
    struct state to;
    int64_t until_us; /* monotonic: when the look has lasted long enough */
    bool is_unfinished;
    char *answer; /* the last parcel, and its parts */
    json_t *head;
    const char *bytes;
    size_t len;
    int64_t received, pages, compared;
    struct buf list; /* of the files that the state names, where it is another than before */
    bool new_list;
    int status;         /* of the last answer; 0: none came */
    struct buf missing; /* lines of files that the primary itself can't give */
    int64_t was_missing; /* lines so far of files that it could not give before */
};

/* The answer is in f until the next one. */
int ask(struct follow *f, const char *method, const char *path, const json_t *body, struct err *e);
bool is_long(struct follow *f, struct err *e); /* whether the look is to be gone on with later */

/* The pepper, and the files that the state names and that are not here: months into in/, adapters' bytes to their place. */
int fetch_files(struct follow *f, struct err *e);
int keep_missing(struct standby *s, const struct buf *list, struct err *e); /* of the state that is there: a promotion tells of them, a start asks for them */

/* Once: asks, receives, applies. 1: it took too long to be whole, and goes on at the next call. */
int standby_follow(struct standby *s, struct err *e);
int standby_read_token(struct standby *s, struct err *e);

/* --- promote.c --- */

bool standby_is_promoted(const struct standby *s); /* a promotion of the folder is under way: who follows ends, and none begins */
