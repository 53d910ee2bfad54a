/* feed_ask: a standby's question, read (see feed_ask.h). It comes with a key that opens everything there is, and is held to its bounds all the same: the
 * ranges are the indices of what is looked up in a database under load, and a path is one of the folder. */
#include "gateway/standby/feed_ask.h"
#include "adapters/adapter.h"
#include "gateway/standby/feed.h"
#include <stdio.h>
#include <string.h>

static int read_ranges(struct feed_ask *a, struct err *e)
{
    const json_t *list = json_object_get(a->body, "ranges");
    size_t n = json_array_size(list);
    if (list && !json_is_null(list) && (!json_is_array(list) || n % 2 || n / 2 > DB_SNAP_RANGES))
        return err_field(e, ERR_INVALID, "ranges", "'ranges' must be a list of first and last pages, %d pairs at most.", DB_SNAP_RANGES);
    int64_t least = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        int64_t x = json_integer_value(v);
        if (!json_is_integer(v) || x < least || x > DB_PAGES_MAX) return err_field(e, ERR_INVALID, "ranges", "'ranges' must be ascending numbers of pages.");
        a->range[i / 2][i % 2] = (uint32_t)x;
        least = x + (i % 2);
    }
    a->want.range = (const uint32_t(*)[2])a->range;
    a->want.nranges = (int)(n / 2);
    return 0;
}

int feed_ask_read(struct feed_ask *a, struct err *e)
{
    const char *names = "";
    int64_t since = 0, from = 1, most = FEED_PAGES;
    bool has_kept = false;
    a->want.epoch = "";
    if (json_get_str(a->body, "epoch", UUID_LEN - 1, &a->want.epoch, NULL, e) || json_get_int(a->body, "since", 0, UINT32_MAX, &since, NULL, e) ||
        json_get_int(a->body, "from", 1, DB_PAGES_MAX, &from, NULL, e) || json_get_str(a->body, "names", SHA256_HEX - 1, &names, NULL, e) ||
        json_get_int(a->body, "most", 1, FEED_PAGES_MOST, &most, NULL, e) || json_get_int(a->body, "have", 0, UINT32_MAX, &a->have, &has_kept, e))
        return -1;
    if (!has_kept) a->have = since;
    snprintf(a->names, sizeof a->names, "%s", names);
    a->want.since = (uint32_t)since;
    a->want.from = (uint32_t)from;
    a->want.most = (uint32_t)most;
    return read_ranges(a, e);
}

bool feed_gives(const char *path)
{
    char digest[SHA256_HEX], wanted[200];
    int month = 0, n = 0;
    if (strcmp(path, "pepper") == 0) return true;
    if (sscanf(path, "archive/usage_%6d.db%n", &month, &n) == 1 && n && !path[n]) {
        snprintf(wanted, sizeof wanted, "archive/usage_%06d.db", month);
        return month > 0 && strcmp(wanted, path) == 0;
    }
    if (strncmp(path, "blobs/", 6) != 0 || strlen(path) < 9 + 64) return false;
    snprintf(digest, sizeof digest, "%.64s", path + 9);
    static const char *const names[] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
    for (int i = 0; i < 2 && sha256_is_hex(digest); i++) {
        snprintf(wanted, sizeof wanted, "blobs/%.2s/%s/%s", digest, digest, names[i]);
        if (strcmp(wanted, path) == 0) return true;
    }
    return false;
}
