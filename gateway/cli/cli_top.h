/* A frame of `weft top`: from the JSON of GET /admin/v1/top to lines of text. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

enum cli_top_sort { CLI_TOP_IN_FLIGHT, CLI_TOP_TOKENS, CLI_TOP_QUEUE, CLI_TOP_NAME, CLI_TOP_SORTS };
extern const char *const cli_top_sort_names[CLI_TOP_SORTS];

struct cli_top_look {
    const char *where; /* the gateway's address */
    enum cli_top_sort sort;
    const char *trouble; /* "": none */
    bool paused;
    int interval_s;
};

void cli_top_frame(FILE *f, const json_t *o, const struct cli_top_look *look);

/* A frame's text cut to a window: at most rows - 1 lines of at most `columns`, each cleared to its end. Escape sequences
 * take no room. */
void cli_top_cut(FILE *f, const char *text, int rows, int columns);
