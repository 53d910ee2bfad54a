/* The room that an engine keeps to once it runs: its files, its sockets, its own threads (docs/SECURITY.md). */
#pragma once
#include "base/err.h"
#include <stdbool.h>

struct room {
    const char *word;   /* the setting `confine`: auto, on or off */
    const char *device; /* the setting: confining is for engines on the CPU */
    const char *model, *draft_model, *medusa, *chat_template, *token_file, *store; /* read */
    const char *cache;                                                    /* changed */
    const char *socket;                                                   /* made and removed */
};

bool room_word_is_good(const char *word);

/* Before any other thread is there: files. What can't be given up is an error under `on`, under `auto` a line of the log. */
int room_enter(const struct room *r, struct err *e);

/* Once it listens: system calls, for all threads. */
int room_close(const struct room *r, struct err *e);
