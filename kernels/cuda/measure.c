/* measure: which way each product goes is timed at start (product.c), where times mean something.
 *
 * Idea: a product's shape and the bucket of rows decide, so each shape of the model, which many layers share, is tried
 * for every bucket, with as many of the model's own matrices of that shape as the cache can't hold: a weight that was just
 * read would flatter. From ROWS_FLAT rows on two do, for then it is read once for much work. Rows are whatever the
 * workspace holds; nothing looks at the results. Experts are tried with as many rows for each.
 *
 * Costs some seconds of start, SECONDS at most: buckets go from small to large, all shapes of one before the next, and those
 * that are not reached go by product.c's rule. Then columns of adapters are settled (augment.c, measure_columns.c), for
 * COLUMN_SECONDS at most. What reading and multiplying took is told too: the engine's estimates of steps begin with it.
 *
 * Start only, on the first device: the others of a group are like it, and get its choices. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/timed.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SECONDS 10.0
#define COLUMN_SECONDS 5.0
#define ROWS_FLAT 320
#define ALIKE_MAX 64
#define ALIKE_FLAT 2
#define CACHES 3 /* matrices of so many caches are read in turn */
#define SHAPES_MAX 24
#define ROUNDS 3
#define LAUNCHES 64   /* of nothing, timed together */
#define LAYER_STEPS 9 /* launches of a layer */

/* A shape of the model, by one of its matrices. */
struct measured_shape {
    const struct device_const *c;
    const struct cuda_weight *w;
    double count; /* such matrices */
};

struct measuring {
    struct device *d;
    struct measured_shape shape[SHAPES_MAX];
    int shapes;
    double until;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* o and down: their rows are AREA_A's. */
static bool takes_a(const struct device_const *c)
{
    return shard_split_of(c->role) == SPLIT_INPUTS;
}

static bool is_f32(const struct device_const *c)
{
    return c->role == ROLE_HEAD || shard_split_of(c->role) != SPLIT_OUTPUTS;
}

/* The array that a site's product writes. */
static enum cuda_area output_of(const struct device *d, const struct device_const *c, int n)
{
    if (shard_split_of(c->role) == SPLIT_INPUTS) return AREA_PART;
    if (c->role == ROLE_HEAD) return AREA_LOGITS;
    if (c->role == ROLE_WHOLE) return AREA_MOE_LOGITS;
    return n <= d->dim.qkv ? AREA_QKV : AREA_GU;
}

struct op_product measure_product(const struct device *d, const struct device_const *c, const struct cuda_weight *w,
                                  int rows)
{
    enum cuda_area x = takes_a(c) ? AREA_A : AREA_H;
    return (struct op_product){.rows = rows,
                               .w = w,
                               .x = arena_address(d, 0, x),
                               .ldx = w->k,
                               .y = arena_address(d, 0, output_of(d, c, w->n)),
                               .ldy = w->n,
                               .f32 = c->role == ROLE_HEAD || shard_split_of(c->role) != SPLIT_OUTPUTS,
                               .add = shard_split_of(c->role) == SPLIT_INPUTS && d->ranks == 1,
                               .dense = d->rank[0].dense,
                               .scratch = arena_address(d, 0, AREA_PRODUCT)};
}

static bool fits(const struct device *d, const struct device_const *c, const struct op_product *op)
{
    size_t y = (size_t)op->rows * (size_t)op->ldy * (op->f32 ? sizeof(float) : sizeof(uint16_t));
    enum cuda_area x = takes_a(c) ? AREA_A : AREA_H;
    return y <= d->arena.bytes[output_of(d, c, op->w->n)] &&
           (size_t)op->rows * (size_t)op->ldx * 2 <= d->arena.bytes[x];
}

static bool is_alike(const struct device_const *c, const struct cuda_weight *w, const struct device_const *other,
                     const struct cuda_weight *o)
{
    return o->kind == w->kind && o->n == w->n && o->k == w->k && other->role == c->role;
}

/* --- the shapes --- */

static void note_shape(struct measuring *m, const struct device_const *c, const struct cuda_weight *w)
{
    for (int i = 0; i < m->shapes; i++)
        if (is_alike(m->shape[i].c, m->shape[i].w, c, w)) {
            m->shape[i].count++;
            return;
        }
    if (m->shapes < SHAPES_MAX) m->shape[m->shapes++] = (struct measured_shape){.c = c, .w = w, .count = 1};
}

static void find_shapes(struct measuring *m)
{
    const struct device_const *c;
    for (int i = 0;; i++) {
        const struct cuda_weight *w = place_nth(m->d, i, &c);
        if (!c) return;
        if (w) note_shape(m, c, w);
    }
}

/* --- timing --- */

/* Matrices like the given one, itself first, until they exceed the cache. */
static int alike(const struct device *d, const struct measured_shape *s, int most,
                 const struct cuda_weight *out[ALIKE_MAX])
{
    size_t bytes = 0, enough = (size_t)d->rank[0].info.l2_bytes * CACHES;
    int n = 0;
    for (int i = 0; n < most && bytes < enough; i++) {
        const struct device_const *other;
        const struct cuda_weight *o = place_nth(d, i, &other);
        if (!other) break;
        if (!o || !is_alike(s->c, s->w, other, o)) continue;
        out[n++] = o;
        bytes += cuda_weight_bytes(o);
    }
    return n;
}

static int time_product(const struct measuring *m, const struct measured_shape *s, int rows)
{
    const struct cuda_weight *like[ALIKE_MAX];
    struct op_product op[ALIKE_MAX];
    int n = alike(m->d, s, rows < ROWS_FLAT ? ALIKE_MAX : ALIKE_FLAT, like);
    for (int i = 0; i < n; i++) op[i] = measure_product(m->d, s->c, like[i], rows);
    return n > 0 && fits(m->d, s->c, &op[0]) ? product_measure(op, n, m->d->rank[0].stream) : 0;
}

/* The first layer with experts: gate|up, or down. */
static int time_grouped(const struct measuring *m, const struct measured_shape *s, int rows)
{
    const struct device *d = m->d;
    int layer = 0, experts = d->dim.experts, places = rows * d->dim.used;
    bool down = takes_a(s->c);
    int32_t first[EXPERTS_MAX + 1];
    if (experts > EXPERTS_MAX) return 0;
    while (!d->shape.expert[layer]) layer++;
    for (int e = 0; e <= experts; e++) first[e] = (int32_t)((int64_t)places * e / experts);
    struct op_grouped op = {.places = places,
                            .experts = experts,
                            .first = arena_address(d, 0, AREA_MOE_INTS),
                            .x = arena_address(d, 0, down ? AREA_MOE_A : AREA_MOE_G),
                            .ldx = s->w->k,
                            .y = arena_address(d, 0, down ? AREA_MOE_Y : AREA_MOE_GU),
                            .ldy = s->w->n,
                            .f32 = down,
                            .scratch = arena_address(d, 0, AREA_PRODUCT)};
    place_grouped(d, 0, layer, down, &op.w, &op.w_device);
    int rc = rt_copy_in((void *)op.first, first, ((size_t)experts + 1) * sizeof *first, d->rank[0].stream);
    if (!rc) rc = rt_stream_sync(d->rank[0].stream);
    return rc ? rc : grouped_measure(&op, d->rank[0].stream);
}

static int time_shapes(struct measuring *m)
{
    int rc = 0, most = cuda_rows_of(m->d->shape.max_rows);
    for (int rows = 1; !rc && rows <= most; rows = cuda_rows_of(rows + 1))
        for (int i = 0; !rc && i < m->shapes && now_s() < m->until; i++) {
            rc = m->shape[i].c->grouped ? time_grouped(m, &m->shape[i], rows) : time_product(m, &m->shape[i], rows);
            cuda_progress();
        }
    return rc;
}

/* --- what it comes to --- */

static int places_of(const struct device *d, const struct measured_shape *s, int rows)
{
    return s->c->grouped ? rows * d->dim.used : rows;
}

/* The way by rows, each where it begins. */
static void tell_shape(const struct device *d, const struct measured_shape *s, struct device_measured *out)
{
    size_t room = sizeof out->ways, at = strlen(out->ways);
    const char *before = "";
    double us;
    at += (size_t)snprintf(out->ways + at, room - at, "%s%dx%d %s%s:", at ? "; " : "", s->w->n, s->w->k,
                           cuda_kind_name[s->w->kind], s->c->grouped ? " experts" : "");
    for (int rows = 1; at < room && rows <= cuda_rows_of(d->shape.max_rows); rows = cuda_rows_of(rows + 1)) {
        const char *way =
            product_measured(s->w, places_of(d, s, rows), is_f32(s->c), s->c->grouped ? d->dim.experts : 0, &us);
        if (way) out->timed++;
        if (!way || strcmp(way, before) == 0) continue;
        at += (size_t)snprintf(out->ways + at, room - at, " %s %d", before = way, rows);
    }
}

/* Bytes that one row's products read a microsecond, and what the most rows multiply. */
static void find_speed(const struct measuring *m, struct device_measured *out)
{
    double bytes = 0, read_s = 0, flops = 0, many_s = 0, s;
    for (int i = 0; i < m->shapes; i++) {
        const struct measured_shape *at = &m->shape[i];
        const struct cuda_weight *w = at->w;
        int f32 = is_f32(at->c);
        if (at->c->grouped || shard_split_of(at->c->role) == SPLIT_NONE || at->c->role == ROLE_HEAD) continue;
        if (product_measured(w, 1, f32, 0, &s))
            bytes += at->count * (double)cuda_weight_bytes(w), read_s += at->count * s;
        int rows = cuda_rows_of(m->d->shape.max_rows);
        for (; rows > 1 && !product_measured(w, rows, f32, 0, &s); rows--) {
        }
        if (rows > 1) flops += at->count * 2.0 * rows * w->n * w->k, many_s += at->count * s;
    }
    if (read_s > 0) out->bytes_us = bytes / read_s * 1e-6;
    if (many_s > 0) out->flops_us = flops / many_s * 1e-6;
}

RUN(softcap)

/* What launches cost that have nothing to do. */
static int time_launches(const struct measuring *m, struct device_measured *out)
{
    const struct op_softcap op = {.x = arena_address(m->d, 0, AREA_X), .n = 4, .cap = 1};
    const struct timed nothing = {run_softcap, &op, sizeof op, LAUNCHES};
    double s;
    int rc = timed_run(&nothing, ROUNDS, m->d->rank[0].stream, &s);
    out->step_us = s * 1e6 * LAYER_STEPS * m->d->shape.layers;
    return rc;
}

/* Rows lie otherwise in buckets with prompts. What has no plan is given one when it is met. */
static int plan_prompts(const struct measuring *m, const struct op_product *op)
{
    int rc = m->d->rank[0].info.timed ? product_dense_plan(op, m->d->rank[0].stream) : 0;
    return rc == RT_PRODUCT ? 0 : rc;
}

static int settle_columns(struct measuring *m, struct device_measured *out)
{
    int rc = 0, most = cuda_rows_of(m->d->shape.max_rows);
    out->augment_ranks = m->d->augment.ranks;
    out->augment_columns = m->d->augment.behind_h;
    m->until = now_s() + COLUMN_SECONDS;
    for (int rows = 1; !rc && rows <= most; rows = cuda_rows_of(rows + 1))
        for (int i = 0; !rc && i < m->shapes && now_s() < m->until; i++) {
            const struct measured_shape *s = &m->shape[i];
            struct op_product op = measure_product(m->d, s->c, s->w, rows);
            op.ldx += augment_gap(m->d, takes_a(s->c) ? AREA_A : AREA_H);
            if (s->c->grouped || !product_is_dense(&op) || !fits(m->d, s->c, &op)) continue;
            if (s->w->columns)
                rc = columns_settle(m->d, &op, augment_slices(m->d, s->c), out);
            else
                rc = plan_prompts(m, &op);
        }
    return rc;
}

/* Ways are one table for all ranks; cuBLASLt's algorithms belong to a device. */
static int share(struct device *d)
{
    int rc = 0;
    for (int r = 1; !rc && r < d->ranks; r++) {
        rc = rt_use(d->rank[r].device);
        if (!rc) rc = rt_dense_share(d->rank[r].dense, d->rank[0].dense);
    }
    return rc;
}

int measure_products(struct device *d)
{
    struct measuring m = {.d = d, .until = now_s() + SECONDS};
    struct device_measured *out = &d->plan.measured;
    double from = now_s();
    product_begin(d->shape.e4m3_rows);
    find_shapes(&m);
    out->shapes = m.shapes;
    int rc = rt_use(d->rank[0].device);
    if (!rc && d->rank[0].info.timed) {
        rc = time_shapes(&m);
        for (int i = 0; i < m.shapes; i++) tell_shape(d, &m.shape[i], out);
        find_speed(&m, out);
        if (!rc) rc = time_launches(&m, out);
    }
    if (!rc && d->augment.ranks) rc = settle_columns(&m, out);
    if (d->rank[0].info.timed) out->s = now_s() - from;
    return rc ? rc : share(d);
}
