/* device: opens the backend, a shared object, so that the engine starts on a machine without CUDA and knows nothing of
 * it. All that follows goes through the table that the object exports.
 *
 * Looked for: WEFT_DEVICE_LIB, else weft-cuda.so in ../lib/weft from the program's folder (installed), else beside the
 * program (a build). A library of another version, or one that was built from other headers (sizes differ), is refused: its
 * structs would be read wrongly.
 *
 * One library per process, never closed again: CUDA does not like to be unloaded. */
#include "kernels/device.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "weft-cuda.so"
#define INSTALLED "../lib/weft/" LIBRARY /* from the program's folder */
#define NUMBER_MAX 1024 /* of a device */

static const struct device_backend *_Atomic backend;

/* Of open, start and adapter_put, of which one runs at a time. */
static const char *_Atomic under_way;
static atomic_ullong calls;

/* --- the library --- */

static int library_path(char path[PATH_MAX], struct err *e)
{
    const char *given = getenv("WEFT_DEVICE_LIB");
    if (given && *given) {
        if (snprintf(path, PATH_MAX, "%s", given) < PATH_MAX) return 0;
        return err_set(e, ERR_USAGE, "WEFT_DEVICE_LIB is too long");
    }
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - sizeof INSTALLED - 1);
    if (n <= 0) return err_errno(e, "the program's own path");
    path[n] = 0;
    char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    memcpy(name, INSTALLED, sizeof INSTALLED);
    if (access(path, R_OK)) memcpy(name, LIBRARY, sizeof LIBRARY);
    return 0;
}

static int open_library(struct err *e)
{
    char path[PATH_MAX];
    if (backend) return 0;
    if (library_path(path, e)) return -1;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct device_backend *b = lib ? dlsym(lib, DEVICE_SYMBOL) : NULL;
    if (!b) return err_set(e, ERR_UNAVAILABLE, "no backend for devices: %s", dlerror());
    if (b->version != DEVICE_VERSION || b->sizes != DEVICE_SIZES)
        return err_set(e, ERR_UNAVAILABLE, "%s belongs to another version of this program", path);
    backend = b;
    return 0;
}

/* "cuda" or "cuda:N". */
static int parse_name(const char *which, int *first, struct err *e)
{
    char *end;
    *first = 0;
    if (strcmp(which, "cuda") == 0) return 0;
    if (strncmp(which, "cuda:", 5) == 0 && which[5] >= '0' && which[5] <= '9') {
        long n = strtol(which + 5, &end, 10);
        *first = (int)n;
        if (!*end && n < NUMBER_MAX) return 0;
    }
    return err_set(e, ERR_USAGE, "no such device: '%s' (auto, cpu, cuda or cuda:N)", which);
}

bool device_is_name(const char *which)
{
    struct err ignored = {0};
    int first;
    return parse_name(which, &first, &ignored) == 0;
}

/* --- calls that may take long, or for ever --- */

static void begin(const char *call)
{
    atomic_fetch_add(&calls, 1);
    atomic_store(&under_way, call);
}

static int end(int rc)
{
    atomic_store(&under_way, NULL);
    return rc;
}

void device_pulse(struct device_pulse *out)
{
    const struct device_backend *b = backend;
    *out = (struct device_pulse){.call = atomic_load(&under_way), .count = atomic_load(&calls)};
    if (b) out->count += b->progress();
}

static int open_first(struct device **out, int first, int ranks, struct err *e)
{
    return open_library(e) ? -1 : backend->open(out, first, ranks, e);
}

int device_open(struct device **out, const char *which, int ranks, struct err *e)
{
    int first;
    if (parse_name(which, &first, e)) return -1;
    begin("open");
    return end(open_first(out, first, ranks, e));
}

/* --- the rest is the backend's --- */

void device_close(struct device *d)
{
    if (d) backend->close(d);
}

void device_about(const struct device *d, struct device_about *out)
{
    backend->about(d, out);
}

const struct kernels *device_kernels(const struct device *d)
{
    return backend->kernels(d);
}

int device_start(struct device *d, const struct device_shape *s, const struct device_const *c, int n,
                 struct device_plan *plan, struct err *e)
{
    begin("start");
    return end(backend->start(d, s, c, n, plan, e));
}

void *device_room(struct device *d, enum device_room which)
{
    return backend->room(d, which);
}

int device_adapter_put(struct device *d, int slot, const struct lora_table *t, struct err *e)
{
    begin("adapter");
    return end(backend->adapter_put(d, slot, t, e));
}

void device_adapter_drop(struct device *d, int slot)
{
    backend->adapter_drop(d, slot);
}

int device_begin(struct device *d, const struct device_step *s, struct device_walk *walk, struct err *e)
{
    return backend->begin(d, s, walk, e);
}

void device_enter(struct device *d, int rank)
{
    backend->enter(d, rank);
}

void device_leave(struct device *d, int rank)
{
    backend->leave(d, rank);
}

void device_launch(struct device *d, int rank)
{
    backend->launch(d, rank);
}

int device_finish(struct device *d, struct device_result *out, struct err *e)
{
    return backend->finish(d, out, e);
}

bool device_failed(const struct device *d, struct err *e)
{
    return backend->failed(d, e);
}

void device_counts(const struct device *d, struct device_counts *out)
{
    backend->counts(d, out);
}
