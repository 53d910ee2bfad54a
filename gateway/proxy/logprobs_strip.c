/* logprobs_strip: answers without what nobody asked for (see logprobs_strip.h). By places in the text, so that no tree is made for each token of each
 * stream. Client's thread. */
#include "gateway/proxy/logprobs_strip.h"
#include "gateway/proxy/json_walk.h"
#include <string.h>

/* Copies what lies before `v`, from *at on, then null in its place. */
static void cut(const char **at, struct json_span v, struct buf *out)
{
    buf_add(out, *at, (size_t)(v.s - *at));
    buf_adds(out, "null");
    *at = v.s + v.n;
}

int logprobs_strip(const char *s, size_t n, struct buf *out)
{
    const char *at = s;
    struct json_span choices, choice, v;
    if (json_walk_find((struct json_span){s, n}, "choices", &choices)) {
        struct json_walk w = json_walk(choices);
        while (json_walk_item(&w, &choice) == 1)
            if (json_walk_find(choice, "logprobs", &v)) cut(&at, v, out);
    }
    return buf_add(out, at, (size_t)(s + n - at));
}

int logprobs_strip_lines(const char *s, size_t n, struct buf *out)
{
    static const char word[] = "data:";
    const char *end = s + n;
    while (s < end) {
        const char *nl = memchr(s, '\n', (size_t)(end - s)), *next = nl ? nl + 1 : end;
        size_t len = (size_t)(next - s), skip = sizeof word - 1;
        bool data = len > skip && memcmp(s, word, skip) == 0;
        while (data && skip < len && s[skip] == ' ') skip++;
        if (!data || skip == len || s[skip] != '{') skip = len;
        buf_add(out, s, skip);
        if (skip < len && logprobs_strip(s + skip, len - skip, out)) return -1;
        s = next;
    }
    return out->failed ? -1 : 0;
}
