/* Tests of gateway/standby, one look after another: what is asked of the primary, in how many answers, and where the next look goes on. The primary is here, in
 * the place of base/client.c: it gives pages of the databases of standby_room.h, as many in an answer as the test says, and files in small pieces; the clock
 * moves only while it answers. */
#include "base/client.h"
#include "gateway/standby/feed.h"
#include "tests/unit/standby_room.h"
#include <sys/syscall.h>
#include <time.h>

#define EPOCH "01890000-0000-7000-8000-000000000000"
#define PIECE 1000
#define ASKS_MAX 400

static struct primary {
    struct world *w;
    int at;                /* which of the two databases it has */
    uint32_t gen, *page;   /* generation in which each was written last */
    uint32_t cap;          /* pages of an answer, whatever is asked for */
    int64_t answer_us;     /* how long one takes */
    int written;           /* pages that are written after each answer, the first ones */
    int writes;            /* in so many answers more */
    bool is_old;           /* says no `feed` */
    const char *list;      /* of the files that its state names */
    bool no_files;         /* answers for files break off */
    bool lost_files;       /* it has none of them any more */
    int files;             /* questions for them */
    int64_t now_us;        /* what the clock says beyond the real one */
    int asks, pages, bytes;
    int64_t from[ASKS_MAX], since[ASKS_MAX], most[ASKS_MAX], have[ASKS_MAX]; /* of each question for pages; 0: unsaid */
} primary;

int clock_gettime(clockid_t id, struct timespec *t)
{
    long rc = syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_MONOTONIC) t->tv_sec += primary.now_us / 1000000;
    return (int)rc;
}

/* --- the primary --- */

static json_t *moment(const struct state *t, int64_t next, uint32_t count)
{
    json_t *o = json_pack("{ss ss sI sI sI sI sI sI}", "tag", t->tag, "epoch", EPOCH, "gen", (json_int_t)primary.gen, "wall_us", (json_int_t)t->wall_us, "pages", (json_int_t)t->pages, "page_size",
                          (json_int_t)PAGE, "next", (json_int_t)next, "count", (json_int_t)count);
    if (!primary.is_old) json_object_set_new(o, "feed", json_integer(PARCEL_VERSION));
    if (!primary.is_old) json_object_set_new(o, "before_us", json_integer(t->wall_us));
    return o;
}

static int64_t number(const json_t *o, const char *name) { return json_integer_value(json_object_get(o, name)); }

static uint32_t list(const json_t *q, uint32_t *pgno, int64_t *next)
{
    int64_t most = json_object_get(q, "most") ? number(q, "most") : FEED_PAGES, since = number(q, "since");
    uint32_t n = 0;
    if (most > primary.cap) most = primary.cap;
    *next = 0;
    for (int64_t i = number(q, "from"); i <= primary.w->state[primary.at].pages; i++) {
        if (primary.page[i] <= since) continue;
        if (n == most) {
            *next = i;
            return n;
        }
        pgno[n++] = (uint32_t)i;
    }
    return n;
}

static void note_question(const json_t *q)
{
    assert_true(primary.asks < ASKS_MAX);
    primary.from[primary.asks] = number(q, "from");
    primary.since[primary.asks] = number(q, "since");
    primary.most[primary.asks] = number(q, "most");
    primary.have[primary.asks] = number(q, "have");
    primary.asks++;
}

static void answer_pages(const char *text, size_t n, struct buf *b)
{
    const struct world *w = primary.w;
    const struct state *t = &w->state[primary.at];
    uint32_t *pgno = calloc((size_t)t->pages + 1, sizeof *pgno);
    char page[PAGE];
    unsigned char be[4];
    int64_t next;
    json_t *q = NULL;
    assert_int_equal(json_parse(text, n, &q, NULL), 0);
    note_question(q);
    uint32_t count = list(q, pgno, &next);
    json_t *o = moment(t, next, count);
    bool same = next || strcmp(json_string_value(json_object_get(q, "names")), t->names) == 0;
    json_object_set_new(o, "names", json_string(next ? "" : t->names));
    json_object_set_new(o, "names_bytes", json_integer(same ? 0 : (json_int_t)strlen(primary.list)));
    parcel_begin(b, o);
    if (!same) buf_adds(b, primary.list);
    int fd = open(w->db[primary.at], O_RDONLY);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(pread(fd, page, PAGE, (off_t)(pgno[i] - 1) * PAGE), PAGE);
        put_be32(pgno[i], be);
        buf_add(b, be, 4);
        buf_add(b, page, PAGE);
    }
    close(fd);
    parcel_end(b);
    primary.pages += (int)count;
    primary.gen++;
    for (int i = 1; primary.writes > 0 && i <= primary.written; i++) primary.page[i] = primary.gen;
    primary.writes--;
    free(pgno);
    json_decref(q);
}

/* "a file" of every name, so long that it takes several pieces, but for months, which are what their list says. */
static void answer_file(const char *url, struct buf *b)
{
    static char some[PIECE * 5 / 2];
    const char *offset = strstr(url, "&offset="), *month = strstr(url, "usage_20250");
    int64_t at = strtoll(offset + 8, NULL, 10);
    memset(some, 'x', sizeof some);
    const char *text = month ? month_text(primary.at, month[11] - '0') : some;
    int64_t size = month ? (int64_t)strlen(text) : (int64_t)sizeof some, n = size - at < PIECE ? size - at : PIECE;
    parcel_begin(b, json_pack("{ss sI sI}", "path", "", "bytes", (json_int_t)size, "offset", (json_int_t)at));
    buf_add(b, text + at, (size_t)n);
    parcel_end(b);
    primary.bytes += (int)n;
}

/* In the place of base/client.c (the Makefile: --wrap). */
int __wrap_client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e);
int __wrap_client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e)
{
    struct buf b;
    primary.now_us += primary.answer_us;
    buf_init(&b, max_body);
    if (strstr(r->url, "/standby/pages")) answer_pages(r->body, r->body_len, &b);
    else if (strstr(r->url, "/standby/files") && !primary.no_files) answer_file(r->url, &b);
    else return err_set(e, ERR_UNAVAILABLE, "cut");
    assert_false(b.failed);
    bool lost = strstr(r->url, "/standby/files") && primary.lost_files;
    primary.files += strstr(r->url, "/standby/files") != NULL;
    *status = lost ? 404 : 200;
    *len = b.len;
    *body = malloc(b.len + 1);
    memcpy(*body, b.data, b.len + 1);
    buf_close(&b);
    return 0;
}

/* --- before a look --- */

/* A folder with state 0 of a primary that has state 1 now: all of its pages were written since. */
static void begin(struct world *w, struct standby *s)
{
    static uint32_t page[10000];
    make_home(w, 0);
    put_file(w->room.dir, "token", "wfa_token");
    primary = (struct primary){.w = w, .list = w->list[1], .at = 1, .gen = 5, .page = page, .cap = FEED_PAGES, .answer_us = 1000};
    for (int i = 1; i <= w->state[1].pages; i++) page[i] = 5;
    static char token[200];
    snprintf(token, sizeof token, "%s/token", w->room.dir);
    open_home(w, s);
    s->token_file = token;
}

static void end(struct world *w, struct standby *s)
{
    assert_string_equal(s->state.names, w->state[1].names);
    w->state[1].gen = s->state.gen; /* as its own counts */
    check_home(w, s, 1);
    standby_close(s);
    assert_int_equal(promote_home(w, false, NULL), 0);
    w->state[1].gen = 2;
}

/* --- a look that takes long --- */

static void a_look_is_broken_off_after_a_minute_and_the_next_goes_on_where_it_ended(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    int looks = 0;
    begin(w, &s);
    primary.cap = 5;
    primary.answer_us = 25000000;
    for (int rc = 1; rc == 1; looks++) {
        int before = primary.asks;
        err_clear(&e);
        rc = standby_follow(&s, &e);
        assert_true(rc >= 0 && primary.asks - before <= 3); /* one more was begun within the minute */
        if (rc == 1) assert_int_equal(s.stats.receiving, primary.pages);
        if (rc == 1) assert_int_equal(s.state.gen, 1); /* the one before, until all is there */
    }
    assert_true(looks > 2);
    /* Each page once, each question where the one before ended; then what was written since the first answer, which is nothing. */
    assert_int_equal(primary.pages, w->state[1].pages);
    int answers = (int)(w->state[1].pages + 4) / 5;
    assert_true(answers > 6 && primary.asks > answers);
    for (int i = 0; i < primary.asks; i++) assert_int_equal(primary.from[i], i < answers ? 1 + 5 * i : 1);
    assert_int_equal(primary.since[answers], 5);
    end(w, &s);
}

static void files_that_take_longer_than_a_minute_go_on_in_the_midst_of_one(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    int looks = 1;
    begin(w, &s);
    primary.answer_us = 40000000;
    for (; standby_follow(&s, &e) == 1; looks++) err_clear(&e);
    assert_true(e.code == ERR_NONE && looks > 2);
    assert_int_equal(primary.bytes, 2 * (PIECE * 5 / 2) + (int)strlen(month_text(1, 1)) + (int)strlen(month_text(1, 2)));
    assert_int_equal(primary.pages, w->state[1].pages); /* and no page again */
    end(w, &s);
}

/* --- more than an answer holds --- */

static void a_state_of_several_answers_is_of_the_last_ones_moment_though_it_is_written_meanwhile(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    begin(w, &s);
    primary.cap = 20;
    primary.written = 3;
    primary.writes = 1;
    assert_true(w->state[1].pages > 40);
    assert_ok(standby_follow(&s, &e), e);
    int answers = (int)(w->state[1].pages + 19) / 20;
    assert_int_equal(primary.asks, answers + 1);
    assert_int_equal(primary.pages, w->state[1].pages + 3); /* of the second round only what was written since the first answer of the first */
    assert_int_equal(primary.since[answers], 5);
    assert_int_equal(s.state.gen, 5 + answers);
    assert_int_equal(s.stats.last_pages, primary.pages);
    end(w, &s);
}

static void where_the_primary_writes_faster_than_answers_come_larger_ones_are_asked_for(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    begin(w, &s);
    primary.cap = 30;
    primary.written = 40; /* never in one answer */
    primary.writes = 12;
    assert_ok(standby_follow(&s, &e), e);
    int64_t most = 0;
    int first = -1;
    for (int i = 0; i < primary.asks; i++) {
        assert_true(primary.most[i] >= most && primary.most[i] <= FEED_PAGES_MOST);
        if (primary.most[i] && first < 0) first = i;
        most = primary.most[i];
    }
    int rounds = 0;
    for (int i = 1; i <= first; i++) rounds += primary.from[i] == 1;
    assert_int_equal(rounds, 3);
    assert_int_equal(primary.most[first], 2 * FEED_PAGES);
    assert_int_equal(most, FEED_PAGES_MOST);
    end(w, &s);
}

static void a_primary_that_knows_neither_is_not_told(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    begin(w, &s);
    primary.is_old = true;
    primary.cap = 30;
    primary.written = 40;
    primary.writes = 12;
    assert_ok(standby_follow(&s, &e), e);
    for (int i = 0; i < primary.asks; i++) assert_true(!primary.most[i] && !primary.have[i]);
    end(w, &s);
}

/* --- what it has --- */

static void what_it_keeps_is_told_apart_from_what_came(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    begin(w, &s);
    primary.no_files = true;
    assert_int_equal(standby_follow(&s, &e), -1);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_int_equal(primary.have[0], 0); /* as `since` says */
    assert_int_equal(primary.since[0], 1);
    err_clear(&e);
    assert_int_equal(standby_follow(&s, &e), -1);
    assert_int_equal(primary.since[1], 5); /* the pages came; the state did not */
    assert_int_equal(primary.have[1], 1);
    assert_int_equal(primary.pages, w->state[1].pages);
    primary.no_files = false;
    err_clear(&e);
    assert_ok(standby_follow(&s, &e), e);
    assert_int_equal(primary.have[2], 1);
    int64_t kept = s.state.gen;
    assert_ok(standby_follow(&s, &e), e);
    assert_int_equal(primary.since[3], kept);
    assert_int_equal(primary.have[3], 0);
    w->state[1].gen = s.state.gen;
    end(w, &s);
}

/* Adapters whose files the primary has not: at the first look each is asked for, then some at each. */
static void files_that_are_missing_are_asked_for_some_at_a_look_and_all_in_their_turn(void **state)
{
    enum { ADAPTERS = 40 };
    static char text[ADAPTERS * BLOB_LINE + 1];
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    begin(w, &s);
    for (int i = 0; i < ADAPTERS; i++) snprintf(text + i * BLOB_LINE, BLOB_LINE + 1, "blobs/%02x/%02x%062d\n", i, i, 0);
    primary.list = text;
    sha256_text(text, w->state[1].names);
    primary.lost_files = true;
    int asked[6];
    for (int look = 0; look < 6; look++) {
        primary.files = 0;
        assert_ok(standby_follow(&s, &e), e);
        assert_int_equal(s.stats.missing, ADAPTERS);
        asked[look] = primary.files;
    }
    assert_int_equal(asked[0], ADAPTERS);
    for (int look = 1; look < 6; look++) assert_true(asked[look] <= MISSING_A_LOOK);
    assert_int_equal(asked[1] + asked[2] + asked[3], ADAPTERS);
    primary.lost_files = false;
    for (int look = 0; look < 3; look++) assert_ok(standby_follow(&s, &e), e);
    assert_true(s.stats.missing < ADAPTERS);
    for (int look = 0; look < 6 && s.stats.missing; look++) assert_ok(standby_follow(&s, &e), e);
    assert_int_equal(s.stats.missing, 0);
    for (int i = 0; i < ADAPTERS; i++) {
        char name[120];
        snprintf(name, sizeof name, "%.73s/" ADAPTER_WEIGHTS_FILE, text + i * BLOB_LINE);
        assert_true(is_file(w->home, name));
    }
    standby_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, new_world, end_world)
        T(a_look_is_broken_off_after_a_minute_and_the_next_goes_on_where_it_ended),
        T(files_that_take_longer_than_a_minute_go_on_in_the_midst_of_one),
        T(a_state_of_several_answers_is_of_the_last_ones_moment_though_it_is_written_meanwhile),
        T(where_the_primary_writes_faster_than_answers_come_larger_ones_are_asked_for),
        T(a_primary_that_knows_neither_is_not_told),
        T(what_it_keeps_is_told_apart_from_what_came),
        T(files_that_are_missing_are_asked_for_some_at_a_look_and_all_in_their_turn),
#undef T
    };
    return cmocka_run_group_tests_name("standby_follow", tests, NULL, NULL);
}
