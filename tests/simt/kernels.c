/* Which kernels there are in this program, instance by instance, and which of them its cases ran. Each launch in a source
 * makes an entry before main (dev_simt.h); cases run in processes of their own, so counts lie in memory that they share.
 *
 * With SIMT_RAN=FOLDER a test leaves FOLDER/PROGRAM behind, a line each: "ran COUNT KERNEL" and, for each barrier or wait
 * that was left out and missed (places.c), "missed WHAT FILE:LINE". tests/simt/coverage holds that against the sources. */
#include "tests/simt/run.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_KERNELS 1024

static struct simt_kernel *kernel[MAX_KERNELS];
static int kernels;
static unsigned *ran; /* [MAX_KERNELS], shared with the cases */

/* The compiler's name of the launch, of which the end says "= kernel<..>]". */
void simt_kernel_new(struct simt_kernel *k, const char *pretty)
{
    const char *name = strstr(pretty, "= ");
    if (kernels == MAX_KERNELS) abort();
    k->name = name ? name + 2 : pretty;
    k->number = kernels;
    kernel[kernels++] = k;
    if (ran) return;
    void *p = mmap(NULL, MAX_KERNELS * sizeof *ran, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    ran = p;
}

void kernel_runs(const struct simt_kernel *k)
{
    __atomic_fetch_add(&ran[k->number], 1, __ATOMIC_RELAXED);
}

static void print(FILE *to, const char *before, const struct simt_kernel *k)
{
    int n = (int)strlen(k->name) - 1; /* less its bracket */
    fprintf(to, "%s%.*s\n", before, n, k->name);
}

void simt_list_kernels(void)
{
    for (int i = 0; i < kernels; i++) print(stdout, "", kernel[i]);
}

void kernels_tell(void)
{
    const char *folder = getenv("SIMT_RAN");
    char path[1024], before[32];
    if (!folder) return;
    snprintf(path, sizeof path, "%s/%s", folder, program_invocation_short_name);
    FILE *to = fopen(path, "w");
    if (!to) return;
    for (int i = 0; i < kernels; i++) {
        snprintf(before, sizeof before, "ran %u ", ran[i]);
        if (ran[i]) print(to, before, kernel[i]);
    }
    places_tell(to);
    fclose(to);
}
