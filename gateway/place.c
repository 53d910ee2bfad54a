/* The arithmetic of placement: scores, bounds, and the life of an engine between losses.
 *
 * A score needs one logarithm per engine and request, some tens of nanoseconds; sorting is by insertion, for there are a
 * few engines. The same weights and names give the same order on every gateway, so several gateways in front of the same
 * engines agree on where an adapter lives without talking.
 *
 * Hot adapters: with `hot` requests in flight, the first 1 + hot / (HOT_SHARE x capacity) engines of its order share
 * them, the least loaded first. */
#include "gateway/place.h"
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

void place_order(const struct place *v, int n, uint64_t key, int order[PLACE_MAX])
{
    double s[PLACE_MAX];
    for (int i = 0; i < n; i++) {
        double mine = score(&v[i], key);
        int at = i;
        for (; at > 0 && s[at - 1] < mine; at--) {
            s[at] = s[at - 1];
            order[at] = order[at - 1];
        }
        s[at] = mine;
        order[at] = i;
    }
}

bool place_within_bound(const struct place *v, int n, int i)
{
    double shares = 0, flying = 1; /* the one that is placed */
    for (int k = 0; k < n; k++) {
        shares += share(&v[k]);
        flying += v[k].in_flight;
    }
    double most = ceil(LOAD_BOUND * flying * share(&v[i]) / shares);
    return v[i].in_flight + 1 <= (most > LOAD_FLOOR ? most : LOAD_FLOOR);
}

static double load(const struct place *p)
{
    return (p->in_flight + p->queue) / share(p);
}

int place_adapter(const struct place *v, int n, uint64_t key, int hot)
{
    int order[PLACE_MAX];
    place_order(v, n, key, order);
    int spread = 1 + (int)(hot / (HOT_SHARE * v[order[0]].capacity)), best = -1;
    for (int k = 0; k < n && k < spread; k++) {
        if (!place_within_bound(v, n, order[k])) continue;
        if (best < 0 || load(&v[order[k]]) < load(&v[best])) best = order[k];
    }
    for (int k = spread; k < n && best < 0; k++)
        if (place_within_bound(v, n, order[k])) best = order[k];
    return best < 0 ? order[0] : best; /* somebody is within it always: only rounding could say otherwise */
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
    h->losses = 0;
}

bool place_lost(struct place_health *h, int64_t now_us)
{
    if (h->ejected_until || ++h->losses < EJECT_LOSSES) return false;
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
    h->losses = 0;
    h->back_at = now_us;
    return true;
}

bool place_ejected(const struct place_health *h)
{
    return h->ejected_until != 0;
}

double place_weight(const struct place_health *h, int64_t now_us)
{
    double part = (double)(now_us - h->back_at) / SLOW_START_US;
    if (part >= 1) return 1;
    return part <= 0 ? SLOW_START_LEAST : SLOW_START_LEAST + (1 - SLOW_START_LEAST) * part;
}
