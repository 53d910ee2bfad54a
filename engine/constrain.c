/* constrain: grammars, from the request's words to a mask per step.
 *
 *     source --digest--> cache --new--> net (grammar_*.c) --> machine (grammar_machine.c) --> mask (constrain_lexicon.c)
 *                          \--known--> the same grammar, warm
 *
 * A grammar is shared by all sequences that asked for the same: what one of them explored the next one finds. Its machine grows as texts
 * do; when it passes its share of memory, a new one is begun, into which the states of the sequences in flight are moved, and the old one
 * is freed as a whole. That costs time and changes no mask.
 *
 * Cached grammars count with all their memory, the least recently asked for goes first; one in use lives on without the cache.
 *
 * Locks: constrain.lock covers the cache; grammar.lock covers a grammar's machine and its list of states. They are never held together,
 * and neither while a source is compiled. */
#include "engine/constrain.h"
#include "base/sha256.h"
#include "engine/constrain_lexicon.h"
#include "engine/grammar_schema.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define GRAMMARS_MAX 1024            /* in the cache */
#define MACHINE_BYTES_MIN (1u << 20) /* a machine is not begun anew below this */

struct grammar_state {
    struct grammar *g;
    struct grammar_state *prev, *next; /* of the grammar's states */
    int32_t at;
    bool over; /* an end token was accepted */
};

struct grammar {
    struct constrain *c;
    uint8_t key[SHA256_BYTES];
    atomic_int refs;
    atomic_size_t bytes;           /* of net and machine, when last looked at */
    struct grammar *newer, *older; /* in the cache */
    struct net net;
    pthread_mutex_t lock; /* of all below */
    struct machine m;
    size_t floor; /* m.bytes when the machine was begun */
    int32_t start;
    struct grammar_state *states;
};

struct constrain {
    struct lexicon lexicon;
    size_t cache_bytes;
    pthread_mutex_t lock; /* of all below */
    struct grammar *newest, *oldest;
    int ncached;
};

/* --- a grammar --- */

static void grammar_free(struct grammar *g)
{
    machine_close(&g->m);
    net_close(&g->net);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

struct grammar *grammar_ref(struct grammar *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

void grammar_unref(struct grammar *g)
{
    if (g && atomic_fetch_sub(&g->refs, 1) == 1) grammar_free(g);
}

/* What a source is compiled by; fills the net and finishes it. */
struct source {
    const char *kind;
    int (*compile)(struct net *n, const struct source *s, struct err *e);
    const void *bytes; /* kind and bytes say all: equal ones share a grammar */
    size_t len;
    const json_t *schema;
    const char *const *choice;
    int nchoice;
};

static int begin_machine(struct grammar *g, struct err *e)
{
    int rc = machine_init(&g->m, &g->net) ? -1 : machine_probe(&g->m, &g->net.clock);
    if (rc > 0) return err_set(e, ERR_INVALID, "the grammar is too large: too many of its ways are open at once");
    if (rc == 0) g->start = machine_start(&g->m);
    if (rc < 0 || g->start < 0) return err_set(e, ERR_NO_MEMORY, "no memory for a grammar");
    g->floor = g->m.bytes;
    atomic_store(&g->bytes, net_bytes_used(&g->net) + g->m.bytes);
    return 0;
}

static int grammar_new(struct grammar **out, struct constrain *c, const struct source *src, struct err *e)
{
    struct grammar *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NO_MEMORY, "no memory for a grammar");
    g->c = c;
    g->refs = 1;
    pthread_mutex_init(&g->lock, NULL);
    if (net_init(&g->net, e) || src->compile(&g->net, src, e) || begin_machine(g, e)) {
        grammar_free(g);
        return -1;
    }
    *out = g;
    return 0;
}

/* --- the cache --- */

static void unlink_cached(struct constrain *c, struct grammar *g)
{
    *(g->newer ? &g->newer->older : &c->newest) = g->older;
    *(g->older ? &g->older->newer : &c->oldest) = g->newer;
    g->newer = g->older = NULL;
    c->ncached--;
}

static void link_newest(struct constrain *c, struct grammar *g)
{
    g->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = g;
    c->newest = g;
    c->ncached++;
}

/* With the lock held: the cached grammar of that key, now the newest, with a reference. */
static struct grammar *find_cached(struct constrain *c, const uint8_t *key)
{
    struct grammar *g = c->newest;
    while (g && memcmp(g->key, key, sizeof g->key) != 0) g = g->older;
    if (!g) return NULL;
    unlink_cached(c, g);
    link_newest(c, g);
    return grammar_ref(g);
}

/* With the lock held: what no longer fits, as a list by `older`, the newest one always fits. */
static struct grammar *evict(struct constrain *c)
{
    struct grammar *out = NULL;
    size_t sum = 0;
    for (struct grammar *g = c->newest; g; g = g->older) sum += atomic_load(&g->bytes);
    while (c->oldest != c->newest && (sum > c->cache_bytes || c->ncached > GRAMMARS_MAX)) {
        struct grammar *g = c->oldest;
        sum -= atomic_load(&g->bytes);
        unlink_cached(c, g);
        g->older = out;
        out = g;
    }
    return out;
}

static int grammar_of(struct constrain *c, const struct source *src, struct grammar **out, struct err *e)
{
    struct sha256 h;
    uint8_t key[SHA256_BYTES];
    if (src->len > GRAMMAR_SOURCE_MAX)
        return err_set(e, ERR_INVALID, "the %s has %zu bytes, at most %u are served", src->kind, src->len,
                       GRAMMAR_SOURCE_MAX);
    sha256_init(&h);
    sha256_add(&h, src->kind, strlen(src->kind) + 1);
    sha256_add(&h, src->bytes, src->len);
    sha256_end(&h, key);
    pthread_mutex_lock(&c->lock);
    struct grammar *g = find_cached(c, key), *ours = NULL;
    pthread_mutex_unlock(&c->lock);
    if (!g) {
        if (grammar_new(&ours, c, src, e)) return -1;
        memcpy(ours->key, key, sizeof key);
        pthread_mutex_lock(&c->lock);
        g = find_cached(c, key);                                    /* somebody was faster */
        if (!g) link_newest(c, grammar_ref(g = grammar_ref(ours))); /* the cache's reference, and the caller's */
        struct grammar *gone = evict(c);
        pthread_mutex_unlock(&c->lock);
        grammar_unref(ours);
        for (struct grammar *next; gone; gone = next) {
            next = gone->older;
            gone->older = NULL;
            grammar_unref(gone);
        }
    }
    *out = g;
    return 0;
}

int constrain_new(struct constrain **out, const struct tokenizer *t, size_t cache_bytes, struct err *e)
{
    struct constrain *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NO_MEMORY, "no memory for structured output");
    if (lexicon_init(&c->lexicon, t, e)) {
        free(c);
        return -1;
    }
    c->cache_bytes = cache_bytes;
    pthread_mutex_init(&c->lock, NULL);
    *out = c;
    return 0;
}

void constrain_free(struct constrain *c)
{
    if (!c) return;
    while (c->newest) {
        struct grammar *g = c->newest;
        unlink_cached(c, g);
        grammar_unref(g);
    }
    lexicon_close(&c->lexicon);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* --- the kinds of sources --- */

static int compile_schema(struct net *n, const struct source *s, struct err *e)
{
    return schema_compile(n, s->schema, e);
}

static int compile_object(struct net *n, const struct source *s, struct err *e)
{
    (void)s;
    return shape_compile_object(n, e);
}

static int compile_regex(struct net *n, const struct source *s, struct err *e)
{
    static const struct regex_use use = {.max = UINT32_MAX, .where = ""};
    (void)e; /* the net has it */
    return net_finish(n, net_regex(n, s->bytes, s->len, &use, NODE_RET));
}

static int compile_choice(struct net *n, const struct source *s, struct err *e)
{
    struct word *w = malloc((size_t)s->nchoice * sizeof *w);
    if (!w) return err_set(e, ERR_NO_MEMORY, "no memory for a list of choices");
    for (int i = 0; i < s->nchoice; i++) w[i] = (struct word){s->choice[i], strlen(s->choice[i])};
    uint32_t start = net_words(n, w, (size_t)s->nchoice, NODE_RET);
    free(w);
    return net_finish(n, start);
}

static int add_dumped(const char *s, size_t len, void *out)
{
    struct buf *b = out;
    buf_add(b, s, len);
    return b->failed ? -1 : 0;
}

int grammar_json_schema(struct constrain *c, const json_t *schema, struct grammar **out, struct err *e)
{
    struct buf b;
    buf_init(&b, GRAMMAR_SOURCE_MAX + 1);
    /* in the properties' order, for that is the answer's */
    int rc = json_dump_callback(schema, add_dumped, &b, JSON_ENCODE_ANY | JSON_COMPACT);
    struct source s = {
        .kind = "JSON schema", .compile = compile_schema, .bytes = b.data, .len = b.len, .schema = schema};
    if (b.full)
        rc = err_set(e, ERR_INVALID, "the JSON schema has more than the %u bytes that are served", GRAMMAR_SOURCE_MAX);
    else if (rc || b.failed)
        rc = err_set(e, ERR_NO_MEMORY, "no memory for a JSON schema");
    else
        rc = grammar_of(c, &s, out, e);
    buf_close(&b);
    return rc;
}

int grammar_json_object(struct constrain *c, struct grammar **out, struct err *e)
{
    struct source s = {.kind = "JSON object", .compile = compile_object, .bytes = ""};
    return grammar_of(c, &s, out, e);
}

int grammar_regex(struct constrain *c, const char *pattern, size_t len, struct grammar **out, struct err *e)
{
    struct source s = {.kind = "regular expression", .compile = compile_regex, .bytes = pattern, .len = len};
    return grammar_of(c, &s, out, e);
}

int grammar_choice(struct constrain *c, const char *const *choice, int n, struct grammar **out, struct err *e)
{
    struct buf b;
    if (n < 1) return err_set(e, ERR_INVALID, "a list of choices is empty");
    buf_init(&b, GRAMMAR_SOURCE_MAX);
    for (int i = 0; i < n; i++) buf_add(&b, choice[i], strlen(choice[i]) + 1);
    struct source s = {.kind = "list of choices",
                       .compile = compile_choice,
                       .bytes = b.data,
                       .len = b.len,
                       .choice = choice,
                       .nchoice = n};
    int rc = b.full     ? err_set(e, ERR_INVALID, "a list of choices has more than %u bytes", GRAMMAR_SOURCE_MAX)
             : b.failed ? err_set(e, ERR_NO_MEMORY, "no memory for a list of choices")
                        : grammar_of(c, &s, out, e);
    buf_close(&b);
    return rc;
}

/* --- states --- */

static void link_state(struct grammar *g, struct grammar_state *s)
{
    s->next = g->states;
    if (g->states) g->states->prev = s;
    g->states = s;
}

int grammar_state_new(struct grammar_state **out, struct grammar *g, struct err *e)
{
    struct grammar_state *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for a grammar's state");
    s->g = grammar_ref(g);
    pthread_mutex_lock(&g->lock);
    s->at = g->start;
    link_state(g, s);
    pthread_mutex_unlock(&g->lock);
    *out = s;
    return 0;
}

void grammar_state_free(struct grammar_state *s)
{
    if (!s) return;
    struct grammar *g = s->g;
    pthread_mutex_lock(&g->lock);
    *(s->prev ? &s->prev->next : &g->states) = s->next;
    if (s->next) s->next->prev = s->prev;
    pthread_mutex_unlock(&g->lock);
    free(s);
    grammar_unref(g);
}

int grammar_state_copy(struct grammar_state **out, const struct grammar_state *s, struct err *e)
{
    struct grammar_state *copy;
    if (grammar_state_new(&copy, s->g, e)) return -1;
    pthread_mutex_lock(&s->g->lock);
    copy->at = s->at;
    copy->over = s->over;
    pthread_mutex_unlock(&s->g->lock);
    *out = copy;
    return 0;
}

/* With the lock held: where the machine takes too much, a new one with the states in use. Without memory for it the old one goes on. */
static void renew_machine(struct grammar *g)
{
    size_t share = g->c->cache_bytes / 4 > MACHINE_BYTES_MIN ? g->c->cache_bytes / 4 : MACHINE_BYTES_MIN;
    struct machine fresh;
    if (g->m.bytes < share || g->m.bytes < 2 * g->floor || machine_init(&fresh, &g->net)) return;
    bool ok = machine_start(&fresh) >= 0;
    for (struct grammar_state *s = g->states; s && ok; s = s->next) ok = machine_move(&fresh, &g->m, s->at) >= 0;
    if (!ok) {
        machine_close(&fresh);
        return;
    }
    for (struct grammar_state *s = g->states; s; s = s->next)
        s->at = machine_move(&fresh, &g->m, s->at); /* there by now */
    g->start = machine_start(&fresh);
    machine_close(&g->m);
    g->m = fresh;
    g->floor = fresh.bytes;
}

static void mask_of_end(const struct lexicon *v, uint32_t *mask)
{
    memset(mask, 0, (size_t)v->words * sizeof *mask);
    for (int i = 0; i < v->nend; i++) mask[v->end[i] / 32] |= 1u << (v->end[i] % 32);
}

int grammar_mask(struct grammar_state *s, uint32_t *mask)
{
    struct grammar *g = s->g;
    const struct lexicon *v = &g->c->lexicon;
    pthread_mutex_lock(&g->lock);
    if (!g->m.state[s->at].mask) renew_machine(g);
    const uint32_t *m = s->over ? NULL : lexicon_mask(v, &g->m, s->at);
    bool over = s->over;
    if (m) memcpy(mask, m, (size_t)v->words * sizeof *mask);
    atomic_store(&g->bytes, net_bytes_used(&g->net) + g->m.bytes);
    pthread_mutex_unlock(&g->lock);
    if (over) mask_of_end(v, mask);
    return m || over ? 0 : -1;
}

bool grammar_mask_known(struct grammar_state *s)
{
    if (pthread_mutex_trylock(&s->g->lock)) return false;
    bool known = s->over || s->g->m.state[s->at].mask;
    pthread_mutex_unlock(&s->g->lock);
    return known;
}

/* With the lock held: where a token's bytes lead; MACHINE_DEAD: nowhere. */
static int32_t read_token(const struct lexicon *v, struct machine *m, int32_t at, int32_t token)
{
    size_t len;
    const char *s = tokenizer_bytes(v->tok, token, &len);
    if (!s || len == 0 || len > TOKEN_BYTES_MAX || tokenizer_is_special(v->tok, token)) return MACHINE_DEAD;
    for (size_t i = 0; i < len && at > MACHINE_DEAD; i++) at = machine_step(m, at, (uint8_t)s[i]);
    return at;
}

bool grammar_accept(struct grammar_state *s, int32_t token)
{
    struct grammar *g = s->g;
    const struct lexicon *v = &g->c->lexicon;
    if (token < 0 || token >= v->n) return false;
    bool end = tokenizer_is_end(v->tok, token), ok;
    pthread_mutex_lock(&g->lock);
    if (end) {
        ok = s->over || g->m.state[s->at].final || g->m.state[s->at].stuck;
        s->over = s->over || ok;
    } else {
        int32_t to = s->over ? MACHINE_DEAD : read_token(v, &g->m, s->at, token);
        ok = to > MACHINE_DEAD;
        if (ok) s->at = to;
    }
    pthread_mutex_unlock(&g->lock);
    return ok;
}

bool grammar_may_end(const struct grammar_state *s)
{
    pthread_mutex_lock(&s->g->lock);
    bool may = s->over || s->g->m.state[s->at].final;
    pthread_mutex_unlock(&s->g->lock);
    return may;
}

bool grammar_is_over(const struct grammar_state *s)
{
    pthread_mutex_lock(&s->g->lock);
    bool over = s->over || (s->g->m.state[s->at].final && s->g->m.state[s->at].n == 0);
    pthread_mutex_unlock(&s->g->lock);
    return over;
}
