/* Metrics: counters, gauges and histograms in Prometheus' text format (exposition format 0.0.4).
 *
 * The rows of a schema/<program>_metrics.def table: X(ID, KIND, "name", "help", "label1,label2" or ""). KIND is
 * COUNTER, GAUGE or HISTOGRAM (seconds, log-spaced buckets from 100 us to 100 s). A metric holds at most METRIC_SERIES
 * label sets; further ones are counted under "other". Updates are cheap (one short lock or an atomic) and safe from any
 * thread. */
#pragma once
#include "base/buf.h"
#include <stddef.h>

#define METRIC_SERIES 256
#define METRIC_INFO_BYTES 8192

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM, METRIC_INFO };

struct metric_row {
    enum metric_kind kind;
    const char *name, *help, *labels;
};

struct metrics;

struct metrics *metrics_new(const struct metric_row *rows, size_t nrows); /* NULL: out of memory */
void metrics_free(struct metrics *m);

/* `row` indexes the table. labels: as many values as the row names, or NULL where it names none. */
void metric_add(struct metrics *m, size_t row, const char *const *labels, double v);     /* counter, gauge */
void metric_set(struct metrics *m, size_t row, const char *const *labels, double v);     /* gauge */
void metric_observe(struct metrics *m, size_t row, const char *const *labels, double v); /* histogram */
double metric_get(const struct metrics *m, size_t row, const char *const *labels); /* value, or a histogram's sum */

/* Gauges: of all label sets nothing is told any more, until they are set again. */
void metric_clear(struct metrics *m, size_t row);

/* INFO only: its one series now carries these labels (each cut at METRIC_INFO_BYTES) and this value. */
void metric_state(struct metrics *m, size_t row, const char *const *labels, double v);

/* Everything, appended to b. */
int metrics_print(struct metrics *m, struct buf *b);
