/* Does the process still do its work? Small questions are put, once in a while, to the parts that would hang: the writer of the database, its
 * reading threads, and the public HTTP server, through the client. A part that hasn't answered for half the watchdog's time is taken to hang. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct gateway;

enum alive_part { ALIVE_WRITER, ALIVE_READERS, ALIVE_HTTP, ALIVE_PARTS };

struct alive {
    struct gateway *g;
    const char *url, *unix_socket; /* of /health */
    int64_t patience_us;           /* 0: nobody asks */
    int64_t asked_us;
    struct beat {
        struct alive *a;
        _Atomic int64_t since_us; /* of the question that is not answered, 0: it is */
        _Atomic bool asked;       /* and may still be */
        bool told;                /* in the log */
    } part[ALIVE_PARTS];
    char text[256];
};

/* watchdog_us 0: nothing is asked. `at`: the public listener's address. *a lives until client and database are closed. */
void alive_open(struct alive *a, struct gateway *g, const char *at, int64_t watchdog_us);

/* About once a second, on one thread: asks again when it is time. True: a sign of life is due. */
bool alive_look(struct alive *a);
