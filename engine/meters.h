/* The engine's metrics by name: schema/engine_metrics.def as an enum and a table. */
#pragma once
#include "base/metrics.h"

enum meter {
#define X(id, kind, name, help, labels) M_##id,
#include "schema/engine_metrics.def"
#undef X
    METERS
};

extern const struct metric_row meter_rows[METERS]; /* engine/meters.c */
