/* weft top: what is going on, from GET /admin/v1/top.
 *
 *     look -> frame (cli_top_frame.c) -> wait for a key, a new window size or the interval -> look
 *
 * On a terminal the frame takes the alternate screen, cut to the window; keys: q, s (sort by the next column), p (pause),
 * + and - (interval), space (now). However it ends, the terminal gets back what it had. Elsewhere each frame is plain text
 * after a blank line, or with --json a document on its line; --once is one of them. A gateway that is away for a while is
 * said so in the frame; away at the first look is the exit status. One thread. */
#include "gateway/cli/cli_top.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_S 2
#define INTERVAL_MAX_S 60
#define FALLBACK_ROWS 24
#define FALLBACK_COLUMNS 80
#define ROWS_DEFAULT "20"

static volatile sig_atomic_t asked_to_end;

struct screen {
    bool taken, keys; /* the terminal is ours; there is a keyboard */
    struct termios before;
    sigset_t held, awake; /* signals that end a wait, held from before a frame until the wait, so that none is missed */
    int interval_s;
    bool paused;
    enum cli_top_sort sort;
};

/* --- the terminal --- */

static void on_end(int sig)
{
    asked_to_end = sig;
}

static void on_resize(int sig)
{
    (void)sig; /* that the wait ends is all that is wanted */
}

static void catch (int sig, void (*fn)(int))
{
    struct sigaction a = {.sa_handler = fn};
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL);
}

static void screen_take(struct screen *s)
{
    sigemptyset(&s->held);
    sigaddset(&s->held, SIGINT);
    sigaddset(&s->held, SIGTERM);
    sigaddset(&s->held, SIGWINCH);
    catch (SIGINT, on_end);
    catch (SIGTERM, on_end);
    catch (SIGWINCH, on_resize);
    s->taken = true;
    s->keys = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &s->before) == 0;
    if (s->keys) {
        struct termios raw = s->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VMIN] = 0;
        raw.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    fputs("\33[?1049h\33[?25l", stdout); /* alternate screen, no cursor */
}

static void screen_give_back(struct screen *s)
{
    if (!s->taken) return;
    fputs("\33[?25h\33[?1049l", stdout);
    fflush(stdout);
    if (s->keys) tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
}

static void window(int *rows, int *columns)
{
    struct winsize w = {0};
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0;
    *rows = known && w.ws_row ? w.ws_row : FALLBACK_ROWS;
    *columns = known && w.ws_col ? w.ws_col : FALLBACK_COLUMNS;
}

/* --- frames --- */

static void draw(const struct cli *c, const struct screen *s, const json_t *o, const char *trouble)
{
    int rows, columns;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) return;
    struct cli_top_look look = {c->admin_url, s->sort, trouble, s->paused, s->interval_s};
    cli_print_to(f);
    cli_top_frame(f, o, &look);
    cli_print_to(stdout);
    fclose(f);
    window(&rows, &columns);
    fputs("\33[H", stdout);
    cli_top_cut(stdout, text, rows, columns);
    fputs("\33[J", stdout);
    fflush(stdout);
    free(text);
}

/* --- keys --- */

static void press(struct screen *s, char key, bool *now)
{
    switch (key) {
    case 'q':
        asked_to_end = SIGINT;
        return;
    case 's':
        s->sort = (s->sort + 1) % CLI_TOP_SORTS;
        return;
    case 'p':
        s->paused = !s->paused;
        return;
    case '+':
        if (s->interval_s < INTERVAL_MAX_S) s->interval_s++;
        return;
    case '-':
        if (s->interval_s > 1) s->interval_s--;
        return;
    case ' ':
        *now = true;
        return;
    }
}

/* Until the interval is over, or a key or a new size wants another frame; true: look again. */
static bool wait_for(struct screen *s)
{
    struct pollfd in = {.fd = s->keys ? STDIN_FILENO : -1, .events = POLLIN};
    bool now = false;
    struct timespec interval = {.tv_sec = s->interval_s};
    int n = ppoll(&in, 1, s->paused ? NULL : &interval, &s->awake);
    char key;
    if (n == 0) return true;
    if (n > 0 && read(STDIN_FILENO, &key, 1) != 1)
        s->keys = false; /* the keyboard is gone */
    else if (n > 0)
        press(s, key, &now);
    return now;
}

/* --- looking --- */

static int look(const struct cli *c, bool quiet, json_t **out, char trouble[CLI_WHY])
{
    struct cli_answer a;
    char path[CLI_URL_MAX] = "/admin/v1/top", limit[32];
    snprintf(limit, sizeof limit, "%lld", (long long)cli_int(c, CLI_LIMIT_FLAG, atoll(ROWS_DEFAULT)));
    if (cli_query_add(path, "limit", limit)) return CLI_USAGE;
    int rc = cli_ask(c, &(struct cli_ask){.side = CLI_ADMIN_SIDE, .method = "GET", .path = path, .quiet = quiet}, &a);
    if (!rc) {
        json_decref(*out);
        *out = a.json ? json_incref(a.json) : json_object();
    }
    if (rc && a.broken.code)
        snprintf(trouble, CLI_WHY, "%.250s", a.broken.msg);
    else
        snprintf(trouble, CLI_WHY, rc ? "the gateway answers %d" : "", a.status);
    cli_answer_close(&a);
    return rc;
}

static int live(const struct cli *c, struct screen *s, json_t **o)
{
    char trouble[CLI_WHY] = "";
    screen_take(s);
    for (bool again = false; !asked_to_end;) {
        if (again) look(c, true, o, trouble);
        sigprocmask(SIG_BLOCK, &s->held, &s->awake);
        if (!asked_to_end) draw(c, s, *o, trouble);
        again = !asked_to_end && wait_for(s);
        sigprocmask(SIG_SETMASK, &s->awake, NULL);
    }
    screen_give_back(s);
    return CLI_OK;
}

/* One frame after the other as text, `count` of them (0: no end). */
static int plain(const struct cli *c, const struct screen *s, int64_t count, json_t **o)
{
    char trouble[CLI_WHY];
    struct timespec pause = {.tv_sec = s->interval_s};
    struct cli_top_look how = {c->admin_url, s->sort, "", false, s->interval_s};
    for (int64_t n = 1;; n++) {
        if (c->json)
            cli_json(*o);
        else
            cli_top_frame(stdout, *o, &how);
        if (fflush(stdout)) return cli_error(CLI_FAILED, "can't write: %s", strerror(errno));
        if (n == count) return CLI_OK;
        nanosleep(&pause, NULL);
        if (!c->json) putchar('\n');
        int rc = look(c, false, o, trouble);
        if (rc) return rc;
    }
}

static int read_sort(const struct cli *c, enum cli_top_sort *out)
{
    const char *word = cli_str(c, CLI_SORT_FLAG);
    for (int i = 0; word && i < CLI_TOP_SORTS; i++) {
        if (strcmp(word, cli_top_sort_names[i])) continue;
        *out = (enum cli_top_sort)i;
        return CLI_OK;
    }
    return word ? cli_error(CLI_USAGE, "--sort %s: there are in_flight, tokens, queue and name", word) : CLI_OK;
}

int cli_top(const struct cli *c)
{
    struct screen s = {.interval_s = (int)cli_int(c, CLI_INTERVAL_FLAG, INTERVAL_S)};
    char trouble[CLI_WHY];
    json_t *o = NULL;
    bool once = cli_has(c, CLI_ONCE_FLAG) || (c->json && !cli_has(c, CLI_COUNT_FLAG));
    int64_t count = once ? 1 : cli_int(c, CLI_COUNT_FLAG, 0);
    int rc = read_sort(c, &s.sort);
    if (!rc) rc = look(c, false, &o, trouble);
    if (!rc) rc = isatty(STDOUT_FILENO) && !count && !c->json ? live(c, &s, &o) : plain(c, &s, count, &o);
    json_decref(o);
    return rc;
}
