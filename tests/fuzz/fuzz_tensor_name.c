/* Names of tensors: what is taken apart is put together again (base_model.model. + the module's path + the kind) and is then the same place. */
#include "adapters/tensor_name.h"
#include "tests/fuzz/fuzz.h"

static void check_again(const struct tensor_name *n)
{
    static const char *const tail[] = {[TENSOR_A] = ".lora_A.weight", [TENSOR_B] = ".lora_B.weight", [TENSOR_MAGNITUDE] = ".lora_magnitude_vector"};
    char path[MODULE_PATH_MAX], name[MODULE_PATH_MAX + 64];
    struct tensor_name again;
    module_path(n, path);
    FUZZ_NEED(strlen(path) > 0 && strncmp(path, n->prefix, strlen(n->prefix)) == 0);
    if (n->kind > TENSOR_MAGNITUDE || n->place == PLACE_EXPERTS || n->place == PLACE_EMBED) return; /* which have other endings */
    snprintf(name, sizeof name, "base_model.model.%s%s", path, tail[n->kind]);
    if (strlen(name) >= TENSOR_NAME_MAX) return;
    FUZZ_NEED(tensor_name_parse(name, &again));
    FUZZ_NEED(again.place == n->place && again.kind == n->kind && again.layer == n->layer && again.expert == n->expert);
    FUZZ_NEED(again.module == n->module && strcmp(again.prefix, *n->prefix || n->place == PLACE_HEAD ? n->prefix : "model.") == 0 && again.old_moe == n->old_moe);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *s = fuzz_text(data, n);
    struct tensor_name t;
    memset(&t, 0, sizeof t);
    if (tensor_name_parse(s, &t)) {
        FUZZ_NEED(t.layer >= 0 && t.expert >= 0 && t.module >= 0 && t.module < LORA_MODULES);
        FUZZ_NEED(memchr(t.prefix, 0, sizeof t.prefix) && memchr(t.infix, 0, sizeof t.infix) && t.infix[0]);
        check_again(&t);
    }
    free(s);
    return 0;
}
