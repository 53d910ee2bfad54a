/* Each barrier and each wait of attention*.cu, left out, is missed: the race build finds what is read or written too
 * early; without a wait for copies the outputs are wrong in any build. */
#include "tests/simt/attention_problem.h"
#include "tests/simt/simt.h"
#include <stdio.h>
#include <string.h>

/* Few blocks, so that each has several units; several steps of each kind; a head that ends within 16 bytes. */
static void run_steps(void *arg)
{
    (void)arg;
    static const struct attn_shape shape[] = {{"head_dim 64", 3, 1, 64, 0, 0, false},
                                              {"head_dim 18", 2, 1, 18, 0, 0, false}};
    for (int i = 0; i < 2; i++) {
        struct attn_step s = {.shape = &shape[i], .parts = 3, .part = {{0, 700, 1}, {1, 1100, 2}, {2, 90, 50}}};
        int first[PROBLEM_PARTS];
        cuda_target.sms = 1;
        attn_compare(&s, attn_run(&s, first), first);
    }
}

static void runs_without(void *arg)
{
    simt_leave_out(arg);
    run_steps(NULL);
}

int main(void)
{
    const struct simt_place *place;
    simt_case_without("attention", run_steps, NULL);
    run_steps(NULL);
    int n = simt_finds_races() ? 0 : simt_places(&place);
    for (int i = 0; i < n; i++) {
        char name[256];
        if (strcmp(place[i].what, "dev_cp_async_wait")) continue;
        snprintf(name, sizeof name, "%s of %s:%d is missed in outputs", place[i].what, place[i].file, place[i].line);
        simt_case_fails(name, runs_without, (void *)&place[i], "simt: seed");
    }
    return simt_done();
}
