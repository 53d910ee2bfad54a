/* The relay of server-sent events: what goes on, its marks and its counts don't depend on how the stream was cut, marks don't fall, counts are none below
 * 0, and all that was no comment of ours goes on as it came. Input: two bytes that say how to cut, then the stream. */
#include "gateway/proxy/relay.h"
#include "tests/fuzz/fuzz.h"

#define CUT_MAX 64

struct got {
    struct buf text;
    uint64_t mark;
};

static int take(void *u, const char *bytes, size_t n, uint64_t mark)
{
    struct got *g = u;
    FUZZ_NEED(n > 0 && mark >= g->mark);
    g->mark = mark;
    return buf_add(&g->text, bytes, n);
}

/* An engine that counts otherwise: each event is a token, "drop" is left out, what says "bad" is an error of its own words. */
static int event(void *u, const char *data, size_t n, struct relay_counts *c, struct buf *out)
{
    (void)u;
    c->output++;
    c->known = c->estimated = true;
    if (n >= 4 && !memcmp(data, "drop", 4)) return 0;
    if (n >= 3 && !memcmp(data, "bad", 3)) return buf_adds(out, "{\"error\":{\"code\":\"bad\"}}");
    return buf_addc(out, '<') | buf_add(out, data, n);
}

/* In pieces of 1..step bytes, by a small generator; step 0: as a whole. */
static void feed(struct relay *r, struct got *g, const char *s, size_t n, unsigned step, unsigned seed, bool events)
{
    relay_init(r);
    if (events) r->event = event;
    buf_init(&g->text, 64 * n + 64);
    g->mark = 0;
    while (n) {
        size_t k = n;
        seed = seed * 1103515245u + 12345u;
        if (step && (k = 1 + (seed >> 16) % step) > n) k = n;
        char *piece = fuzz_text((const uint8_t *)s, k);
        FUZZ_NEED(relay_feed(r, piece, k, take, g) == 0);
        free(piece);
        s += k;
        n -= k;
    }
    FUZZ_NEED(r->mark == g->mark || r->counts.output >= (int64_t)g->mark);
}

static void check_counts(const struct relay_counts *c)
{
    FUZZ_NEED(c->prompt >= 0 && c->cached >= 0 && c->output >= 0);
    FUZZ_NEED(memchr(c->finish, 0, sizeof c->finish));
}

static bool same_counts(const struct relay_counts *a, const struct relay_counts *b)
{
    return a->prompt == b->prompt && a->cached == b->cached && a->output == b->output && a->known == b->known && !strcmp(a->finish, b->finish);
}

/* What goes on is the stream without some of its lines: each of its lines stands in the stream, in order. */
static void check_lines(const char *in, size_t n, const struct buf *out)
{
    const char *end = in + n, *o = out->data, *oend = o + out->len;
    while (o < oend) {
        const char *nl = memchr(o, '\n', (size_t)(oend - o));
        size_t len = nl ? (size_t)(nl - o) + 1 : (size_t)(oend - o);
        bool found = false;
        while (in < end && !found) {
            const char *inl = memchr(in, '\n', (size_t)(end - in));
            size_t ilen = inl ? (size_t)(inl - in) + 1 : (size_t)(end - in);
            found = ilen == len && memcmp(in, o, len) == 0;
            FUZZ_NEED(found || *in == ':' || *in == '\n' || *in == '\r'); /* only comments and empty lines are taken out */
            in += ilen;
        }
        FUZZ_NEED(found);
        o += len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct relay a, b;
    struct got ga, gb;
    struct relay_counts usage = {0};
    struct relay_times times = {0};
    unsigned first = fuzz_byte(&data, &n), step = 1 + first % CUT_MAX, seed = fuzz_byte(&data, &n);
    bool events = first >= 128;
    char *s = fuzz_text(data, n);
    feed(&a, &ga, s, n, 0, 0, events);
    feed(&b, &gb, s, n, step, seed, events);
    FUZZ_NEED(ga.text.len == gb.text.len && memcmp(ga.text.data, gb.text.data, ga.text.len) == 0);
    FUZZ_NEED(a.mark == b.mark && same_counts(&a.counts, &b.counts) && a.done == b.done && a.error == b.error && a.data == b.data);
    FUZZ_NEED(strcmp(a.code, b.code) == 0 && memcmp(&a.times, &b.times, sizeof a.times) == 0);
    FUZZ_NEED(a.mark <= (uint64_t)a.counts.output);
    check_counts(&a.counts);
    if (!events) check_lines(s, n, &ga.text);
    relay_usage(s, n, &usage);
    check_counts(&usage);
    relay_read_times(s, &times);
    FUZZ_NEED(times.queue_us >= 0 && times.load_us >= 0 && times.prefill_us >= 0 && times.decode_us >= 0 && times.paused_us >= 0);
    relay_reset(&a);
    FUZZ_NEED(!a.done && !a.counts.known && a.line.len == 0);
    buf_close(&ga.text);
    buf_close(&gb.text);
    relay_close(&a);
    relay_close(&b);
    free(s);
    return 0;
}
