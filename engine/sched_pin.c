/* sched_pin: the adapters of a request are pinned before it may run, and given back when it ends.
 *
 * Two threads may hold a request at a time: the step thread, and the loader while a pin is on its way. So a request
 * that ends before its pins came is left (`ended`) for the answer to the last of them to free; nothing else is ever shared.
 *
 * A single adapter is asked for at once, so that a cold one loads while the request waits. Of the requests with several only one at a time
 * asks: two that each held half of what they need would wait for each other until both had waited too long. Whoever has all its pins runs and
 * gives them back without needing more, so the one that asks gets through.
 *
 *     entered --one adapter-----------------------------> asking --all answers came--> READY, or FAILED
 *        \---several: `stacks` --pins_ask_next, `stack`----^
 *
 * Lock order: lora_pin() and lora_unpin() are called without the scheduler's lock, because they call back into on_pin(), which takes it. */
#include "engine/meters.h"
#include "engine/sched_impl.h"

void pins_enter(struct gen *g)
{
    struct sched *s = g->s;
    if (g->npins == 1) {
        g->pins_left = 1;
        s->pins_pending++;
    } else if (g->npins > 1) {
        struct gen **at = &s->stacks;
        while (*at) at = &(*at)->next_stack;
        *at = g;
    }
}

/* The request was over before its pin came: with the last one this thread is the last that knows it. */
static void drop_late_pin(struct sched *s, struct gen *g, struct lora_slot *slot, bool last)
{
    if (slot) lora_unpin(s->loras, slot);
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
    queue_move(g, PLACE_READY);
}

static void on_pin(void *u, struct lora_slot *slot, bool cold, const struct err *e)
{
    struct gen_pin *pin = u;
    struct gen *g = pin->g;
    struct sched *s = g->s;
    pthread_mutex_lock(&s->lock);
    bool last = --g->pins_left == 0, ended = g->ended, first_cold = cold && slot && !g->cold;
    if (last && s->stack == g) s->stack = NULL;
    if (!ended) {
        s->pins_pending--;
        pin->slot = slot;
        g->cold |= cold;
        if (!slot)
            queue_fail(g, e->code, e->msg);
        else if (last && g->place == PLACE_PINNING)
            all_came(g);
        pthread_cond_broadcast(&s->wake);
    }
    if (first_cold) note_add(s, M_COLD, NULL, 1);
    pthread_mutex_unlock(&s->lock);
    if (ended) drop_late_pin(s, g, slot, last);
}

void pins_ask(struct gen *g)
{
    lora_pin(g->s->loras, g->pin[0].digest, on_pin, &g->pin[0]);
}

void pins_ask_next(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    struct gen *g = s->stack ? NULL : s->stacks;
    if (g) {
        s->stacks = g->next_stack;
        s->stack = g;
        g->pins_left = g->npins;
        s->pins_pending += g->npins;
    }
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; g && i < g->npins; i++) /* only this thread ends requests, so it is there until the loop is over */
        lora_pin(s->loras, g->pin[i].digest, on_pin, &g->pin[i]);
}

void pins_leave(struct gen *g)
{
    struct gen **at = &g->s->stacks;
    while (*at && *at != g) at = &(*at)->next_stack;
    if (*at) *at = g->next_stack;
}

int pins_withdraw(struct gen *g, struct lora_slot *out[GEN_ADAPTERS])
{
    int n = 0;
    for (int i = 0; i < g->npins; i++) {
        if (g->pin[i].slot) out[n++] = g->pin[i].slot;
        g->pin[i].slot = NULL;
    }
    return n;
}
