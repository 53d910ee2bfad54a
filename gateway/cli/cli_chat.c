/* weft chat: one answer, streamed; or a conversation, a line a turn.
 *
 *     main thread:   turn -> client_start -> wait ........................ -> verdict -> next turn
 *     client thread:          on_head -> on_data (lines -> deltas -> stdout) -> on_done
 *
 * The stream is server-sent events (WHATWG HTML, section 9.2) as OpenAI uses them: "data: {json}" lines, at last "data:
 * [DONE]". An end without it is an answer cut short, and is said so. The two threads share struct answer under its
 * lock; the callbacks block on nothing but stdout, which is what they are for.
 *
 * Bounds: a line of the stream LINE_MAX_BYTES, an answer kept for the conversation ANSWER_MAX, a line typed TYPED_MAX,
 * turns until the server says that the context is full: that turn is then dropped, and the conversation goes on. */
#include "base/client.h"
#include "base/err.h"
#include "base/json.h"
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_verbs.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES (1u << 20)
#define ANSWER_MAX (16u << 20)
#define ERROR_MAX (64u << 10)
#define TYPED_MAX (1u << 20)
#define CONNECT_MS 5000
#define FIRST_BYTE_MS 300000 /* a cold adapter behind a queue */
#define IDLE_MS 120000

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool whole;      /* --json: one document, not streamed */
    bool over, done; /* on_done has come; [DONE] has */
    int status;
    struct buf line;  /* of the stream, not yet ended */
    struct buf text;  /* the answer so far */
    struct buf error; /* body of an error answer, or the error event's message */
    struct err why;   /* how the exchange failed */
    char request_id[64];
};

/* --- the stream --- */

static void take_delta(struct answer *a, const json_t *chunk)
{
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    const json_t *content = json_object_get(json_object_get(choice, "delta"), "content");
    if (!json_is_string(content)) return;
    buf_add(&a->text, json_string_value(content), json_string_length(content));
    cli_puts(json_string_value(content), json_string_length(content));
    fflush(stdout);
}

static void take_event(struct answer *a, const char *data, size_t n)
{
    json_t *o = NULL;
    if (n == 6 && !memcmp(data, "[DONE]", 6)) {
        a->done = true;
        return;
    }
    if (json_parse(data, n, &o, NULL)) return; /* not for us; a broken stream shows by its missing end */
    if (json_object_get(o, "error"))
        buf_add(&a->error, data, n);
    else
        take_delta(a, o);
    json_decref(o);
}

static void take_line(struct answer *a)
{
    const char *s = a->line.data;
    size_t n = a->line.len;
    if (n && s[n - 1] == '\r') n--;
    if (n < 5 || memcmp(s, "data:", 5)) return; /* comments, blank lines, other fields */
    s += 5, n -= 5;
    if (n && *s == ' ') s++, n--;
    take_event(a, s, n);
}

static int take_bytes(struct answer *a, const char *bytes, size_t n)
{
    if (a->status != 200) return buf_add(&a->error, bytes, n);
    if (a->whole) return buf_add(&a->text, bytes, n);
    while (n) {
        const char *end = memchr(bytes, '\n', n);
        size_t k = end ? (size_t)(end - bytes) : n;
        if (buf_add(&a->line, bytes, k)) return -1;
        if (!end) return 0;
        take_line(a);
        buf_reset(&a->line);
        bytes += k + 1, n -= k + 1;
    }
    return 0;
}

static void on_head(void *u, const struct client_reply *r)
{
    struct answer *a = u;
    pthread_mutex_lock(&a->lock);
    a->status = r->status;
    snprintf(a->request_id, sizeof a->request_id, "%s", r->request_id ? r->request_id : "");
    pthread_mutex_unlock(&a->lock);
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct answer *a = u;
    pthread_mutex_lock(&a->lock);
    int rc = take_bytes(a, bytes, n);
    pthread_mutex_unlock(&a->lock);
    return rc;
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct answer *a = u;
    pthread_mutex_lock(&a->lock);
    if (e) a->why = *e;
    a->status = r->status;
    a->over = true;
    pthread_cond_signal(&a->ended);
    pthread_mutex_unlock(&a->lock);
}

/* --- one turn --- */

static void answer_init(struct answer *a, bool whole)
{
    *a = (struct answer){.whole = whole};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->ended, NULL);
    buf_init(&a->line, LINE_MAX_BYTES);
    buf_init(&a->text, ANSWER_MAX);
    buf_init(&a->error, ERROR_MAX);
}

static void answer_close(struct answer *a)
{
    buf_close(&a->line);
    buf_close(&a->text);
    buf_close(&a->error);
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
    if (a->status && a->status != 200) return cli_refused(a->status, a->error.data, a->error.len, a->request_id);
    if (a->error.len) return cli_refused(a->status, a->error.data, a->error.len, a->request_id);
    if (a->line.failed || a->text.failed) return cli_error(CLI_FAILED, "the answer is too long");
    if (a->why.code) return cli_broken(&a->why);
    return a->done || a->whole ? CLI_OK : cli_error(CLI_UNREACHABLE, "the answer was cut short");
}

static int send_and_wait(struct client *client, const struct cli_target *t, const char *text, struct answer *a)
{
    const char *headers[] = {t->authorization, "Content-Type: application/json", "Accept: text/event-stream", NULL};
    struct client_request req = {.method = "POST",
                                 .url = t->url,
                                 .headers = headers,
                                 .body = text,
                                 .body_len = strlen(text),
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
    if (a->whole && a->status == 200) cli_puts(a->text.data, a->text.len);
    if (a->text.len && a->text.data[a->text.len - 1] != '\n') putchar('\n');
    fflush(stdout);
    return verdict(a);
}

static int add_message(json_t *messages, const char *role, const char *text)
{
    json_t *m = json_pack("{s:s, s:s}", "role", role, "content", text);
    if (m && !json_array_append_new(messages, m)) return CLI_OK;
    return cli_error(CLI_USAGE, "the %s message is not valid UTF-8", role);
}

static int keep_answer(const struct cli *c, json_t *messages, const struct answer *a)
{
    json_t *o = NULL;
    if (!c->json) return add_message(messages, "assistant", a->text.data);
    if (json_parse(a->text.data, a->text.len, &o, NULL)) return cli_error(CLI_FAILED, "the server's answer is no JSON");
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
    const char *said = json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
    int rc = add_message(messages, "assistant", said ? said : "");
    json_decref(o);
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
    if (!rc) rc = keep_answer(c, messages, &a);
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
