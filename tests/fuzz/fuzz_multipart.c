/* multipart/form-data: parts and their bytes don't depend on how the body was cut; what is accepted has the parts' bytes in it as they are; parts begin
 * and end in turns. Input: Content-Type up to a line end, a byte for the cuts, the body. */
#include "gateway/registry/multipart.h"
#include "base/buf.h"
#include "tests/fuzz/fuzz.h"

struct got {
    struct buf log; /* all that was told, in order */
    bool open;
    int parts;
};

static int on_part(void *u, const struct multipart_part *p, struct err *e)
{
    struct got *g = u;
    (void)e;
    FUZZ_NEED(!g->open && ++g->parts <= MULTIPART_PARTS_MAX && memchr(p->name, 0, sizeof p->name));
    g->open = true;
    buf_addc(&g->log, p->is_file ? 'F' : 'P');
    buf_adds(&g->log, p->name);
    return buf_addc(&g->log, 0);
}

static int on_data(void *u, const char *bytes, size_t n, struct err *e)
{
    struct got *g = u;
    (void)e;
    FUZZ_NEED(g->open && n > 0);
    return buf_add(&g->log, bytes, n);
}

static int on_part_end(void *u, struct err *e)
{
    struct got *g = u;
    (void)e;
    FUZZ_NEED(g->open);
    g->open = false;
    return buf_addc(&g->log, 1);
}

static const struct multipart_events events = {on_part, on_data, on_part_end};

static int feed(struct got *g, const char *boundary, const uint8_t *s, size_t n, unsigned step)
{
    static struct multipart m;
    struct err e = {0};
    int rc = 0;
    multipart_init(&m, boundary, &events, g);
    while (n && rc == 0) {
        size_t k = step && step < n ? step : n;
        char *piece = fuzz_text(s, k);
        rc = multipart_feed(&m, piece, k, &e);
        free(piece);
        s += k;
        n -= k;
    }
    if (rc == 0) rc = multipart_end(&m, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE));
    FUZZ_NEED(rc != 0 || !g->open);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char boundary[MULTIPART_BOUNDARY_MAX + 1], *type = fuzz_until(&data, &n, '\n');
    struct err e = {0};
    unsigned step = 1 + fuzz_byte(&data, &n) % 97;
    if (multipart_boundary(type, boundary, &e)) {
        FUZZ_NEED(e.code == ERR_MEDIA_TYPE || e.code == ERR_INVALID);
        snprintf(boundary, sizeof boundary, "b");
    } else
        FUZZ_NEED(boundary[0] && strlen(boundary) <= MULTIPART_BOUNDARY_MAX);
    struct got a = {0}, b = {0}, c = {0};
    buf_init(&a.log, 2 * n + 1024);
    buf_init(&b.log, 2 * n + 1024);
    buf_init(&c.log, 2 * n + 1024);
    int ra = feed(&a, boundary, data, n, 0), rb = feed(&b, boundary, data, n, step), rc = feed(&c, boundary, data, n, 1);
    FUZZ_NEED(ra == rb && ra == rc && a.parts == b.parts && a.parts == c.parts);
    FUZZ_NEED(ra != 0 || (a.log.len == b.log.len && memcmp(a.log.data, b.log.data, a.log.len) == 0));
    FUZZ_NEED(ra != 0 || (a.log.len == c.log.len && memcmp(a.log.data, c.log.data, a.log.len) == 0));
    buf_close(&a.log);
    buf_close(&b.log);
    buf_close(&c.log);
    free(type);
    return 0;
}
