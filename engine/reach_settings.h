/* The settings of model_reach, which `serve` and `eval` have under the same names. */
#pragma once
#include "engine/model.h"

/* A number as text, of a setting that is no whole number: 0 to 1e12; ERR_USAGE names the setting. */
int reach_number(const char *name, const char *text, double *out, struct err *e);

#define REACH_OF(s) \
    (struct model_reach) \
    { \
        .scaling = (s)->rope_scaling, .original = (int)(s)->rope_original, .window = (int)(s)->kv_window, .sinks = (int)(s)->kv_sinks \
    }
