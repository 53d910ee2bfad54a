/* sched_pin: the adapters of a request are pinned before it may run, and given back when it ends or has to make room.
 *
 * Two threads may hold a request at a time: the step thread, and whoever asks for its pins or answers. So a request
 * that ends before its pins came is left (`ended`) for the answer to the last of them to free; nothing else is ever shared.
 *
 *     reserved (sched_slots.c) --pins_ask--> each is answered, at once or by the loader --all came--> READY or PREEMPTED, or FAILED
 *
 * Who may ask, and when, is sched_slots.c's. All pins of a request are reserved at once or none, so two requests that each hold half of what
 * they need can't wait for each other.
 *
 * Lock order: lora_pin() and lora_unpin() are called without the scheduler's lock, because they call back into on_pin(), which takes it. */
#include "engine/meters.h"
#include "engine/sched_impl.h"

/* The request was over before its pin came: with the last one this thread is the last that knows it. */
static void drop_late_pin(struct sched *s, struct gen_pin *pin, struct lora_slot *slot, bool last)
{
    struct gen *g = pin->g;
    if (slot) lora_unpin(s->loras, slot);
    pthread_mutex_lock(&s->lock);
    slots_release(pin);
    pthread_mutex_unlock(&s->lock);
    if (last) gen_free(g);
    pthread_mutex_lock(&s->lock);
    s->pins_pending--;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* All came: can they be summed? */
static int check_sum(const struct gen *g, struct err *e)
{
    int rank = 0, most = lora_rank_pad(lora_max_rank(g->s->loras));
    for (int i = 0; i < g->npins; i++) {
        const struct gen_pin *p = &g->pin[i];
        if (p->slot->table.alone && (g->npins > 1 || p->weight != 1))
            return err_set(e, ERR_INVALID,
                           "the adapter %s has DoRA or whole matrices: it can't be summed with others or weighted",
                           p->digest);
        rank += lora_rank_pad(p->slot->max_rank);
    }
    if (g->npins > 1 && rank > most)
        return err_set(e, ERR_INVALID, "the adapters' ranks sum to %d, more than the %d that one request may use", rank,
                       most);
    return 0;
}

static void all_came(struct gen *g)
{
    struct err e = {0};
    if (check_sum(g, &e)) {
        queue_fail(g, e.code, e.msg);
        return;
    }
    rows_place_adapters(g);
    queue_move(g, g->stamp ? PLACE_PREEMPTED : PLACE_READY);
}

/* The request is still there. */
static void take(struct gen_pin *pin, struct lora_slot *slot, bool last, const struct err *e)
{
    struct gen *g = pin->g;
    struct sched *s = g->s;
    s->pins_pending--;
    pin->slot = slot;
    if (!slot) {
        slots_release(pin);
        queue_fail(g, e->code, e->msg);
    } else if (last && g->place == PLACE_PINNING) {
        all_came(g);
    }
    pthread_cond_broadcast(&s->wake);
}

static void on_pin(void *u, struct lora_slot *slot, bool cold, const struct err *e)
{
    struct gen_pin *pin = u;
    struct gen *g = pin->g, *next = NULL;
    struct sched *s = g->s;
    pthread_mutex_lock(&s->lock);
    bool last = --g->pins_left == 0, ended = g->ended, first_cold = cold && slot && !g->cold;
    slots_answered(pin, cold);
    if (!ended) {
        g->cold |= cold;
        take(pin, slot, last, e);
        if (cold) next = slots_reserve_next(s); /* the loader goes on at once; the step thread may be busy for long */
    }
    if (first_cold) note_add(s, M_COLD, NULL, 1);
    pthread_mutex_unlock(&s->lock);
    if (ended) drop_late_pin(s, pin, slot, last);
    if (next) pins_ask(next);
}

/* While a pin is not asked for, its answer is missing, so the request is there. */
void pins_ask(struct gen *g)
{
    struct lora_set *loras = g->s->loras;
    int n = g->npins;
    for (int i = 0; i < n; i++) {
        struct gen_pin *pin = &g->pin[i];
        lora_pin(loras, pin->digest, on_pin, pin);
    }
}

int pins_withdraw(struct gen *g, struct lora_slot *out[GEN_ADAPTERS])
{
    int n = 0;
    for (int i = 0; i < g->npins; i++) {
        struct gen_pin *p = &g->pin[i];
        if (!p->slot) continue;
        out[n++] = p->slot;
        p->slot = NULL;
        slots_release(p);
    }
    return n;
}
