/* What others of the operator's machines ask this gateway for, engines and standbys, who hold a key and may still be taken over. First byte of the input modulo 3:
 * 0, a Range header (eight bytes of the file's size, then the header): a part lies in the file, and is the one that a second, strict reading finds; 1, a path of a standby's: what is
 * given is one of the few files that there are; 2, a standby's question in JSON: its ranges ascend and are within their bounds. */
#include "gateway/pool/blobs.h"
#include "gateway/standby/feed.h"
#include "gateway/standby/feed_ask.h"
#include "tests/fuzz/fuzz.h"

/* Digits, as a number that stays at the greatest. */
static int64_t digits(const char **s)
{
    __int128 v = 0;
    for (; **s >= '0' && **s <= '9'; ++*s)
        if (v < ((__int128)1 << 100)) v = v * 10 + (**s - '0');
    return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

static void check_range(const char *s, int64_t size)
{
    int64_t from = -7, n = -7, first, last;
    int rc = blobs_range(s, size, &from, &n);
    FUZZ_NEED(rc >= -1 && rc <= 1 && from >= 0 && n >= 0 && from <= size && n <= size - from);
    bool part = strncmp(s, "bytes=", 6) == 0 && s[6] >= '0' && s[6] <= '9';
    const char *p = s + 6;
    if (part) {
        first = digits(&p);
        part = *p++ == '-';
        last = part && *p >= '0' && *p <= '9' ? digits(&p) : INT64_MAX;
        part = part && !*p && last >= first;
    }
    if (!part) FUZZ_NEED(rc == 0 && from == 0 && n == size);
    else if (first >= size) FUZZ_NEED(rc == -1);
    else FUZZ_NEED(rc == 1 && from == first && n == (last < size ? last + 1 : size) - first && n > 0);
}

static void check_path(const char *s)
{
    static const char known[] = "0123456789abcdefghijklmnopqrstuvwxyz._/";
    if (!feed_gives(s)) return;
    FUZZ_NEED(strspn(s, known) == strlen(s) && !strstr(s, "..") && !strstr(s, "//") && s[0] != '/' && strlen(s) < 128);
    FUZZ_NEED(!strcmp(s, "pepper") || (strlen(s) == 23 && !strncmp(s, "archive/usage_", 14) && strspn(s + 14, known) >= 6 && !strcmp(s + 20, ".db")) ||
              (!strncmp(s, "blobs/", 6) && !strncmp(s + 6, s + 9, 2) && s[8] == '/' && strspn(s + 9, "0123456789abcdef") == 64 && (!strcmp(s + 73, "/adapter_config.json") || !strcmp(s + 73, "/adapter_model.safetensors"))));
}

static void check_ask(const char *s, size_t n)
{
    static struct feed_ask a;
    struct err e = {0};
    uint32_t before = 0;
    memset(&a, 0, sizeof a);
    if (json_parse(s, n, &a.body, NULL)) return;
    int rc = feed_ask_read(&a, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && (!rc || e.code == ERR_INVALID));
    if (rc == 0) {
        FUZZ_NEED(a.want.epoch && strlen(a.want.epoch) < UUID_LEN && memchr(a.names, 0, sizeof a.names) && a.want.from >= 1 && a.want.from <= DB_PAGES_MAX);
        FUZZ_NEED(a.want.most >= 1 && a.want.most <= FEED_PAGES_MOST && a.have >= 0 && a.have <= UINT32_MAX && (json_object_get(a.body, "have") || a.have == a.want.since));
        FUZZ_NEED(a.want.nranges >= 0 && a.want.nranges <= DB_SNAP_RANGES);
        for (int i = 0; i < a.want.nranges; i++) {
            FUZZ_NEED(a.want.range[i][0] > before && a.want.range[i][0] <= a.want.range[i][1] && a.want.range[i][1] <= DB_PAGES_MAX);
            before = a.want.range[i][1];
        }
    }
    json_decref(a.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned which = fuzz_byte(&data, &n) % 3;
    uint64_t size = 0;
    for (int i = 0; which == 0 && i < 8; i++) size = size << 8 | fuzz_byte(&data, &n);
    char *s = fuzz_text(data, n);
    if (which == 0) check_range(s, (int64_t)(size & INT64_MAX));
    else if (which == 1) check_path(s);
    else check_ask(s, n);
    free(s);
    return 0;
}
