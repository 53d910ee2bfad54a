/* fault: counts calls of a point down to the one that fails or hangs. Any thread; a lock is held but while hanging. */
#include "tests/simt/fault.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_MAX 64

static const char *const names[FAULT_POINTS] = {"open", "alloc", "in", "out", "side", "launch", "op", "wait"};

static struct {
    char text[TEXT_MAX]; /* what was asked for; "": nothing */
    int point;
    long left; /* calls until it happens */
    bool hang, failed;
} fault;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool parse(const char *text)
{
    char word[TEXT_MAX], how[TEXT_MAX] = "";
    long n = 1;
    if (sscanf(text, "%15[a-z]:%ld:%15s", word, &n, how) < 2) sscanf(text, "%15[a-z]:%15s", word, how);
    for (fault.point = 0; fault.point < FAULT_POINTS && strcmp(names[fault.point], word) != 0;) fault.point++;
    fault.left = n;
    fault.hang = strcmp(how, "hang") == 0;
    fault.failed = false;
    bool good = fault.point < FAULT_POINTS && n > 0 && (fault.hang || !how[0]);
    if (!good) fprintf(stderr, "simt: no such fault: %s\n", text);
    return good;
}

static void look_at_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t n = read(fd, fault.text, sizeof fault.text - 1);
    close(fd);
    unlink(path);
    fault.text[n > 0 ? n : 0] = 0;
    fault.text[strcspn(fault.text, "\n")] = 0;
    if (!parse(fault.text)) abort();
}

/* What the environment asks for may change between tests of one process. */
static void look(void)
{
    const char *asked = getenv("WEFT_SIMT_FAULT"), *path = getenv("WEFT_SIMT_FAULT_FILE");
    if (path && *path) {
        look_at_file(path);
        return;
    }
    if (!asked) asked = "";
    if (strcmp(asked, fault.text) == 0) return;
    snprintf(fault.text, sizeof fault.text, "%s", asked);
    if (*asked && !parse(asked)) abort();
}

int fault_at(enum fault_point p)
{
    pthread_mutex_lock(&lock);
    look();
    if (!fault.text[0]) fault.failed = false;
    bool now = fault.text[0] && !fault.failed && fault.point == (int)p && --fault.left == 0;
    bool hang = now && fault.hang;
    if (now && !hang) fault.failed = true;
    int rc = fault.failed ? FAULT_CODE : 0;
    pthread_mutex_unlock(&lock);
    while (hang) pause();
    return rc;
}
