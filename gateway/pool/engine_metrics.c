/* engine_metrics: numbers from an engine's page of /metrics, in Prometheus' text format. The names are vLLM's, which weft-engine
 * and other servers use as well; several engines behind one address have a line each, and are added up. On the watcher's
 * thread; nothing is kept. */
#include "gateway/pool/engine_kind.h"
#include <stdlib.h>
#include <string.h>

#define VALUE_MAX 1e15 /* beyond: no count that we would add to anything */

/* The name stands at a line's start and ends with a label or a space. */
struct metric_sum kind_metric(const char *page, const char *name)
{
    struct metric_sum m = {0};
    size_t n = strlen(name);
    for (const char *line = page; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (strncmp(line, name, n) != 0 || (line[n] != '{' && line[n] != ' ')) continue;
        const char *value = line[n] == '{' ? strstr(line, "} ") : line + n;
        const char *end = strchr(line, '\n');
        if (!value || (end && value > end)) continue;
        double v = strtod(value + (line[n] == '{' ? 2 : 1), NULL);
        if (!(v >= 0 && v < VALUE_MAX)) continue;
        m.sum += v;
        m.n++;
    }
    return m;
}

int kind_counts(const struct engine_link *l, struct engine_counts *out)
{
    char *page = NULL;
    size_t len = 0;
    int status = 0;
    if (kind_get(l, "/metrics", true, &status, &page, &len, NULL)) return -1;
    struct metric_sum requests = {0}, output = {0};
    if (status == 200 && page) {
        requests = kind_metric(page, "vllm:request_success_total");
        output = kind_metric(page, "vllm:generation_tokens_total");
    }
    free(page);
    if (!output.n) return -1;
    *out = (struct engine_counts){(int64_t)requests.sum, (int64_t)output.sum};
    return 0;
}
