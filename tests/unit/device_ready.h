/* A device for tests: the backend whose kernels run on the CPU (build/MODE/simt/weft-cuda.so), or whatever
 * WEFT_DEVICE_LIB names. */
#pragma once
#include "engine/model_device.h"
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The library stands two folders above this test, in simt/. */
static inline void device_library(void)
{
    char path[PATH_MAX];
    if (getenv("WEFT_DEVICE_LIB")) return;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
    assert_true(n > 0);
    path[n] = 0;
    for (int up = 0; up < 3; up++) *strrchr(path, '/') = 0;
    memcpy(path + strlen(path), "/simt/weft-cuda.so", sizeof "/simt/weft-cuda.so");
    setenv("WEFT_DEVICE_LIB", path, 1);
}

/* Open and started with the model. -1 with *e where so many can't share it. */
static inline int device_shared(struct device **d, const struct model *m, const struct model_device_options *o,
                                int ranks, struct device_plan *plan, struct err *e)
{
    if (device_open(d, "cuda", ranks, e)) fail_msg("%s", e->msg);
    if (model_to_device(m, *d, o, plan, e) == 0) return 0;
    if (ranks == 1 || e->code != ERR_USAGE || !strstr(e->msg, "can't be shared")) fail_msg("%s", e->msg);
    printf("  %s\n", e->msg);
    return -1;
}

static inline void device_ready(struct device **d, const struct model *m, const struct model_device_options *o,
                                int ranks, struct device_plan *plan)
{
    struct err e = {0};
    if (device_shared(d, m, o, ranks, plan, &e)) fail_msg("%s", e.msg);
}
