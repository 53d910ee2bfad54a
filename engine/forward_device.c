/* forward_device: a pass on a device.
 *
 *     begin -- a bucket that is new? --> the list of forward_pass() is walked once, and its launches recorded
 *       |                                                       |
 *       +--> launch <-------------------------------------------+
 *              |                                            the next pass may be begun here
 *            finish --> `after` on every thread of the pool, with what the device chose and the logits of the rest
 *
 * Idea: the list stays the CPU's; it is walked with the bucket's numbers of rows and logits, never with the step's, for
 * what is recorded serves all later steps of the bucket. With one device everything but `after` is the step thread's
 * work, and the pool sleeps while the device computes; each device of a group has a thread of the pool.
 *
 * A failure ends it: forward_run() says NULL from then on, and forward_error() why. */
#include "engine/forward_impl.h"
#include <stdlib.h>

int forward_device_rooms(struct forward *f, struct err *e)
{
    struct device *d = f->k->device;
    f->x = device_room(d, ROOM_X);
    f->y = device_room(d, ROOM_Y);
    f->q = device_room(d, ROOM_Q);
    f->kk = device_room(d, ROOM_K);
    f->v = device_room(d, ROOM_V);
    f->logits = device_room(d, ROOM_LOGITS);
    f->h.bf16 = f->h_bf16 = device_room(d, ROOM_H);
    f->a.bf16 = f->a_bf16 = device_room(d, ROOM_A);
    f->head_seg = calloc((size_t)f->max_logits + 1, sizeof *f->head_seg);
    return f->head_seg ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the segments of %d logits", f->max_logits);
}

static int ranks_of(const struct forward *f)
{
    struct device_about about;
    device_about(f->k->device, &about);
    return about.ranks;
}

static void walk(struct kthread *t, void *forward)
{
    struct forward *f = forward;
    int ranks = ranks_of(f);
    if (t->id < ranks) device_enter(f->k->device, t->id);
    forward_pass(t, f);
    if (t->id < ranks) device_leave(f->k->device, t->id);
}

static void launch(struct kthread *t, void *forward)
{
    struct forward *f = forward;
    if (t->id < ranks_of(f)) device_launch(f->k->device, t->id);
}

/* Record the bucket's graph: a batch of its size, whose arrays nobody looks at. */
static void record(struct forward *f, const struct device_walk *w)
{
    const struct forward_batch *step = f->b;
    struct forward_batch all = *step;
    all.rows = w->rows;
    all.nlogits = w->nlogits;
    f->b = &all;
    pool_run(f->pool, walk, f);
    f->b = step;
}

int forward_device_begin(struct forward *f)
{
    struct device *d = f->k->device;
    const struct forward_batch *b = f->b;
    const struct device_step step = {.rows = b->rows,
                                     .token = b->token,
                                     .nseq = b->nseq,
                                     .seq = b->seq,
                                     .lora = &f->lora,
                                     .head_lora = &f->head_lora,
                                     .nlogits = b->nlogits,
                                     .logit_row = b->logit_row,
                                     .choice = b->choice};
    struct device_walk w;
    if (f->error.code || device_begin(d, &step, &w, &f->error)) return -1;
    if (w.needed) record(f, &w);
    if (ranks_of(f) == 1)
        device_launch(d, 0);
    else
        pool_run(f->pool, launch, f);
    return 0;
}

/* A batch that is over, and its results. */
struct ended {
    const struct forward_batch *b;
    const struct device_result *r;
};

static void after(struct kthread *t, void *ended)
{
    const struct ended *o = ended;
    o->b->after(t, o->b->u, o->r->logits);
}

int forward_device_end(struct forward *f, const struct forward_batch *b)
{
    struct ended ended = {b, &f->chosen};
    if (device_finish(f->k->device, &f->chosen, &f->error)) return -1;
    if (b->after) pool_run(f->pool, after, &ended);
    return 0;
}
