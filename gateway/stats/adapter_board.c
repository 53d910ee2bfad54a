/* adapter_board: makes boards, keeps those of everybody, and picks from them (see adapter_board.h).
 *
 *     versions, by one query -> for each the rows of its days, newest first, up to the start -> kept: range, made, refs
 *
 * Ten thousand versions are ten thousand short ranges of rollup_adapter's primary key; a scan of the table would read all
 * days that were ever kept, and a sum per order an index for each. A cursor is the value and the name of a row, a place in
 * the order: it holds while counts grow, and nobody is told twice who has not moved.
 *
 * `lock` covers the kept boards and all references. Two who ask first at the same moment may both make one; the later is
 * kept. */
#include "gateway/stats/adapter_board.h"
#include "base/clock.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 5000
#define AHEAD_TRIES 8 /* of one that takes longer, on a disk that is cold: each finds more of it in memory */
#define DAY 86400

static const int ahead_days[] = {1, 7, 30, 90}; /* the ranges of the dashboard's list that move */
#define AHEAD (int)(sizeof ahead_days / sizeof *ahead_days)

const char *const board_sort_word[BOARD_SORTS + 1] = {"name", "last_used", "requests", "bytes", "cold", NULL};

struct made {
    struct board board; /* first: a board is its own */
    int refs;
    int64_t start, end;            /* days */
    int64_t made_us, took_us;      /* monotonic */
    bool again;                    /* it is being made anew */
    int cap;
};

struct boards {
    struct db *db;
    pthread_mutex_t lock;
    struct made *kept[BOARDS_KEPT]; /* the last used first */
    int64_t ahead_day;              /* made ahead for; 0: never. The ticking thread's */
};

struct boards *boards_new(struct db *d)
{
    struct boards *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    b->db = d;
    pthread_mutex_init(&b->lock, NULL);
    return b;
}

static void made_free(struct made *m)
{
    free(m->board.row);
    free(m);
}

/* Under the lock. */
static void drop(struct made *m)
{
    if (m && --m->refs == 0) made_free(m);
}

void boards_free(struct boards *b)
{
    if (!b) return;
    for (int i = 0; i < BOARDS_KEPT; i++) drop(b->kept[i]);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

void board_unref(struct boards *b, const struct board *x)
{
    if (!x) return;
    pthread_mutex_lock(&b->lock);
    drop((struct made *)x);
    pthread_mutex_unlock(&b->lock);
}

/* --- making one --- */

struct make {
    struct made *m;
    const char *tenant;
};

static struct board_row *new_row(struct made *m, struct err *e)
{
    if (m->board.n == BOARD_MAX) {
        err_set(e, ERR_TOO_LARGE, "more than %d versions of adapters; ask for one tenant's", BOARD_MAX);
        return NULL;
    }
    if (m->board.n == m->cap) {
        int cap = m->cap ? 2 * m->cap : 256;
        struct board_row *more = realloc(m->board.row, (size_t)cap * sizeof *more);
        if (!more) {
            err_set(e, ERR_NO_MEMORY, "no memory for %d adapters", cap);
            return NULL;
        }
        m->board.row = more;
        m->cap = cap;
    }
    return &m->board.row[m->board.n++];
}

/* Seven a version: snprintf() took a fifth of a board's time. */
static void copy(char *out, size_t size, sqlite3_stmt *st, int column)
{
    const char *text = db_text(st, column);
    size_t n = strnlen(text, size - 1);
    memcpy(out, text, n);
    out[n] = 0;
}

static int read_versions(struct db *d, sqlite3 *c, struct make *x, struct err *e)
{
#define VERSIONS \
    "SELECT t.id, t.name, a.name, v.version, v.rank, v.pinned, v.state, v.kind, v.digest, a.row, v.bytes, v.created" \
    " FROM tenant t CROSS JOIN adapter a ON a.tenant = t.id CROSS JOIN version v ON v.adapter = a.row"
#define ORDER " ORDER BY t.name, a.name, v.version"
    static const char all[] = VERSIONS " WHERE ?1 IS NULL" ORDER, own[] = VERSIONS " WHERE t.id = ?1" ORDER;
#undef VERSIONS
#undef ORDER
    sqlite3_stmt *st = db_stmt(d, c, x->tenant ? own : all, e);
    if (!st || db_bind(st, e, "s", x->tenant)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        struct board_row *r = new_row(x->m, e);
        if (!r) return -1;
        *r = (struct board_row){.version = sqlite3_column_int(st, 3),
                                .rank = sqlite3_column_int(st, 4),
                                .pinned = sqlite3_column_int(st, 5),
                                .adapter_row = sqlite3_column_int64(st, 9),
                                .bytes = sqlite3_column_int64(st, 10),
                                .created = sqlite3_column_int64(st, 11)};
        copy(r->tenant_id, sizeof r->tenant_id, st, 0);
        copy(r->tenant, sizeof r->tenant, st, 1);
        copy(r->adapter, sizeof r->adapter, st, 2);
        copy(r->state, sizeof r->state, st, 6);
        copy(r->kind, sizeof r->kind, st, 7);
        copy(r->digest, sizeof r->digest, st, 8);
    }
    return rc;
}

/* Newest day first: the first row of a request has the last use (a day on which something was only credited has none), and nothing older than it and
 * the start is read. */
static int read_use(sqlite3_stmt *st, const struct made *m, struct board_row *r, struct err *e)
{
    if (db_bind(st, e, "ssi", r->tenant_id, r->adapter, (int64_t)r->version)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        int64_t t = sqlite3_column_int64(st, 0), last = sqlite3_column_int64(st, 1);
        if (last > r->last_used) r->last_used = last;
        if (t < m->start && r->last_used) break;
        if (t < m->start || t >= m->end) continue;
        r->n += sqlite3_column_int64(st, 2);
        r->tokens += sqlite3_column_int64(st, 3);
        r->cost += sqlite3_column_int64(st, 4);
        r->errors += sqlite3_column_int64(st, 5);
        r->cold += sqlite3_column_int64(st, 6);
        r->ttft_us += sqlite3_column_int64(st, 7);
        r->load_us += sqlite3_column_int64(st, 8);
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int read_board(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT t, last_used, n, prompt + output, cost, errors, cold, ttft_us, load_us FROM"
                              " rollup_adapter WHERE tenant = ?1 AND adapter = ?2 AND version = ?3 ORDER BY t DESC";
    struct make *x = u;
    if (read_versions(d, c, x, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    for (int i = 0; i < x->m->board.n && st; i++)
        if (read_use(st, x->m, &x->m->board.row[i], e)) return -1;
    return st ? 0 : -1;
}

static struct made *make(struct boards *b, const char *tenant, int64_t start, int64_t end, struct err *e)
{
    int64_t began = clock_mono_us();
    struct made *m = calloc(1, sizeof *m);
    if (!m) {
        err_set(e, ERR_NO_MEMORY, "no memory for adapters");
        return NULL;
    }
    m->refs = 1;
    m->start = start;
    m->end = end;
    struct make x = {m, tenant};
    if (db_read(b->db, read_board, &x, READ_MS, e)) {
        made_free(m);
        return NULL;
    }
    m->made_us = clock_mono_us();
    m->took_us = m->made_us - began;
    return m;
}

static size_t bytes_of(const struct made *m) { return sizeof *m + (size_t)m->cap * sizeof *m->board.row; }

/* Under the lock: [i] to the front. */
static void to_front(struct boards *b, int i)
{
    struct made *m = b->kept[i];
    for (; i > 0; i--) b->kept[i] = b->kept[i - 1];
    b->kept[0] = m;
}

/* Under the lock: those that are left when the last used have taken the room. */
static void bound(struct boards *b)
{
    size_t bytes = 0;
    for (int i = 0; i < BOARDS_KEPT; i++) {
        bytes += b->kept[i] ? bytes_of(b->kept[i]) : 0;
        if (i == 0 || bytes <= BOARD_BYTES_MAX) continue;
        drop(b->kept[i]);
        b->kept[i] = NULL;
    }
}

/* In the place of one of the same range, else of the one that was used least lately. */
static void keep_made(struct boards *b, struct made *m)
{
    pthread_mutex_lock(&b->lock);
    int i = 0;
    while (i < BOARDS_KEPT - 1 && b->kept[i] && (b->kept[i]->start != m->start || b->kept[i]->end != m->end)) i++;
    drop(b->kept[i]);
    b->kept[i] = m;
    m->refs++;
    to_front(b, i);
    bound(b);
    pthread_mutex_unlock(&b->lock);
}

int boards_kept(struct boards *b)
{
    int n = 0;
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < BOARDS_KEPT; i++) n += b->kept[i] != NULL;
    pthread_mutex_unlock(&b->lock);
    return n;
}

struct again {
    struct boards *b;
    int64_t start, end;
};

static void make_again(void *u)
{
    struct again *a = u;
    struct made *m = make(a->b, NULL, a->start, a->end, NULL);
    if (m) {
        keep_made(a->b, m);
        board_unref(a->b, &m->board);
    }
    free(a);
}

static void ask_again(struct boards *b, int64_t start, int64_t end)
{
    struct again *a = malloc(sizeof *a);
    if (!a) return;
    *a = (struct again){b, start, end};
    if (db_defer(b->db, make_again, a, NULL)) free(a);
}

/* The kept one of this range, while it may be told; *again: and it is to be made anew. */
static struct made *find_kept(struct boards *b, int64_t start, int64_t end, bool *again)
{
    struct made *m = NULL;
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < BOARDS_KEPT && b->kept[i] && !m; i++) {
        if (b->kept[i]->start != start || b->kept[i]->end != end) continue;
        m = b->kept[i];
        to_front(b, i);
    }
    int64_t age = m ? now - m->made_us : 0;
    bool old = m && age > m->took_us * BOARD_REST;
    if (old && (m->took_us < BOARD_LONG_US || age > BOARD_STALE_S * 1000000LL)) m = NULL;
    *again = m && old && !m->again;
    if (m) m->again |= old, m->refs++;
    pthread_mutex_unlock(&b->lock);
    return m;
}

int board_get(struct boards *b, const char *tenant, int64_t start, int64_t end, const struct board **out, struct err *e)
{
    bool again = false;
    start -= start % DAY;
    end += (DAY - end % DAY) % DAY;
    struct made *m = tenant ? NULL : find_kept(b, start, end, &again);
    if (again) ask_again(b, start, end);
    if (!m) {
        if (!(m = make(b, tenant, start, end, e))) return -1;
        if (!tenant) keep_made(b, m);
    }
    *out = &m->board;
    return 0;
}

struct ahead {
    struct boards *b;
    int64_t today;
    int next, tries;
};

/* One at a time, so that who asks for something else is let in between. */
static void make_ahead(void *u)
{
    struct ahead *a = u;
    int64_t start = a->today - (int64_t)ahead_days[a->next] * DAY;
    struct made *m = make(a->b, NULL, start, a->today + DAY, NULL);
    bool more = m ? ++a->next < AHEAD && bytes_of(m) <= BOARD_BYTES_MAX / AHEAD : ++a->tries < AHEAD_TRIES;
    if (m) {
        keep_made(a->b, m);
        board_unref(a->b, &m->board);
    }
    if (!more || db_defer(a->b->db, make_ahead, a, NULL)) free(a);
}

void boards_tick(struct boards *b, int64_t now)
{
    int64_t today = now - now % DAY;
    if (today == b->ahead_day) return;
    struct ahead *a = malloc(sizeof *a);
    if (!a) return; /* at the next tick */
    *a = (struct ahead){.b = b, .today = today};
    if (db_defer(b->db, make_ahead, a, NULL))
        free(a);
    else
        b->ahead_day = today;
}

/* --- picking --- */

static int64_t value_of(const struct board_row *r, enum board_sort sort)
{
    switch (sort) {
    case BOARD_LAST_USED:
        return r->last_used;
    case BOARD_REQUESTS:
        return r->n;
    case BOARD_BYTES:
        return r->bytes;
    case BOARD_COLD:
        return r->cold;
    default:
        return 0;
    }
}

/* As a cursor says it. */
struct place {
    int64_t value;
    const char *tenant, *adapter;
    int version;
};

static struct place place_of(const struct board_row *r, enum board_sort sort)
{
    return (struct place){value_of(r, sort), r->tenant, r->adapter, r->version};
}

static int order(const struct place *a, const struct place *b)
{
    if (a->value != b->value) return a->value > b->value ? -1 : 1;
    int c = strcmp(a->tenant, b->tenant);
    if (!c) c = strcmp(a->adapter, b->adapter);
    return c ? c : (a->version > b->version) - (a->version < b->version);
}

void board_cursor(const struct board_row *r, enum board_sort sort, char out[BOARD_CURSOR_LEN])
{
    snprintf(out, BOARD_CURSOR_LEN, "%lld:%s/%s@%d", (long long)value_of(r, sort), r->tenant, r->adapter, r->version);
}

/* Texts of *out stand in `room`. */
static int read_cursor(const char *text, char room[BOARD_CURSOR_LEN], struct place *out, struct err *e)
{
    if (snprintf(room, BOARD_CURSOR_LEN, "%s", text) >= BOARD_CURSOR_LEN) text = "";
    char *colon = strchr(room, ':'), *slash = colon ? strchr(colon, '/') : NULL, *at = slash ? strchr(slash, '@') : NULL;
    size_t digits = strspn(room, "0123456789");
    if (!*text || !at || &room[digits] != colon || digits > 18 || !at[1] || strspn(at + 1, "0123456789") != strlen(at + 1) ||
        strlen(at + 1) > 9)
        return err_field(e, ERR_INVALID, "after", "The cursor must be the last_id of the page before.");
    *colon = *slash = *at = 0;
    *out = (struct place){strtoll(room, NULL, 10), colon + 1, slash + 1, (int)strtol(at + 1, NULL, 10)};
    return 0;
}

static bool fits(const struct board_row *r, const struct board_ask *a)
{
    char name[2 * NAME_MAX_LEN + 2];
    if (a->state && strcmp(a->state_now ? a->state_now(a->user, r) : r->state, a->state) != 0) return false;
    if (a->idle_since && r->last_used >= a->idle_since) return false;
    snprintf(name, sizeof name, "%s/%s", r->tenant, r->adapter);
    return !a->q || strstr(name, a->q);
}

/* Keeps the limit + 1 nearest, in order: the last one gives way. */
static void keep(const struct board_row **out, int *n, const struct board_ask *a, const struct board_row *r)
{
    struct place p = place_of(r, a->sort), other;
    int i = *n;
    if (i > a->limit) {
        other = place_of(out[i - 1], a->sort);
        if (order(&p, &other) >= 0) return;
        i--;
    } else {
        (*n)++;
    }
    for (; i > 0; i--) {
        other = place_of(out[i - 1], a->sort);
        if (order(&p, &other) >= 0) break;
        out[i] = out[i - 1];
    }
    out[i] = r;
}

int board_pick(const struct board *x, const struct board_ask *a, const struct board_row **out, int *n, struct err *e)
{
    char room[BOARD_CURSOR_LEN];
    struct place after;
    *n = 0;
    if (a->after && *a->after && read_cursor(a->after, room, &after, e)) return -1;
    for (int i = 0; i < x->n; i++) {
        struct place p = place_of(&x->row[i], a->sort);
        if ((!a->after || !*a->after || order(&after, &p) < 0) && fits(&x->row[i], a)) keep(out, n, a, &x->row[i]);
    }
    return 0;
}
