/* Adapters that are fetched, on both sides of each line that carries them. First byte of the input modulo 4:
 *
 * 0, what a gateway answers (engine/pull_fetch.c): an adapter is in the store whole, with the bytes that have its digest, or not at all, and nothing but its two files was made. Then: a
 * byte of bits (1 the files are no adapter's, 2 no room, 4 the engine ends, 8 another token; without that 16 the disk is full, 32 and stays so, 64 and is again), the config, a NUL, two bytes for the length of the weights, the weights, then answers: a byte for how, two for a length, bytes.
 * How: 0 and 1 these bytes with 200 and 206, 2 a refusal, 3 a part, 4 nothing, 5 what is right, 6 a part of that. After the last one what is right.
 * 1, what an engine asks of its puller: edits, two bytes where and one what, of a question that is right. What is let through is a digest, and a base that survives its JSON.
 * 2, what a puller tells its engine: whatever it says, what is counted is what there is, nothing goes beyond the store's bound, and each load and unload hears of its end once, and in
 * its time. A byte for what, three for more of it.
 * 3, what a fetcher tells its keeper, in the same bytes: it is passed on once each, in its order, and within the store's bound. */
#include "engine/pull.c"
#define heed heed_fetcher
#define need keeper_need
#define full keeper_full
#define is_cut keeper_is_cut
#define fetch keeper_fetch
#include "engine/pull_keep.c"
#undef heed
#undef need
#undef full
#undef is_cut
#undef fetch
#include "base/client.h"
#include "base/json.h"
#include "engine/meters.h"
#include "tests/fuzz/fuzz.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#define ASKS_MAX 3000
#define DIGESTS 6

static const struct base_desc base = {
    .name = "Tiny", .digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", .also = {"tiny-instruct"}, .layers = 2, .hidden = 4,
    .in = {4, 4, 4, 4, 4, 4, 6}, .out = {4, 2, 2, 4, 6, 6, 4}, .vocab = 5, .experts = 2, .expert_mlp = 3};

/* --- time passes while one waits (parts.mk: --wrap) --- */

static int64_t now_us = 1;
int64_t __wrap_clock_mono_us(void);
int64_t __wrap_clock_mono_us(void) { return now_us; }
int __wrap_poll(struct pollfd *p, nfds_t n, int ms);
int __real_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms)
{
    int rc = n ? __real_poll(p, n, 0) : 0;
    FUZZ_NEED(rc || ms >= 0);
    if (!rc) now_us += (int64_t)ms * 1000;
    return rc;
}

/* --- 0: the gateway --- */

static const uint8_t *rest, *config, *weights;
static size_t left, config_len, weights_len;
static unsigned bits;
static int asks, needs, fulls, disk_fulls;
static int alone; /* asks that the input says nothing of: they are answered well */
static int64_t needed;

int __wrap_posix_fallocate(int fd, off_t at, off_t n);
int __wrap_posix_fallocate(int fd, off_t at, off_t n)
{
    (void)fd, (void)at, (void)n;
    return disk_fulls && disk_fulls-- ? ENOSPC : 0;
}

static void hex_of(const void *bytes, size_t n, char out[SHA256_HEX])
{
    uint8_t sum[SHA256_BYTES];
    sha256_of(bytes, n, sum);
    sha256_hex(sum, out);
}

static size_t right_list(const char *digest, char out[1000])
{
    char a[SHA256_HEX], b[SHA256_HEX];
    hex_of(config, config_len, a);
    hex_of(weights, weights_len, b);
    return (size_t)snprintf(out, 1000, "{\"digest\":\"%s\",\"files\":[{\"name\":\"adapter_config.json\",\"bytes\":%zu,\"sha256\":\"%s\"},{\"name\":\"adapter_model.safetensors\",\"bytes\":%zu,\"sha256\":\"%s\"}]}",
                            digest, config_len, a, weights_len, b);
}

static int give(const struct client_request *r, int status, const uint8_t *bytes, size_t n, size_t max_body, char **body, size_t *len)
{
    if (body) {
        *len = n;
        *body = n <= max_body ? fuzz_text(bytes, n) : NULL;
        return n <= max_body ? 0 : -1;
    }
    r->on_head(r->user, &(struct client_reply){.status = status});
    for (size_t at = 0, step = n / 2 + 1; at < n; at += step)
        if (r->on_data(r->user, (const char *)bytes + at, n - at < step ? n - at : step)) return -1;
    return 0;
}

/* In the place of base/client.c. */
int client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e)
{
    static const char top[] = "https://gateway/weft/v1/blobs/";
    char list[1000];
    const char *name = r->url + sizeof top - 1 + 64, *range = r->headers[1];
    FUZZ_NEED(!strncmp(r->url, top, sizeof top - 1) && strlen(r->url) >= sizeof top - 1 + 64 && (!*name || !strcmp(name, "/adapter_config.json") || !strcmp(name, "/adapter_model.safetensors")));
    FUZZ_NEED(asks++ < ASKS_MAX && r->total_ms > 0 && !strncmp(r->headers[0], "Authorization: Bearer t", 23));
    now_us += 1000;
    alone += left == 0;
    unsigned how = left ? fuzz_byte(&rest, &left) : 5;
    size_t n = 0, from = 0;
    if (how % 7 != 5) n = fuzz_byte(&rest, &left), n |= (size_t)fuzz_byte(&rest, &left) << 8;
    const uint8_t *bytes = how % 7 == 5 ? NULL : fuzz_take(&rest, &left, n, &n);
    if (r->on_tick && r->on_tick(r->user)) return err_set(e, ERR_UNAVAILABLE, "cut");
    if (how % 7 == 4) return err_set(e, ERR_UPSTREAM_TIMEOUT, "nobody there");
    *status = how % 7 == 1 ? 206 : how % 7 == 2 ? (int[]){401, 403, 404, 416, 500, 503, 302}[how / 7 % 7] : 200;
    if (how % 7 >= 5) {
        size_t most = n;
        bytes = *name == 0 ? (const uint8_t *)list : name[9] == 'c' ? config : weights;
        n = *name == 0 ? right_list(r->url + sizeof top - 1, list) : name[9] == 'c' ? config_len : weights_len;
        if (range) {
            from = (size_t)atoll(range + strlen("Range: bytes="));
            FUZZ_NEED(!strncmp(range, "Range: bytes=", 13) && from > 0 && from <= n);
            *status = 206;
        }
        bytes += from;
        n -= from;
        if (how % 7 == 6 && most < n) n = most;
    }
    if (give(r, *status, bytes, n, max_body, body, len)) return err_set(e, ERR_ENGINE, "it said so");
    return how % 7 == 3 ? err_set(e, ERR_ENGINE, "cut") : 0;
}

static int need(void *u, int64_t bytes, struct err *e)
{
    (void)u;
    FUZZ_NEED(bytes > 0 && bytes <= 1 << 16 && needs++ == 0);
    needed = bytes;
    return bits & 2 ? err_set(e, ERR_TOO_LARGE, "no room") : 0;
}
static int full(void *u, struct err *e)
{
    (void)u;
    FUZZ_NEED(needs == 1 && fulls++ == 0);
    return bits & 32 ? err_set(e, ERR_IO, "no room") : 0;
}
static bool is_cut(void *u)
{
    (void)u;
    return bits & 4 && asks > 2;
}

static void read_whole(const char *dir, const char *name, const uint8_t *is, size_t n)
{
    char path[STORE_PATH_MAX + 64];
    struct stat st;
    uint8_t *text = malloc(n + 1);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_NOFOLLOW);
    FUZZ_NEED(fd >= 0 && text && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == (off_t)n && read(fd, text, n) == (ssize_t)n && !memcmp(text, is, n));
    close(fd);
    free(text);
}

/* The digest that the files have; of others, one that they have not. */
static void own_digest(char out[SHA256_HEX])
{
    struct adapter *a = NULL;
    char path[96];
    memset(out, 'a', SHA256_HEX - 1);
    out[SHA256_HEX - 1] = 0;
    fuzz_put(ADAPTER_CONFIG_FILE, config, config_len, path);
    fuzz_put(ADAPTER_WEIGHTS_FILE, weights, weights_len, path);
    if (!(bits & 1) && adapter_open(&a, fuzz_folder(), &base, &(struct adapter_limits){.max_rank = 8}, NULL) == 0) memcpy(out, a->digest, SHA256_HEX);
    if (a) adapter_close(a);
}

/* What a start finds in the store is the one adapter. */
static void count(const char *store, const char *digest)
{
    static struct pull_cache c;
    FUZZ_NEED(pull_cache_read(&c, store, NULL) == 0 && c.n == 1 && c.bytes == needed && pull_cache_find(&c, digest));
    pull_cache_free(&c);
    FUZZ_NEED(!c.n && !c.bytes);
}

/* As its keeper does when the fetcher has ended well. */
static int place(const struct pull_options *o, const struct pull_ask *a, const char *dir, struct err *e)
{
    struct keep k = {.o = o, .ask = a, .bytes = needed};
    snprintf(k.dir, sizeof k.dir, "%s", dir);
    FUZZ_NEED(weigh(&k, e) == 0);
    return store_place(o->store, dir, a->digest, e);
}

static void read_files(struct pull_ask *a)
{
    config = rest;
    const uint8_t *end = left ? memchr(rest, 0, left) : NULL;
    config_len = end ? (size_t)(end - rest) : left;
    rest += config_len + (end != NULL);
    left -= config_len + (end != NULL);
    weights_len = fuzz_byte(&rest, &left);
    weights_len |= (size_t)fuzz_byte(&rest, &left) << 8;
    weights = fuzz_take(&rest, &left, weights_len, &weights_len);
    own_digest(a->digest);
}

static void fetch(void)
{
    static struct fuzz_file token;
    char store[64], tmp[72], own[80], dir[STORE_PATH_MAX], parent[STORE_PATH_MAX], auth[PULL_AUTH_MAX];
    struct err e = {0};
    struct pull_ask a = {.op = PULL_GET, .id = 7, .max_rank = 8, .base = base};
    read_files(&a);
    const char *words = (const char *[]){"token\n", "to ken", "", "t\x01"}[bits & 8 ? 1 + (bits >> 4) % 3 : 0];
    fuzz_file_fill(&token, words, strlen(words));
    snprintf(store, sizeof store, "%s/store", fuzz_folder());
    snprintf(tmp, sizeof tmp, "%s/tmp", store);
    snprintf(own, sizeof own, "%s/7", tmp);
    FUZZ_NEED(mkdir(store, 0700) == 0 && mkdir(tmp, 0700) == 0 && mkdir(own, 0700) == 0);
    const struct pull_options o = {.url = "https://gateway", .token_file = token.path, .ca_file = "", .store = store, .max_bytes = 1 << 16, .total_s = 60, .stall_s = 5};
    asks = alone = needs = fulls = 0;
    disk_fulls = (bits & 24) != 16 ? 0 : bits & 64 ? 2 : 1;
    int rc = pull_read_auth(token.path, auth, &e);
    FUZZ_NEED((rc != 0) == ((bits & 8) != 0));
    if (!rc) rc = pull_fetch(&o, &a, &(struct pull_way){need, full, is_cut, NULL}, own, auth, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && (rc || needs == 1));
    if (!rc) rc = place(&o, &a, own, &e);
    else store_discard(own);
    FUZZ_NEED((rc == 0) == store_has(store, a.digest) && rmdir(tmp) == 0);
    FUZZ_NEED(rc == 0 || !(bits & 9) || alone <= 12);
    FUZZ_NEED(store_path(store, a.digest, dir, NULL) == 0);
    if (rc == 0) {
        FUZZ_NEED(!(bits & 11) && fulls == ((bits & 16) != 0) && (!fulls || !(bits & 96)));
        read_whole(dir, ADAPTER_CONFIG_FILE, config, config_len);
        read_whole(dir, ADAPTER_WEIGHTS_FILE, weights, weights_len);
        count(store, a.digest);
    }
    store_remove(store, a.digest, NULL);
    snprintf(parent, sizeof parent, "%s/%.2s", store, a.digest);
    rmdir(dir);
    rmdir(parent);
    FUZZ_NEED(rmdir(store) == 0);
}

/* --- 1: the engine, to its puller --- */

static void ask(void)
{
    struct pull_ask a;
    struct base_desc again = {0};
    memset(&a, 0, sizeof a);
    a.max_rank = 8;
    a.base = base;
    memset(a.digest, 'b', SHA256_HEX - 1);
    FUZZ_NEED(pull_ask_check(&a, NULL) == 0);
    while (left > 2) {
        size_t at = fuzz_byte(&rest, &left);
        at |= (size_t)fuzz_byte(&rest, &left) << 8;
        ((uint8_t *)&a)[at % sizeof a] = (uint8_t)fuzz_byte(&rest, &left);
    }
    struct err e = {0};
    int rc = pull_ask_check(&a, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && (!rc || e.code == ERR_INVALID));
    if (rc) return;
    if (a.op == PULL_GET || a.op == PULL_DROP) FUZZ_NEED(sha256_is_hex(a.digest));
    if (a.op != PULL_GET) return;
    json_t *j = base_desc_to_json(&a.base);
    FUZZ_NEED(a.max_rank >= 1 && a.max_rank <= PEFT_RANK_MAX && (!j || base_desc_from_json(&again, j, NULL) == 0)); /* NULL: a name is no UTF-8 */
    if (j) FUZZ_NEED(again.layers == a.base.layers && !memcmp(again.in, a.base.in, sizeof again.in) && !memcmp(again.out, a.base.out, sizeof again.out) && again.experts == a.base.experts);
    json_decref(j);
}

/* --- 2: the puller, to its engine --- */

static unsigned loader; /* what lora_*() say */
static int begun, over;
static struct pull *in_hand;
static void ended(void *u, const struct err *e);

void lora_load(struct lora_set *s, const char *digest, const char *path, void (*done)(void *u, const struct err *e), void *u)
{
    struct err e = {0};
    (void)s;
    FUZZ_NEED(strstr(path, digest));
    if (loader & 1) err_set(&e, loader & 2 ? ERR_ADAPTER_INVALID : loader & 4 ? ERR_NOT_FOUND : ERR_NO_MEMORY, "no");
    if (loader & 32) { /* meanwhile, on another thread */
        begun++;
        pull_unload(in_hand, digest, ended, NULL);
    }
    done(u, e.code ? &e : NULL);
}
void lora_unload(struct lora_set *s, const char *digest, void (*done)(void *u, const struct err *e), void *u)
{
    struct err e = {0};
    (void)s, (void)digest;
    if (loader & 1) err_set(&e, loader & 2 ? ERR_ADAPTER_NOT_LOADED : ERR_INTERNAL, "no");
    done(u, e.code ? &e : NULL);
}
bool lora_may_go(struct lora_set *s, const char *digest)
{
    (void)s, (void)digest;
    return !(loader & 64);
}
bool lora_let_go(struct lora_set *s, const char *digest)
{
    (void)s, (void)digest;
    return !(loader & 8);
}
int64_t lora_used_us(struct lora_set *s, const char *digest)
{
    (void)s;
    return digest[0];
}

static void ended(void *u, const struct err *e)
{
    (void)u;
    FUZZ_NEED(!e || e->code);
    over++;
}

static void check_counts(struct pull *p)
{
    int64_t bytes = 0;
    int sent = 0, waiting = 0, unloads = 0, n = 0;
    struct pull_state st;
    for (const struct job *j = p->jobs; j; j = j->next) {
        bytes += j->reserved;
        sent += j->sent;
        FUZZ_NEED((j->sent || (j->loads && !j->reserved)) && (j->over ? !j->loads && j->sent : !j->unloads));
        for (const struct job *k = j->next; k; k = k->next) FUZZ_NEED(k->id != j->id && (strcmp(k->digest, j->digest) != 0 || k->over != j->over));
        for (const struct load *l = j->loads; l; l = l->next) waiting++;
        for (const struct load *l = j->unloads; l; l = l->next) unloads++;
    }
    for (int i = 0; i < PULL_BUCKETS && n < p->cache.n; i++)
        for (const struct pull_blob *b = p->cache.bucket[i]; b; b = b->next, n++) bytes += b->bytes;
    pull_get_state(p, &st);
    FUZZ_NEED(bytes == st.bytes && bytes <= st.max_bytes && n == st.blobs && sent == st.pulling && sent <= PULL_JOBS);
    FUZZ_NEED(!p->opening && waiting == p->waiting && begun == over + waiting + unloads);
}

/* Nobody waits beyond its time. */
static void look_for_late(struct pull *p)
{
    bool jobs = end_late(p);
    FUZZ_NEED(jobs == (p->jobs != NULL));
    for (const struct job *j = p->jobs; j; j = j->next) {
        for (const struct load *l = j->loads; l; l = l->next) FUZZ_NEED(l->until_us > now_us);
        for (const struct load *l = j->unloads; l; l = l->next) FUZZ_NEED(l->until_us > now_us);
    }
}

/* What the engine said meanwhile is what a puller takes. */
static void drain(struct pull *p, int fd)
{
    struct pull_ask a;
    FUZZ_NEED(send_notes(p) >= 0);
    for (ssize_t n; (n = recv(fd, &a, sizeof a, MSG_DONTWAIT)) > 0;) FUZZ_NEED(n == (ssize_t)sizeof a && pull_ask_check(&a, NULL) == 0);
}

static void name_of(unsigned k, char out[SHA256_HEX])
{
    memset(out, "abcdef"[k % DIGESTS], SHA256_HEX - 1);
    out[SHA256_HEX - 1] = 0;
}

/* A byte for what, three for more of it. */
static unsigned told(struct pull_tell *t, unsigned more[3])
{
    unsigned what = fuzz_byte(&rest, &left);
    for (int i = 0; i < 3; i++) more[i] = fuzz_byte(&rest, &left);
    *t = (struct pull_tell){.what = what & 1 ? PULL_DONE : what & 64 ? PULL_FULL : PULL_NEED, .id = more[0], .bytes = (int64_t)more[1] * 16, .code = (enum err_code)more[2]};
    memset(t->why, 'x', sizeof t->why);
    if (what & 16) t->bytes = more[2] & 1 ? INT64_MAX : INT64_MIN, t->code = 0;
    if (what & 32) t->what = (enum pull_event)more[2];
    return what;
}

static void step(struct pull *p, int peer)
{
    char digest[SHA256_HEX];
    struct pull_tell t;
    unsigned more[3], what = told(&t, more);
    name_of(more[0], digest);
    loader = more[2];
    now_us += (int64_t)more[1] * 1000000;
    switch (what >> 1 & 7) {
    case 0:
    case 1:
        begun++;
        pull_load(p, digest, ended, NULL);
        break;
    case 2:
        begun++;
        pull_unload(p, digest, ended, NULL);
        break;
    case 3:
        on_end(p);
        break;
    case 7:
        look_for_late(p);
        break;
    default:
        if (heed(p, &t)) FUZZ_NEED((unsigned)t.what <= PULL_DONE && (unsigned)t.code < ERR_CODES && t.bytes >= 0);
    }
    if (!(what & 128)) drain(p, peer);
    check_counts(p);
}

static void tell(void)
{
    static struct metrics *metrics;
    int pair[2];
    if (!metrics) metrics = metrics_new(meter_rows, METERS);
    struct pull *p = in_hand = calloc(1, sizeof *p);
    FUZZ_NEED(p && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    *p = (struct pull){.o = {.url = "https://gateway", .store = "/store", .max_rank = 8, .max_bytes = 4096, .total_s = 60, .metrics = metrics}, .base = base, .fd = pair[0],
                       .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .notes_end = &p->notes, .cache = {.max_bytes = 4096}};
    pthread_mutex_init(&p->lock, NULL);
    begun = over = 0;
    while (left) step(p, pair[1]);
    if (loader & 16) send(pair[1], "short", 5, 0);
    else pull_stop(p);
    reader(p);
    FUZZ_NEED(begun == over && p->ended && !p->jobs && pull_ended(p) == !p->stop);
    check_counts(p);
    close(pair[1]);
    pull_free(p);
}

/* --- 3: the fetcher, to its keeper --- */

static void fetcher(void)
{
    int pair[2], passed = 0;
    const struct pull_options o = {.url = "https://gateway", .store = "/store", .max_bytes = 4096, .total_s = 60};
    const struct pull_ask a = {.op = PULL_GET, .id = 7};
    struct keep k = {.o = &o, .ask = &a, .up = -1};
    FUZZ_NEED(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    k.up = pair[0];
    for (int rc = 0; left && !rc;) {
        struct pull_tell t, up;
        unsigned more[3];
        told(&t, more);
        rc = heed_fetcher(&k, &t);
        ssize_t n = recv(pair[1], &up, sizeof up, MSG_DONTWAIT);
        FUZZ_NEED(n < 0 || (n == (ssize_t)sizeof up && !rc && up.what == (passed ? PULL_FULL : PULL_NEED) && up.id == a.id && up.bytes == k.bytes && passed++ < 2));
    }
    FUZZ_NEED(k.bytes >= 0 && k.bytes <= o.max_bytes && (passed > 0) == (k.bytes > 0) && (unsigned)k.done.code < ERR_CODES);
    FUZZ_NEED(k.done.what != PULL_DONE || (memchr(k.done.why, 0, sizeof k.done.why) && (k.done.code || k.bytes)));
    close(pair[0]);
    close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    log_init("fuzz", LOG_ERROR);
    rest = data;
    left = n;
    unsigned which = fuzz_byte(&rest, &left) % 4;
    bits = which ? 0 : fuzz_byte(&rest, &left);
    if (which == 0) fetch();
    else if (which == 1) ask();
    else if (which == 2) tell();
    else fetcher();
    return 0;
}
