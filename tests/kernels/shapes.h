/* The shapes for the kernels' tests and their bench: the bench takes the models' own, and their heads besides. */
#pragma once

struct shape {
    const char *name;
    int n, k;
};

#define MODEL_SHAPES                                                                                                   \
    {"SmolLM2-135M q, o", 576, 576}, {"SmolLM2-135M k, v", 192, 576}, {"SmolLM2-135M gate, up", 1536, 576},            \
        {"SmolLM2-135M down", 576, 1536}, {"Qwen2.5-0.5B q, o", 896, 896}, {"Qwen2.5-0.5B gate, up", 4864, 896},       \
    {                                                                                                                  \
        "Qwen2.5-0.5B down", 896, 4864                                                                                 \
    }

static const struct shape SHAPES[] = {
    MODEL_SHAPES,
    {"a head whose last panel has 3 outputs", 3107, 192},
    {"one panel", 32, 32},
    {"one output", 1, 64},
};

#define SHAPES_N ((int)(sizeof SHAPES / sizeof *SHAPES))

static const struct shape BENCH_SHAPES[] __attribute__((unused)) = {
    MODEL_SHAPES,
    {"Qwen2.5-0.5B k, v", 128, 896},
    {"SmolLM2-135M head", 49152, 576},
};

#define BENCH_SHAPES_N ((int)(sizeof BENCH_SHAPES / sizeof *BENCH_SHAPES))
