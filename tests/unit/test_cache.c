/* The cache folder: a model that starts from its packed copy is the model, bit for bit; whatever happens to the folder costs time and never
 * an answer. */
#include "base/log.h"
#include "engine/cache.h"
#include "engine/model_keep.h"
#include "engine/packed.h"
#include "engine/packed_impl.h"
#include "tests/unit/tiny_gguf.h"
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <utime.h>

#define FAMILIES "tests/golden/families"
#define WAIT_S 60
#define MB ((int64_t)1 << 20)

static char folder[64], file[96], copies[96];
static struct cache *cache;

static void remove_tree(const char *path)
{
    char sub[512];
    DIR *d = opendir(path);
    for (struct dirent *it; d && (it = readdir(d));) {
        if (it->d_name[0] == '.') continue;
        snprintf(sub, sizeof sub, "%.200s/%.200s", path, it->d_name);
        remove_tree(sub);
    }
    if (d) closedir(d);
    if (remove(path)) unlink(path);
}

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    tiny_folder(folder);
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    snprintf(copies, sizeof copies, "%s/cache", folder);
    tiny_gguf(file, &(struct tiny){.seed = 3});
    if (cache_open(&cache, copies, 1024 * MB, &e)) fail_msg("%s", e.msg);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cache_close(cache);
    remove_tree(folder);
    return 0;
}

/* --- what lies in the folder --- */

/* The copies' paths, sorted by nothing; returns how many. */
static int list_copies(char path[][256], int max)
{
    int n = 0;
    DIR *d = opendir(copies);
    for (struct dirent *it; d && n < max && (it = readdir(d));)
        if (strstr(it->d_name, ".weft")) snprintf(path[n++], 256, "%.90s/%.100s", copies, it->d_name);
    if (d) closedir(d);
    return n;
}

static int count_files(void)
{
    int n = 0;
    DIR *d = opendir(copies);
    for (struct dirent *it; d && (it = readdir(d));) n += it->d_name[0] != '.' && strcmp(it->d_name, "sums") != 0;
    if (d) closedir(d);
    return n;
}

static void wait_for_copies(int want)
{
    char path[8][256];
    for (int i = 0; i < WAIT_S * 100 && list_copies(path, 8) != want; i++) usleep(10000);
    assert_int_equal(list_copies(path, 8), want);
}

static struct model *open_with(const char *path, enum precision prec, struct cache *c, bool keep_mapped)
{
    struct err e = {0};
    struct model *m;
    const struct model_options o = {.prec = prec, .cache = c, .keep_mapped = keep_mapped};
    if (model_open(&m, path, &o, &e)) fail_msg("%s: %s", path, e.msg);
    return m;
}

static struct model *open_model(void)
{
    return open_with(file, PREC_FAST, cache, true);
}

/* A first start whose copy was written; the copy's path. */
static void make_copy(char path[256])
{
    char all[8][256];
    struct model *m = open_model();
    assert_false(m->copied);
    wait_for_copies(1);
    model_free(m);
    assert_int_equal(list_copies(all, 8), 1);
    memcpy(path, all[0], 256);
}

/* --- two models, compared --- */

static void same_weight(const struct weight *a, const struct weight *b)
{
    assert_int_equal(a->layout, b->layout);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->k, b->k);
    assert_int_equal(a->bytes, b->bytes);
    if (a->n) assert_memory_equal(a->data, b->data, a->bytes);
    if (a->layout != LAYOUT_T4) return;
    assert_memory_equal(a->table, b->table, sizeof a->table);
    assert_memory_equal(a->coarse, b->coarse, sizeof a->coarse);
}

static void same_vector(const float *a, const float *b, int n)
{
    assert_int_equal(a == NULL, b == NULL);
    if (a) assert_memory_equal(a, b, (size_t)n * sizeof *a);
}

static void same_layer(const struct model *m, const struct model_layer *a, const struct model_layer *b)
{
    same_vector(a->attn_norm, b->attn_norm, m->hidden);
    same_vector(a->mlp_norm, b->mlp_norm, m->hidden);
    same_vector(a->attn_post, b->attn_post, m->hidden);
    same_vector(a->mlp_post, b->mlp_post, m->hidden);
    same_vector(a->q_norm, b->q_norm, m->head_dim);
    same_vector(a->k_norm, b->k_norm, m->head_dim);
    for (int i = 0; i < LORA_MODULES; i++) {
        same_weight(&a->module[i], &b->module[i]);
        same_vector(a->bias[i], b->bias[i], a->module[i].n);
    }
    same_weight(&a->router, &b->router);
    assert_int_equal(a->window, b->window);
    assert_int_equal(a->expert == NULL, b->expert == NULL);
    for (int x = 0; a->expert && x < m->experts; x++)
        for (int i = 0; i < 3; i++) same_weight(&a->expert[x].part[i], &b->expert[x].part[i]);
}

static void same_model(const struct model *a, const struct model *b)
{
    assert_string_equal(a->name, b->name);
    assert_memory_equal(&a->desc, &b->desc, sizeof a->desc);
    assert_int_equal(a->created, b->created);
    assert_int_equal(a->max_context, b->max_context);
    assert_int_equal(a->act_forms, b->act_forms);
    assert_int_equal(a->weight_bytes, b->weight_bytes);
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->chat == NULL, b->chat == NULL);
    assert_memory_equal(&a->norm_eps, &b->norm_eps, offsetof(struct model, embed) - offsetof(struct model, norm_eps));
    same_weight(&a->embed, &b->embed);
    assert_int_equal(a->head == &a->embed, b->head == &b->embed);
    same_weight(&a->head_own, &b->head_own);
    same_vector(a->final_norm, b->final_norm, a->hidden);
    int rotary = a->rotary ? a->rotary : a->head_dim;
    same_vector(a->rope, b->rope, a->max_context * rotary);
    same_vector(a->rope_local, b->rope_local, a->max_context * rotary);
    for (int l = 0; l < a->layers; l++) same_layer(a, &a->layer[l], &b->layer[l]);
}

static void check_twice(const char *path, enum precision prec)
{
    char all[8][256];
    struct model *first = open_with(path, prec, cache, true), *second;
    assert_false(first->copied);
    wait_for_copies(1);
    second = open_with(path, prec, cache, true);
    assert_true(second->copied);
    same_model(first, second);
    model_free(first);
    model_free(second);
    assert_int_equal(list_copies(all, 8), 1);
    assert_int_equal(unlink(all[0]), 0);
}

/* A folder with a config.json, or the GGUF file in it. */
static bool model_in(const char *name, char path[512])
{
    bool found = false;
    snprintf(path, 512, FAMILIES "/%.200s/config.json", name);
    if (access(path, R_OK) == 0) {
        snprintf(path, 512, FAMILIES "/%.200s", name);
        return true;
    }
    snprintf(path, 512, FAMILIES "/%.200s", name);
    DIR *d = opendir(path);
    for (struct dirent *it; d && !found && (it = readdir(d));)
        if ((found = strstr(it->d_name, ".gguf") != NULL))
            snprintf(path, 512, FAMILIES "/%.200s/%.200s", name, it->d_name);
    if (d) closedir(d);
    return found;
}

static void a_second_start_of_every_family_is_the_first_bit_for_bit(void **state)
{
    (void)state;
    int n = 0;
    DIR *d = opendir(FAMILIES);
    assert_non_null(d);
    for (struct dirent *it; (it = readdir(d));) {
        char path[512];
        if (it->d_name[0] == '.' || !model_in(it->d_name, path)) continue;
        check_twice(path, PREC_FAST);
        if (n++ % 4 == 0) check_twice(path, PREC_EXACT);
    }
    closedir(d);
    assert_true(n >= 18);
}

/* --- what a copy depends on --- */

static void another_precision_or_base_has_another_copy(void **state)
{
    (void)state;
    char path[256];
    make_copy(path);
    struct model *m = open_with(file, PREC_EXACT, cache, true);
    assert_false(m->copied);
    wait_for_copies(2);
    model_free(m);
    tiny_gguf(file, &(struct tiny){.seed = 4});
    m = open_model();
    assert_false(m->copied);
    wait_for_copies(3);
    model_free(m);
}

static void copy_file(const char *from, const char *to, int flip)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    int at = 0;
    assert_true(in && out);
    for (int c; (c = fgetc(in)) != EOF; at++) fputc(at == flip ? c ^ 1 : c, out);
    fclose(in);
    fclose(out);
}

static void text_files_are_not_in_the_digest_and_yet_never_stale(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"};
    char dir[96], from[256], to[256], template[256], digest[SHA256_HEX];
    snprintf(dir, sizeof dir, "%s/hf", folder);
    snprintf(template, sizeof template, "%s/chat_template.jinja", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(from, sizeof from, FAMILIES "/llama3/%s", names[i]);
        snprintf(to, sizeof to, "%s/%s", dir, names[i]);
        copy_file(from, to, -1);
    }
    struct model *m = open_with(dir, PREC_FAST, cache, true);
    memcpy(digest, m->desc.digest, sizeof digest);
    assert_null(m->chat);
    wait_for_copies(1);
    model_free(m);
    FILE *f = fopen(template, "w");
    fputs("{% for m in messages %}{{ m.content }}{% endfor %}", f);
    fclose(f);
    m = open_with(dir, PREC_FAST, cache, true);
    assert_false(m->copied);
    assert_non_null(m->chat);
    assert_string_equal(m->desc.digest, digest);
    wait_for_copies(2);
    model_free(m);
}

/* --- damage --- */

static void patch(const char *path, long at, const char *bytes, size_t n)
{
    int fd = open(path, O_WRONLY);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(pwrite(fd, bytes, n, at < 0 ? st.st_size + at : at), n);
    close(fd);
}

static void flip(const char *path, long at)
{
    unsigned char c;
    int fd = open(path, O_RDWR);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    if (at < 0) at += st.st_size;
    assert_int_equal(pread(fd, &c, 1, at), 1);
    c ^= 0x10;
    assert_int_equal(pwrite(fd, &c, 1, at), 1);
    close(fd);
}

static void a_damaged_copy_is_refused_and_written_anew(void **state)
{
    (void)state;
    char path[256];
    struct model *good = open_with(file, PREC_FAST, NULL, true);
    make_copy(path);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    const long places[] = {0, 8, 20, 40, 70, 4096, 5000, st.st_size / 2, -3000, -200, -1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        flip(path, places[i]);
        struct model *m = open_model();
        if (m->copied) fail_msg("a copy with a wrong byte at %ld was served", places[i]);
        same_model(good, m);
        wait_for_copies(1);
        model_free(m);
        m = open_model();
        assert_true(m->copied);
        same_model(good, m);
        model_free(m);
    }
    model_free(good);
}

static void a_cut_or_empty_copy_and_one_of_an_older_version_cost_only_time(void **state)
{
    (void)state;
    char path[256];
    make_copy(path);
    for (int i = 0; i < 4; i++) {
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        if (i == 3)
            patch(path, 8, "\0\0\0\0", 4); /* the version */
        else
            assert_int_equal(truncate(path, i == 0 ? 0 : i == 1 ? 64 : st.st_size - 1), 0);
        struct model *m = open_model();
        assert_false(m->copied);
        wait_for_copies(1);
        model_free(m);
    }
    struct model *m = open_model();
    assert_true(m->copied);
    model_free(m);
}

static void a_copy_under_anothers_name_is_not_taken_for_it(void **state)
{
    (void)state;
    char path[256], all[8][256], kept[300];
    make_copy(path);
    snprintf(kept, sizeof kept, "%s.kept", path);
    assert_int_equal(rename(path, kept), 0);
    tiny_gguf(file, &(struct tiny){.seed = 8});
    struct model *m = open_model();
    wait_for_copies(2); /* the kept one counts */
    model_free(m);
    assert_int_equal(list_copies(all, 8), 2);
    const char *other = strcmp(all[0], kept) ? all[0] : all[1];
    copy_file(kept, other, -1); /* valid, of another base */
    struct model *good = open_with(file, PREC_FAST, NULL, true);
    m = open_model();
    assert_false(m->copied);
    same_model(good, m);
    model_free(m);
    model_free(good);
}

/* --- the folder --- */

static void a_folder_that_cannot_be_used_is_refused_by_name(void **state)
{
    (void)state;
    char path[160];
    struct cache *c = NULL;
    struct err e = {0};
    snprintf(path, sizeof path, "%s/cache", file); /* below a plain file */
    assert_int_equal(cache_open(&c, path, MB, &e), -1);
    assert_non_null(strstr(e.msg, path));
    err_clear(&e);
    assert_int_equal(cache_open(&c, file, MB, &e), -1);
    assert_non_null(strstr(e.msg, "no folder"));
    err_clear(&e);
    snprintf(path, sizeof path, "%s/open", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chmod(path, 0777), 0);
    assert_int_equal(cache_open(&c, path, MB, &e), -1);
    assert_non_null(strstr(e.msg, "others may write"));
    assert_null(c);
}

static void where_nothing_can_be_written_the_model_is_served_all_the_same(void **state)
{
    (void)state;
    struct rlimit old, none = {.rlim_cur = 100000, .rlim_max = RLIM_INFINITY};
    struct model *good = open_with(file, PREC_FAST, NULL, true);
    signal(SIGXFSZ, SIG_IGN); /* a full disk, to the writer */
    getrlimit(RLIMIT_FSIZE, &old);
    none.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    struct model *m = open_model();
    same_model(good, m);
    usleep(300000);
    model_free(m);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(count_files(), 0);
    remove_tree(copies); /* and a folder that went away */
    m = open_model();
    same_model(good, m);
    usleep(100000);
    model_free(m);
    model_free(good);
}

static void a_model_that_is_freed_at_once_leaves_whole_copies_or_none(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        struct model *m = open_model();
        usleep((useconds_t)(i % 10) * 500);
        model_free(m);
    }
    char all[8][256];
    int n = list_copies(all, 8);
    assert_true(n <= 1 && count_files() == n);
    struct model *good = open_with(file, PREC_FAST, NULL, true), *m = open_model();
    assert_true(m->copied == (n == 1));
    same_model(good, m);
    model_free(m);
    model_free(good);
}

static void *open_in_a_thread(void *u)
{
    *(struct model **)u = open_model();
    return NULL;
}

static void engines_that_start_at_once_agree(void **state)
{
    (void)state;
    enum { N = 6 };
    pthread_t t[N];
    struct model *m[N];
    for (int i = 0; i < N; i++) assert_int_equal(pthread_create(&t[i], NULL, open_in_a_thread, &m[i]), 0);
    for (int i = 0; i < N; i++) pthread_join(t[i], NULL);
    wait_for_copies(1);
    for (int i = 1; i < N; i++) same_model(m[0], m[i]);
    struct model *last = open_model();
    assert_true(last->copied);
    same_model(m[0], last);
    model_free(last);
    for (int i = 0; i < N; i++) model_free(m[i]);
}

static void a_base_that_changes_while_it_is_read_is_not_copied(void **state)
{
    (void)state;
    struct err e = {0};
    struct source *s;
    struct model *m;
    char key[SHA256_HEX];
    memset(key, 'a', 64);
    key[64] = 0;
    const struct model_options o = {.prec = PREC_FAST};
    assert_int_equal(source_open(&s, file, &e), 0);
    assert_int_equal(model_from_source(&m, s, file, NULL, &o, &e), 0);
    assert_true(source_unchanged(s));
    char other[128];
    snprintf(other, sizeof other, "%s/other.gguf", folder);
    tiny_gguf(other, &(struct tiny){.seed = 5});
    assert_int_equal(rename(other, file), 0);
    assert_false(source_unchanged(s));
    m->keeper = keeper_copy(m, s, cache, key);
    usleep(300000);
    model_free(m);
    assert_int_equal(count_files(), 0);
}

/* --- the bound --- */

static void put_file(const char *name, int64_t bytes, time_t used)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", copies, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(posix_fallocate(fd, 0, bytes), 0);
    close(fd);
    assert_int_equal(utime(path, &(struct utimbuf){.actime = used, .modtime = used}), 0);
}

static bool is_there(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", copies, name);
    return access(path, F_OK) == 0;
}

static void the_longest_unused_copies_go_and_those_in_use_stay(void **state)
{
    (void)state;
    struct err e = {0};
    struct cache *small;
    char path[256];
    assert_int_equal(cache_open(&small, copies, 10 * MB, &e), 0);
    put_file("a.weft", 3 * MB, 1000);
    put_file("b.weft", 3 * MB, 3000);
    put_file("c.weft", 3 * MB, 2000);
    put_file("old.weft.77.tmp", MB, 1000); /* of a process that was killed long ago */
    put_file("new.weft.78.tmp", MB, time(NULL));
    assert_int_equal(cache_copy_room(small, MB / 2, &e), 0);
    assert_true(is_there("a.weft") && is_there("b.weft") && is_there("c.weft"));
    assert_false(is_there("old.weft.77.tmp"));
    assert_true(is_there("new.weft.78.tmp"));
    snprintf(path, sizeof path, "%s/a.weft", copies);
    cache_copy_used(small, path);
    assert_int_equal(cache_copy_room(small, 2 * MB, &e), 0);
    assert_true(is_there("a.weft") && is_there("b.weft"));
    assert_false(is_there("c.weft"));
    snprintf(path, sizeof path, "%s/b.weft", copies);
    int fd = open(path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_SH), 0); /* as packed_open() does */
    assert_int_equal(cache_copy_room(small, 6 * MB, &e), 0);
    assert_true(is_there("b.weft"));
    assert_false(is_there("a.weft"));
    assert_int_equal(cache_copy_room(small, 8 * MB, &e), -1);
    assert_non_null(strstr(e.msg, "in use"));
    err_clear(&e);
    assert_int_equal(cache_copy_room(small, 11 * MB, &e), -1);
    assert_non_null(strstr(e.msg, "does not fit"));
    close(fd);
    cache_close(small);
}

static void a_copy_that_an_engine_has_open_is_locked(void **state)
{
    (void)state;
    char path[256];
    make_copy(path);
    struct model *m = open_model();
    assert_true(m->copied);
    int fd = open(path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
    model_free(m);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    close(fd);
}

/* --- digests --- */

static void a_digest_is_known_until_the_file_is_written_to(void **state)
{
    (void)state;
    struct file_id id;
    char hex[SHA256_HEX], got[SHA256_HEX];
    memset(hex, 'b', 64);
    hex[64] = 0;
    file_id_at(&id, file);
    int64_t later_us = id.ctime_ns / 1000 + 10000000;
    cache_sum_keep(cache, &id, file, hex, id.ctime_ns / 1000 + 100000);
    assert_false(cache_sum_find(cache, &id, got)); /* it was written to just before */
    cache_sum_keep(cache, &id, file, hex, later_us);
    assert_true(cache_sum_find(cache, &id, got));
    assert_string_equal(got, hex);
    struct file_id other = id;
    other.ctime_ns++;
    assert_false(cache_sum_find(cache, &other, got));
    other = id;
    other.size++;
    assert_false(cache_sum_find(cache, &other, got));
    usleep(20000);
    patch(file, -1, "x", 1);
    file_id_at(&other, file);
    assert_false(file_id_same(&id, &other));
    assert_false(cache_sum_find(cache, &other, got));
    cache_sum_keep(cache, &id, file, hex, later_us); /* it is not that file any more */
    cache_sum_keep(cache, &(struct file_id){0}, "/nonexistent", hex, later_us);
    assert_false(cache_sum_find(cache, &(struct file_id){0}, got));
}

static void a_damaged_line_is_no_digest(void **state)
{
    (void)state;
    struct file_id id;
    char hex[SHA256_HEX], got[SHA256_HEX], path[256], sums[128];
    memset(hex, 'c', 64);
    hex[64] = 0;
    file_id_at(&id, file);
    snprintf(sums, sizeof sums, "%s/sums", copies);
    for (int i = 0; i < 6; i++) {
        cache_sum_keep(cache, &id, file, hex, id.ctime_ns / 1000 + 10000000);
        assert_true(cache_sum_find(cache, &id, got));
        DIR *d = opendir(sums);
        for (struct dirent *it; (it = readdir(d));)
            if (it->d_name[0] != '.') snprintf(path, sizeof path, "%s/%.100s", sums, it->d_name);
        closedir(d);
        if (i < 3)
            patch(path, (const long[]){2, -80, -2}[i], "x", 1);
        else
            assert_int_equal(truncate(path, (const long[]){0, 30, 150}[i - 3]), 0);
        assert_false(cache_sum_find(cache, &id, got));
    }
}

/* --- moving --- */

/* A file of some chunks: packed_move() has something to do only from 2 MB on. */
static void make_big(const char *path, size_t bytes, unsigned char **what)
{
    struct packed_writer *w;
    struct err e = {0};
    *what = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) (*what)[i] = (unsigned char)(i * 2654435761u >> 13);
    assert_int_equal(packed_writer_new(&w, path, &e), 0);
    assert_int_equal(packed_writer_add_blob(w, "big", *what, bytes, &e), 0);
    json_t *meta = json_object();
    assert_int_equal(packed_writer_finish(w, meta, &e), 0);
    json_decref(meta);
    packed_writer_free(w);
}

struct watcher {
    const unsigned char *at, *want;
    size_t bytes;
    atomic_bool stop, differs;
    atomic_int rounds;
};

static void *watch(void *u)
{
    struct watcher *w = u;
    while (!atomic_load(&w->stop)) {
        if (memcmp(w->at, w->want, w->bytes) != 0) atomic_store(&w->differs, true);
        atomic_fetch_add(&w->rounds, 1);
    }
    return NULL;
}

static void contents_stay_what_they_are_while_they_are_moved_under_readers(void **state)
{
    (void)state;
    char path[128];
    unsigned char *want;
    size_t bytes = (size_t)150 << 20;
    snprintf(path, sizeof path, "%s/big.weft", folder);
    make_big(path, bytes, &want);
    for (int round = 0; round < 3; round++) {
        struct packed *p;
        struct err e = {0};
        const void *at;
        size_t n;
        pthread_t t[2];
        atomic_bool stop = false;
        assert_int_equal(packed_open(&p, path, &e), 0);
        assert_true(packed_blob(p, "big", &at, &n));
        struct watcher w = {.at = at, .want = want, .bytes = n};
        for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, watch, &w), 0);
        while (atomic_load(&w.rounds) < 1) usleep(1000);
        packed_move(p, &stop);
        assert_int_equal(packed_moved(p), packed_size(p) / PACKED_HUGE * PACKED_HUGE);
        int seen = atomic_load(&w.rounds);
        while (atomic_load(&w.rounds) < seen + 3) usleep(1000);
        atomic_store(&w.stop, true);
        for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
        assert_false(atomic_load(&w.differs));
        assert_int_equal(packed_verify(p, &e), 0);
        packed_close(p);
    }
    struct packed *p;
    atomic_bool stop = true;
    assert_int_equal(packed_open(&p, path, NULL), 0);
    packed_move(p, &stop);
    assert_int_equal(packed_moved(p), 0);
    packed_close(p);
    free(want);
}

static void a_copy_is_moved_and_is_told(void **state)
{
    (void)state;
    char path[256];
    struct model_memory mem;
    make_copy(path);
    struct model *good = open_with(file, PREC_FAST, NULL, true), *m = open_with(file, PREC_FAST, cache, false);
    assert_true(m->copied);
    model_memory(good, &mem);
    assert_string_equal(mem.from, "packed");
    assert_int_equal(mem.huge, good->weight_bytes);
    model_memory(m, &mem);
    assert_string_equal(mem.from, "copy");
    assert_int_equal(mem.huge + mem.mapped, m->weight_bytes);
    same_model(good, m);
    model_free(m);
    struct model *given = open_with(path, PREC_FAST, cache, true);
    model_memory(given, &mem);
    assert_string_equal(mem.from, "file");
    assert_int_equal(mem.mapped, given->weight_bytes);
    model_free(given);
    model_free(good);
}

int main(void)
{
    log_init("test", (enum log_level)(LOG_ERROR + 1));
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(a_second_start_of_every_family_is_the_first_bit_for_bit),
        CASE(another_precision_or_base_has_another_copy),
        CASE(text_files_are_not_in_the_digest_and_yet_never_stale),
        CASE(a_damaged_copy_is_refused_and_written_anew),
        CASE(a_cut_or_empty_copy_and_one_of_an_older_version_cost_only_time),
        CASE(a_copy_under_anothers_name_is_not_taken_for_it),
        CASE(a_folder_that_cannot_be_used_is_refused_by_name),
        CASE(where_nothing_can_be_written_the_model_is_served_all_the_same),
        CASE(a_model_that_is_freed_at_once_leaves_whole_copies_or_none),
        CASE(engines_that_start_at_once_agree),
        CASE(a_base_that_changes_while_it_is_read_is_not_copied),
        CASE(the_longest_unused_copies_go_and_those_in_use_stay),
        CASE(a_copy_that_an_engine_has_open_is_locked),
        CASE(a_digest_is_known_until_the_file_is_written_to),
        CASE(a_damaged_line_is_no_digest),
        CASE(contents_stay_what_they_are_while_they_are_moved_under_readers),
        CASE(a_copy_is_moved_and_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
