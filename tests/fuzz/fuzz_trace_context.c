/* traceparent and tracestate: what is read is printed as version 00 and read again as the same; ids are never zero; a list that may be passed on is what a
 * header may hold. */
#include "base/trace_context.h"
#include "tests/fuzz/fuzz.h"

static void check_parent(const char *s)
{
    struct trace_context c, again;
    char text[TRACEPARENT_LEN], trace[TRACE_HEX];
    memset(&c, 0xa5, sizeof c);
    traceparent_trace(s, trace);
    if (!traceparent_parse(s, &c)) {
        FUZZ_NEED(trace[0] == 0 && c.trace[0] == 0xa5);
        return;
    }
    uint8_t any = 0, span = 0;
    for (int i = 0; i < TRACE_BYTES; i++) any |= c.trace[i];
    for (int i = 0; i < SPAN_BYTES; i++) span |= c.span[i];
    FUZZ_NEED(any && span && strlen(trace) == TRACE_HEX - 1 && strncmp(s + 3, trace, TRACE_HEX - 1) == 0);
    traceparent_print(&c, text);
    FUZZ_NEED(strlen(text) == TRACEPARENT_LEN - 1 && strncmp(text + 2, s + 2, 51) == 0 && traceparent_parse(text, &again));
    FUZZ_NEED(!memcmp(c.trace, again.trace, TRACE_BYTES) && !memcmp(c.span, again.span, SPAN_BYTES) && c.sampled == again.sampled);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *s = fuzz_text(data, n);
    check_parent(s);
    if (tracestate_is(s)) {
        FUZZ_NEED(strlen(s) <= TRACESTATE_MAX);
        int members = 1;
        for (const char *p = s; *p; p++) {
            FUZZ_NEED((*p >= ' ' && *p <= '~') || *p == '\t');
            members += *p == ',';
        }
        FUZZ_NEED(members <= 32);
    }
    FUZZ_NEED(!traceparent_parse(NULL, NULL));
    free(s);
    return 0;
}
