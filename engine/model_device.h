/* A model on a device: its constants, and the shape that the device makes room for. */
#pragma once
#include "engine/model.h"
#include "kernels/device.h"

struct model_device_options {
    enum kv_type kv_type;
    int max_rows, max_seqs, max_logits, max_segs; /* of a step */
    int max_rank;                                 /* summed over a row's adapters, padded */
    int slots;
    int64_t adapter_bytes, kv_bytes; /* 0: the plan decides */
    enum device_augment augment;
    bool e4m3_rows; /* beside fp8 weights */
};

/* Starts the device with the model, which must outlive it. *plan: what was taken. */
int model_to_device(const struct model *m, struct device *d, const struct model_device_options *o,
                    struct device_plan *plan, struct err *e);
