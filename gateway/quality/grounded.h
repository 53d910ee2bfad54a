/* Groundedness: how much of an answer stands in the passages that its client retrieved for it, and how well that retrieval went (docs/EVALUATION.md).
 *
 * A client sends what it retrieved beside its messages: metadata.rag = {"passages": [{"id", "text", "score"}], "query"}. The gateway takes it out of the
 * body before an engine sees it (gateway/proxy/chat_ask.c); whoever wants the model to read the passages has them in the messages.
 *
 * A claim is a sentence of the answer that says something: it has words beyond the commonest of its language, or numbers. It is supported where one passage
 * has at least `support` of these words, and all of its numbers. This counts words, it does not understand: a claim that turns a passage round in its own
 * words ("not") counts as supported, one that says it in other words does not. Pure functions. */
#pragma once
#include "gateway/quality/rule.h"

#define RAG_PASSAGES_MAX 64
#define RAG_TEXT_MAX (512u << 10) /* bytes of all passages */
#define RAG_WORDS_MAX 20000       /* of the answer that are looked at */
#define RAG_NGRAM_MAX 5
#define RAG_SCORE_MAX 1e6 /* of a passage, either way: means and squares of it are summed */

struct grounded_policy {
    double support; /* share of a claim's words that one passage must have */
    int ngram;      /* words of an n-gram */
};

struct grounded {
    bool sent;           /* the client said what it retrieved */
    bool readable;       /* and it has that shape; else why */
    char why[RULE_NOTE_LEN];
    int passages;        /* with text */
    int scores;          /* with a score */
    double score_mean, score_least; /* of these */
    int claims, supported;
    int64_t ngrams, found; /* of the answer; of these in some passage */
};

/* body: the client's request. Bounded time; ERR_NO_MEMORY. */
int grounded_measure(const json_t *body, const char *answer, size_t n, const struct grounded_policy *p, struct grounded *out, struct err *e);
