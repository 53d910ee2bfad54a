/* If-Match, If-None-Match and Idempotency-Key: a tag that is taken is the revision's own and matches no other; a key that is taken is printable and short.
 * Input: the three headers' values, each up to a line end; an empty one is not there. */
#include "base/http_internal.h"
#include "gateway/api/idempotency.c"
#include "gateway/api/revision.h"
#include "tests/fuzz/fuzz.h"

static void add(struct http_exchange *x, const char *name, const char *value)
{
    if (*value) x->header[x->nheaders++] = (struct http_pair){.name = name, .value = value};
}

static void check_revision(const struct http_exchange *x, const char *match, const char *none)
{
    int64_t want = -7, required = -7;
    struct err e = {0}, e2 = {0};
    char tag[40];
    int rc = revision_wanted(&x->r, &want, &e), rr = revision_required(&x->r, &required, &e2);
    if (rc) {
        FUZZ_NEED(e.code == ERR_INVALID && rr && e2.code == ERR_INVALID);
        return;
    }
    FUZZ_NEED(want >= REVISION_SOME && (rr == 0) == (want != REVISION_ANY) && (want == REVISION_ANY) == (!*match && !*none));
    FUZZ_NEED((want == REVISION_NONE) == (*none != 0) && (want != REVISION_SOME || !strcmp(match, "*")));
    if (want <= 0) return;
    FUZZ_NEED(revision_check(want, want, NULL) == 0 && revision_check(want, want - 1, NULL) != 0 && revision_check(want, 0, NULL) != 0);
    if (want == INT64_MAX) return;
    snprintf(tag, sizeof tag, "%lld\"", (long long)want);
    FUZZ_NEED(match[0] == '"' && !strcmp(match + 1 + strspn(match + 1, "0"), tag));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct http_exchange x = {0};
    struct err e = {0};
    char *match = fuzz_until(&data, &n, '\n'), *none = fuzz_until(&data, &n, '\n'), *key = fuzz_until(&data, &n, '\n');
    add(&x, "If-Match", match);
    add(&x, "if-none-match", none);
    check_revision(&x, match, none);
    if (check_key(key, &e) == 0) {
        FUZZ_NEED(*key && strlen(key) <= ONCE_KEY_MAX);
        for (const char *p = key; *p; p++) FUZZ_NEED(*p > ' ' && *p < 0x7f);
    } else
        FUZZ_NEED(e.code == ERR_INVALID && !strcmp(e.param, "Idempotency-Key"));
    free(match);
    free(none);
    free(key);
    return 0;
}
