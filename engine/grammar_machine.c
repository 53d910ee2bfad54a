/* grammar_machine: reads bytes along a net, all ways at once, and remembers every state that it met.
 *
 *     state --byte--> the places behind it --close: follow SPLIT, CALL (push), RET (pop)--> places that eat a byte --intern--> state
 *
 * Stacks are linked frames, each kept once, so two places with equal stacks have equal numbers and a state is a short list of pairs of
 * numbers. Recursion ends at STACK_MAX frames: a place is entered only where the frames that it needs (grammar_net.c) still fit, so that
 * whatever is entered can be finished.
 *
 * Order matters for one thing only: a state keeps at most PLACES_MAX places, the first ones in the order of the net's own alternatives.
 * That order does not depend on what was met before, so the same text always gives the same state and the same answer, warm or cold.
 *
 * The memory of a machine only grows; its owner looks at `bytes` and, when it is too much, moves the states in use into a new one. */
#include "engine/grammar_machine.h"
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (64u << 10)
#define SLOTS_FIRST 256
#define VISITS_MAX (4u * PLACES_MAX)
#define VISITS_FIRST 128
#define PROBE_STATES 256
#define PROBE_PLACES 50000 /* work of a probe: some milliseconds */

struct block {
    struct block *next;
    size_t used, size;
    uint64_t data[];
};

/* Scratch of one step: grows to the largest that was needed. */
struct closing {
    struct place *out, *pending; /* [cap] */
    struct place *seen;          /* [2 * cap], hashed */
    uint32_t *seen_at;           /* [2 * cap]: the step that filled the slot */
    uint32_t cap, step, nout, npending, visits;
    bool final, cut, no_memory;
};

void *machine_alloc(struct machine *m, size_t bytes)
{
    bytes = (bytes + 7) & ~(size_t)7;
    struct block *b = m->blocks;
    if (!b || b->size - b->used < bytes) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        b = malloc(sizeof *b + size);
        if (!b) return NULL;
        *b = (struct block){.next = m->blocks, .size = size};
        m->blocks = b;
        m->bytes += sizeof *b + size;
    }
    void *p = (char *)b->data + b->used;
    b->used += bytes;
    return p;
}

static int32_t intern(struct machine *m, const struct place *p, uint32_t n, bool final, bool cut);
static int grow_closing(struct machine *m, uint32_t cap);
static void closing_free(struct closing *c);

int machine_init(struct machine *m, const struct net *net)
{
    *m = (struct machine){.net = net,
                          .cap_state = SLOTS_FIRST / 2,
                          .cap_frame = SLOTS_FIRST / 2,
                          .state_slots = SLOTS_FIRST,
                          .frame_slots = SLOTS_FIRST};
    m->state = malloc(m->cap_state * sizeof *m->state);
    m->frame = malloc(m->cap_frame * sizeof *m->frame);
    m->state_slot = calloc(m->state_slots, sizeof *m->state_slot);
    m->frame_slot = calloc(m->frame_slots, sizeof *m->frame_slot);
    m->closing = calloc(1, sizeof *m->closing);
    if (m->frame) m->frame[0] = (struct frame){0};
    m->nframe = 1;
    m->bytes = m->cap_state * (sizeof *m->state + sizeof *m->frame) + 2 * SLOTS_FIRST * sizeof(uint32_t);
    bool ok =
        m->state && m->frame && m->state_slot && m->frame_slot && m->closing && grow_closing(m, VISITS_FIRST) == 0;
    if (ok && intern(m, NULL, 0, false, false) == MACHINE_DEAD) return 0;
    machine_close(m);
    return -1;
}

void machine_close(struct machine *m)
{
    for (struct block *b = m->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(m->state);
    free(m->frame);
    free(m->state_slot);
    free(m->frame_slot);
    closing_free(m->closing);
    *m = (struct machine){0};
}

/* --- frames --- */

static uint32_t hash2(uint32_t a, uint32_t b)
{
    uint64_t h = ((uint64_t)a << 32 | b) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(h >> 32) ^ (uint32_t)(h >> 17);
}

static int grow_frames(struct machine *m)
{
    uint32_t slots = 2 * m->frame_slots, cap = 2 * m->cap_frame;
    struct frame *f = realloc(m->frame, cap * sizeof *f);
    if (f) m->frame = f;
    uint32_t *slot = calloc(slots, sizeof *slot);
    if (!f || !slot) {
        free(slot);
        return -1;
    }
    for (uint32_t i = 1; i < m->nframe; i++) {
        uint32_t h = hash2(f[i].parent, f[i].ret) & (slots - 1);
        while (slot[h]) h = (h + 1) & (slots - 1);
        slot[h] = i;
    }
    free(m->frame_slot);
    m->bytes += m->cap_frame * sizeof *f + m->frame_slots * sizeof *slot;
    m->frame_slot = slot;
    m->frame_slots = slots;
    m->cap_frame = cap;
    return 0;
}

/* 0: no memory. */
static uint32_t push(struct machine *m, uint32_t parent, uint32_t ret)
{
    uint32_t h = hash2(parent, ret) & (m->frame_slots - 1);
    for (; m->frame_slot[h]; h = (h + 1) & (m->frame_slots - 1)) {
        const struct frame *f = &m->frame[m->frame_slot[h]];
        if (f->parent == parent && f->ret == ret) return m->frame_slot[h];
    }
    if (m->nframe == m->cap_frame) return grow_frames(m) ? 0 : push(m, parent, ret);
    m->frame[m->nframe] = (struct frame){.parent = parent, .ret = ret, .depth = (uint16_t)(m->frame[parent].depth + 1)};
    m->frame_slot[h] = m->nframe;
    return m->nframe++;
}

/* --- closing --- */

static void closing_free(struct closing *c)
{
    if (!c) return;
    free(c->out);
    free(c->pending);
    free(c->seen);
    free(c->seen_at);
    free(c);
}

static uint32_t seen_slot(const struct closing *c, uint32_t node, uint32_t stack)
{
    uint32_t mask = 2 * c->cap - 1, h = hash2(node, stack) & mask;
    while (c->seen_at[h] == c->step && (c->seen[h].node != node || c->seen[h].stack != stack)) h = (h + 1) & mask;
    return h;
}

static int grow_closing(struct machine *m, uint32_t cap)
{
    struct closing *c = m->closing, old = *c;
    struct place *out = realloc(c->out, cap * sizeof *out);
    if (out) c->out = out;
    struct place *pending = realloc(c->pending, cap * sizeof *pending);
    if (pending) c->pending = pending;
    struct place *seen = malloc(2 * (size_t)cap * sizeof *seen);
    uint32_t *seen_at = calloc(2 * (size_t)cap, sizeof *seen_at);
    if (!out || !pending || !seen || !seen_at) {
        free(seen);
        free(seen_at);
        return -1;
    }
    m->bytes += (cap - old.cap) * (4 * sizeof *seen + 2 * sizeof *seen_at);
    c->seen = seen;
    c->seen_at = seen_at;
    c->cap = cap;
    for (uint32_t i = 0; i < 2 * old.cap; i++) {
        if (old.seen_at[i] != c->step) continue;
        uint32_t h = seen_slot(c, old.seen[i].node, old.seen[i].stack);
        seen[h] = old.seen[i];
        seen_at[h] = c->step;
    }
    free(old.seen);
    free(old.seen_at);
    return 0;
}

/* A place to look at, unless it was seen in this step or can't be finished. */
static void visit(struct machine *m, uint32_t node, uint32_t stack)
{
    struct closing *c = m->closing;
    if (m->net->need[node] + m->frame[stack].depth > STACK_MAX) return;
    uint32_t h = seen_slot(c, node, stack);
    if (c->seen_at[h] == c->step) return;
    if (c->visits >= VISITS_MAX &&
        (c->nout > 0 || c->final)) { /* the first place is always found: see machine_live() */
        c->cut = true;
        return;
    }
    if (c->visits == c->cap) {
        if (grow_closing(m, 2 * c->cap)) {
            c->no_memory = true;
            return;
        }
        h = seen_slot(c, node, stack);
    }
    c->visits++;
    c->seen_at[h] = c->step;
    c->seen[h] = (struct place){node, stack};
    c->pending[c->npending++] = c->seen[h];
}

static void follow_call(struct machine *m, struct node d, uint32_t stack)
{
    uint32_t to = m->net->rule[d.a];
    if (m->net->node[d.b].op != OP_RET) {
        if (m->frame[stack].depth == STACK_MAX) return;
        stack = push(m, stack, d.b);
        if (stack == 0) {
            m->closing->no_memory = true;
            return;
        }
    }
    visit(m, to, stack);
}

/* Follows what eats nothing, from one place, in the order of the alternatives. */
static void close_over(struct machine *m, uint32_t node, uint32_t stack)
{
    struct closing *c = m->closing;
    visit(m, node, stack);
    while (c->npending > 0 && !c->no_memory) {
        struct place p = c->pending[--c->npending];
        struct node d = m->net->node[p.node];
        switch ((enum node_op)d.op) {
        case OP_BYTES:
            if (c->nout < PLACES_MAX)
                c->out[c->nout++] = p;
            else
                c->cut = true;
            break;
        case OP_SPLIT:
            visit(m, d.b, p.stack);
            visit(m, d.a, p.stack);
            break;
        case OP_CALL:
            follow_call(m, d, p.stack);
            break;
        case OP_RET:
            if (p.stack == 0)
                c->final = true;
            else
                visit(m, m->frame[p.stack].ret, m->frame[p.stack].parent);
            break;
        case OP_FAIL:
            break;
        }
    }
}

static void closing_begin(struct closing *c)
{
    if (++c->step == 0) {
        memset(c->seen_at, 0, 2 * (size_t)c->cap * sizeof *c->seen_at);
        c->step = 1;
    }
    c->nout = c->npending = c->visits = 0;
    c->final = c->cut = c->no_memory = false;
}

static int32_t closing_end(struct machine *m, bool cut)
{
    struct closing *c = m->closing;
    if (c->no_memory) return MACHINE_NOMEM;
    return intern(m, c->out, c->nout, c->final, c->cut || cut);
}

/* --- states --- */

static uint32_t hash_places(const struct place *p, uint32_t n, bool final)
{
    uint64_t h = final;
    for (uint32_t i = 0; i < n; i++)
        h = (h ^ ((uint64_t)p[i].node << 32 | p[i].stack)) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
    return (uint32_t)(h >> 20);
}

static int grow_states(struct machine *m)
{
    uint32_t slots = 2 * m->state_slots, cap = 2 * m->cap_state;
    struct mstate *s = realloc(m->state, cap * sizeof *s);
    if (s) m->state = s;
    int32_t *slot = calloc(slots, sizeof *slot);
    if (!s || !slot) {
        free(slot);
        return -1;
    }
    for (uint32_t i = 0; i < m->nstate; i++) {
        uint32_t h = hash_places(s[i].place, s[i].n, s[i].final) & (slots - 1);
        while (slot[h]) h = (h + 1) & (slots - 1);
        slot[h] = (int32_t)i + 1;
    }
    free(m->state_slot);
    m->bytes += m->cap_state * sizeof *s + m->state_slots * sizeof *slot;
    m->state_slot = slot;
    m->state_slots = slots;
    m->cap_state = cap;
    return 0;
}

static int32_t intern(struct machine *m, const struct place *p, uint32_t n, bool final, bool cut)
{
    if (m->nstate == m->cap_state && grow_states(m)) return MACHINE_NOMEM;
    uint32_t h = hash_places(p, n, final) & (m->state_slots - 1);
    for (; m->state_slot[h]; h = (h + 1) & (m->state_slots - 1)) {
        const struct mstate *s = &m->state[m->state_slot[h] - 1];
        if (s->n == n && s->final == final && (n == 0 || memcmp(s->place, p, n * sizeof *p) == 0))
            return m->state_slot[h] - 1;
    }
    uint32_t columns = m->net->nklass;
    struct place *copy = machine_alloc(m, n * sizeof *copy);
    int32_t *next = machine_alloc(m, columns * (sizeof *next + sizeof(uint32_t)));
    uint32_t *paid = (uint32_t *)next + columns;
    if (!copy || !next) return MACHINE_NOMEM;
    if (n > 0) memcpy(copy, p, n * sizeof *copy);
    memset(next, n > 0 ? -1 : MACHINE_DEAD, columns * sizeof *next);
    memset(paid, 0, columns * sizeof *paid);
    m->state[m->nstate] = (struct mstate){
        .place = copy, .n = n, .final = final, .cut = cut, .loop = n > 0 ? -1 : 0, .next = next, .paid = paid};
    m->state_slot[h] = (int32_t)m->nstate + 1;
    return (int32_t)m->nstate++;
}

int32_t machine_start(struct machine *m)
{
    closing_begin(m->closing);
    close_over(m, m->net->start, 0);
    return closing_end(m, false);
}

int32_t machine_step(struct machine *m, int32_t state, uint8_t byte)
{
    const struct net *n = m->net;
    struct mstate *s = &m->state[state];
    uint8_t k = n->klass[byte];
    if (s->next[k] >= 0) return s->next[k];
    closing_begin(m->closing);
    for (uint32_t i = 0; i < s->n; i++) {
        struct node d = n->node[s->place[i].node];
        if (byte_set_has(&n->set[d.a], byte)) close_over(m, d.b, s->place[i].stack);
    }
    int32_t to = closing_end(m, s->cut);
    if (to >= 0) m->state[state].next[k] = to; /* the table of states may have moved */
    return to;
}

/* A place whose need fits can be finished, so it is never dead; see net.need. */
const struct byte_set *machine_live(struct machine *m, int32_t state)
{
    const struct net *n = m->net;
    struct mstate *s = &m->state[state];
    for (uint32_t i = 0; !s->looked && i < s->n; i++) {
        struct node d = n->node[s->place[i].node];
        if (n->need[d.b] + m->frame[s->place[i].stack].depth > STACK_MAX) continue;
        for (int w = 0; w < 4; w++) s->live.w[w] |= n->set[d.a].w[w];
    }
    s->looked = true;
    return &s->live;
}

int32_t machine_move(struct machine *to, const struct machine *from, int32_t state)
{
    const struct mstate *s = &from->state[state];
    struct place *p = machine_alloc(to, s->n * sizeof *p);
    if (!p) return MACHINE_NOMEM;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t ret[STACK_MAX], stack = 0;
        int depth = 0;
        for (uint32_t f = s->place[i].stack; f; f = from->frame[f].parent) ret[depth++] = from->frame[f].ret;
        while (depth-- > 0)
            if ((stack = push(to, stack, ret[depth])) == 0) return MACHINE_NOMEM;
        p[i] = (struct place){s->place[i].node, stack};
    }
    return intern(to, p, s->n, s->final, s->cut);
}

int machine_probe(struct machine *m, struct clock *clock)
{
    uint64_t work = 0;
    if (machine_start(m) == MACHINE_NOMEM) return -1;
    for (uint32_t i = MACHINE_DEAD + 1; i < m->nstate && i < PROBE_STATES; i++) {
        bool done[256] = {false}; /* classes */
        for (unsigned c = 0; c < 256 && work < PROBE_PLACES; c++) {
            if (done[m->net->klass[c]]) continue;
            done[m->net->klass[c]] = true;
            int32_t to = machine_step(m, (int32_t)i, (uint8_t)c);
            if (to == MACHINE_NOMEM) return -1;
            work += 1 + m->state[to].n;
            if (!clock_charge(clock, m->state[i].n + m->closing->visits)) return m->state[i].cut;
        }
        if (m->state[i].cut) return 1;
    }
    return 0;
}

/* --- the loop of a string's inside --- */

struct span {
    uint8_t lo, hi;
};

/* Every way of taking one byte of each span in turn leads from `at` to `home`. */
static bool all_lead(struct machine *m, int32_t at, const struct span *s, int n, int32_t home)
{
    if (n == 0) return at == home;
    uint8_t done[256] = {0}; /* classes */
    for (unsigned c = s->lo; c <= s->hi; c++) {
        uint8_t *d = &done[m->net->klass[c]];
        if (*d) continue;
        *d = 1;
        int32_t to = machine_step(m, at, (uint8_t)c);
        if (to <= MACHINE_DEAD || !all_lead(m, to, s + 1, n - 1, home)) return false;
    }
    return true;
}

bool machine_loops(struct machine *m, int32_t state)
{
    static const struct {
        int n;
        struct span s[4];
    } form[] = {
        /* RFC 3629, section 4; the bytes that "plain" tokens (constrain_lexicon.c) are made of */
        {1, {{0x20, 0x21}}},
        {1, {{0x23, 0x5b}}},
        {1, {{0x5d, 0x7f}}},
        {2, {{0xc2, 0xdf}, {0x80, 0xbf}}},
        {3, {{0xe0, 0xe0}, {0xa0, 0xbf}, {0x80, 0xbf}}},
        {3, {{0xe1, 0xec}, {0x80, 0xbf}, {0x80, 0xbf}}},
        {3, {{0xed, 0xed}, {0x80, 0x9f}, {0x80, 0xbf}}},
        {3, {{0xee, 0xef}, {0x80, 0xbf}, {0x80, 0xbf}}},
        {4, {{0xf0, 0xf0}, {0x90, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}}},
        {4, {{0xf1, 0xf3}, {0x80, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}}},
        {4, {{0xf4, 0xf4}, {0x80, 0x8f}, {0x80, 0xbf}, {0x80, 0xbf}}},
    };
    if (m->state[state].loop < 0) {
        bool yes = true;
        for (size_t i = 0; yes && i < sizeof form / sizeof *form; i++)
            yes = all_lead(m, state, form[i].s, form[i].n, state);
        m->state[state].loop = yes;
    }
    return m->state[state].loop;
}
