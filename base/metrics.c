/* metrics: a table of numbers that Prometheus reads.
 *
 * A metric without labels is one series and its update one atomic operation. A metric with labels keeps its series in
 * an array in order of arrival, found through a small open hash under the metric's own lock; the lock covers the
 * look-up only, the update is atomic again. Series are never removed, so a pointer to one stays good. What it refuses:
 * growth (a gauge that is cleared is not told, and keeps its place). Label values are cut at VALUE_MAX bytes and the last of METRIC_SERIES places is the series "other", which
 * counts for all that came too late. An INFO metric is the exception: its only series is replaced whole, labels and value,
 * under the lock, which a print of it holds too. Any thread. A print reads while others write: each number is whole, a histogram's
 * may differ by the updates in between. */
#include "base/metrics.h"
#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABELS_MAX 8
#define VALUE_MAX 128 /* bytes of a label value */
#define HASH_SLOTS (2 * METRIC_SERIES)

static const double bounds[] = {1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1,
                                0.25, 0.5,    1,    2.5,  5,      10,   25,   50,     100};
#define BUCKETS (sizeof bounds / sizeof *bounds)

struct series {
    char *key; /* label values, each with its NUL, one after the other */
    size_t key_len;
    _Atomic double value;                /* of a histogram: the sum */
    _Atomic uint64_t count[BUCKETS + 1]; /* histograms: not cumulative; the last is above every bound */
};

struct metric {
    const struct metric_row *row;
    int nlabels;
    pthread_mutex_t lock; /* covers series, n, slot */
    struct series *series[METRIC_SERIES];
    size_t n;
    uint16_t slot[HASH_SLOTS]; /* index into series plus one; 0: free */
};

struct metrics {
    size_t n;
    struct metric *metric; /* [n] */
};

static int count_labels(const char *labels)
{
    int n = *labels != 0;
    for (; *labels; labels++) n += *labels == ',';
    assert(n <= LABELS_MAX);
    return n;
}

static struct series *series_new(const char *key, size_t key_len)
{
    struct series *s = calloc(1, sizeof *s);
    char *copy = malloc(key_len + 1);
    if (!s || !copy) {
        free(s);
        free(copy);
        return NULL;
    }
    memcpy(copy, key, key_len);
    s->key = copy;
    s->key_len = key_len;
    return s;
}

struct metrics *metrics_new(const struct metric_row *rows, size_t nrows)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (m) m->metric = calloc(nrows ? nrows : 1, sizeof *m->metric);
    if (!m || !m->metric) {
        free(m);
        return NULL;
    }
    for (; m->n < nrows; m->n++) {
        struct metric *t = &m->metric[m->n];
        pthread_mutex_init(&t->lock, NULL);
        t->row = &rows[m->n];
        t->nlabels = count_labels(rows[m->n].labels);
        if (t->nlabels) continue;
        t->series[0] = series_new("", 0);
        t->n = t->series[0] != NULL;
        if (t->n) continue;
        m->n++;
        metrics_free(m);
        return NULL;
    }
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) {
        struct metric *t = &m->metric[i];
        for (size_t k = 0; k < t->n; k++) {
            free(t->series[k]->key);
            free(t->series[k]);
        }
        pthread_mutex_destroy(&t->lock);
    }
    free(m->metric);
    free(m);
}

/* Each value with its NUL, a long one cut. */
static size_t make_key(char *key, const char *const *labels, int n)
{
    size_t len = 0;
    for (int i = 0; i < n; i++) {
        const char *value = labels[i] ? labels[i] : "";
        for (size_t k = 0; value[k] && k < VALUE_MAX; k++) key[len++] = value[k];
        key[len++] = 0;
    }
    return len;
}

static size_t hash(const char *key, size_t n)
{ /* FNV-1a */
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)key[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 32) % HASH_SLOTS;
}

/* The slot of the key, or the free slot where it belongs: there are twice as many slots as series. */
static uint16_t *slot_of(struct metric *t, const char *key, size_t len)
{
    for (size_t h = hash(key, len);; h = (h + 1) % HASH_SLOTS) {
        if (!t->slot[h]) return &t->slot[h];
        const struct series *s = t->series[t->slot[h] - 1];
        if (s->key_len == len && memcmp(s->key, key, len) == 0) return &t->slot[h];
    }
}

/* Under the lock. The last place is kept for "other". NULL: no memory. */
static struct series *find_or_add(struct metric *t, const char *key, size_t len, bool add)
{
    uint16_t *slot = slot_of(t, key, len);
    if (*slot) return t->series[*slot - 1];
    if (!add) return NULL;
    char other[LABELS_MAX * sizeof "other"];
    if (t->n >= METRIC_SERIES - 1) {
        static const char *const words[LABELS_MAX] = {"other", "other", "other", "other",
                                                      "other", "other", "other", "other"};
        len = make_key(other, words, t->nlabels);
        key = other;
        slot = slot_of(t, key, len);
        if (*slot) return t->series[*slot - 1];
    }
    struct series *s = series_new(key, len);
    if (!s) return NULL;
    t->series[t->n++] = s;
    *slot = (uint16_t)t->n;
    return s;
}

static struct series *series_at(const struct metrics *m, size_t row, const char *const *labels, bool add)
{
    assert(row < m->n);
    struct metric *t = &m->metric[row];
    if (!t->nlabels) return t->series[0];
    char key[LABELS_MAX * (VALUE_MAX + 1)];
    size_t len = make_key(key, labels, t->nlabels);
    pthread_mutex_lock(&t->lock);
    struct series *s = find_or_add(t, key, len, add);
    pthread_mutex_unlock(&t->lock);
    return s;
}

void metric_state(struct metrics *m, size_t row, const char *const *labels, double v)
{
    assert(row < m->n && m->metric[row].row->kind == METRIC_INFO);
    struct metric *t = &m->metric[row];
    struct buf key;
    buf_init(&key, (size_t)t->nlabels * (METRIC_INFO_BYTES + 1));
    for (int i = 0; i < t->nlabels; i++) buf_add(&key, labels[i], strnlen(labels[i], METRIC_INFO_BYTES)), buf_addc(&key, 0);
    struct series *s = key.failed ? NULL : series_new(key.data, key.len);
    buf_close(&key);
    if (!s) return;
    atomic_store_explicit(&s->value, v, memory_order_relaxed);
    pthread_mutex_lock(&t->lock);
    struct series *old = t->n ? t->series[0] : NULL;
    t->series[0] = s;
    t->n = 1;
    pthread_mutex_unlock(&t->lock);
    if (old) free(old->key);
    free(old);
}

/* What is not a number is not printed. */
void metric_clear(struct metrics *m, size_t row)
{
    assert(row < m->n && m->metric[row].row->kind == METRIC_GAUGE);
    struct metric *t = &m->metric[row];
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->n; i++) atomic_store_explicit(&t->series[i]->value, (double)NAN, memory_order_relaxed);
    pthread_mutex_unlock(&t->lock);
}

static void add_double(_Atomic double *to, double v)
{
    double seen = atomic_load_explicit(to, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(to, &seen, seen + v, memory_order_relaxed, memory_order_relaxed)) {
    }
}

void metric_add(struct metrics *m, size_t row, const char *const *labels, double v)
{
    struct series *s = series_at(m, row, labels, true);
    if (s) add_double(&s->value, v);
}

void metric_set(struct metrics *m, size_t row, const char *const *labels, double v)
{
    struct series *s = series_at(m, row, labels, true);
    if (s) atomic_store_explicit(&s->value, v, memory_order_relaxed);
}

void metric_observe(struct metrics *m, size_t row, const char *const *labels, double v)
{
    struct series *s = series_at(m, row, labels, true);
    if (!s) return;
    size_t b = 0;
    while (b < BUCKETS && v > bounds[b]) b++;
    atomic_fetch_add_explicit(&s->count[b], 1, memory_order_relaxed);
    add_double(&s->value, v);
}

double metric_get(const struct metrics *m, size_t row, const char *const *labels)
{
    struct series *s = series_at(m, row, labels, false);
    return s ? atomic_load_explicit(&s->value, memory_order_relaxed) : 0;
}

static void print_number(struct buf *b, double v)
{
    if (isnan(v))
        buf_adds(b, "NaN");
    else if (isinf(v))
        buf_adds(b, v > 0 ? "+Inf" : "-Inf");
    else if (v == floor(v) && fabs(v) < 1e15)
        buf_addf(b, "%.0f", v);
    else
        buf_addf(b, "%.9g", v);
}

static void print_value(struct buf *b, const char *s)
{
    buf_addc(b, '"');
    for (size_t n = strlen(s), len, i = 0; i < n; i += len) {
        bool valid;
        len = buf_utf8(s + i, n - i, &valid);
        if (!valid)
            buf_adds(b, "\xEF\xBF\xBD");
        else if (s[i] == '\n')
            buf_adds(b, "\\n");
        else if (s[i] == '"' || s[i] == '\\')
            buf_add(b, (char[2]){'\\', s[i]}, 2);
        else
            buf_add(b, s + i, len);
    }
    buf_addc(b, '"');
}

/* {a="x",b="y",le="0.1"}; nothing when there is no label. */
static void print_labels(struct buf *b, const struct metric *t, const struct series *s, const char *le)
{
    const char *name = t->row->labels, *value = s->key;
    const char *sep = "{";
    for (int i = 0; i < t->nlabels; i++, sep = ",") {
        size_t len = strcspn(name, ",");
        buf_addf(b, "%s%.*s=", sep, (int)len, name);
        print_value(b, value);
        name += len + 1;
        value += strlen(value) + 1;
    }
    if (le)
        buf_addf(b, "%sle=\"%s\"}", sep, le);
    else if (t->nlabels)
        buf_addc(b, '}');
}

static void print_sample(struct buf *b, const struct metric *t, const struct series *s, const char *suffix,
                         const char *le, double v)
{
    buf_adds(b, t->row->name);
    buf_adds(b, suffix);
    print_labels(b, t, s, le);
    buf_addc(b, ' ');
    print_number(b, v);
    buf_addc(b, '\n');
}

static void print_histogram(struct buf *b, const struct metric *t, const struct series *s)
{
    uint64_t sum = 0;
    char le[32];
    for (size_t i = 0; i < BUCKETS; i++) {
        sum += atomic_load_explicit(&s->count[i], memory_order_relaxed);
        snprintf(le, sizeof le, "%g", bounds[i]);
        print_sample(b, t, s, "_bucket", le, (double)sum);
    }
    sum += atomic_load_explicit(&s->count[BUCKETS], memory_order_relaxed);
    print_sample(b, t, s, "_bucket", "+Inf", (double)sum);
    print_sample(b, t, s, "_sum", NULL, atomic_load_explicit(&s->value, memory_order_relaxed));
    print_sample(b, t, s, "_count", NULL, (double)sum);
}

static void print_metric(struct buf *b, struct metric *t)
{
    static const char *const words[] = {"counter", "gauge", "histogram", "gauge"};
    bool info = t->row->kind == METRIC_INFO;
    pthread_mutex_lock(&t->lock);
    size_t n = t->n;
    if (!info) pthread_mutex_unlock(&t->lock);
    if (n) buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n", t->row->name, t->row->help, t->row->name, words[t->row->kind]);
    for (size_t i = 0; i < n; i++) {
        const struct series *s = t->series[i];
        if (t->row->kind == METRIC_HISTOGRAM)
            print_histogram(b, t, s);
        else if (t->row->kind != METRIC_GAUGE || !isnan(atomic_load_explicit(&s->value, memory_order_relaxed)))
            print_sample(b, t, s, "", NULL, atomic_load_explicit(&s->value, memory_order_relaxed));
    }
    if (info) pthread_mutex_unlock(&t->lock);
}

int metrics_print(struct metrics *m, struct buf *b)
{
    for (size_t i = 0; i < m->n; i++) print_metric(b, &m->metric[i]);
    return b->failed ? -1 : 0;
}
