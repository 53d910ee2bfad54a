/* watch: what looking at answers costs, and what groundedness tells apart; docs/EVALUATION.md has the figures.
 *
 *     watch             nanoseconds a request pays on its way, and microseconds that its answer costs the thread `quality` after it
 *     watch ground      reads {"body", "answer"} a line, writes "CLAIMS SUPPORTED NGRAMS FOUND" a line: groundedness as the gateway measures it */
#include "base/clock.h"
#include "gateway/gateway.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/grounded.h"
#include "gateway/quality/quality.h"
#include "gateway/quality/rule.h"
#include "gateway/quality/transcript.h"
#include "gateway/settings.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 20000
#define EVENTS 200 /* of a stream, a token each */
#define LINE_MAX (4u << 20)

static const char policy[] = "{\"groundedness\":{\"min\":0.5,\"ngram\":3,\"support\":0.6},\"rules\":[{\"expect\":\"match\",\"ignore_case\":false,\"kind\":\"regex\",\"name\":\"r\",\"pattern\":\"^a\"}],\"sample\":%s}";
static const char body[] = "{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"What does the old mill by the river grind, and since when has it stood there?\"}],\"max_tokens\":200,\"stream\":true}";

static double thread_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static char *text(const char *sample)
{
    char *s = malloc(sizeof policy + 16);
    if (s) snprintf(s, sizeof policy + 16, policy, sample);
    return s;
}

/* A look at aliases that say nothing, and at one that says "of no request". */
static void unsampled(struct quality *q)
{
    char *none[ALIAS_PARTS] = {NULL}, *zero[ALIAS_PARTS] = {NULL};
    double t = thread_s();
    for (int i = 0; i < 100 * ROUNDS; i++)
        if (quality_pick(q, none, "01890000-0000-7000-8000-000000000000", body, sizeof body - 1)) abort();
    printf("an alias without an evaluation: %.1f ns\n", (thread_s() - t) / (100 * ROUNDS) * 1e9);
    zero[ALIAS_EVALUATION] = text("0.0");
    t = thread_s();
    for (int i = 0; i < ROUNDS; i++)
        if (quality_pick(q, zero, "01890000-0000-7000-8000-000000000000", body, sizeof body - 1)) abort();
    printf("an alias with one, a request that was not drawn: %.0f ns\n", (thread_s() - t) / ROUNDS * 1e9);
    free(zero[ALIAS_EVALUATION]);
}

static void sampled(struct quality *q, const char *event, size_t n)
{
    double t = thread_s();
    for (int i = 0; i < ROUNDS / 10; i++) {
        char *part[ALIAS_PARTS] = {NULL};
        part[ALIAS_EVALUATION] = text("1.0");
        struct watch *w = quality_pick(q, part, "01890000-0000-7000-8000-000000000000", body, sizeof body - 1);
        for (int k = 0; k < EVENTS; k++) quality_feed(w, event, n);
        quality_drop(w);
    }
    printf("a request that was drawn, its stream of %d events copied: %.1f us, or %.0f ns an event\n", EVENTS, (thread_s() - t) / (ROUNDS / 10.0) * 1e6,
           (thread_s() - t) / (ROUNDS / 10.0) / EVENTS * 1e9);
}

static void answers(const char *event, size_t n)
{
    struct buf all;
    struct answer a;
    struct err e = {0};
    buf_init(&all, 1 << 20);
    for (int k = 0; k < EVENTS; k++) buf_add(&all, event, n);
    double t = thread_s();
    for (int i = 0; i < 200; i++) {
        if (answer_read(&a, all.data, all.len, true, &e)) abort();
        answer_close(&a);
    }
    printf("afterwards, the answer of these events read: %.0f us\n", (thread_s() - t) / 200 * 1e6);
    buf_close(&all);
}

static void rules(void)
{
    static const char *const list[] = {
        "{\"name\":\"r\",\"kind\":\"regex\",\"pattern\":\"\\\\b(sorry|apolog\\\\w+)\\\\b\"}",
        "{\"name\":\"r\",\"kind\":\"json_schema\",\"schema\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}}",
        "{\"name\":\"r\",\"kind\":\"length\",\"unit\":\"words\",\"max\":100}",
        "{\"name\":\"r\",\"kind\":\"language\",\"languages\":[\"en\"]}",
    };
    char said[1400] = "";
    struct verdict v;
    struct err e = {0};
    for (size_t n = 0; n + 60 < sizeof said; n = strlen(said)) snprintf(said + n, sizeof said - n, "The old mill by the river grinds corn for nine villages. ");
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        json_t *o = json_load(list[i], strlen(list[i]), 0, NULL), *rule = NULL;
        if (!o || rule_read(o, &rule, &e)) abort();
        double t = thread_s();
        for (int k = 0; k < 1000; k++) rule_apply(rule, &(struct rule_text){said, strlen(said), 300}, &v);
        printf("a rule of kind %s on %zu bytes: %.0f us\n", json_string_value(json_object_get(rule, "kind")), strlen(said), (thread_s() - t) / 1000 * 1e6);
        json_decref(o);
        json_decref(rule);
    }
}

static int ground(void)
{
    char *line = malloc(LINE_MAX);
    double t = thread_s();
    int n = 0;
    while (line && fgets(line, LINE_MAX, stdin)) {
        struct grounded g;
        struct err e = {0};
        json_t *o = json_load(line, strlen(line), 0, NULL);
        const json_t *said = json_object_get(o, "answer");
        if (!json_is_string(said) || grounded_measure(json_object_get(o, "body"), json_string_value(said), json_string_length(said), &(struct grounded_policy){0.6, 3}, &g, &e)) return 1;
        printf("%d %d %lld %lld\n", g.claims, g.supported, (long long)g.ngrams, (long long)g.found);
        json_decref(o);
        n++;
    }
    fprintf(stderr, "%.0f us each\n", n ? (thread_s() - t) / n * 1e6 : 0);
    free(line);
    return 0;
}

int main(int argc, char **argv)
{
    static const char event[] = "data: {\"id\":\"chatcmpl-01890000\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"chat\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" mill\"},\"finish_reason\":null}]}\n\n";
    static struct settings set = {.evaluation = true};
    static struct gateway g = {.set = &set};
    struct quality *q = NULL;
    struct err e = {0};
    json_start();
    if (argc > 1 && strcmp(argv[1], "ground") == 0) return ground();
    if (quality_open(&q, &g, &e)) return 1;
    unsampled(q);
    sampled(q, event, sizeof event - 1);
    quality_close(q);
    answers(event, sizeof event - 1);
    rules();
    return 0;
}
