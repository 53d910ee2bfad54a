/* nccl: rt.h's groups of devices. The library is opened when a group is asked for: one device needs none, and calls nothing
 * of it.
 *
 * One process, one communicator a device, each used by its rank's thread: no ncclGroupStart around different ranks (that
 * is for one thread with several devices), only around the sends and receives of one exchange, which must progress
 * together. Captures don't see one another, so ranks record at the same time; all streams record the same collectives in
 * the same order, whatever was timed (group.c), and each rank's graphs are launched by its own thread.
 *
 * Two settings of the library's, where the environment has none: peers are connected when the group is made, not by the
 * first call of an algorithm, which would be inside a capture and wait for the other ranks' threads there; and no support
 * for collectives of one communicator that run side by side, for a rank has one stream (its graphs would get events that
 * nobody needs, and several ranks' graphs could stop one another).
 *
 * Failures: communicators block, their calls tell their own; what happens later is asked for (rt_group_state). Then
 * ncclCommAbort() ends the kernels that stand and frees the communicators: all of them, in turns by one thread. The
 * first ones raise their flag, the last one waits: also for every graph that was recorded with one of them, for each holds
 * a reference, which no flag takes back. So whoever ends a group has freed its graphs (one that runs is freed by its end,
 * which the flag brings). */
#include "kernels/cuda/rt.h"
#include <cuda_runtime.h>
#include <dlfcn.h>
#if __has_include(<nccl.h>)
#include <nccl.h>
#else /* what is called of it: a machine that builds this needs no NCCL, one that runs it finds the library, or has one rank */
typedef struct ncclComm *ncclComm_t;
enum ncclResult_t { ncclSuccess };
enum ncclDataType_t { ncclUint8 = 1 };
ncclResult_t ncclCommInitAll(ncclComm_t *comm, int n, const int *devices);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error);
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
ncclResult_t ncclAllGather(const void *from, void *to, size_t n, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream);
ncclResult_t ncclSend(const void *from, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclRecv(void *to, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream);
#endif
#include <stdlib.h>

#define RANKS_MAX 8

static cudaStream_t stream_of(void *stream)
{
    return (cudaStream_t)stream;
}

struct rt_group {
    void *library;
    int n;
    bool gone; /* aborted: nothing is left to destroy */
    ncclComm_t rank[RANKS_MAX];
    decltype(&ncclAllGather) all_gather;
    decltype(&ncclSend) send;
    decltype(&ncclRecv) recv;
    decltype(&ncclGroupStart) begin;
    decltype(&ncclGroupEnd) end;
    decltype(&ncclCommInitAll) init;
    decltype(&ncclCommGetAsyncError) state;
    decltype(&ncclCommAbort) abort;
    decltype(&ncclCommDestroy) destroy;
};

template <typename F> static bool find(void *library, const char *name, F *to)
{
    *to = (F)dlsym(library, name);
    return *to != NULL;
}

static bool find_functions(struct rt_group *g)
{
    void *l = g->library;
    return find(l, "ncclAllGather", &g->all_gather) && find(l, "ncclSend", &g->send) && find(l, "ncclRecv", &g->recv) &&
           find(l, "ncclGroupStart", &g->begin) && find(l, "ncclGroupEnd", &g->end) &&
           find(l, "ncclCommInitAll", &g->init) && find(l, "ncclCommGetAsyncError", &g->state) &&
           find(l, "ncclCommAbort", &g->abort) && find(l, "ncclCommDestroy", &g->destroy);
}

int rt_group_new(struct rt_group **out, const int *devices, int n)
{
    if (n < 2 || n > RANKS_MAX) return RT_GROUP;
    struct rt_group *g = (struct rt_group *)calloc(1, sizeof *g);
    if (!g) return cudaErrorMemoryAllocation;
    setenv("NCCL_RUNTIME_CONNECT", "0", 0);
    setenv("NCCL_GRAPH_MIXING_SUPPORT", "0", 0);
    /* Its threads may end after the last communicator is gone, so it stays. */
    g->library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!g->library || !find_functions(g)) {
        rt_group_free(g);
        return RT_NO_LIBRARY;
    }
    if (g->init(g->rank, n, devices) != ncclSuccess) {
        rt_group_free(g);
        return RT_GROUP;
    }
    g->n = n;
    *out = g;
    return 0;
}

void rt_group_free(struct rt_group *g)
{
    if (!g) return;
    for (int i = 0; i < g->n && !g->gone; i++) g->destroy(g->rank[i]);
    if (g->library) dlclose(g->library);
    free(g);
}

int rt_group_state(const struct rt_group *g)
{
    for (int i = 0; i < g->n; i++) {
        ncclResult_t was = ncclSuccess;
        if (g->gone || g->state(g->rank[i], &was) != ncclSuccess || was != ncclSuccess) return RT_GROUP;
    }
    return 0;
}

void rt_group_abort(struct rt_group *g)
{
    for (int i = 0; i < g->n && !g->gone; i++) g->abort(g->rank[i]);
    g->gone = true;
}

static int code_of(ncclResult_t rc)
{
    return rc == ncclSuccess ? 0 : RT_GROUP;
}

int rt_all_gather(struct rt_group *g, int rank, const void *part, void *all, size_t bytes, void *stream)
{
    if (g->gone) return RT_GROUP;
    return code_of(g->all_gather(part, all, bytes, ncclUint8, g->rank[rank], stream_of(stream)));
}

int rt_exchange(struct rt_group *g, int rank, const void *parts, void *all, size_t bytes, void *stream)
{
    if (g->gone || g->begin() != ncclSuccess) return RT_GROUP;
    ncclResult_t rc = ncclSuccess;
    for (int r = 0; r < g->n && rc == ncclSuccess; r++) {
        size_t at = (size_t)r * bytes;
        rc = g->send((const char *)parts + at, bytes, ncclUint8, r, g->rank[rank], stream_of(stream));
        if (rc == ncclSuccess) rc = g->recv((char *)all + at, bytes, ncclUint8, r, g->rank[rank], stream_of(stream));
    }
    ncclResult_t end = g->end(); /* in any case: it closes what begin() opened */
    return code_of(rc == ncclSuccess ? end : rc);
}
