/* meters: the engine's metrics as rows.
 *
 * schema/engine_metrics.def is read three times: as the enum of meters.h, as this table, and by whoever documents them.
 * Nothing here runs. */
#include "engine/meters.h"

#define METRIC_KIND_COUNTER METRIC_COUNTER
#define METRIC_KIND_GAUGE METRIC_GAUGE
#define METRIC_KIND_HISTOGRAM METRIC_HISTOGRAM

const struct metric_row meter_rows[METERS] = {
#define X(id, kind, name, help, labels) [M_##id] = {METRIC_KIND_##kind, name, help, labels},
#include "schema/engine_metrics.def"
#undef X
};
