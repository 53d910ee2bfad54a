/* How a request for text meets the limits: what it reserves, the headers that it gets, and its refusal (GATEWAY.md
 * section 2). */
#pragma once
#include "gateway/limits/limit.h"
#include "gateway/proxy/upstream.h"

#define LIMIT_DURATION_LEN 32

/* As OpenAI writes times to wait: "20ms", "1s", "6m0s", "2h0m5s". Rounded up. */
void limit_duration(int64_t us, char out[LIMIT_DURATION_LEN]);

/* What a request asks for, as far as its body says. */
struct limit_wish {
    int64_t body_bytes;
    int64_t prompts, choices; /* choices: to each prompt */
    int64_t max_tokens;       /* of one answer; -1: as many as the context has room for */
    int64_t max_context;      /* 0: not known */
    bool tools;               /* some are given */
    bool twice;               /* a prompt is read a second time, to be compressed (docs/POLICIES.md) */
    bool both;                /* two models may answer it, one after the other (docs/ROUTING.md) */
};

/* The most that it can use. tokens may be less than prompt + output, where these share a context. */
struct limit_most {
    int64_t prompt, output, tokens;
};
struct limit_most limit_bound(const struct limit_wish *w);
/* The same where the tokens of all prompts are known. */
struct limit_most limit_exact(const struct limit_wish *w, int64_t prompt);

/* Reserves, sets the headers, and sends the request on with upstream_start(), or refuses it. Takes over *ask's bodies and
 * owes the answer. Worker threads. */
void limit_start(struct http_request *r, struct upstream_ask *ask, const struct limit_wish *w);
