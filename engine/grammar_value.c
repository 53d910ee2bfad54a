/* grammar_value: equality, order and sets of JSON values.
 *
 * Two numbers are equal where they are the same real number. Doubles beyond 2^53 are whole, and an int64 has digits that a double has not,
 * so neither is turned into the other: a double is compared by its whole part, then by what is left. Hashes follow: a whole double hashes
 * as the integer that it is. Members of objects have no order, so their hashes are summed.
 *
 * Recursion follows the values' nesting, which whoever parsed them has bounded. */
#include "engine/grammar_value.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_EACH 16 /* bytes of text that are charged as one value */

static int compare_mixed(json_int_t i, double d)
{
    if (d >= 0x1p63) return -1;
    if (d < -0x1p63) return 1;
    json_int_t whole = (json_int_t)floor(d);
    if (i != whole) return i < whole ? -1 : 1;
    return d > floor(d) ? -1 : 0;
}

int value_compare(const json_t *a, const json_t *b)
{
    if (json_is_integer(a) && json_is_integer(b)) {
        json_int_t x = json_integer_value(a), y = json_integer_value(b);
        return (x > y) - (x < y);
    }
    if (json_is_integer(a)) return compare_mixed(json_integer_value(a), json_real_value(b));
    if (json_is_integer(b)) return -compare_mixed(json_integer_value(b), json_real_value(a));
    double x = json_real_value(a), y = json_real_value(b);
    return (x > y) - (x < y);
}

bool value_is_whole(const json_t *v)
{
    return json_is_integer(v) || (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)));
}

/* --- equality --- */

static bool arrays_equal(struct net *n, const json_t *a, const json_t *b)
{
    if (json_array_size(a) != json_array_size(b)) return false;
    for (size_t i = 0; i < json_array_size(a); i++)
        if (!value_equal(n, json_array_get(a, i), json_array_get(b, i))) return false;
    return true;
}

static bool objects_equal(struct net *n, const json_t *a, const json_t *b)
{
    const char *key;
    json_t *v;
    if (json_object_size(a) != json_object_size(b)) return false;
    json_object_foreach((json_t *)a, key, v)
    {
        const json_t *w = json_object_get(b, key);
        if (!w || !value_equal(n, v, w)) return false;
    }
    return true;
}

/* False as well where the clock has run out: the net has failed then, and nobody looks at what it was. */
bool value_equal(struct net *n, const json_t *a, const json_t *b)
{
    if (!net_charge(n, 1 + json_string_length(a) / TEXT_EACH)) return false;
    if (a == b) return true;
    if (json_is_number(a) && json_is_number(b)) return value_compare(a, b) == 0;
    if (json_typeof(a) != json_typeof(b)) return false;
    if (json_is_array(a)) return arrays_equal(n, a, b);
    if (json_is_object(a)) return objects_equal(n, a, b);
    return json_equal(a, b);
}

/* --- hashes --- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t hash_text(struct net *n, const char *s, size_t len)
{
    uint64_t h = len;
    net_charge(n, len / TEXT_EACH);
    for (; len >= 8; s += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, s, 8);
        h = mix(h, word);
    }
    for (; len > 0; s++, len--) h = mix(h, (uint8_t)*s);
    return h;
}

static uint64_t hash_number(const json_t *v)
{
    double d = json_number_value(v);
    uint64_t bits;
    if (json_is_integer(v)) return mix(JSON_INTEGER, (uint64_t)json_integer_value(v));
    if (value_is_whole(v) && d >= -0x1p63 && d < 0x1p63) return mix(JSON_INTEGER, (uint64_t)(json_int_t)d);
    memcpy(&bits, &d, sizeof bits);
    return mix(JSON_REAL, bits);
}

static uint64_t hash(struct net *n, const json_t *v)
{
    const char *key;
    json_t *x;
    uint64_t h = json_typeof(v);
    if (!net_charge(n, 1)) return 0;
    switch (json_typeof(v)) {
    case JSON_STRING:
        return mix(h, hash_text(n, json_string_value(v), json_string_length(v)));
    case JSON_INTEGER:
    case JSON_REAL:
        return hash_number(v);
    case JSON_ARRAY:
        for (size_t i = 0; i < json_array_size(v); i++) h = mix(h, hash(n, json_array_get(v, i)));
        return h;
    case JSON_OBJECT:
        json_object_foreach((json_t *)v, key, x) h += mix(hash_text(n, key, strlen(key)), hash(n, x));
        return h;
    default:
        return mix(h, 1);
    }
}

/* --- sets --- */

int value_set_init(struct value_set *s, struct net *n, size_t most)
{
    *s = (struct value_set){.net = n, .slots = 4};
    while (s->slots < 2 * most) s->slots *= 2;
    net_charge(n, s->slots / TEXT_EACH);
    s->slot = calloc(s->slots, sizeof *s->slot);
    return s->slot ? 0 : (int)net_no_memory(n) - 1;
}

void value_set_close(struct value_set *s)
{
    free(s->slot);
}

/* Where a value is, or would be. */
static struct value_slot *find(const struct value_set *s, const json_t *v, uint64_t h)
{
    size_t i = (size_t)(h >> 20) & (s->slots - 1);
    while (s->slot[i].v && (s->slot[i].hash != h || !value_equal(s->net, s->slot[i].v, v)))
        i = (i + 1) & (s->slots - 1);
    return &s->slot[i];
}

int value_set_owner(const struct value_set *s, const json_t *v)
{
    const struct value_slot *at = find(s, v, hash(s->net, v));
    return at->v ? at->owner : NO_OWNER;
}

int value_set_add(struct value_set *s, const json_t *v, int owner)
{
    uint64_t h = hash(s->net, v);
    struct value_slot *at = find(s, v, h);
    if (!at->v) *at = (struct value_slot){v, h, owner};
    return at->owner;
}
