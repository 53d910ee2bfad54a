/* rt: what host code of the CUDA backend may ask of a device. Two homes: rt_cuda.cu (CUDA runtime, cuBLASLt, NCCL) and
 * tests/simt/rt_simt.c, where memory is the host's, a stream runs at once and a product is a loop.
 *
 * Every call returns 0 or a code that rt_error_text() explains; nothing is retried. Calls act on the device that
 * rt_use() chose for the calling thread. Streams, events and graphs are opaque; a `stream` of dev.h's launches is one of
 * these. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Codes beside the runtime's own (which are > 0). */
enum {
    RT_NO_LIBRARY = -1,
    RT_BAD_SHAPE = -2,
    RT_NOT_HERE = -3,
    RT_PRODUCT = -4,
    RT_GROUP = -5,
    RT_NO_DRIVER = -6,
    RT_OLD_DRIVER = -7,
    RT_LATER = -8
};
const char *rt_error_text(int code);

/* --- devices --- */

struct rt_info {
    char name[96];
    size_t memory, free; /* bytes */
    int cc;              /* 80, 89, 90: compute capability; clusters from 90 on */
    int sms;             /* multiprocessors */
    int shared_block;    /* bytes of shared memory that a block may ask for */
    int l2_bytes;
    bool timed;    /* times say something of hardware */
    bool clusters; /* blocks can be launched as clusters of 8 */
};

int rt_count(int *devices);
int rt_about(int device, struct rt_info *out);
int rt_use(int device); /* for the calling thread, cheap when repeated */

/* --- memory --- */

int rt_alloc(void **device_memory, size_t bytes); /* 256-byte aligned */
void rt_free(void *device_memory);
int rt_host_alloc(void **pinned, size_t bytes); /* zeroed */
void rt_host_free(void *pinned);

int rt_copy_in(void *device_memory, const void *host, size_t bytes, void *stream);
int rt_copy_out(void *host, const void *device_memory, size_t bytes, void *stream);
int rt_copy(void *to, const void *from, size_t bytes, void *stream); /* within the device */
int rt_fill(void *device_memory, int byte, size_t bytes, void *stream);

/* --- order --- */

int rt_stream_new(void **stream, bool urgent); /* urgent: its kernels go before those of other streams */
void rt_stream_free(void *stream);
int rt_stream_sync(void *stream);
int rt_event_new(void **event);
void rt_event_free(void *event);
int rt_event_record(void *event, void *stream);
int rt_event_wait(void *stream, void *event); /* the stream goes on when the event has come */
int rt_event_sync(void *event);               /* the caller does */
int rt_event_query(void *event);              /* 0: it has come; RT_LATER: not yet */

/* --- graphs: what is launched on the stream between begin and end is noted, not run --- */

/* fn(op, stream), where a copy of op's `bytes` bytes is all that fn reads on the host: operations of a step are launched
 * by this, so that rt_simt.c can note and repeat them. */
int rt_enqueue(int (*fn)(const void *op, void *stream), const void *op, size_t bytes, void *stream);

int rt_capture_begin(void *stream);
int rt_capture_end(void *stream, void **graph); /* NULL with an error: the stream is as before */
int rt_graph_launch(void *graph, void *stream);
void rt_graph_free(void *graph); /* one that runs goes when it has ended */

/* --- dense products: y [m][n] = (beta y) + x [m][k] w [n][k]^T, sums in float32 (cuBLASLt: dense_cuda.cu) --- */

enum rt_type { RT_BF16, RT_F32, RT_E4M3 };

struct rt_product {
    int m, n, k;
    enum rt_type in, out; /* of x and w: bf16 or e4m3; of y: bf16 or float32 */
    const void *x, *w;
    int ldx, ldw; /* elements between rows */
    void *y;
    int ldy;
    bool add;                       /* to what y holds */
    float scale;                    /* of the sum; 0: 1 */
    const float *scale_x, *scale_w; /* e4m3, where rt_dense_has() it: of each row of x and of w, both or neither */
    int batch;                      /* 0, 1: one product; else that many, this far from each other, in elements: */
    size_t step_x, step_w, step_y;
};

struct rt_dense; /* plans of one device */
/* The workspace is the caller's and one stream's. */
int rt_dense_new(struct rt_dense **out, void *workspace, size_t bytes);
void rt_dense_free(struct rt_dense *d);
/* Choose how products of this shape run, by timing where that is possible; outside a capture, once per shape. */
int rt_dense_plan(struct rt_dense *d, const struct rt_product *p, void *stream);
/* A shape runs by the algorithm of another one's plan: so that sums of k have the same order, as far as both go.
 * RT_PRODUCT: it can't. */
int rt_dense_plan_as(struct rt_dense *d, const struct rt_product *p, const struct rt_product *like);
/* 0, or RT_PRODUCT: this device has no such product. Enqueues nothing; inside a capture too. */
int rt_dense_has(struct rt_dense *d, const struct rt_product *p);
/* What was chosen on one device goes for another one that is like it, so that all of a group compute alike. */
int rt_dense_share(struct rt_dense *to, const struct rt_dense *from);
/* Plans that are missing are made by guess. Inside a capture too. */
int rt_dense_run(struct rt_dense *d, const struct rt_product *p, void *stream);

/* --- groups of devices (NCCL); rank i is devices[i]. One device is no group and calls none of these --- */

struct rt_group;
int rt_group_new(struct rt_group **out, const int *devices, int n);
/* This, and rt_group_abort(), wait until no graph is left that has calls of the group's in it: they are freed before. */
void rt_group_free(struct rt_group *g);
/* 0, or what went wrong since in what was enqueued. */
int rt_group_state(const struct rt_group *g);
/* The end of a group in which a rank failed: whoever waits in a collective comes back, with whatever. By one thread, while
 * no other one is in a call of the group's; then only rt_group_free(). */
void rt_group_abort(struct rt_group *g);

/* Called by each rank's thread for its own stream; all ranks call the same in the same order. */
/* all [ranks][bytes]: rank r's `part` at r; part may be its place in all. */
int rt_all_gather(struct rt_group *g, int rank, const void *part, void *all, size_t bytes, void *stream);
/* parts [ranks][bytes]: part r goes to rank r, where it stands at this rank's place of `all`. */
int rt_exchange(struct rt_group *g, int rank, const void *parts, void *all, size_t bytes, void *stream);

#ifdef __cplusplus
}
#endif
