/* wrong: does what a sanitizer or memcheck must tell of, one thing a call, so that a run without reports is known to be one that would have had them.
 *
 *     wrong nothing|race|locks|read|leak|shift|fork
 *
 * fork: a race in a child process that is killed with SIGKILL after it, as tests do with gateways and engines. Built like the programs (make MODE=...). */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int shared;
static char and_die[] = "race-and-die";
static pthread_mutex_t a = PTHREAD_MUTEX_INITIALIZER, b = PTHREAD_MUTEX_INITIALIZER;
static void *volatile hidden; /* what the compiler cannot follow */
static void (*volatile give_back)(void *) = free;

static void *add(void *unused)
{
    (void)unused;
    for (int i = 0; i < 1000; i++) shared++;
    return NULL;
}

static void race(void)
{
    pthread_t t;
    if (pthread_create(&t, NULL, add, NULL)) return;
    add(NULL);
    pthread_join(t, NULL);
}

static void locks(void)
{
    pthread_mutex_lock(&a), pthread_mutex_lock(&b);
    pthread_mutex_unlock(&b), pthread_mutex_unlock(&a);
    pthread_mutex_lock(&b), pthread_mutex_lock(&a);
    pthread_mutex_unlock(&a), pthread_mutex_unlock(&b);
}

static void read_freed(void)
{
    hidden = malloc(64);
    memset(hidden, 1, 64);
    give_back(hidden);
    shared += ((volatile char *)hidden)[8];
    if (shared) fputs("", stdout);
}

static void leak(void)
{
    for (int i = 0; i < 10; i++) hidden = malloc(1000);
    hidden = NULL;
}

static void shift(void)
{
    volatile int by = 40;
    shared = 1 << by;
}

static void forked(char *self)
{
    pid_t pid = fork();
    if (pid == 0) {
        execv("/proc/self/exe", (char *[]){self, and_die, NULL});
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

int main(int n, char **arg)
{
    const char *what = n > 1 ? arg[1] : "";
    if (!strcmp(what, "race")) race();
    else if (!strcmp(what, and_die)) race(), kill(getpid(), SIGKILL);
    else if (!strcmp(what, "locks")) locks();
    else if (!strcmp(what, "read")) read_freed();
    else if (!strcmp(what, "leak")) leak();
    else if (!strcmp(what, "shift")) shift();
    else if (!strcmp(what, "fork")) forked(arg[0]);
    else return !!strcmp(what, "nothing");
    return 0;
}
