/* Transcript: what one exchange said and was answered, for those who look at it afterwards (gateway/quality/quality.h).
 *
 * Made of what was kept on the way: the client's body as it came, and the bytes that went to the client, which are an OpenAI answer whatever engine gave
 * it: one JSON object, or events of a stream. Of several choices only the first is in it. Read on the thread `quality`, never on the way of a request. */
#pragma once
#include "base/buf.h"
#include "gateway/ledger/ledger.h"
#include "gateway/registry/alias.h"
#include <jansson.h>

#define TRANSCRIPT_BODY_MAX (1u << 20)   /* bytes of a request that are kept; a longer one has no `body` */
#define TRANSCRIPT_ANSWER_MAX (1u << 20) /* bytes of an answer, as they went to the client; a longer one is cut at a whole event, or has no text */
#define TRANSCRIPT_TOOLS_MAX 128         /* calls of tools in one answer */

struct transcript {
    const struct admission *adm;  /* id, who (tenant, key), alias, model as the client said it, what (adapter, version, digest, base), endpoint, stream, t_start */
    const struct settlement *end; /* state, http_status, t_first, t_end, prompt, cached, delivered, produced, engine */
    char *const *part;            /* [ALIAS_PARTS]: what the alias said when the request came, of the parts that it was picked for; else NULL */
    const json_t *body;           /* messages or prompt, metadata, sampling fields; NULL: not kept, or it can't be read again */
    const char *answer;           /* text of choice 0, UTF-8; "" where there is none */
    size_t answer_len;
    const json_t *tool_calls; /* [{id, type, function: {name, arguments}}] of choice 0; NULL: none */
    const json_t *logprobs;   /* chat: the entries of `content`, all events' together; completions: each event's object. NULL: none */
    const char *finish;       /* finish_reason of choice 0; "": it did not say */
    bool truncated;           /* something of request or answer is missing for its length */
};

/* What an answer's bytes say. */
struct answer {
    struct buf text;
    json_t *tool_calls, *logprobs; /* or NULL */
    char finish[24];
    int events; /* objects that were read; 0: it is not an answer */
};

/* stream: events; else one object. What can't be read is passed over. ERR_NO_MEMORY. answer_close() also after a failure. */
int answer_read(struct answer *a, const char *bytes, size_t n, bool stream, struct err *e);
void answer_close(struct answer *a);
