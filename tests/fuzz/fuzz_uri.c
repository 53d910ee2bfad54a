/* Request targets and lists' cursors: a path that is taken has no dot segment, no control byte, is UTF-8 and was decoded once; arguments are those of the query;
 * a page keeps to its bounds. Input: the target. */
#include "base/http_internal.h"
#include "gateway/api/page.h"
#include "tests/fuzz/fuzz.h"

static void check_path(const char *path)
{
    FUZZ_NEED(path[0] == '/' && !strstr(path, "//") && !strstr(path, "/../") && !strstr(path, "/./"));
    size_t n = strlen(path);
    FUZZ_NEED(!(n >= 3 && !strcmp(path + n - 3, "/..")) && !(n >= 2 && !strcmp(path + n - 2, "/.")) && !strchr(path, '\\'));
    for (size_t i = 0; i < n;) {
        bool valid;
        FUZZ_NEED((unsigned char)path[i] >= 0x20 && path[i] != 0x7f);
        i += buf_utf8(path + i, n - i, &valid);
        FUZZ_NEED(valid);
    }
}

struct seen {
    const struct http_request *r;
    int n;
};

static void look(void *u, const char *name, const char *value)
{
    struct seen *s = u;
    s->n++;
    FUZZ_NEED(name && value && http_query(s->r, name));
}

static void check_page(const struct http_request *r)
{
    static const char *const also[] = {"x", NULL};
    struct page p;
    struct err e = {0};
    int64_t number = -1;
    if (page_read(r, also, &p, &e)) {
        FUZZ_NEED(e.code != ERR_NONE && e.msg[0]);
        return;
    }
    FUZZ_NEED(p.limit >= 1 && p.limit <= PAGE_MAX && !(*p.after && *p.before) && strlen(page_cursor(&p)) <= 255);
    if (page_number(&p, &number, &e) == 0)
        FUZZ_NEED(number >= 0 && number < 1000000000000000 && (number > 0) == (page_cursor(&p)[0] != 0));
    else
        FUZZ_NEED(e.code == ERR_INVALID && number == -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *uri = fuzz_text(data, n);
    struct http_exchange x = {.raw_uri = uri};
    struct err e = {0};
    x.r.arena = arena_new(1u << 20);
    FUZZ_NEED(x.r.arena);
    if (http_uri_parse(&x, &e))
        FUZZ_NEED(e.code == ERR_BAD_HTTP && e.msg[0]);
    else {
        struct seen s = {.r = &x.r};
        check_path(x.r.path);
        http_query_each(&x.r, look, &s);
        FUZZ_NEED(s.n <= HTTP_QUERY_ARGS && (x.query || s.n == 0));
        check_page(&x.r);
    }
    arena_free(x.r.arena);
    free(uri);
    return 0;
}
