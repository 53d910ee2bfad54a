/* What a standby makes of its primary's answers: whatever comes, it ends; the state that was there stays, byte for byte, until another is there whole; nothing but the files of a
 * gateway's folder is made; and the folder can be opened again as `promote` does. Input: answers, each a byte for how, two for its length, and so many bytes. How, by the low
 * bits: 0 a parcel whose digest is right, 1 as it is, 2 a refusal, 3 a line that breaks, 4 pages, told in few bytes (pages() below), 5 hashes, likewise; with bit 3 the folder is opened
 * anew before it. When there are no more of them the last one is given again. */
#include "base/client.h"
#include "base/log.h"
#include "gateway/standby/parcel.h"
#include "gateway/standby/standby_impl.h"
#include "tests/fuzz/fuzz.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#define LOOKS 4
#define ASKS_MAX 2000 /* by all looks: what goes on beyond has no end */
#define ANEW 8
#define ASK_US 3000000 /* what an answer takes: about 20 of them make a look that is gone on with later */
#define WALL_US 1800000000000000
#define DB_KNOWS 7     /* versions of the database */

struct answer {
    unsigned how;
    const uint8_t *data;
    size_t n;
};
static struct answer answers[24];
static int nanswers, asked;

/* --- time passes while one asks or waits, and nothing goes to a disk (parts.mk: --wrap) --- */

static int64_t now_us = 1;
int64_t __wrap_clock_mono_us(void);
int64_t __wrap_clock_mono_us(void) { return now_us; }
int __wrap_nanosleep(const struct timespec *t, struct timespec *rest);
int __wrap_nanosleep(const struct timespec *t, struct timespec *rest)
{
    (void)rest;
    now_us += t->tv_sec * 1000000 + t->tv_nsec / 1000;
    return 0;
}
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    (void)fd;
    return 0;
}
int __wrap_posix_fallocate(int fd, off_t at, off_t n);
int __wrap_posix_fallocate(int fd, off_t at, off_t n)
{
    (void)fd, (void)at, (void)n;
    return 0;
}
int db_version(void);
int db_version(void) { return DB_KNOWS; }

/* --- the primary --- */

static const char *const epochs[] = {"0191d8a0-0000-7000-8000-000000000001", "0191d8a0-0000-7000-8000-000000000002", "e", ""};

static json_t *moment(const uint8_t **p, size_t *n, int64_t *size, int64_t *count)
{
    static const uint8_t pepper[33] = "pppppppppppppppppppppppppppppppp";
    char tag[SHA256_HEX];
    unsigned flags = fuzz_byte(p, n);
    parcel_tag(pepper, tag);
    *size = 512ll << (flags >> 2 & 3);
    int64_t gen = fuzz_byte(p, n), pages = fuzz_byte(p, n), next = fuzz_byte(p, n);
    *count = fuzz_byte(p, n);
    bool old = flags & 32, back = flags & 64;
    return json_pack("{ss ss sI sI sI sI sI sI sI sI}", "tag", flags & 16 ? "another" : tag, "epoch", epochs[flags & 3], "gen", (json_int_t)gen, "wall_us", (json_int_t)WALL_US, "feed", (json_int_t)(old ? 0 : PARCEL_VERSION), "before_us", (json_int_t)(back ? 1 : WALL_US), "pages",
                     (json_int_t)pages, "page_size", (json_int_t)*size, "next", (json_int_t)next, "count", (json_int_t)*count);
}

/* Five bytes of a moment; the list of files up to a byte 0xff; two bytes a page: its number, and what it is filled with. */
static void pages(struct buf *b, const uint8_t *p, size_t n)
{
    char page[4096], hex[SHA256_HEX];
    uint8_t digest[SHA256_BYTES];
    unsigned char number[4];
    int64_t size, count;
    json_t *o = moment(&p, &n, &size, &count);
    const uint8_t *end = n ? memchr(p, 0xff, n) : NULL;
    size_t names = end ? (size_t)(end - p) : 0;
    sha256_of(p, names, digest);
    sha256_hex(digest, hex);
    json_object_set_new(o, "names", json_string(hex));
    json_object_set_new(o, "names_bytes", json_integer((json_int_t)names));
    parcel_begin(b, o);
    buf_add(b, p, names);
    if (end) p += names + 1, n -= names + 1;
    for (int64_t i = 0; i < count && n; i++) {
        put_be32(fuzz_byte(&p, &n), number);
        memset(page, (int)fuzz_byte(&p, &n), sizeof page);
        buf_add(b, number, 4);
        buf_add(b, page, (size_t)size);
    }
    parcel_end(b);
}

/* Five bytes of a moment; a byte a page: 0xff for a hash of nothing there is, else of a page that is filled with it. */
static void hashes(struct buf *b, const uint8_t *p, size_t n)
{
    char page[4096];
    uint8_t digest[SHA256_BYTES];
    int64_t size, count;
    parcel_begin(b, moment(&p, &n, &size, &count));
    for (int64_t i = 0; i < count && n; i++) {
        unsigned v = fuzz_byte(&p, &n);
        memset(page, (int)v, sizeof page);
        sha256_of(page, v == 0xff ? 1 : (size_t)size, digest);
        buf_add(b, digest, 16);
    }
    parcel_end(b);
}

/* In the place of base/client.c. */
int client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e)
{
    struct buf b;
    FUZZ_NEED(!strncmp(r->url, "http://primary/admin/v1/standby/", 32) && !strpbrk(r->url + 7, " \r\n\t") && !strstr(r->url, ".."));
    FUZZ_NEED(asked++ < ASKS_MAX);
    now_us += ASK_US;
    if (!nanswers) return err_set(e, ERR_UPSTREAM_TIMEOUT, "nobody there");
    const struct answer *a = &answers[asked <= nanswers ? asked - 1 : nanswers - 1];
    if ((a->how & 7) == 3) return err_set(e, ERR_UNAVAILABLE, "cut");
    buf_init(&b, 1 << 20);
    if ((a->how & 7) == 4) pages(&b, a->data, a->n);
    else if ((a->how & 7) == 5) hashes(&b, a->data, a->n);
    else buf_add(&b, a->data, a->n);
    if ((a->how & 7) == 0) parcel_end(&b);
    FUZZ_NEED(!b.failed && b.len <= max_body);
    *status = (a->how & 7) == 2 ? (int[]){401, 403, 404, 409, 500, 503}[(a->how >> 4) % 6] : 200;
    *body = fuzz_text((const uint8_t *)b.data, b.len);
    *len = b.len;
    buf_close(&b);
    return 0;
}

/* --- the folder --- */

static char dir[64];
static bool never(void) { return false; }

static bool by_hex(const char *s, size_t n) { return strspn(s, "0123456789abcdef") == n && strlen(s) == n; }

static bool is_known(const char *path)
{
    static const char *const known[] = {"weft.db", "pepper", "lock", ".standby", "standby/state.json", "standby/names", "standby/missing", "standby/fresh"};
    int month;
    char rest, two[4], digest[80], name[40];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(path, known[i])) return true;
    if (!strncmp(path, "standby/in/", 11)) return !strchr(path + 11, '/');
    if (sscanf(path, "blobs/%3[^/]/%79[^/]/%39[^/]%c", two, digest, name, &rest) == 3)
        return by_hex(two, 2) && by_hex(digest, 64) && !strncmp(two, digest, 2) && (!strcmp(name, "adapter_config.json") || !strcmp(name, "adapter_model.safetensors"));
    return sscanf(path, "archive/usage_%d", &month) == 1 || !strncmp(path, "archive/usage_", 14);
}

static bool is_kept(const char *folder)
{
    return !strcmp(folder, "standby") || !strcmp(folder, "standby/in") || !strcmp(folder, "blobs") || !strcmp(folder, "archive");
}

/* Looks at all that there is below, and takes it away but for the folders that every standby has. */
static void clear(const char *sub)
{
    char path[FILES_PATH_MAX], one[500];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, sub);
    DIR *d = opendir(path);
    FUZZ_NEED(d);
    for (struct dirent *x; (x = readdir(d));) {
        if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, "..")) continue;
        snprintf(one, sizeof one, "%.200s%s%.255s", sub, *sub ? "/" : "", x->d_name);
        snprintf(path, sizeof path, "%s/%s", dir, one);
        FUZZ_NEED(lstat(path, &st) == 0 && (S_ISDIR(st.st_mode) || S_ISREG(st.st_mode)) && !(st.st_mode & 077));
        if (S_ISDIR(st.st_mode)) {
            clear(one);
            FUZZ_NEED(is_kept(one) || rmdir(path) == 0);
        } else {
            FUZZ_NEED(is_known(one) && unlink(path) == 0);
        }
    }
    closedir(d);
}

/* The pages of the state that is there, or NULL. free(). */
static char *contents(const struct standby *s)
{
    char path[FILES_PATH_MAX];
    size_t n = (size_t)(s->state.pages * s->state.page_size);
    if (!n) return NULL;
    standby_path(s, "weft.db", path);
    int fd = open(path, O_RDONLY);
    char *text = malloc(n);
    FUZZ_NEED(fd >= 0 && text && pread(fd, text, n, 0) == (ssize_t)n);
    close(fd);
    return text;
}

static void look(struct standby *s)
{
    struct state was = s->state;
    struct err e = {0};
    char *before = contents(s), path[FILES_PATH_MAX];
    int rc = standby_follow(s, &e);
    char *after = contents(s);
    struct stat st;
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE));
    if (rc) {
        FUZZ_NEED(!memcmp(&was, &s->state, sizeof was) && !before == !after);
        FUZZ_NEED(!before || !memcmp(before, after, (size_t)(was.pages * was.page_size)));
    } else {
        standby_path(s, "weft.db", path);
        FUZZ_NEED(s->state.gen && s->state.pages && stat(path, &st) == 0 && st.st_size == s->state.pages * s->state.page_size);
    }
    standby_path(s, "standby/redo", path);
    FUZZ_NEED(access(path, F_OK)); /* what is sealed can be applied */
    free(before);
    free(after);
}

static void reopen(struct standby *s, const char *from)
{
    struct state was = s->state;
    struct err e = {0};
    standby_close(s);
    FUZZ_NEED(standby_open(s, from, &e) == 0 && !memcmp(&was, &s->state, sizeof was));
}

static void read_answers(const uint8_t *data, size_t n)
{
    nanswers = asked = 0;
    while (n > 2 && nanswers < (int)(sizeof answers / sizeof *answers)) {
        struct answer *a = &answers[nanswers++];
        a->how = fuzz_byte(&data, &n);
        size_t len = fuzz_byte(&data, &n);
        len |= (size_t)fuzz_byte(&data, &n) << 8;
        a->data = fuzz_take(&data, &n, len, &a->n);
    }
}

static void leave(void) { files_remove_tree(dir, NULL); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct fuzz_file token;
    struct standby s = {.from = "http://primary", .token_file = token.path, .dir = dir, .is_asked_to_end = never};
    struct err e = {0};
    log_init("fuzz", LOG_ERROR);
    if (!token.path[0]) fuzz_file_fill(&token, "wfa_token\n", 10);
    if (!*dir) {
        snprintf(dir, sizeof dir, "%s/d", fuzz_folder());
        atexit(leave);
    }
    read_answers(data, n);
    FUZZ_NEED(standby_open(&s, s.from, &e) == 0);
    for (int i = 0; i < LOOKS && (i == 0 || asked < nanswers); i++) {
        if (asked < nanswers && answers[asked].how & ANEW) reopen(&s, s.from);
        look(&s);
    }
    if (s.state.gen) reopen(&s, NULL);
    standby_close(&s);
    clear("");
    return 0;
}
