/* timed: what launches take on the device.
 *
 * Idea: steps replay graphs, so what is compared runs as a graph, too. Launched one by one, each takes the host 2 to 5 us
 * (the library's products the most), and a small product takes the device less: then it is the host's work that is
 * measured, and own kernels win where the library is faster. What a graph's launch and the wait cost is the same for all
 * that is compared, once a round.
 *
 * Start only. */
#include "kernels/cuda/timed.h"
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int record(const struct timed *t, void *stream, void **graph)
{
    int rc = rt_capture_begin(stream);
    if (rc) return rc;
    for (int i = 0; !rc && i < t->runs; i++) rc = rt_enqueue(t->fn, t->op, t->bytes, stream);
    int end = rt_capture_end(stream, graph); /* in any case: nothing else can come on the stream before */
    return rc ? rc : end;
}

int timed_run(const struct timed *t, int rounds, void *stream, double *s)
{
    void *graph = NULL;
    *s = 1e30;
    int rc = t->fn(t->op, stream); /* what is loaded or refused comes now */
    if (!rc) rc = record(t, stream, &graph);
    if (!rc) rc = rt_stream_sync(stream);
    for (int i = 0; !rc && i <= rounds; i++) {
        double from = now_s();
        rc = rt_graph_launch(graph, stream);
        if (!rc) rc = rt_stream_sync(stream);
        double took = (now_s() - from) / t->runs;
        if (i > 0 && took < *s) *s = took; /* the first one brings the graph over */
    }
    rt_graph_free(graph);
    return rc;
}
