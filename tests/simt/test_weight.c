/* Weights in the device's order: every element comes back with the bits of the host's layout, of whole matrices, of parts
 * stacked one on the other, and of a rank's share; what does not stack or cut is refused. */
#include "tests/simt/rows_out.h"
#include "tests/simt/weights.h"
#include <stdio.h>

/* Rows of the stack, bit for bit. */
static void check_rows(const struct cuda_weight *w, const struct cuda_part *part, int parts)
{
    struct rows_job job = {*w, simt_buffer("rows", (size_t)w->n * (size_t)w->k * sizeof(float))};
    SIMT_CHECK(launch_rows_out(&job) == 0, "refused");
    const float *got = job.out;
    for (int p = 0; p < parts; p++) {
        float *row = malloc((size_t)part[p].w->k * sizeof *row);
        for (int r = 0; r < part[p].n; r++, got += w->k) {
            weight_row(part[p].w, part[p].row0 + r, row);
            for (int i = 0; i < w->k; i++)
                SIMT_CHECK(got[i] == row[part[p].k0 + i], "%s part %d row %d input %d: %a, not %a",
                           cuda_kind_name[w->kind], p, r, i, (double)got[i], (double)row[part[p].k0 + i]);
        }
        free(row);
    }
}

static void elements_are_the_layouts(void *arg)
{
    static const struct {
        int n, k;
    } shapes[] = {{1, 32}, {33, 96}, {70, 576}, {32, 64}, {7, 4864}};
    int kind = (int)(intptr_t)arg;
    for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i++) {
        struct weight host = made_weight(kind, shapes[i].n, shapes[i].k, false, 3);
        struct cuda_part part = {&host, 0, host.n, 0, host.k};
        struct cuda_weight w = made_device(&part, 1);
        /* One group a row is always a scale a row. */
        SIMT_CHECK(w.kind == kind || (kind == KIND_F8 && host.k == 32), "became %s", cuda_kind_name[w.kind]);
        check_rows(&w, &part, 1);
    }
}

static void parts_stack_where_no_panel_ends(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct weight q = made_weight(kind, 70, 160, false, 1), k = made_weight(kind, 40, 160, false, 2);
    struct cuda_part part[] = {{&q, 0, 70, 0, 160}, {&k, 5, 20, 0, 160}, {&k, 0, 40, 0, 160}};
    struct cuda_weight w = made_device(part, 3);
    SIMT_CHECK(w.n == 130, "%d outputs", w.n);
    check_rows(&w, part, 3);
}

static void inputs_are_cut_between_groups(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct weight host = made_weight(kind, 40, 224, false, 1);
    struct cuda_part part = {&host, 3, 37, 96, 96};
    struct cuda_weight w = made_device(&part, 1);
    check_rows(&w, &part, 1);
}

static void refuse(const char *why, struct cuda_part *part, int parts)
{
    struct cuda_weight w = {.n = 77};
    struct err e = {0};
    SIMT_CHECK(cuda_weight_plan(&w, part, parts, &e) == -1 && e.code == ERR_MODEL, "not refused: %s", why);
    SIMT_CHECK(w.n == 77 && strstr(e.msg, why), "%s: %s", why, e.msg);
}

static void what_does_not_fit_is_refused(void *arg)
{
    (void)arg;
    struct weight q8 = made_weight(KIND_Q8, 40, 128, false, 1), bf16 = made_weight(KIND_BF16, 40, 128, false, 1);
    struct weight odd = made_weight(KIND_BF16, 8, 100, false, 1);
    refuse("does not stack", (struct cuda_part[]){{&q8, 0, 40, 0, 128}, {&bf16, 0, 40, 0, 128}}, 2);
    refuse("does not stack", (struct cuda_part[]){{&q8, 0, 40, 0, 128}, {&q8, 0, 40, 0, 96}}, 2);
    refuse("cut a group", (struct cuda_part[]){{&q8, 0, 40, 16, 64}}, 1);
    refuse("no part", (struct cuda_part[]){{&q8, 8, 40, 0, 128}}, 1);
    refuse("no part", (struct cuda_part[]){{&q8, 0, 40, 64, 128}}, 1);
    refuse("multiple of 8", (struct cuda_part[]){{&odd, 0, 8, 0, 100}}, 1);
}

int main(void)
{
    for (intptr_t kind = 0; kind < KINDS; kind++) {
        char name[96];
        const char *what = cuda_kind_name[kind];
#define CASE(text, fn) snprintf(name, sizeof name, "%s: " text, what), simt_case(name, fn, (void *)kind)
        CASE("elements have the bits of the host's layout", elements_are_the_layouts);
        CASE("parts stack where no panel ends", parts_stack_where_no_panel_ends);
        CASE("inputs are cut between groups", inputs_are_cut_between_groups);
    }
    simt_case("what does not stack or cut is refused", what_does_not_fit_is_refused, NULL);
    return simt_done();
}
