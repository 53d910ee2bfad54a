/* What the fuzzers of structured output share: a vocabulary of their own in the tokenizer's place (tests/unit/test_constrain_words.h), and a walk along
 * masks that is steered by the input's bytes. */
#pragma once
#include "engine/constrain.h"
#include "engine/grammar_machine.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/test_constrain_words.h"

#ifndef WALK_MAX
#define WALK_MAX 96
#endif

/* What is looked ahead at changes no answer but "too large", and takes milliseconds: it is tried as far as so much work goes (parts.mk: --wrap). */
#define PROBE_WORK 400
int __real_machine_probe(struct machine *m, struct clock *clock);
int __wrap_machine_probe(struct machine *m, struct clock *clock);
int __wrap_machine_probe(struct machine *m, struct clock *clock)
{
    struct clock c = {.until_ns = 0, .charged = CLOCK_CHARGES - PROBE_WORK};
    (void)clock;
    return __real_machine_probe(m, &c);
}

static inline struct constrain *walk_vocabulary(void)
{
    static struct constrain *c;
    if (!c) {
        for (int i = 0; i < 256; i++) tok.byte[i] = (char)i;
        json_start();
        FUZZ_NEED(constrain_new(&c, &tok, 1u << 20, NULL) == 0);
    }
    return c;
}

static inline bool walk_allows(const uint32_t *mask, int32_t id)
{
    return mask[id / 32] >> (id % 32) & 1;
}

/* The next token: the first one allowed from the byte's place on; ends come last. */
static inline int32_t walk_choose(const uint32_t *mask, unsigned byte)
{
    for (int i = 0; i < TOKEN_END; i++) {
        int32_t id = (int32_t)((byte * 7u + (unsigned)i) % TOKEN_END);
        if (walk_allows(mask, id)) return id;
    }
    return walk_allows(mask, TOKEN_END) ? TOKEN_END : -1;
}

/* Walks from the start; the answer goes to `out` (cap bytes). True: it is one that may end here. Needs: what a mask allows is accepted and what it does not
 * is not; a control token never is; ends are allowed where the text may end; a copy of the state says the same. */
static inline bool walk_grammar(struct grammar *g, const uint8_t *data, size_t n, char *out, size_t cap)
{
    uint32_t mask[WORDS32], again[WORDS32];
    struct grammar_state *s = NULL, *copy = NULL;
    size_t len = 0;
    bool ends = false, stuck = false;
    FUZZ_NEED(grammar_state_new(&s, g, NULL) == 0);
    for (int step = 0; step < WALK_MAX && !stuck; step++) {
        unsigned byte = fuzz_byte(&data, &n);
        FUZZ_NEED(grammar_mask(s, mask) == 0);
        ends = grammar_may_end(s);
        FUZZ_NEED(walk_allows(mask, TOKEN_END) >= ends && !walk_allows(mask, TOKEN_CTL));
        int32_t id = ends && byte == 0 ? -1 : walk_choose(mask, byte), other = (int32_t)(byte % 256);
        if (id < 0 || id == TOKEN_END) break;
        if (!walk_allows(mask, other)) FUZZ_NEED(!grammar_accept(s, other));
        if (byte % 8 == 1) {
            FUZZ_NEED(grammar_state_copy(&copy, s, NULL) == 0 && grammar_mask(copy, again) == 0 && memcmp(mask, again, sizeof mask) == 0);
            grammar_state_free(copy);
        }
        size_t k;
        const char *bytes = tokenizer_bytes(&tok, id, &k);
        stuck = len + k >= cap;
        if (!stuck) memcpy(out + len, bytes, k);
        if (!stuck) len += k;
        FUZZ_NEED(grammar_accept(s, id));
    }
    ends = !stuck && grammar_may_end(s);
    FUZZ_NEED(!grammar_is_over(s) || grammar_may_end(s));
    out[len] = 0;
    grammar_state_free(s);
    return ends;
}
