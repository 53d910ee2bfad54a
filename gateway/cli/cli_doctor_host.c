/* weft doctor, this machine: ports, the model's file, the CPU, memory and its pages, the clock, descriptors. */
#include "base/memory.h"
#include "base/sha256.h"
#include "gateway/cli/cli_doctor.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define HASH_MAX (1LL << 30) /* of a model's file that is hashed in passing */
#define STEP (1 << 20)
#define DESCRIPTORS_SPARE 512 /* beside the connections */
#define FIRST_YEAR 2025
#define PATH_BYTES 4096

/* --- ports --- */

/* "host:port" taken apart; false: a Unix socket, or port 0, or none. */
static bool split(const char *listen, char host[256], char port[16])
{
    const char *colon = strrchr(listen, ':');
    if (!strncmp(listen, "unix:", 5) || !colon || !strcmp(colon, ":0")) return false;
    snprintf(host, 256, "%.*s", (int)(colon - listen), listen);
    if (host[0] == '[' && host[strlen(host) - 1] == ']') {
        host[strlen(host) - 1] = 0;
        memmove(host, host + 1, strlen(host));
    }
    snprintf(port, 16, "%s", colon + 1);
    return true;
}

/* 0: free; an errno otherwise. */
static int try_bind(const struct addrinfo *a)
{
    int one = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int rc = bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1) ? errno : 0;
    close(fd);
    return rc;
}

static void check_port(struct doctor *d, const char *name, const char *listen)
{
    char host[256], port[16], remedy[128];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *a = NULL;
    if (!split(listen, host, port)) return;
    int rc = getaddrinfo(*host ? host : NULL, port, &hints, &a);
    if (rc) {
        doctor_say(d, DOCTOR_FAIL, name, "give ADDRESS:PORT", "%s: %s", listen, gai_strerror(rc));
        return;
    }
    int why = try_bind(a);
    freeaddrinfo(a);
    snprintf(remedy, sizeof remedy, "who has it: ss -ltnp 'sport = :%s'", port);
    if (!why)
        doctor_say(d, DOCTOR_OK, name, "", "%s is free", listen);
    else if (why == EADDRINUSE && d->running)
        doctor_say(d, DOCTOR_OK, name, "", "%s is taken, and a gateway runs", listen);
    else
        doctor_say(d, why == EADDRINUSE && !d->data ? DOCTOR_OK : DOCTOR_FAIL, name,
                   d->data || why != EADDRINUSE ? remedy : "", "%s: %s", listen, strerror(why));
}

void doctor_ports(struct doctor *d)
{
    if (!d->settings_known || !d->data) return;
    check_port(d, "port", d->set.listen);
    check_port(d, "admin port", d->set.admin_listen);
    const char *admin = d->set.admin_listen;
    if (strncmp(admin, "127.", 4) && strncmp(admin, "[::1]", 5) && strncmp(admin, "localhost:", 10) &&
        strncmp(admin, "unix:", 5))
        doctor_say(d, DOCTOR_WARN, "admin port", "bind it to 127.0.0.1 or a network of operators only",
                   "%s can be reached from other machines", admin);
}

/* --- the model --- */

static int hash_file(const char *path, char hex[SHA256_HEX])
{
    uint8_t sum[SHA256_BYTES];
    struct sha256 h;
    FILE *f = fopen(path, "re");
    char *step = f ? malloc(STEP) : NULL;
    size_t n;
    sha256_init(&h);
    while (step && (n = fread(step, 1, STEP, f)) > 0) sha256_add(&h, step, n);
    int rc = !step || ferror(f) ? -1 : 0;
    sha256_end(&h, sum);
    sha256_hex(sum, hex);
    free(step);
    if (f) fclose(f);
    return rc;
}

/* "HEX  name" in MODEL.sha256, as sha256sum writes it; "" where there is none. */
static void expected_digest(const char *path, char out[SHA256_HEX])
{
    char name[PATH_BYTES];
    out[0] = 0;
    snprintf(name, sizeof name, "%s.sha256", path);
    FILE *f = fopen(name, "re");
    if (!f) return;
    if (!fgets(out, SHA256_HEX, f) || !sha256_is_hex(out)) out[0] = 0;
    fclose(f);
}

static void check_digest(struct doctor *d, const char *path, int64_t size)
{
    char hex[SHA256_HEX], want[SHA256_HEX];
    expected_digest(path, want);
    if (size > HASH_MAX && !*want)
        doctor_say(d, DOCTOR_OK, "model", "", "%s, %.1f GB, readable", path, (double)size / 1e9);
    else if (hash_file(path, hex))
        doctor_say(d, DOCTOR_FAIL, "model", "fetch it again; look at the disk", "%s can't be read to its end", path);
    else if (*want && strcmp(hex, want))
        doctor_say(d, DOCTOR_FAIL, "model", "fetch it again", "%s hashes to %.16s..., its .sha256 says %.16s...", path,
                   hex, want);
    else
        doctor_say(d, DOCTOR_OK, "model", "", "%s, %.1f MB, sha256 %.16s...%s", path, (double)size / 1e6, hex,
                   *want ? " as its .sha256 says" : "");
}

static void check_model_folder(struct doctor *d, const char *path)
{
    static const char *const needed[] = {"config.json", "tokenizer.json"};
    char name[PATH_BYTES];
    for (int i = 0; i < CLI_COUNT(needed); i++) {
        snprintf(name, sizeof name, "%s/%s", path, needed[i]);
        if (!access(name, R_OK)) continue;
        doctor_say(d, DOCTOR_FAIL, "model", "fetch the whole repository of the model", "%s: %s", name, strerror(errno));
        return;
    }
    doctor_say(d, DOCTOR_OK, "model", "", "%s, a Hugging Face folder", path);
}

void doctor_model(struct doctor *d)
{
    const char *path = d->set.model;
    struct stat st;
    if (!d->settings_known || !*path) {
        doctor_say(d, DOCTOR_SKIP, "model", "", "none named here: WEFT_MODEL, or `model` in the settings file");
        return;
    }
    if (stat(path, &st) || access(path, R_OK)) {
        doctor_say(d, DOCTOR_FAIL, "model",
                   "name a GGUF file, a Hugging Face folder or a packed file that the gateway's user can read",
                   "%s: %s", path, strerror(errno));
        return;
    }
    if (S_ISDIR(st.st_mode))
        check_model_folder(d, path);
    else
        check_digest(d, path, st.st_size);
    size_t room = memory_available();
    if (S_ISREG(st.st_mode) && room && (size_t)st.st_size > room && !d->running)
        doctor_say(d, DOCTOR_WARN, "memory", "a smaller base (weft-engine quantize), or more memory",
                   "the model has %.1f GB, %.1f GB are available", (double)st.st_size / 1e9, (double)room / 1e9);
}

/* --- the host --- */

static void check_cpu(struct doctor *d)
{
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
         wide = __builtin_cpu_supports("avx512f"), vnni = __builtin_cpu_supports("avx512vnni"),
         bf16 = __builtin_cpu_supports("avx512bf16");
    doctor_say(d, avx2 ? DOCTOR_OK : DOCTOR_WARN, "CPU",
               avx2 ? "" : "a CPU with AVX2 is several times faster (x86-64-v3); or a GPU", "%s%s%s%s, %ld cores",
               avx2 ? "AVX2" : "no AVX2: plain kernels", wide ? ", AVX-512" : "", vnni ? ", VNNI" : "",
               bf16 ? ", BF16" : "", sysconf(_SC_NPROCESSORS_ONLN));
}

static void check_pages(struct doctor *d)
{
    char text[128] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (f && !fgets(text, sizeof text, f)) text[0] = 0;
    if (f) fclose(f);
    text[strcspn(text, "\n")] = 0;
    if (!*text)
        doctor_say(d, DOCTOR_SKIP, "huge pages", "", "this kernel does not say");
    else if (strstr(text, "[never]"))
        doctor_say(d, DOCTOR_WARN, "huge pages", "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled",
                   "off: weights are read through 4 kB pages, slower");
    else
        doctor_say(d, DOCTOR_OK, "huge pages", "", "%s", text);
}

static void check_clock(struct doctor *d)
{
    struct timex t = {0};
    time_t now = time(NULL);
    struct tm tm;
    int state = adjtimex(&t);
    gmtime_r(&now, &tm);
    if (tm.tm_year + 1900 < FIRST_YEAR)
        doctor_say(d, DOCTOR_FAIL, "clock", "set it, and keep it with chrony or systemd-timesyncd", "it says %d",
                   tm.tm_year + 1900);
    else if (state == TIME_ERROR || t.status & STA_UNSYNC)
        doctor_say(d, DOCTOR_WARN, "clock", "chrony or systemd-timesyncd: budgets, expiries and bills go by this clock",
                   "not kept by a time server (as this kernel knows)");
    else
        doctor_say(d, DOCTOR_OK, "clock", "", "kept by a time server");
}

static void check_descriptors(struct doctor *d)
{
    struct rlimit r;
    if (!d->settings_known || !d->data || getrlimit(RLIMIT_NOFILE, &r)) return;
    int64_t need = d->set.max_connections * 2 + DESCRIPTORS_SPARE; /* a client's and its engine's */
    bool enough = r.rlim_max == RLIM_INFINITY || (int64_t)r.rlim_max >= need;
    doctor_say(d, enough ? DOCTOR_OK : DOCTOR_WARN, "descriptors",
               enough ? "" : "LimitNOFILE= in the unit, or fewer max_connections",
               "%lld may be open, %lld are needed for max_connections", (long long)r.rlim_max, (long long)need);
}

void doctor_host(struct doctor *d)
{
    check_cpu(d);
    check_pages(d);
    check_clock(d);
    check_descriptors(d);
}
