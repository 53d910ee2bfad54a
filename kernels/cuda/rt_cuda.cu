/* rt_cuda: rt.h on the CUDA runtime. Dense products are dense_cuda.cu's, groups of devices nccl_cuda.cu's.
 *
 * Streams don't wait for the default stream; graphs are captured per stream, so that the ranks of a group capture at the
 * same time and the loader's copies go on meanwhile. Codes are cudaError_t's; those of NCCL are RT_GROUP. */
#include "kernels/cuda/rt.h"
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAJOR(version) ((version) / 1000) /* of cuDriverGetVersion() and CUDART_VERSION */
#define MINOR(version) ((version) % 1000 / 10)

static char old_driver[160];

const char *rt_error_text(int code)
{
    switch (code) {
    case RT_NO_DRIVER:
        return "no NVIDIA driver is installed (libcuda.so.1)";
    case RT_OLD_DRIVER:
        return old_driver;
    case RT_NO_LIBRARY:
        return "a library of the device's is missing";
    case RT_BAD_SHAPE:
        return "a kernel was asked for a shape that it does not take";
    case RT_NOT_HERE:
        return "this device has no such operation";
    case RT_PRODUCT:
        return "a dense product failed";
    case RT_GROUP:
        return "a collective operation failed";
    case RT_LATER:
        return "it still runs";
    default:
        return cudaGetErrorString((cudaError_t)code);
    }
}

/* --- devices --- */

/* The runtime is linked in, the driver is the machine's: within a major version any goes with any. The runtime says of an
 * old driver what it says of none, so the driver itself is asked. */
static int check_driver(void)
{
    int has = 0;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*version)(int *) = driver ? (int (*)(int *))dlsym(driver, "cuDriverGetVersion") : NULL;
    if (!version || version(&has)) return RT_NO_DRIVER;
    if (MAJOR(has) >= MAJOR(CUDART_VERSION)) return 0;
    snprintf(old_driver, sizeof old_driver, "the NVIDIA driver is for CUDA %d.%d, this backend needs one for CUDA %d",
             MAJOR(has), MINOR(has), MAJOR(CUDART_VERSION));
    return RT_OLD_DRIVER;
}

int rt_count(int *devices)
{
    *devices = 0;
    int rc = check_driver();
    if (rc) return rc;
    setenv("CUDA_MODULE_LOADING", "EAGER", 0); /* a kernel that is loaded by its first launch would break a capture */
    return cudaGetDeviceCount(devices);
}

static int attribute(int device, cudaDeviceAttr what)
{
    int v = 0;
    return cudaDeviceGetAttribute(&v, what, device) == cudaSuccess ? v : 0;
}

int rt_about(int device, struct rt_info *out)
{
    struct cudaDeviceProp p;
    memset(out, 0, sizeof *out);
    int rc = cudaGetDeviceProperties(&p, device);
    if (!rc) rc = cudaSetDevice(device);
    if (!rc) rc = cudaMemGetInfo(&out->free, &out->memory);
    if (rc) return rc;
    snprintf(out->name, sizeof out->name, "%.95s", p.name);
    out->cc = p.major * 10 + p.minor;
    out->sms = p.multiProcessorCount;
    out->shared_block = attribute(device, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    out->l2_bytes = p.l2CacheSize;
    out->timed = true;
    out->clusters = attribute(device, cudaDevAttrClusterLaunch) != 0;
    return 0;
}

int rt_use(int device)
{
    return cudaSetDevice(device);
}

/* --- memory --- */

int rt_alloc(void **out, size_t bytes)
{
    return cudaMalloc(out, bytes);
}

void rt_free(void *p)
{
    if (p) cudaFree(p);
}

int rt_host_alloc(void **out, size_t bytes)
{
    int rc = cudaHostAlloc(out, bytes ? bytes : 1, cudaHostAllocPortable);
    if (!rc) memset(*out, 0, bytes);
    return rc;
}

void rt_host_free(void *p)
{
    if (p) cudaFreeHost(p);
}

static cudaStream_t stream_of(void *stream)
{
    return (cudaStream_t)stream;
}

int rt_copy_in(void *to, const void *host, size_t bytes, void *stream)
{
    return bytes ? cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_of(stream)) : 0;
}

int rt_copy_out(void *host, const void *from, size_t bytes, void *stream)
{
    return bytes ? cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_of(stream)) : 0;
}

int rt_copy(void *to, const void *from, size_t bytes, void *stream)
{
    return bytes ? cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(stream)) : 0;
}

int rt_fill(void *to, int byte, size_t bytes, void *stream)
{
    return bytes ? cudaMemsetAsync(to, byte, bytes, stream_of(stream)) : 0;
}

/* --- order --- */

int rt_stream_new(void **stream, bool urgent)
{
    int least = 0, most = 0;
    int rc = cudaDeviceGetStreamPriorityRange(&least, &most);
    if (rc) return rc;
    return cudaStreamCreateWithPriority((cudaStream_t *)stream, cudaStreamNonBlocking, urgent ? most : least);
}

void rt_stream_free(void *stream)
{
    if (stream) cudaStreamDestroy(stream_of(stream));
}

int rt_stream_sync(void *stream)
{
    return cudaStreamSynchronize(stream_of(stream));
}

int rt_event_new(void **event)
{
    return cudaEventCreateWithFlags((cudaEvent_t *)event, cudaEventDisableTiming);
}

void rt_event_free(void *event)
{
    if (event) cudaEventDestroy((cudaEvent_t)event);
}

int rt_event_record(void *event, void *stream)
{
    return cudaEventRecord((cudaEvent_t)event, stream_of(stream));
}

int rt_event_wait(void *stream, void *event)
{
    return cudaStreamWaitEvent(stream_of(stream), (cudaEvent_t)event, 0);
}

int rt_event_sync(void *event)
{
    return cudaEventSynchronize((cudaEvent_t)event);
}

int rt_event_query(void *event)
{
    cudaError_t rc = cudaEventQuery((cudaEvent_t)event);
    if (rc != cudaErrorNotReady) return rc;
    cudaGetLastError(); /* where it was left too, though it is none: the next launch would find it */
    return RT_LATER;
}

/* --- graphs: captured "relaxed". The other modes forbid the thread whatever may need the device, loading a module for
 * one; cuBLASLt and NCCL do that when a kernel of theirs is first wanted, which may be in the middle of a capture. --- */

int rt_enqueue(int (*fn)(const void *op, void *stream), const void *op, size_t bytes, void *stream)
{
    (void)bytes;
    return fn(op, stream);
}

int rt_capture_begin(void *stream)
{
    return cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeRelaxed);
}

int rt_capture_end(void *stream, void **out)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    *out = NULL;
    int rc = cudaStreamEndCapture(stream_of(stream), &graph);
    if (!rc) rc = cudaGraphInstantiate(&exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (!rc) *out = exec;
    return rc;
}

int rt_graph_launch(void *graph, void *stream)
{
    return cudaGraphLaunch((cudaGraphExec_t)graph, stream_of(stream));
}

void rt_graph_free(void *graph)
{
    if (graph) cudaGraphExecDestroy((cudaGraphExec_t)graph);
}
