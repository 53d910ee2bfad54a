/* The gateway's metrics by name: schema/gateway_metrics.def as an enum and a table. */
#pragma once
#include "base/metrics.h"

enum gateway_meter {
#define X(id, kind, name, help, labels) GM_##id,
#include "schema/gateway_metrics.def"
#undef X
    GATEWAY_METERS
};

struct gateway;
void metrics_forget_public(struct gateway *g); /* metrics_api.c: before the public server is stopped */

extern const struct metric_row gateway_meter_rows[GATEWAY_METERS]; /* gateway/observe/meters.c */
