/* What hostile text costs: 1 MiB of one thing through each style of tokenizer, and bombs for structured output.
 *
 *   bench_text [bombs]     (run from the top folder; WEFT_MODEL names SmolLM2's file, without it smollm.json stands in)
 *
 * CPU time, the better of two runs for texts and the worse of two for bombs. A figure above its bound is marked, and
 * makes the exit status 1. Bombs may be served where they turn out harmless; then the first masks are timed too. */
#include "base/buf.h"
#include "engine/constrain.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FOLDER "tests/golden/tokenizer_hf/"
#define MIB (1u << 20)
#define TEXT_MS 250
#define BOMB_MS 100
#define MASK_MS 3
#define MASK_WALKS 6
#define MASK_STEPS 40
#define SOURCE_BYTES (4u << 20)

static int over;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(2);
}

/* --- texts --- */

static const char *const styles[] = {"gpt2",  "llama3",    "qwen2",  "smollm",    "phi4mini",
                                     "nemo",  "deepseek3", "falcon", "llama2",    "phi3",
                                     "gemma", "mistral",   "odds",   "metaspace", "plain"};

static const struct text_row {
    const char *name, *unit; /* NULL: random bytes */
} texts[] = {
    {"a", "a"},
    {"spaces", " "},
    {"combining", "\xcc\x81\xcc\xa3"},
    {"digits", "1"},
    {"emoji", "\xf0\x9f\x91\x8d"},
    {"joined", "\xf0\x9f\x91\xa9\xe2\x80\x8d"},
    {"newlines", "\n"},
    {"tabs", " \t"},
    {"CJK", "\xe4\xbd\xa0"},
    {"mixed", "aB1 \xc3\xa9\n"},
    {"0xff", "\xff"},
    {"random", NULL},
};
#define NTEXTS (sizeof texts / sizeof *texts)

static char *make_text(const struct text_row *r)
{
    char *s = malloc(MIB);
    uint64_t x = 88172645463325252u;
    size_t n = r->unit ? strlen(r->unit) : 0;
    if (!s) die("text", "out of memory");
    for (size_t i = 0; i < MIB; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        s[i] = n ? r->unit[i % n] : (char)(x >> 24);
    }
    return s;
}

static double encode_ms(const struct tokenizer *t, const char *text)
{
    double best = 1e9;
    for (int i = 0; i < 2; i++) {
        struct tokens out;
        struct err e = {0};
        double start = now_ms();
        if (tokenizer_encode(t, text, MIB, true, 8u << 20, &out, &e)) die("encode", e.msg);
        double ms = now_ms() - start;
        free(out.id);
        if (ms < best) best = ms;
    }
    return best;
}

static struct tokenizer *open_style(const char *name)
{
    char path[256];
    json_error_t why;
    struct tokenizer *t;
    struct err e = {0};
    snprintf(path, sizeof path, FOLDER "%s.json", name);
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &why);
    char *s = j ? json_dumps(json_object_get(j, "tokenizer"), JSON_COMPACT) : NULL;
    if (!s) die(path, "can't be read: run from the top folder");
    if (tokenizer_from_hf(&t, s, strlen(s), NULL, NULL, &e)) die(path, e.msg);
    free(s);
    json_decref(j);
    return t;
}

static struct tokenizer *open_model(const char *path)
{
    struct gguf *g;
    struct tokenizer *t;
    struct err e = {0};
    if (gguf_open(&g, path, &e) || tokenizer_from_gguf(&t, g, &e)) die(path, e.msg);
    gguf_close(g);
    return t;
}

static void print_texts(const char *name, const struct tokenizer *t, char *const *text)
{
    printf("%-10s", name);
    for (size_t i = 0; i < NTEXTS; i++) {
        double ms = encode_ms(t, text[i]);
        printf(" %8.1f%c", ms, ms < TEXT_MS ? ' ' : '!');
        over += ms >= TEXT_MS;
    }
    printf("\n");
    fflush(stdout);
}

static void bench_texts(const struct tokenizer *model)
{
    char *text[NTEXTS];
    printf("ms of CPU for 1 MiB of one thing; bound %d\n%-10s", TEXT_MS, "");
    for (size_t i = 0; i < NTEXTS; i++) {
        text[i] = make_text(&texts[i]);
        printf(" %9s", texts[i].name);
    }
    printf("\n");
    if (model) print_texts("SmolLM2", model, text);
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        struct tokenizer *t = open_style(styles[i]);
        print_texts(styles[i], t, text);
        tokenizer_free(t);
    }
    for (size_t i = 0; i < NTEXTS; i++) free(text[i]);
}

/* --- bombs --- */

enum kind { SCHEMA, REGEX };

/* Long pieces of bombs, spelled by the preprocessor. */
#define X10(m, p) m(p "0") m(p "1") m(p "2") m(p "3") m(p "4") m(p "5") m(p "6") m(p "7") m(p "8") m(p "9")
#define X100(m, p)                                                                                                     \
    X10(m, p "0")                                                                                                      \
    X10(m, p "1") X10(m, p "2") X10(m, p "3") X10(m, p "4") X10(m, p "5") X10(m, p "6") X10(m, p "7") X10(m, p "8")    \
        X10(m, p "9")
#define NOTE(p) ",\"" p "\":0"
#define NOTES_200 X100(NOTE, "n") X100(NOTE, "m")
#define PROP(p) ",\"" p "\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}"
#define PROPS_200 X100(PROP, "n") X100(PROP, "m")
#define PROP_DIFFERS(p) ",\"" p "\":{\"anyOf\":[{\"type\":\"string\"},{\"minimum\":%d}]}"
#define PROPS_200_DIFFER X100(PROP_DIFFERS, "n") X100(PROP_DIFFERS, "m")
#define ENTRY(p)                                                                                                       \
    ",[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,\"" p "\"]"
#define ENUM_440 X100(ENTRY, "a") X100(ENTRY, "b") X100(ENTRY, "c") X100(ENTRY, "d") X10(ENTRY, "e")
#define WAY(c, n) "[" c "-z ]{1," n "}[" c "m]"
#define COUNTED_24                                                                                                                                                                                          \
    "(?:" WAY("a", "40") "|" WAY("b", "41") "|" WAY("c", "42") "|" WAY("d", "43") "|" WAY("e", "44") "|" WAY("f", "4"                                                                                       \
                                                                                                                  "5") "|" WAY("g", "46") "|" WAY("h", "47") "|" WAY("i", "48") "|" WAY("j", "49") "|" WAY( \
        "k",                                                                                                                                                                                                \
        "50") "|" WAY("l",                                                                                                                                                                                  \
                      "51") "|" WAY("m",                                                                                                                                                                    \
                                    "52") "|" WAY("n",                                                                                                                                                      \
                                                  "53") "|" WAY("o",                                                                                                                                        \
                                                                "54") "|" WAY("p",                                                                                                                          \
                                                                              "55") "|" WAY("q",                                                                                                            \
                                                                                            "56") "|" WAY("r",                                                                                              \
                                                                                                          "57") "|" WAY("s",                                                                                \
                                                                                                                        "58") "|" WAY("t",                                                                  \
                                                                                                                                      "59") "|" WAY("u",                                                    \
                                                                                                                                                    "60") "|" WAY("v",                                      \
                                                                                                                                                                  "61") "|" WAY("w",                        \
                                                                                                                                                                                "62") "|" WAY("x",          \
                                                                                                                                                                                              "63") "){1,20}"

/* head, `many` n times ("%d" in it counts), `middle`, `close` n times, tail. */
static const struct bomb {
    const char *name;
    enum kind kind;
    const char *head, *many;
    int n;
    const char *middle, *close, *tail;
} bombs[] = {
    {"counts within counts", REGEX, "(a{1,1000}){1,1000}", "", 0, "", "", ""},
    {"counts within counts, deep", REGEX, "", "(", 12, "a", "){1,9}", ""},
    {"stars within stars", REGEX, "", "(", 200, "a*", ")*", "b"},
    {"groups, deep", REGEX, "", "(", 50000, "a", ")", ""},
    {"one huge count", REGEX, "a{1000000000}", "", 0, "", "", ""},
    {"counts side by side", REGEX, "", "[a-z]{0,999}", 200, "", "", ""},
    {"alternatives with one beginning", REGEX, "(a{500}b", "|a{500}%d", 2000, "", "", ")"},
    {"what needs 2^30 states", REGEX, "(a|b)*a(a|b){30}", "", 0, "", "", ""},
    {"that, with classes", REGEX, "[^\\n]*x[^\\n]{200}", "", 0, "", "", ""},
    {"classes of Unicode, counted", REGEX, "([\\u4e00-\\u9fff\\u0080-\\u07ff\\u{10000}-\\u{10ffff}]{1,1000}){1,1000}",
     "", 0, "", "", ""},
    {"classes of Unicode, many", REGEX, "", "[^a%d\\u0100-\\uffff]+", 8000, "", "", ""},
    {"negated classes, starred", REGEX, "", "([^a]|[^b])*", 3000, "", "", ""},
    {"options without end", REGEX, "", "(a?|b?|c?)", 20000, "", "", ""},
    {"256 KiB of letters", REGEX, "", "abcdefgh", 32000, "", "", ""},
    {"a longer one than is read", REGEX, "", "abcdefgh", 130000, "", "", ""},
    {"items, deep", SCHEMA, "", "{\"items\":", 20000, "{}", "}", ""},
    {"anyOf, deep", SCHEMA, "", "{\"anyOf\":[{\"type\":\"null\"},", 3000, "{}", "]}", ""},
    {"allOf, deep", SCHEMA, "", "{\"allOf\":[{\"type\":\"object\"},", 3000, "{}", "]}", ""},
    {"definitions that double", SCHEMA, "{\"$ref\":\"#/$defs/d59\",\"$defs\":{\"d0\":{\"type\":\"null\"}",
     ",\"d%d\":{\"type\":\"array\",\"prefixItems\":[{\"$ref\":\"#/$defs/d%p\"},{\"$ref\":\"#/$defs/"
     "d%p\"}],\"minItems\":2}",
     60, "", "", "}}"},
    {"allOf of two that double", SCHEMA, "{\"$ref\":\"#/$defs/d39\",\"$defs\":{\"d0\":{\"type\":\"integer\"}",
     ",\"d%d\":{\"allOf\":[{\"$ref\":\"#/$defs/d%p\"},{\"$ref\":\"#/$defs/d%p\"}]}", 40, "", "", "}}"},
    {"anyOf of two that double", SCHEMA, "{\"$ref\":\"#/$defs/d39\",\"$defs\":{\"d0\":{\"type\":\"integer\"}",
     ",\"d%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/d%p\"},{\"$ref\":\"#/$defs/d%p\"}]}", 40, "", "", "}}"},
    {"anyOf times anyOf times ...", SCHEMA, "{\"allOf\":[{}",
     ",{\"anyOf\":[{\"properties\":{\"a%d\":{\"type\":\"string\"}}},{\"properties\":{\"b%d\":{\"type\":\"null\"}}}]}",
     40, "", "", "]}"},
    {"anyOf of patterns, all together", SCHEMA, "{\"allOf\":[{\"type\":\"string\"}",
     ",{\"anyOf\":[{\"pattern\":\"a%d.*\"},{\"pattern\":\"b%d.*\"}]}", 30, "", "", "]}"},
    {"a reference to itself", SCHEMA, "{\"$ref\":\"#\"}", "", 0, "", "", ""},
    {"two that refer to each other", SCHEMA,
     "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}}}", "", 0, "",
     "", ""},
    {"a list that needs itself", SCHEMA, "{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}", "", 0, "",
     "", ""},
    {"an object that needs itself", SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "", 0, "", "", ""},
    {"an enum of 100000", SCHEMA, "{\"enum\":[0", ",\"v%d\"", 100000, "", "", "]}"},
    {"an enum of 20000", SCHEMA, "{\"enum\":[0", ",\"v%d\"", 20000, "", "", "]}"},
    {"an enum of long texts", SCHEMA, "{\"enum\":[0",
     ",\"the same long beginning of every text that stands in this list, and then %d\"", 3000, "", "", "]}"},
    {"2000 properties, all optional", SCHEMA, "{\"type\":\"object\",\"properties\":{\"p\":{}",
     ",\"p%d\":{\"type\":\"string\"}", 2000, "", "", "},\"additionalProperties\":false}"},
    {"10000 properties, all optional", SCHEMA, "{\"type\":\"object\",\"properties\":{\"p\":{}", ",\"p%d\":{}", 10000,
     "", "", "},\"additionalProperties\":false}"},
    {"properties and others", SCHEMA, "{\"type\":\"object\",\"properties\":{\"p\":{}", ",\"p%d\":{\"type\":\"object\"}",
     2000, "", "", "},\"additionalProperties\":{\"type\":\"integer\"}}"},
    {"a huge maxLength", SCHEMA, "{\"type\":\"string\",\"maxLength\":1000000000}", "", 0, "", "", ""},
    {"a huge minLength", SCHEMA, "{\"type\":\"string\",\"minLength\":1000000000}", "", 0, "", "", ""},
    {"a huge minItems", SCHEMA, "{\"type\":\"array\",\"minItems\":1000000000,\"items\":{\"type\":\"string\"}}", "", 0,
     "", "", ""},
    {"minItems in minItems", SCHEMA, "", "{\"type\":\"array\",\"minItems\":99,\"maxItems\":100,\"items\":", 12, "{}",
     "}", ""},
    {"maxLength and a pattern", SCHEMA, "{\"type\":\"string\",\"pattern\":\"^(ab|ba)*$\",\"maxLength\":1000000}", "", 0,
     "", "", ""},
    {"patterns of all properties", SCHEMA, "{\"type\":\"object\",\"properties\":{\"p\":{}",
     ",\"p%d\":{\"type\":\"string\",\"pattern\":\"(a{1,99}b){1,99}%d\"}", 500, "", "", "}}"},
    {"maximum and multipleOf", SCHEMA,
     "{\"type\":\"integer\",\"multipleOf\":997,\"minimum\":-999999999999,\"maximum\":999999999999}", "", 0, "", "", ""},
    {"multipleOf in allOf", SCHEMA,
     "{\"allOf\":[{\"type\":\"integer\",\"multipleOf\":997},{\"multipleOf\":991},{\"multipleOf\":983}]}", "", 0, "", "",
     ""},
    {"1 MiB of definitions", SCHEMA, "{\"$defs\":{\"x\":{}",
     ",\"d%d\":{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}}}", 20000, "", "", "}}"},
    {"1 MiB in one description", SCHEMA, "{\"description\":\"", "x", 1 << 20, "", "", "\"}"},
    {"allOf of big objects", SCHEMA, "{\"allOf\":[{}",
     ",{\"type\":\"object\",\"properties\":{\"a%d\":{\"enum\":[1,2,3,4,5,6,7,8,9]},\"b\":{\"type\":\"string\","
     "\"maxLength\":%d9}}}",
     400, "", "", "]}"},
    {"oneOf of many objects", SCHEMA, "{\"oneOf\":[{\"const\":1}",
     ",{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"v%d\"},\"x\":{\"type\":\"string\"}},\"required\":[\"k\"]"
     "}",
     800, "", "", "]}"},
    {"oneOf of 250 tagged objects", SCHEMA, "{\"oneOf\":[{\"const\":1}",
     ",{\"type\":\"object\",\"properties\":{\"k\":{\"const\":%d},\"z\":{\"type\":\"string\"}},\"required\":[\"k\"]}",
     250, "", "", "]}"},
    {"oneOf of 135 annotated ones", SCHEMA, "{\"oneOf\":[{\"const\":1}",
     ",{\"type\":\"object\",\"properties\":{\"k\":{\"const\":%d" NOTES_200 "}},\"required\":[\"k\"]}", 135, "", "",
     "]}"},
    {"oneOf of 500, two tags", SCHEMA, "{\"oneOf\":[{\"const\":1}",
     ",{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"},\"v\":{\"enum\":[%d,\"%d\"]}},\"required\":[\"k\","
     "\"v\"]}",
     500, "", "", "]}"},
    {"oneOf of 500 that nothing tells", SCHEMA, "{\"oneOf\":[{\"const\":1}",
     ",{\"type\":\"object\",\"properties\":{\"k\":{\"pattern\":\"%d\"},\"a\":{\"const\":1},\"b\":{\"const\":1},\"v%d\":"
     "{}},"
     "\"required\":[\"k\",\"a\",\"b\",\"v%d\"]}",
     500, "", "", "]}"},
    {"oneOf that only pairs tell", SCHEMA, "{\"oneOf\":[{\"const\":1}",
     ",{\"type\":\"object\",\"properties\":{\"v%d\":{}},\"required\":[\"v%d\"],\"additionalProperties\":false}", 500,
     "", "", "]}"},
    {"allOf of 20 x 200 properties", SCHEMA, "{\"allOf\":[{}",
     ",{\"type\":\"object\",\"properties\":{\"a\":{}" PROPS_200 "}}", 20, "", "", "]}"},
    {"allOf of 12 x 200, all different", SCHEMA, "{\"allOf\":[{}",
     ",{\"type\":\"object\",\"properties\":{\"a\":{\"minimum\":%d}" PROPS_200_DIFFER "}}", 12, "", "", "]}"},
    {"allOf of two enums of 440 arrays", SCHEMA,
     "{\"allOf\":[{\"enum\":[0" ENUM_440 "]},{\"enum\":[1" ENUM_440 "]}],\"$defs\":[0", ",%d", 1, "", "", "]}"},
    {"ways through counted classes", REGEX, COUNTED_24, "", 0, "", "", ""},
    {"prefixItems, many", SCHEMA, "{\"prefixItems\":[{}", ",{\"type\":[\"string\",\"null\",\"integer\"]}", 5000, "", "",
     "]}"},
};

/* %d: the number of the repetition, from 1; %p: the one before it. */
static void add_counted(struct buf *b, const char *s, int i)
{
    for (; *s; s++) {
        if (s[0] == '%' && (s[1] == 'd' || s[1] == 'p')) {
            buf_addf(b, "%d", s[1] == 'd' ? i : i - 1);
            s++;
        } else {
            buf_addc(b, *s);
        }
    }
}

static void write_bomb(const struct bomb *o, struct buf *b)
{
    buf_init(b, SOURCE_BYTES);
    buf_adds(b, o->head);
    for (int i = 1; i <= o->n; i++) add_counted(b, o->many, i);
    buf_adds(b, o->middle);
    for (int i = 0; i < o->n; i++) buf_adds(b, o->close);
    buf_adds(b, o->tail);
}

/* As a request does: the body's JSON is parsed (not timed by the engine's bound, but by ours), then compiled. */
static int compile(struct constrain *c, const struct bomb *o, const struct buf *b, struct grammar **g, double *ms,
                   struct err *e)
{
    double start = now_ms();
    json_t *schema = NULL;
    int rc = o->kind == SCHEMA ? json_parse(b->data, b->len, &schema, e) : 0;
    if (!rc) rc = schema ? grammar_json_schema(c, schema, g, e) : grammar_regex(c, b->data, b->len, g, e);
    *ms = now_ms() - start;
    json_decref(schema);
    return rc;
}

struct mask_cost {
    double worst, sum;
    int n;
};

/* Another token each time, of those that may come; every third walk takes long ones. */
static int32_t pick(const struct tokenizer *t, const uint32_t *mask, int vocab, int walk, int step)
{
    int32_t id = -1;
    size_t len = 0, longest = 0;
    uint32_t best = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (!(mask[i / 32] >> (i % 32) & 1) || tokenizer_is_end(t, i)) continue;
        uint32_t h = ((uint32_t)i ^ (uint32_t)(walk * 7919 + step * 104729)) * 2654435761u;
        tokenizer_bytes(t, i, &len);
        if (walk % 3 != 2) len = 0;
        if (id < 0 || len > longest || (len == longest && h > best)) id = i, longest = len, best = h;
    }
    return id;
}

/* The masks on some ways through a fresh grammar. */
static void time_masks(const struct tokenizer *t, struct grammar *g, struct mask_cost *out)
{
    int vocab = tokenizer_vocab(t), words = grammar_mask_words(vocab);
    uint32_t *mask = malloc((size_t)words * sizeof *mask);
    if (!mask) die("mask", "out of memory");
    for (int walk = 0; walk < MASK_WALKS; walk++) {
        struct grammar_state *s;
        struct err e = {0};
        if (grammar_state_new(&s, g, &e)) die("state", e.msg);
        for (int step = 0; step < MASK_STEPS; step++) {
            bool known = grammar_mask_known(s);
            double start = now_ms();
            if (grammar_mask(s, mask)) die("mask", "out of memory");
            double ms = now_ms() - start;
            if (ms > out->worst) out->worst = ms;
            if (!known) out->sum += ms, out->n++;
            int32_t id = pick(t, mask, vocab, walk, step);
            start = now_ms();
            if (id < 0 || !grammar_accept(s, id)) break;
            ms = now_ms() - start;
            if (ms > out->worst) out->worst = ms;
        }
        grammar_state_free(s);
    }
    free(mask);
}

static void print_bomb(const struct tokenizer *t, const struct bomb *o)
{
    struct buf b;
    double worst = 0;
    struct mask_cost mask = {0};
    char says[200] = "served";
    write_bomb(o, &b);
    for (int i = 0; i < 2; i++) {
        struct constrain *c;
        struct grammar *g;
        struct err e = {0};
        double ms;
        if (constrain_new(&c, t, 16u << 20, &e)) die("constrain", e.msg);
        int rc = compile(c, o, &b, &g, &ms, &e);
        if (rc) snprintf(says, sizeof says, "%.150s", e.msg);
        if (!rc) time_masks(t, g, &mask);
        if (!rc) grammar_unref(g);
        constrain_free(c);
        if (ms > worst) worst = ms;
    }
    bool bad = worst >= BOMB_MS || mask.worst >= MASK_MS;
    double mean = mask.n ? mask.sum / mask.n : 0;
    printf("%-34s %8zu B %7.1f%c %7.2f %7.2f  %s\n", o->name, b.len, worst, bad ? '!' : ' ', mask.worst, mean, says);
    fflush(stdout);
    over += bad;
    buf_close(&b);
}

static void bench_bombs(const struct tokenizer *t)
{
    printf("\nms of CPU to refuse (or compile) a bomb, bound %d; where it is served, of the slowest mask, bound %d, "
           "and of one "
           "that was not known, on average\n",
           BOMB_MS, MASK_MS);
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) print_bomb(t, &bombs[i]);
}

int main(int argc, char **argv)
{
    bool all = argc < 2 || strcmp(argv[1], "bombs") != 0;
    const char *path = getenv("WEFT_MODEL");
    struct tokenizer *model = path ? open_model(path) : NULL;
    if (!path) printf("WEFT_MODEL is not set: SmolLM2's own tokenizer is left out\n");
    if (all) bench_texts(model);
    if (!model) model = open_style("smollm");
    bench_bombs(model);
    tokenizer_free(model);
    printf("\n%d above their bound\n", over);
    return over ? 1 : 0;
}
