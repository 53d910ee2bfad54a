/* weft chat: one answer, streamed; or a conversation, a line a turn.
 *
 *     main thread:   turn -> client_start -> wait ........................ -> verdict -> next turn
 *     client thread:          on_head -> on_data (cli_chat_stream: lines -> deltas -> stdout) -> on_done
 *
 * An answer that ends without its "[DONE]" was cut short, and that is said. The two threads share struct answer under its
 * lock; the callbacks block on nothing but stdout, which is what they are for.
 *
 * Bounds: those of cli_chat_stream.h, a line typed TYPED_MAX, turns until the server says that the context is full: that
 * turn is then dropped, and the conversation goes on. */
#include "base/client.h"
#include "base/err.h"
#include "base/json.h"
#include "gateway/cli/cli_chat_stream.h"
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_verbs.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TYPED_MAX (1u << 20)
#define CONNECT_MS 5000
#define FIRST_BYTE_MS 300000 /* a cold adapter behind a queue */
#define IDLE_MS 120000

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool over;             /* on_done has come */
    struct chat_stream got;
    struct err why;        /* how the exchange failed */
    char request_id[64];
};

/* --- the exchange --- */

static void on_head(void *u, const struct client_reply *r)
{
    struct answer *a = u;
    pthread_mutex_lock(&a->lock);
    a->got.status = r->status;
    snprintf(a->request_id, sizeof a->request_id, "%s", r->request_id ? r->request_id : "");
    pthread_mutex_unlock(&a->lock);
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct answer *a = u;
    pthread_mutex_lock(&a->lock);
    int rc = chat_stream_feed(&a->got, bytes, n);
    pthread_mutex_unlock(&a->lock);
    return rc;
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct answer *a = u;
    pthread_mutex_lock(&a->lock);
    if (e) a->why = *e;
    a->got.status = r->status;
    a->over = true;
    pthread_cond_signal(&a->ended);
    pthread_mutex_unlock(&a->lock);
}

/* --- one turn --- */

static void say(const char *text, size_t n)
{
    cli_puts(text, n);
    fflush(stdout);
}

static void answer_init(struct answer *a, bool whole)
{
    *a = (struct answer){.over = false};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->ended, NULL);
    chat_stream_init(&a->got, whole, say);
}

static void answer_close(struct answer *a)
{
    chat_stream_close(&a->got);
    pthread_cond_destroy(&a->ended);
    pthread_mutex_destroy(&a->lock);
}

static json_t *body_of(const struct cli *c, json_t *messages)
{
    json_t *o =
        json_pack("{s:s, s:b, s:O}", "model", cli_str(c, CLI_MODEL_FLAG), "stream", !c->json, "messages", messages);
    int rc = o ? 0 : -1;
    json_t *most = c->flag[CLI_MAX_TOKENS_FLAG], *temperature = c->flag[CLI_TEMPERATURE_FLAG];
    if (!rc && most) rc = json_object_set(o, "max_tokens", most);
    if (!rc && temperature) rc = json_object_set(o, "temperature", temperature);
    if (!rc) return o;
    json_decref(o);
    return NULL;
}

static int verdict(struct answer *a)
{
    const struct chat_stream *s = &a->got;
    if ((s->status && s->status != 200) || s->error.len)
        return cli_refused(s->status, s->error.data, s->error.len, a->request_id);
    if (s->line.failed || s->text.failed) return cli_error(CLI_FAILED, "the answer is too long");
    if (a->why.code) return cli_broken(&a->why);
    return s->done || s->whole ? CLI_OK : cli_error(CLI_UNREACHABLE, "the answer was cut short");
}

static int send_and_wait(struct client *client, const struct cli_target *t, const char *ask, struct answer *a)
{
    const char *headers[] = {t->authorization, "Content-Type: application/json", "Accept: text/event-stream", NULL};
    struct client_request req = {.method = "POST",
                                 .url = t->url,
                                 .headers = headers,
                                 .body = ask,
                                 .body_len = strlen(ask),
                                 .connect_ms = CONNECT_MS,
                                 .first_byte_ms = FIRST_BYTE_MS,
                                 .idle_ms = IDLE_MS,
                                 .on_head = on_head,
                                 .on_data = on_data,
                                 .on_done = on_done,
                                 .user = a};
    struct client_call *call;
    struct err e = {0};
    if (client_start(client, &req, &call, &e)) return cli_broken(&e);
    pthread_mutex_lock(&a->lock);
    while (!a->over) pthread_cond_wait(&a->ended, &a->lock); /* bounded by the limits in req */
    pthread_mutex_unlock(&a->lock);
    const struct buf *text = &a->got.text;
    if (a->got.whole && a->got.status == 200) cli_puts(text->data, text->len);
    if (text->len && text->data[text->len - 1] != '\n') putchar('\n');
    fflush(stdout);
    return verdict(a);
}

static int add_message(json_t *messages, const char *role, const char *text)
{
    json_t *m = json_pack("{s:s, s:s}", "role", role, "content", text);
    if (m && !json_array_append_new(messages, m)) return CLI_OK;
    return cli_error(CLI_USAGE, "the %s message is not valid UTF-8", role);
}

static int keep_answer(json_t *messages, const struct answer *a)
{
    char *said = chat_stream_said(&a->got);
    int rc = said ? add_message(messages, "assistant", said) : cli_error(CLI_FAILED, "the server's answer is no JSON");
    free(said);
    return rc;
}

/* Asks, and keeps question and answer in `messages`, or neither. */
static int turn(const struct cli *c, struct client *client, const struct cli_target *t, json_t *messages,
                const char *prompt)
{
    struct answer a;
    size_t before = json_array_size(messages);
    if (add_message(messages, "user", prompt)) return CLI_USAGE;
    json_t *body = body_of(c, messages);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    answer_init(&a, c->json);
    int rc = text ? send_and_wait(client, t, text, &a) : cli_error(CLI_USAGE, "the model's name is not valid UTF-8");
    if (!rc) rc = keep_answer(messages, &a);
    while (rc && json_array_size(messages) > before) json_array_remove(messages, json_array_size(messages) - 1);
    answer_close(&a);
    free(text);
    return rc;
}

/* --- the conversation --- */

/* A line without its end into b: 1, or 0 at the end of input, -1 when it is too long (the rest of it is skipped). */
static int read_line(struct buf *b)
{
    int ch, n = 0;
    buf_reset(b);
    b->failed = false;
    while ((ch = getchar()) != EOF && ch != '\n') {
        n = 1;
        if (!b->failed) buf_addc(b, (char)ch);
    }
    if (ch == EOF && !n) return 0;
    return b->failed ? -1 : 1;
}

/* A refused turn is told and the next one read; the status is that of the last turn. */
static int converse(const struct cli *c, struct client *client, const struct cli_target *t, json_t *messages)
{
    bool person = isatty(STDIN_FILENO);
    struct buf line;
    int rc = CLI_OK, got;
    buf_init(&line, TYPED_MAX);
    for (;;) {
        if (person) fputs("> ", stderr);
        got = read_line(&line);
        if (got == 0) break;
        if (got < 0)
            rc = cli_error(CLI_USAGE, "a line of more than %u bytes", TYPED_MAX);
        else if (line.len)
            rc = turn(c, client, t, messages, line.data);
        if (rc == CLI_UNREACHABLE && !person) break; /* a script's next line would fare no better */
    }
    if (person) fputc('\n', stderr);
    buf_close(&line);
    return rc;
}

int cli_chat(const struct cli *c)
{
    struct cli_target t;
    struct client *client;
    struct err e = {0};
    const char *system = cli_str(c, CLI_SYSTEM_FLAG);
    int rc = cli_target(c, CLI_TENANT_SIDE, "/v1/chat/completions", &t);
    if (rc == CLI_UNAUTHORIZED)
        return cli_error(CLI_USAGE, "no key: set WEFT_KEY (or WEFT_API_KEY), or weft config set key KEY");
    if (rc) return rc;
    json_t *messages = json_array();
    if (system) rc = add_message(messages, "system", system);
    if (!rc && client_new(&client, 1, &e)) rc = cli_broken(&e);
    if (!rc) {
        rc = c->nargs ? turn(c, client, &t, messages, c->arg[0]) : converse(c, client, &t, messages);
        client_free(client);
    }
    json_decref(messages);
    return rc;
}
