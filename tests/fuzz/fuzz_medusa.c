/* config.json of a folder of Medusa heads: what is taken is within its bounds, whatever it says, and makes trees. */
#include "engine/medusa.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = fuzz_text(data, n);
    struct medusa m = {.hidden = 64, .vocab = 300};
    struct medusa_tree tree;
    struct err e = {0};
    if (medusa_config(&m, text, strlen(text), &e)) {
        FUZZ_NEED(e.code != ERR_NONE && e.msg[0]);
    } else {
        FUZZ_NEED(m.heads >= 1 && m.heads <= MEDUSA_HEADS_MAX && m.layers >= 1 && m.layers <= 4);
        for (int k = 0; k < m.heads; k++)
            for (int i = 0; i < MEDUSA_RANKS; i++) FUZZ_NEED(m.right[k][i] >= 0 && m.right[k][i] <= 1);
        for (int nodes = 1; nodes <= MEDUSA_NODES_MAX; nodes++) {
            medusa_tree_make(&tree, nodes, m.heads, m.right);
            FUZZ_NEED(tree.n == nodes && tree.nchains >= 1 && tree.depth <= m.heads);
            for (int i = 0; i < nodes; i++) FUZZ_NEED(tree.node[i].parent < i && tree.node[i].rank < MEDUSA_RANKS);
        }
    }
    for (int i = 1; i < m.ntokens; i++) FUZZ_NEED(m.token[i] > m.token[i - 1] && m.token[i] < m.vocab);
    free(m.token);
    free(text);
    return 0;
}
