/* The tiny engine on a device. */
#pragma once
#include "tests/unit/device_ready.h"
#include "tests/unit/tiny_engine.h"

struct device_world {
    struct tiny_engine t;
    struct device *device;
    struct device_plan plan;
};

/* What the next devices are opened with. */
static enum device_augment world_augment = AUGMENT_AUTO;

#define WORLD_RANK 64

static const struct sched_options world_sched = {
    .max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2, .kv_type = KV_BF16, .follow = true};
static const struct lora_options world_loras = {
    .max_slots = ADAPTERS, .max_known = 16, .wait_ms = 20000, .max_rank = WORLD_RANK};

static inline void world_start_device(struct device_world *w, const struct model *m, const struct sched_options *o,
                                      const struct lora_options *lo, int ranks)
{
    const struct model_device_options mo = {.kv_type = o->kv_type,
                                            .max_rows = sched_rows(o),
                                            .max_seqs = o->max_running,
                                            .max_logits = sched_logits(o),
                                            .max_segs = sched_segments(o),
                                            .max_rank = lora_rank_pad(lo->max_rank),
                                            .slots = lo->max_slots,
                                            .adapter_bytes = lo->max_bytes ? lo->max_bytes : 8 << 20,
                                            .kv_bytes = o->kv_bytes ? o->kv_bytes : 4 << 20,
                                            .augment = world_augment};
    device_library();
    device_ready(&w->device, m, &mo, ranks, &w->plan);
}

/* As tiny_open() and tiny_start(). on_device false: the same on the CPU. */
static inline void world_open(struct device_world *w, enum tiny_type type, const struct lora_options *lo,
                              const struct sched_options *so, bool on_device, int ranks)
{
    struct lora_options l = *lo;
    struct sched_options s = *so;
    struct err e = {0};
    memset(w, 0, sizeof *w);
    tiny_open(&w->t, type, PREC_FAST, &l);
    if (on_device) {
        world_start_device(w, w->t.m, &s, &l, ranks);
        lora_set_free(w->t.loras); /* the set of adapters is told of the device when it is made */
        l.metrics = w->t.metrics;
        l.device = s.device = w->device;
        s.plan = &w->plan;
        if (lora_set_new(&w->t.loras, w->t.m, &l, &e)) fail_msg("%s", e.msg);
    }
    tiny_start(&w->t, &s);
}

static inline void world_close(struct device_world *w)
{
    sched_free(w->t.s);
    lora_set_free(w->t.loras);
    device_close(w->device);
    w->t.s = NULL;
    w->t.loras = NULL;
    metrics_free(w->t.metrics);
    model_free(w->t.m);
    tiny_remove(w->t.folder);
}
