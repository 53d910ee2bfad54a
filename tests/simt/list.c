/* Every kernel of the backend, instance by instance, a line each: for tests/simt/coverage. */
#include "tests/simt/simt.h"

int main(void)
{
    simt_list_kernels();
    return 0;
}
