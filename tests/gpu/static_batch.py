#!/usr/bin/env python3
"""transformers' generate in a static batch, on the models that `models` makes on the device: the same shapes, the same weights
(kernels/cuda/fill.cu, computed again here), prompts as long. Greedy, bf16, its own cache; what counts is the time of 64 more
tokens: a run of 72 less one of 8, so prompts are in neither.

    static_batch.py ROWS         ROWS: the table that `models` printed (its rows without adapters are compared with)

Prints rows of a Markdown table. A batch that does not fit is left out by name. Exit codes: 0; 4 no torch, transformers or
GPU."""
import statistics
import sys
import time

try:
    import torch
    import transformers
    if not torch.cuda.is_available():
        raise ImportError("torch sees no GPU")
except ImportError as why:
    print(f"transformers: skipped, {why}", file=sys.stderr)
    sys.exit(4)

FEW, MANY, RUNS, PIECE = 8, 72, 3, 1 << 26
MODULES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
           "mlp.down_proj")
EMBED = 1 << 20
# layers, hidden, heads, kv heads, mlp, vocab, theta, biases of q, k, v and a tied head (made.c has the same)
SHAPES = {"qwen2.5-0.5b": (24, 896, 14, 2, 4864, 151936, 1e6, True), "llama-3-8b": (32, 4096, 32, 8, 14336, 128256, 5e5, False)}


def mixed(h):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    return h ^ (h >> 16)


def fill(weight, stream, scale):
    flat = weight.data.view(-1)
    for at in range(0, flat.numel(), PIECE):
        i = torch.arange(at, min(at + PIECE, flat.numel()), device=flat.device, dtype=torch.int64)
        h = mixed((i & 0xFFFFFFFF) ^ (stream * 0x9E3779B9 & 0xFFFFFFFF))
        h = mixed((h + (i >> 32) + stream) & 0xFFFFFFFF)
        flat[at:at + i.numel()] = (scale * ((h >> 8).float() * 2.0**-23 - 1)).to(torch.bfloat16)


def model_of(name, context):
    layers, hidden, heads, kv, mlp, vocab, theta, qwen = SHAPES[name]
    config = (transformers.Qwen2Config if qwen else transformers.LlamaConfig)(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=mlp,
        vocab_size=vocab, rope_theta=theta, max_position_embeddings=context, tie_word_embeddings=qwen, rms_norm_eps=1e-5,
        bos_token_id=None, eos_token_id=None, pad_token_id=0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for m, module in enumerate(MODULES):
                linear = layer.get_submodule(module)
                fill(linear.weight, number * 16 + m, (3 / linear.in_features)**0.5)
                if linear.bias is not None:
                    linear.bias.fill_(0.01)
        fill(model.model.embed_tokens.weight, EMBED, 1.0)
        if not qwen:
            fill(model.lm_head.weight, EMBED + 1, (3 / hidden)**0.5)
    return model


def seconds(model, ids, tokens):
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    torch.cuda.synchronize()
    assert out.shape[1] == ids.shape[1] + tokens
    return time.perf_counter() - start


def rate(model, batch, context):
    row, col = torch.arange(batch, device="cuda")[:, None], torch.arange(context, device="cuda")[None, :]
    ids = ((row * 2654435761 & 0xFFFFFFFF) + col * 40503 + 17 & 0xFFFFFFFF) % model.config.vocab_size
    seconds(model, ids, FEW)
    runs = [seconds(model, ids, MANY) - seconds(model, ids, FEW) for _ in range(RUNS)]
    return batch * (MANY - FEW) / statistics.median(runs)


def main():
    rows = [[c.strip() for c in line.strip().strip("|").split("|")] for line in open(sys.argv[1]) if line.startswith("|")]
    ours = [(r[0], int(r[1]), int(r[2]), float(r[5])) for r in rows if r[0] in SHAPES and r[3] == "0"]
    print(f"\nBeside transformers {transformers.__version__}'s generate, static batches, no adapters (torch {torch.__version__}):\n")
    print("| shape | context | batch | ours tokens/s | generate tokens/s | times as fast |\n|---|---|---|---|---|---|")
    for name in dict.fromkeys(o[0] for o in ours):
        model = model_of(name, max(o[1] for o in ours) + MANY + 1)
        for _, context, batch, mine in (o for o in ours if o[0] == name):
            try:
                theirs = rate(model, batch, context)
                print(f"| {name} | {context} | {batch} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.1f} |", flush=True)
            except torch.cuda.OutOfMemoryError:
                print(f"| {name} | {context} | {batch} | {mine:.0f} | does not fit | |", flush=True)
        del model
        torch.cuda.empty_cache()


main()
