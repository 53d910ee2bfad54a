/* meters: the table behind gateway/observe/meters.h. */
#include "gateway/observe/meters.h"

const struct metric_row gateway_meter_rows[GATEWAY_METERS] = {
#define X(id, kind, name, help, labels) {METRIC_##kind, name, help, labels},
#include "schema/gateway_metrics.def"
#undef X
};
