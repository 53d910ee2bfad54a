/* The arithmetic of placement: scores, bounds, and the life of an engine between losses.
 *
 * A score needs one logarithm per engine and request; engines are taken from a heap, as many as are looked at. 200 engines
 * take 2 to 8 microseconds. The same weights and names give the same order
 * on every gateway, so several gateways in front of the same engines agree on where an adapter lives without talking.
 *
 * An engine's fair load is its share of what is in flight everywhere. Most adapters have less than one request at a time,
 * and their requests stay where they are at home, as long as that engine is within its bound. Those with more than HOT_SHARE
 * of a fair load are hot, and give themselves away by their count: they are few, so that a copy of them on more engines costs
 * few slots, and many by their requests, so that they can fill up what the others leave free. They go to the least
 * loaded of the first engines of their order: one for each HOT_SHARE, and HOT_MORE to choose from. Were they to fill one
 * engine after the other up to the bound instead, whoever else is at home there would have to go elsewhere, and that was most of
 * all loads (docs/PLACEMENT.md).
 *
 * The bound leaves room for chance: where an engine has ten requests on the mean, three more or less mean nothing, and
 * to send a rare adapter elsewhere for them is a cold load each time. Hence LOAD_CHANCE. */
#include "gateway/pool/place.h"
#include <math.h>
#include <string.h>

/* FNV-1a, then splitmix64's finish, so that names which differ in one character are far apart. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t place_hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return mix(h);
}

static double share(const struct place *p)
{
    return p->weight * p->capacity;
}

static double score(const struct place *p, uint64_t key)
{
    double u = ((double)(mix(p->hash ^ key) >> 11) + 0.5) * 0x1p-53; /* inside (0, 1) */
    return -share(p) / log(u);
}

/* Engines by score, the highest first: a heap, for mostly one or a few are asked for, and now and then all. */
struct ranking {
    double score[PLACE_MAX];
    int heap[PLACE_MAX], n;
};

static void sink(struct ranking *r, int at)
{
    int mine = r->heap[at];
    for (int k; (k = 2 * at + 1) < r->n; at = k) {
        if (k + 1 < r->n && r->score[r->heap[k + 1]] > r->score[r->heap[k]]) k++;
        if (r->score[r->heap[k]] <= r->score[mine]) break;
        r->heap[at] = r->heap[k];
    }
    r->heap[at] = mine;
}

static void rank_all(struct ranking *r, const struct place *v, int n, uint64_t key)
{
    r->n = n;
    for (int i = 0; i < n; i++) {
        r->score[i] = score(&v[i], key);
        r->heap[i] = i;
    }
    for (int at = n / 2 - 1; at >= 0; at--) sink(r, at);
}

/* -1: all were taken. */
static int take_best(struct ranking *r)
{
    if (r->n == 0) return -1;
    int best = r->heap[0];
    r->heap[0] = r->heap[--r->n];
    if (r->n) sink(r, 0);
    return best;
}

void place_order(const struct place *v, int n, uint64_t key, int order[PLACE_MAX])
{
    struct ranking r;
    rank_all(&r, v, n, key);
    for (int i = 0; i < n; i++) order[i] = take_best(&r);
}

/* Requests in flight for each unit of share, the one that is placed among them. */
static double flying_by_share(const struct place *v, int n)
{
    double shares = 0, flying = 1;
    for (int k = 0; k < n; k++) {
        shares += share(&v[k]);
        flying += v[k].in_flight;
    }
    return flying / shares;
}

static bool within_bound(const struct place *p, double fair)
{
    double most = ceil(LOAD_BOUND * fair + LOAD_CHANCE * sqrt(fair));
    return p->in_flight + 1 <= (most > LOAD_FLOOR ? most : LOAD_FLOOR);
}

bool place_within_bound(const struct place *v, int n, int i)
{
    return within_bound(&v[i], flying_by_share(v, n) * share(&v[i]));
}

static double load(const struct place *p)
{
    return (p->in_flight + p->queue) / share(p);
}

/* Engines that share an adapter of so many requests, of n, where each has `fair`. */
static int spread(int n, double fair, int hot)
{
    double part = HOT_SHARE * fair > HOT_LEAST ? HOT_SHARE * fair : HOT_LEAST;
    int more = n / HOT_PART < HOT_MORE ? n / HOT_PART : HOT_MORE;
    return hot < part ? 1 : 1 + (int)(hot / part) + more;
}

/* So little that there is nothing to share: the fewer there are everywhere, the sooner. */
static bool is_idle(const struct place *p, double fair)
{
    return p->in_flight * (fair > 1 ? fair : 1) < LOAD_FLOOR;
}

int place_adapter(const struct place *v, int n, uint64_t key, int hot)
{
    struct ranking r;
    double each = flying_by_share(v, n);
    rank_all(&r, v, n, key);
    int first = take_best(&r), best = -1, left = spread(n, each * share(&v[first]), hot);
    for (int i = first; i >= 0 && (left > 0 || best < 0); i = take_best(&r), left--) {
        double fair = each * share(&v[i]);
        if (!within_bound(&v[i], fair)) continue;
        if (is_idle(&v[i], fair)) return i;
        if (best < 0 || load(&v[i]) < load(&v[best])) best = i;
    }
    return best < 0 ? first : best; /* somebody is within it always: only rounding could say otherwise */
}

/* One of those but `not`, each as likely as its share; random is uniform over 32 bits. */
static int draw(const struct place *v, int n, int not, uint32_t random)
{
    double sum = 0;
    int last = -1;
    for (int i = 0; i < n; i++)
        if (i != not ) sum += share(&v[i]);
    double at = sum * random * 0x1p-32;
    for (int i = 0; i < n; i++) {
        if (i == not ) continue;
        last = i;
        if ((at -= share(&v[i])) < 0) break;
    }
    return last;
}

int place_base(const struct place *v, int n, uint64_t random)
{
    int a = draw(v, n, -1, (uint32_t)random);
    if (n == 1) return a;
    int b = draw(v, n, a, (uint32_t)(random >> 32));
    return load(&v[b]) < load(&v[a]) ? b : a;
}

/* --- how an engine fares --- */

void place_up(struct place_health *h, int64_t now_us)
{
    h->up = true;
    h->trial = false;
    h->losses = 0;
    h->ejected_until = 0;
    h->back_at = now_us;
}

void place_down(struct place_health *h)
{
    h->up = false;
}

void place_won(struct place_health *h)
{
    h->trial = false;
    h->losses = 0;
}

bool place_lost(struct place_health *h, int64_t now_us)
{
    if (h->ejected_until || (++h->losses < EJECT_LOSSES && !h->trial)) return false;
    h->trial = false;
    if (now_us - h->ejected_at > EJECT_CALM_US) h->ejections = 0;
    int64_t out = EJECT_FIRST_US << (h->ejections < 4 ? h->ejections : 4);
    h->ejected_until = now_us + (out < EJECT_MAX_US ? out : EJECT_MAX_US);
    h->ejected_at = now_us;
    h->ejections++;
    return true;
}

bool place_returns(struct place_health *h, int64_t now_us)
{
    if (!h->ejected_until || now_us < h->ejected_until) return false;
    h->ejected_until = 0;
    h->trial = true;
    h->losses = 0;
    h->back_at = now_us;
    return true;
}

bool place_ejected(const struct place_health *h)
{
    return h->ejected_until != 0;
}

bool place_on_trial(const struct place_health *h)
{
    return h->trial;
}

double place_weight(const struct place_health *h, int64_t now_us)
{
    double part = (double)(now_us - h->back_at) / SLOW_START_US;
    if (part >= 1) return 1;
    return part <= 0 ? SLOW_START_LEAST : SLOW_START_LEAST + (1 - SLOW_START_LEAST) * part;
}
