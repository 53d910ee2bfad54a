/* live_window: a ring of parts, each counted into while it runs (see live_window.h). No thread, no lock of its own. */
#include "gateway/live/live_window.h"
#include <string.h>

#define PART_US (LIVE_PART_S * 1000000LL)

void live_window_init(struct live_window *w)
{
    memset(w, 0, sizeof *w);
    for (int i = 0; i < LIVE_PARTS; i++) w->part[i] = -1;
}

/* The place of the running part, cleared when it is another one's. */
static int running(struct live_window *w, int64_t mono_us)
{
    int64_t part = mono_us / PART_US;
    int i = (int)(part % LIVE_PARTS);
    if (w->part[i] == part) return i;
    w->part[i] = part;
    memset(w->count[i], 0, sizeof w->count[i]);
    memset(w->times[i], 0, sizeof w->times[i]);
    return i;
}

void live_window_count(struct live_window *w, int64_t mono_us, enum live_count what)
{
    w->count[running(w, mono_us)][what]++;
}

void live_window_time(struct live_window *w, int64_t mono_us, enum latency_kind kind, int64_t us)
{
    int b = ledger_latency_bucket(us) - LIVE_FIRST_BUCKET;
    if (b < 0) b = 0;
    if (b >= LIVE_BUCKETS) b = LIVE_BUCKETS - 1;
    w->times[running(w, mono_us)][kind][b]++;
}

static bool counts(const struct live_window *w, int i, int64_t mono_us)
{
    return w->part[i] >= 0 && mono_us / PART_US - w->part[i] < LIVE_PARTS;
}

void live_window_sum(const struct live_window *w, int64_t mono_us, struct live_sums *out)
{
    memset(out, 0, sizeof *out);
    out->covered_s = LIVE_SPAN_S - LIVE_PART_S + (double)(mono_us % PART_US) / 1e6;
    for (int i = 0; i < LIVE_PARTS; i++) {
        if (!counts(w, i, mono_us)) continue;
        for (int k = 0; k < LIVE_COUNTS; k++) out->count[k] += w->count[i][k];
        for (int k = 0; k < LATENCY_KINDS; k++)
            for (int b = 0; b < LIVE_BUCKETS; b++) out->times[k][b + LIVE_FIRST_BUCKET] += w->times[i][k][b];
    }
}

bool live_window_idle(const struct live_window *w, int64_t mono_us)
{
    for (int i = 0; i < LIVE_PARTS; i++)
        if (counts(w, i, mono_us)) return false;
    return true;
}
