/* follow: one look at the primary (see standby.h, feed.h): what changed since the state that is there, and the files that the new one names.
 *
 *     nothing known of its epoch: compare -> the pages whose hashes differ, and since = the generation of the first hashes
 *     POST pages(epoch, since, ranges) -> until an answer leaves nothing over -> again, since = the first answer's generation, if there were several
 *     names -> the files that are not here (fetch.c)
 *     seal -> apply
 *
 * Every answer is a parcel whose digest is compared before it is looked at; months are held to the SHA-256 that the database itself has of them. Whatever goes
 * wrong, the state that is there stays, and what came for the next one too: pages and pieces of files that were received whole do not travel again, but where
 * the primary changed them. So a link that breaks every few megabytes, or on which a state takes hours, still ends somewhere: each look brings it nearer. One
 * look lasts a minute or so; what it has then is told, and the next goes on. Where the primary writes faster than answers of the usual size can follow, they
 * become larger. After a start of either side what is here, received or in weft.db, is compared by its hashes. */
#include "base/clock.h"
#include "base/client.h"
#include "base/log.h"
#include "gateway/standby/feed.h"
#include "gateway/standby/parcel.h"
#include "gateway/standby/standby_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_MS 5000
#define FIRST_BYTE_MS 60000 /* hashes of 128 MB on a slow disk */
#define IDLE_MS 15000
#define TOTAL_MS 3600000 /* of one answer: a slow link is none that is dead */
#define BUSY_TRIES 5 /* of a primary that answers another standby */
#define BUSY_WAIT_MS 1000
#define SET_BACK_S 60
#define URL_MAX 1400
#define ROUNDS_SMALL 3  /* after so many that could not hold what changed meanwhile, answers are asked to be larger */
#define RANGES_MAX 2000 /* differing runs of pages; beyond, the last one takes the rest */

/* --- asking --- */

int standby_read_token(struct standby *s, struct err *e)
{
    int fd = open(s->token_file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_errno(e, "--token-file %s", s->token_file);
    ssize_t n = read(fd, s->token, sizeof s->token - 1);
    close(fd);
    if (n < 0) return err_errno(e, "--token-file %s", s->token_file);
    s->token[n] = 0;
    s->token[strcspn(s->token, "\r\n")] = 0;
    if (!*s->token) return err_set(e, ERR_USAGE, "--token-file %s is empty", s->token_file);
    snprintf(s->headers, sizeof s->headers, "Authorization: Bearer %s", s->token);
    return 0;
}

bool is_long(struct follow *f, struct err *e)
{
    f->is_unfinished = clock_mono_us() > f->until_us;
    if (f->is_unfinished) err_set(e, ERR_UNAVAILABLE, "not yet whole");
    return f->is_unfinished;
}

static int on_tick(void *u) { return ((struct standby *)u)->is_asked_to_end() ? -1 : 0; }

/* What a primary that refuses says of it. */
static int refused(int status, const char *text, size_t n, struct err *e)
{
    json_t *o = NULL;
    static const struct {
        int status;
        enum err_code code;
    } codes[] = {{400, ERR_INVALID}, {401, ERR_UNAUTHORIZED}, {403, ERR_FORBIDDEN}, {404, ERR_NOT_FOUND}, {409, ERR_CONFLICT}, {500, ERR_IO}};
    enum err_code code = ERR_UNAVAILABLE;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].status == status) code = codes[i].code;
    const char *said = json_parse(text, n, &o, NULL) == 0 ? json_string_value(json_object_get(json_object_get(o, "error"), "message")) : NULL;
    err_set(e, code, "the primary answered %d: %.300s", status, said ? said : "");
    json_decref(o);
    return -1;
}

static void drop_answer(struct follow *f)
{
    json_decref(f->head);
    free(f->answer);
    f->head = NULL;
    f->answer = NULL;
}

/* While it is answered 503 it asks again. */
static int fetch_answer(struct follow *f, const struct client_request *q, size_t *n, struct err *e)
{
    for (int i = 0;; i++) {
        drop_answer(f);
        if (client_fetch(q, PARCEL_BYTES_MAX, &f->status, &f->answer, n, e)) return -1;
        if (f->status != 503 || i == BUSY_TRIES) return 0;
        for (int64_t until = clock_mono_us() + BUSY_WAIT_MS * 1000ll; clock_mono_us() < until && !f->s->is_asked_to_end();)
            nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        if (f->s->is_asked_to_end()) return 0;
    }
}

int ask(struct follow *f, const char *method, const char *path, const json_t *body, struct err *e)
{
    struct standby *s = f->s;
    const char *headers[] = {s->headers, NULL};
    char url[URL_MAX];
    struct buf b;
    size_t n = 0;
    buf_init(&b, 1 << 16);
    f->status = 0;
    snprintf(url, sizeof url, "%s%s", s->from, path);
    if (body && json_dump(body, false, &b)) return err_set(e, ERR_NO_MEMORY, "no memory for a question");
    struct client_request q = {.method = method, .url = url, .headers = headers, .body = body ? b.data : NULL, .body_len = b.len, .ca_file = s->ca_file,
                               .connect_ms = CONNECT_MS, .first_byte_ms = FIRST_BYTE_MS, .idle_ms = IDLE_MS, .total_ms = TOTAL_MS, .on_tick = on_tick, .user = s};
    int rc = fetch_answer(f, &q, &n, e);
    buf_close(&b);
    if (rc) return -1;
    f->received += (int64_t)n;
    pthread_mutex_lock(&s->lock_stats);
    s->stats.received += (int64_t)n;
    pthread_mutex_unlock(&s->lock_stats);
    if (f->status != 200) return refused(f->status, f->answer ? f->answer : "", n, e);
    if (parcel_open(f->answer, n, &f->head, &f->bytes, &f->len, e) == 0) return 0;
    standby_count(s, CHECK_ANSWER);
    return -1;
}

/* --- what its head says --- */

struct moment {
    struct state t;
    int64_t next, count, names_bytes, feed, before_us;
};

/* What a redo is made of must be right before it is sealed: applying it stops at what is not, halfway. And a list that does not go on has no end. */
static int check_moment(struct follow *f, const struct moment *m, int64_t from, struct err *e)
{
    struct redo *r = &f->s->rx.redo;
    int64_t size = m->t.page_size;
    if (!m->t.gen || !m->t.pages || size < 512 || (size & (size - 1))) return err_set(e, ERR_INVALID, "an answer is of no state of a database");
    if (r->count && size != r->page_size) {
        redo_drop(r);
        f->s->rx.known = false;
        return err_set(e, ERR_INVALID, "an answer's pages have another size than those before: they are asked for again");
    }
    if (m->next && m->next <= from) return err_set(e, ERR_INVALID, "an answer does not go on behind page %lld", (long long)from);
    return 0;
}

/* A primary that was put back to an older state would take what is newer from here, within seconds. Looks leave their moment in the database, so after a
 * start it knows of the one that this folder has, or of a later one, but where it was set back; a power failure takes a second or two. */
static int check_set_back(const struct state *is, const struct moment *m, struct err *e)
{
    char then[CLOCK_ISO_LEN], here[CLOCK_ISO_LEN];
    if (!is->pages || m->feed < PARCEL_VERSION || strcmp(is->epoch, m->t.epoch) == 0 || m->before_us + SET_BACK_S * 1000000ll >= is->wall_us) return 0;
    clock_iso(m->before_us, then);
    clock_iso(is->wall_us, here);
    return err_set(e, ERR_INVALID, "the primary was set back: its database knows of no look after %s, and here is its state of %s. If that is meant, as after a restore, follow it with a new "
                   "folder; this one can still be promoted", then, here);
}

static int read_moment(struct follow *f, int64_t from, struct moment *m, struct err *e)
{
    const char *epoch = NULL, *tag = NULL, *names = "";
    *m = (struct moment){0};
    const json_t *o = f->head;
    if (json_need_str(o, "epoch", UUID_LEN - 1, &epoch, e) || json_need_str(o, "tag", SHA256_HEX - 1, &tag, e) || json_get_str(o, "names", SHA256_HEX - 1, &names, NULL, e) ||
        json_get_int(o, "gen", 1, UINT32_MAX, &m->t.gen, NULL, e) || json_get_int(o, "pages", 1, UINT32_MAX, &m->t.pages, NULL, e) ||
        json_get_int(o, "page_size", 512, 65536, &m->t.page_size, NULL, e) || json_get_int(o, "wall_us", 0, INT64_MAX, &m->t.wall_us, NULL, e) ||
        json_get_int(o, "next", 0, UINT32_MAX, &m->next, NULL, e) || json_get_int(o, "count", 0, UINT32_MAX, &m->count, NULL, e) ||
        json_get_int(o, "names_bytes", 0, STANDBY_NAMES_MAX, &m->names_bytes, NULL, e) ||
        json_get_int(o, "feed", 0, UINT32_MAX, &m->feed, NULL, e) || json_get_int(o, "before_us", 0, INT64_MAX, &m->before_us, NULL, e))
        return -1;
    snprintf(m->t.epoch, sizeof m->t.epoch, "%s", epoch);
    snprintf(m->t.tag, sizeof m->t.tag, "%s", tag);
    snprintf(m->t.names, sizeof m->t.names, "%s", names);
    const char *known = *f->s->state.tag ? f->s->state.tag : f->pepper;
    if (*known && strcmp(known, tag) != 0) return err_set(e, ERR_CONFLICT, "this is another gateway than %s followed until now: its pepper is another", f->s->dir);
    return check_moment(f, m, from, e) || check_set_back(&f->s->state, m, e) ? -1 : 0;
}

/* --- pages --- */

static int64_t pages_most(const struct receiving *rx)
{
    int64_t most = FEED_PAGES;
    for (int i = ROUNDS_SMALL; i <= rx->rounds && most < FEED_PAGES_MOST; i++) most *= 2;
    return most < FEED_PAGES_MOST ? most : FEED_PAGES_MOST;
}

/* `most`, and `have`, the generation of the state that is kept, are said where they are not what a primary takes for granted. */
static json_t *question(const struct standby *s)
{
    const struct receiving *rx = &s->rx;
    int64_t have = strcmp(rx->epoch, s->state.epoch) == 0 ? s->state.gen : 0, most = pages_most(rx);
    json_t *ranges = json_array();
    for (int i = 0; i < rx->nranges; i++) {
        json_list_add(&ranges, json_integer(rx->range[i][0]));
        json_list_add(&ranges, json_integer(rx->range[i][1]));
    }
    json_t *q = json_pack("{ss sI sI so ss}", "epoch", rx->epoch, "since", (json_int_t)rx->since, "from", (json_int_t)rx->from, "ranges", ranges, "names", s->state.names);
    if (q && rx->is_newer && most != FEED_PAGES) json_object_set_new(q, "most", json_integer(most));
    if (q && rx->is_newer && have != rx->since) json_object_set_new(q, "have", json_integer(have));
    return q;
}

/* The last answer of a moment says which list it has. One that an earlier answer brought is of no state then, but where it is the same. */
static int keep_list(struct follow *f, const struct moment *m, struct err *e)
{
    char is[SHA256_HEX];
    uint8_t digest[SHA256_BYTES];
    if (m->next) return 0;
    buf_reset(&f->list);
    f->new_list = strcmp(m->t.names, f->s->state.names) != 0;
    if (!f->new_list) return 0;
    sha256_of(f->bytes, (size_t)m->names_bytes, digest);
    sha256_hex(digest, is);
    if (strcmp(is, m->t.names) != 0) {
        standby_count(f->s, CHECK_LIST);
        return err_set(e, ERR_INVALID, "the list of files is not what it says");
    }
    return buf_add(&f->list, f->bytes, (size_t)m->names_bytes) ? err_set(e, ERR_NO_MEMORY, "no memory for a list of files") : 0;
}

/* The records behind the list of files: each a number of a page of that moment, and the page. */
static int check_records(const struct follow *f, const struct moment *m, struct err *e)
{
    size_t record = 4 + (size_t)m->t.page_size;
    if (m->names_bytes > (int64_t)f->len || f->len - (size_t)m->names_bytes != (size_t)m->count * record)
        return err_set(e, ERR_INVALID, "an answer has not the pages that it names");
    for (int64_t i = 0; i < m->count; i++) {
        uint32_t pgno = get_be32(f->bytes + m->names_bytes + i * (int64_t)record);
        if (!pgno || pgno > m->t.pages) return err_set(e, ERR_INVALID, "an answer has a page %u of %lld", pgno, (long long)m->t.pages);
    }
    return 0;
}

/* What could not be written whole (a full disk) is given up, so that its room is there for others. */
static int take_pages(struct follow *f, const struct moment *m, struct err *e)
{
    struct redo *r = &f->s->rx.redo;
    if (check_records(f, m, e)) return -1;
    if (keep_list(f, m, e)) return -1;
    if (redo_begin(r, f->s, m->t.page_size, e) || redo_pages(r, (uint32_t)m->count, f->bytes + m->names_bytes, e)) {
        redo_drop(r);
        f->s->rx.known = false;
        return -1;
    }
    f->pages += m->count;
    pthread_mutex_lock(&f->s->lock_stats);
    f->s->stats.receiving = r->count;
    pthread_mutex_unlock(&f->s->lock_stats);
    return 0;
}

/* One more. *whole: it held all that was asked for, so what is here is its moment. */
static int take_answer(struct follow *f, bool *whole, struct err *e)
{
    struct receiving *rx = &f->s->rx;
    struct moment m;
    int64_t asked_us = clock_wall_us();
    json_t *q = question(f->s);
    int rc = q ? ask(f, "POST", "/admin/v1/standby/pages", q, e) : err_set(e, ERR_NO_MEMORY, "no memory for a question");
    json_decref(q);
    if (rc || read_moment(f, rx->from, &m, e)) return -1;
    if (rx->from > 1 && strcmp(rx->epoch, m.t.epoch) != 0) return err_set(e, ERR_CONFLICT, "the primary was started again meanwhile");
    if (take_pages(f, &m, e)) return -1;
    *whole = rx->from == 1 && !m.next;
    if (rx->from == 1) rx->first = m.t.gen;
    memcpy(rx->epoch, m.t.epoch, sizeof rx->epoch);
    rx->is_newer = m.feed >= PARCEL_VERSION;
    rx->from = m.next ? m.next : 1;
    if (!m.next) {
        rx->since = rx->first;
        rx->nranges = 0;
        rx->rounds += !*whole;
    }
    f->to = m.t;
    f->to.asked_us = asked_us;
    return 0;
}

/* All that changed, in as many answers as it takes; what is there when the look has lasted long enough stays for the next. */
static int take_answers(struct follow *f, struct err *e)
{
    for (bool whole = false; !whole;)
        if (is_long(f, e) || take_answer(f, &whole, e)) return -1;
    return 0;
}

/* --- comparing --- */

static void add_range(struct receiving *rx, uint32_t pgno)
{
    if (rx->nranges && (rx->range[rx->nranges - 1][1] == pgno - 1 || rx->nranges == RANGES_MAX)) {
        rx->range[rx->nranges - 1][1] = pgno;
        return;
    }
    rx->range[rx->nranges][0] = rx->range[rx->nranges][1] = pgno;
    rx->nranges++;
}

static bool read_page(const struct receiving *rx, int db, uint32_t pgno, int64_t page_size, void *out)
{
    if (rx->redo.page_size == page_size && redo_page(&rx->redo, pgno, out)) return true;
    return db >= 0 && pread(db, out, (size_t)page_size, (pgno - 1) * page_size) == page_size;
}

static int compare_pages(struct follow *f, int db, int64_t from, const struct moment *m, struct err *e)
{
    struct receiving *rx = &f->s->rx;
    char *page = malloc((size_t)m->t.page_size);
    if (!page) return err_set(e, ERR_NO_MEMORY, "no memory for a page");
    for (int64_t i = 0; i < m->count; i++) {
        uint8_t digest[SHA256_BYTES];
        bool there = read_page(rx, db, (uint32_t)(from + i), m->t.page_size, page);
        if (there) sha256_of(page, (size_t)m->t.page_size, digest);
        if (!there || memcmp(digest, f->bytes + i * FEED_HASH_BYTES, FEED_HASH_BYTES) != 0) add_range(rx, (uint32_t)(from + i));
    }
    f->compared += m->count;
    free(page);
    return 0;
}

static int compare_with(struct follow *f, int db, struct err *e)
{
    struct receiving *rx = &f->s->rx;
    struct moment m = {.next = 1};
    for (int64_t from = 1; from; from = m.next) {
        json_t *q = json_pack("{sI}", "from", (json_int_t)from);
        int rc = q ? ask(f, "POST", "/admin/v1/standby/hashes", q, e) : err_set(e, ERR_NO_MEMORY, "no memory for a question");
        json_decref(q);
        if (rc || read_moment(f, from, &m, e)) return -1;
        if (f->len != (size_t)m.count * FEED_HASH_BYTES) return err_set(e, ERR_INVALID, "an answer has not the hashes that it names");
        if (from == 1) rx->since = m.t.gen;
        if (from == 1) memcpy(rx->epoch, m.t.epoch, sizeof rx->epoch);
        else if (strcmp(rx->epoch, m.t.epoch) != 0) return err_set(e, ERR_CONFLICT, "the primary was started again meanwhile");
        if (compare_pages(f, db, from, &m, e)) return -1;
    }
    log_info("standby_compared", LI("pages", f->compared), LI("ranges_that_differ", rx->nranges));
    return 0;
}

/* What the folder has of the primary's pages, received or in weft.db, whatever states they are of: only what differs travels. */
static int compare(struct follow *f, struct err *e)
{
    struct receiving *rx = &f->s->rx;
    char path[FILES_PATH_MAX];
    standby_path(f->s, DB_FILE, path);
    if (!rx->range && !(rx->range = calloc(RANGES_MAX, sizeof *rx->range))) return err_set(e, ERR_NO_MEMORY, "no memory to follow");
    int db = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (db < 0 && errno != ENOENT) return err_errno(e, "%s", path);
    rx->nranges = rx->rounds = 0;
    rx->since = 0;
    rx->from = 1;
    *rx->epoch = 0;
    int rc = db < 0 && !rx->redo.count ? 0 : compare_with(f, db, e);
    if (db >= 0) close(db);
    rx->known = rc == 0;
    return rc;
}

/* --- where to begin --- */

static void begin_at_state(struct receiving *rx, const struct state *t)
{
    memcpy(rx->epoch, t->epoch, sizeof rx->epoch);
    rx->since = t->gen;
    rx->from = 1;
    rx->nranges = rx->rounds = 0;
    rx->known = true;
}

/* What a process before received is worth the hashes of all pages where it is more than they are. */
static void take_up(struct standby *s)
{
    struct redo *r = &s->rx.redo;
    redo_take_up(r, s);
    if (s->state.gen && r->count * (r->page_size / FEED_HASH_BYTES) < s->state.pages) redo_drop(r);
    if (r->count) log_info("standby_takes_up", LI("pages", r->count));
}

static int take_database(struct follow *f, struct err *e)
{
    struct receiving *rx = &f->s->rx;
    struct err why = {0};
    if (!rx->known && !rx->redo.count) take_up(f->s);
    if (!rx->known && !rx->redo.count && f->s->state.gen) begin_at_state(rx, &f->s->state);
    if (!rx->known && compare(f, e)) return -1;
    if (take_answers(f, &why) == 0) return 0;
    if (why.code != ERR_CONFLICT) return err_set(e, why.code, "%s", why.msg);
    rx->known = false; /* it was started again: what came stays, and is compared */
    return compare(f, e) || take_answers(f, e) ? -1 : 0;
}

/* --- all of it --- */

static int follow(struct follow *f, struct err *e)
{
    struct standby *s = f->s;
    bool applied;
    if (apply_left(s, true, e)) return -1; /* the disk refused that at the last look */
    if (standby_read_token(s, e) || pepper_tag(s, "pepper", f->pepper, e) || take_database(f, e) || fetch_files(f, e)) return -1;
    int rc = redo_seal(&s->rx.redo, &f->to, f->new_list ? &f->list : NULL, e);
    if (s->rx.redo.fd < 0) s->rx.known = false; /* it is no more what comes, but what is applied */
    return rc || apply_redo(s, &applied, e) || keep_missing(s, &f->missing, e) ? -1 : 0;
}

static int64_t lines_of(const struct buf *b)
{
    int64_t n = 0;
    for (const char *p = b->data; (p = strchr(p, '\n')); p++) n++;
    return n;
}

/* Of a state that came: it is kept whatever is wrong with it. A newer program can be installed later; a file that is missing is asked for again. */
static void look_at_state(const struct follow *f, bool *too_new, char warning[400])
{
    struct err e = {0};
    *too_new = check_version(f->s, &e) != 0;
    int64_t n = lines_of(&f->s->missing);
    if (*too_new || !n) snprintf(warning, 400, "%.399s", e.msg);
    else
        snprintf(warning, 400, "%lld files that the state names can't be had from the primary, the first is %.*s; they are asked for again", (long long)n,
                 (int)strcspn(f->s->missing.data, " \n"), f->s->missing.data);
}

static void note_look(const struct follow *f, int rc, const char *why, int64_t took_us)
{
    struct standby_stats *st = &f->s->stats;
    char warning[400] = "";
    bool too_new = false;
    if (rc == 0) look_at_state(f, &too_new, warning);
    pthread_mutex_lock(&f->s->lock_stats);
    st->compared += f->compared;
    st->took_us = took_us;
    st->receiving = f->s->rx.redo.count;
    if (rc < 0) st->failures++;
    if (rc == 0) {
        st->syncs++;
        st->last_bytes = f->received;
        st->last_pages = f->pages;
        st->missing = lines_of(&f->s->missing);
        st->too_new = too_new;
        memcpy(st->warning, warning, sizeof st->warning);
    }
    snprintf(st->why, sizeof st->why, "%.399s", rc < 0 ? why : "");
    pthread_mutex_unlock(&f->s->lock_stats);
}

int standby_follow(struct standby *s, struct err *e)
{
    int64_t began = clock_mono_us();
    struct follow f = {.s = s, .until_us = began + LOOK_S * 1000000ll};
    buf_init(&f.list, STANDBY_NAMES_MAX);
    buf_init(&f.missing, STANDBY_NAMES_MAX);
    int rc = follow(&f, e);
    if (rc && f.is_unfinished) rc = 1;
    note_look(&f, rc, e->msg, clock_mono_us() - began);
    drop_answer(&f);
    buf_close(&f.list);
    buf_close(&f.missing);
    return rc;
}
