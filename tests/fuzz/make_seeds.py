#!/usr/bin/env python3
"""Writes the seeds of the fuzzers that are made from golden files and tables (tests/fuzz/seeds/NAME/NN-...), each at most 4 KiB. Seeds that --min found
have other names and stay. Run it from anywhere; what it writes is the same each time."""
import base64
import hashlib
import json
import struct
from pathlib import Path

import seeds_of_api
import seeds_of_quality

TOP = Path(__file__).resolve().parents[2]
GOLDEN, SEEDS = TOP / "tests/golden", TOP / "tests/fuzz/seeds"
MOST_BYTES, MOST_FILES = 4096, 60
MORE_FILES = {"prompt_policy": 99, "headers": 99, "bodies": 240, "rule": 180, "ask": 99, "adapter": 99, "follow": 99, "peft": 99, "shards": 99, "model_config": 99, "pull": 140, "give": 99, "cli_run": 140, "redact": 99, "transcript": 99}  # of these most are there for a refusal of their own
MADE = {}


def seed(target, *inputs):
    for data in inputs:
        data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
        if len(data) <= MOST_BYTES:
            MADE.setdefault(target, {}).setdefault(data, None)


def dump(v):
    return json.dumps(v, ensure_ascii=False, separators=(",", ":"))


# --- adapters ---

def safetensors(tensors, meta=None, header=None):
    """tensors: (name, dtype, shape, bytes)"""
    at, head, data = 0, {}, b""
    if meta is not None:
        head["__metadata__"] = meta
    for name, dtype, shape, raw in tensors:
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data += raw
    text = (header or dump(head)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def values(n, dtype="F32", v=0.25):
    return {"F32": struct.pack(f"<{n}f", *[v + i / 100 for i in range(n)]), "F16": struct.pack(f"<{n}e", *[v] * n),
            "BF16": b"".join(struct.pack("<f", v)[2:] for _ in range(n))}[dtype]


SHAPES = {"q_proj": (4, 4), "k_proj": (4, 2), "v_proj": (4, 2), "o_proj": (4, 4), "gate_proj": (4, 6), "up_proj": (4, 6), "down_proj": (6, 4)}


def lora(names, r=2, dtype="F32", layers=(0, 1), prefix="base_model.model.model.", dora=False):
    out = []
    for layer in layers:
        for m in names:
            where = f"{prefix}layers.{layer}.{'self_attn' if m[0] in 'qkvo' else 'mlp'}.{m}"
            wide, high = SHAPES[m]
            out += [(f"{where}.lora_A.weight", dtype, [r, wide], values(r * wide, dtype)), (f"{where}.lora_B.weight", dtype, [high, r], values(high * r, dtype))]
            if dora:
                out.append((f"{where}.lora_magnitude_vector", dtype, [high], values(high, dtype, 1.0)))
    return out


def config(**more):
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "tiny", **more}


def pair(where, a, b, ends=("lora_A.weight", "lora_B.weight")):
    return [(f"base_model.model.{where}.{end}", "F32", s, values(s[0] * s[1])) for end, s in zip(ends, (a, b))]


def others():
    """Adapters of other bases and with limits (the byte in front), and what is refused late: (byte, config, tensors)."""
    at, q, one = "model.layers.0.", config(layers_to_transform=[0]), lora(["q_proj"], layers=[0])
    gate_up, down = at + "mlp.experts", at + "mlp.experts"
    stack_up, stack_down = pair(gate_up, [4, 4], [6, 4]), pair(down, [4, 3], [4, 4])
    inner = pair(at + "mlp.experts.base_layer", [4, 4], [6, 4])
    names = {"target_modules": [], "layers_to_transform": [0]}
    tied = pair("model.embed_tokens", [2, 5], [4, 2], ("lora_embedding_A", "lora_embedding_B"))
    whole = [("base_model.model.lm_head.weight", "F32", [5, 4], values(20))]
    expert = [t for w, a, b in (("gate_proj", 4, 3), ("up_proj", 4, 3), ("down_proj", 3, 4)) for x in (0, 1) for t in pair(at + f"mlp.experts.{x}.{w}", [1, a], [b, 1])]
    return [
        (1, config(target_modules=["qkv_proj"], layers_to_transform=[0]), pair(at + "self_attn.qkv_proj", [2, 4], [8, 2])), (1, q, one),
        (1, config(target_modules=["gate_up_proj"], layers_to_transform=[0]), pair(at + "mlp.gate_up_proj", [2, 4], [12, 2])),
        (8, config(target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], target_modules=[]),
         [t for i in (0, 1) for t in pair(f"model.layers.{i}.mlp.experts.base_layer", [4, 4], [6, 4]) + pair(f"model.layers.{i}.mlp.experts", [4, 3], [4, 4])]),
        (2, config(target_parameters=["mlp.experts.gate_up_proj"], target_modules=[]), [t for i in (0, 1) for t in pair(f"model.layers.{i}.mlp.experts", [4, 4], [6, 4])]),
        (2, config(target_parameters=["mlp.experts.down_proj"], target_modules=[]), [t for i in (0, 1) for t in pair(f"model.layers.{i}.mlp.experts", [4, 3], [4, 4])]),
        (0, config(target_parameters=["mlp.experts.down_proj"], **{"target_modules": []}), stack_up), (0, config(target_parameters=["mlp.experts.gate_up_proj"], target_modules=[]), pair(gate_up, [3, 4], [6, 3])),
        (0, config(target_parameters=["mlp.experts.gate_up_proj"], target_modules=["gate_proj"]), inner + expert),
        (0, config(target_modules=["gate_proj", "up_proj", "down_proj"], layers_to_transform=[1], r=1), expert), (3, config(target_modules=["lm_head"]), whole), (3, config(target_modules=["gate"]), pair(at + "mlp.gate", [2, 4], [2, 2])),
        (4, config(), one), (8, config(), lora(["q_proj", "v_proj"])), (0, config(alora_invocation_tokens=[1, 7], task_type="CAUSAL_LM"), one), (0, config(alora_invocation_tokens=[1], task_type="CAUSAL_LM", target_modules=["embed_tokens"]), tied),
        (0, config(target_modules=["embed_tokens"], ensure_weight_tying=True), tied + pair("lm_head", [2, 4], [5, 2])), (0, config(modules_to_save=["lm_head"]), lora(["q_proj"])), (0, config(target_modules=["lm_head"]), whole + pair("lm_head", [2, 4], [5, 2])),
        (0, q, pair(at + "self_attn.q_proj", [2, 4], [4, 1])), (0, q, lora(["q_proj"], layers=[0], dora=True)), (0, config(use_dora=True, layers_to_transform=[0]), one + [("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "F32", [3], values(3))]),
        (0, q, pair(at + "self_attn.q_proj", [2, 5], [4, 2])), (0, q, one + lora(["q_proj"], layers=[1], prefix="model.")), (0, q, one + pair(at + "self_attn.v_proj", [2, 4], [2, 2], ("lora_A.x.weight", "lora_B.x.weight"))),
        (0, q, one + pair(at + "mlp.gate", [2, 4], [2, 2]) + pair(at + "block_sparse_moe.gate", [2, 4], [2, 2])), (0, q, expert + stack_down), (0, config(target_modules=["embed_tokens"]), tied + [("base_model.model.model.embed_tokens.lora_magnitude_vector", "F32", [4], values(4))]),
        (0, config(modules_to_save=["lm_head"]), [("base_model.model.lm_head.base_layer.weight", "F32", [5, 4], values(20))]), (0, q, [("base_model.model.lm_head.weight", "F32", [6, 4], values(24))]), (0, config(target_modules=["nothing"]), one),
        (0, q, [("base_model.model.lm_head.modules_to_save.default.weight", "F32", [5, 4], values(20))]), (0, q, one + [("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "F32", [2, 4], values(8))]),
        (2, config(target_modules=[], target_parameters=["mlp.experts.gate_up_proj"], **{"layers_to_transform": None}), [("base_model.model." + gate_up + ".lora_magnitude_vector", "F32", [4], values(4))]), (0, q, [("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "F32", [8], values(8))]),
        (0, config(modules_to_save=["embed_tokens"]), one + [("base_model.model.model.embed_tokens.base_layer.weight", "F32", [5, 4], values(20))]),
    ]


def adapters():
    q, two = ["q_proj"], ["q_proj", "v_proj"]
    fine = [
        (config(), lora(q)), (config(target_modules=two), lora(two, dtype="F16")), (config(target_modules=q, use_rslora=True), lora(q, dtype="BF16")),
        (config(use_dora=True), lora(q, dora=True)), (config(target_modules=["gate_proj", "up_proj", "down_proj"]), lora(["gate_proj", "up_proj", "down_proj"])),
        (config(target_modules="all-linear"), lora(list(SHAPES))), (config(rank_pattern={"layers.0.self_attn.q_proj": 1}), lora(q, layers=[1])),
        (config(layers_to_transform=[1]), lora(q, layers=[1])), (config(target_modules=r".*\.q_proj"), lora(q)), (config(exclude_modules=["k_proj"]), lora(q)),
        (config(alora_invocation_tokens=[1, 2]), lora(q)), (config(target_modules=["q_proj", "embed_tokens"]), lora(q) + [
            ("base_model.model.model.embed_tokens.lora_embedding_A", "F32", [2, 5], values(10)), ("base_model.model.model.embed_tokens.lora_embedding_B", "F32", [4, 2], values(8))]),
        (config(target_modules=["lm_head"]), [("base_model.model.lm_head.lora_A.weight", "F32", [2, 4], values(8)), ("base_model.model.lm_head.lora_B.weight", "F32", [5, 2], values(10))]),
        (config(modules_to_save=["lm_head"]), lora(q) + [("base_model.model.lm_head.weight", "F32", [5, 4], values(20))]),
        (config(modules_to_save=["embed_tokens"]), lora(q) + [("base_model.model.model.embed_tokens.weight", "F16", [5, 4], values(20, "F16"))]),
        (config(target_modules=["gate"]), [(f"base_model.model.model.layers.{i}.mlp.gate.lora_{x}.weight", "F32", s, values(s[0] * s[1])) for i in (0, 1) for x, s in (("A", [2, 4]), ("B", [2, 2]))]),
        (config(target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"]), lora(q)),
        (config(target_modules=["w1", "w2", "w3"], r=1), [(f"base_model.model.model.layers.{l}.block_sparse_moe.experts.{x}.{w}.lora_{k}.weight", "F16", s, values(s[0] * s[1], "F16"))
            for l in (0,) for x in (0, 1) for w, wide, high in (("w1", 4, 3), ("w2", 3, 4), ("w3", 4, 3)) for k, s in (("A", [1, wide]), ("B", [high, 1]))]),
        (config(target_modules=["gate_proj", "up_proj", "down_proj"], r=1), [(f"base_model.model.model.layers.0.mlp.experts.{x}.{w}.lora_{k}.weight", "F16", s, values(s[0] * s[1], "F16"))
            for x in (0, 1) for w, wide, high in (("gate_proj", 4, 3), ("up_proj", 4, 3), ("down_proj", 3, 4)) for k, s in (("A", [1, wide]), ("B", [high, 1]))]),
        (config(target_modules=["qkv_proj"]), [("base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight", "F32", [2, 4], values(8)),
                                                ("base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight", "F32", [8, 2], values(16))]),
    ]
    bad = [
        (config(), lora(["k_proj"])), (config(r=4), lora(q)), (config(), lora(q)[:1]), (config(), lora(q, layers=[0, 7])), (config(bias="all"), lora(q)),
        (config(), [("x", "F32", [1], values(1))]), (config(), [(n, d, s, struct.pack("<f", float("nan")) + raw[4:]) for n, d, s, raw in lora(q)]),
        (config(), [(n, d, s, struct.pack("<f", 2e4) + raw[4:]) for n, d, s, raw in lora(q)]), (config(lora_alpha=4000), lora(q)), (config(use_dora=True), lora(q)),
    ]
    for c, tensors in fine + bad:
        if (c, tensors) not in (fine[6], fine[8], fine[9]):
            seed("adapter", dump(c).encode() + b"\0" + safetensors(tensors))
        seed("safetensors", safetensors(tensors))
        seed("peft", dump(c) + "\0model.layers.0.self_attn.q_proj")
        for t in tensors[:6]:
            seed("tensor_name", t[0])
    for how, c, tensors in others():
        seed("adapter", (bytes([how]) if how else b"") + dump(c).encode() + b"\0" + safetensors(tensors))
    headers = ['{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', '{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}',
               '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', '{"a":{"dtype":"F32","shape":[1,1,1],"data_offsets":[0,4]}}', '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
               '{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,4]}}', '{"a":{"shape":[1],"data_offsets":[4,0],"dtype":"F32"}}', "{}", "[]", "", '{"a":1}',
               '{"a/b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', '{"__metadata__":{"format":"pt","n":"\\u00e9"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
               '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":0}}', '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}']
    seed("safetensors", *[safetensors([], header=h) + values(1) for h in headers], safetensors(lora(q), meta={"format": "pt"}), b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b"\0" * 8)
    for f in sorted(GOLDEN.glob("adapters/*/adapter_config.json")):
        c = json.loads(f.read_text())
        seed("peft", dump({k: v for k, v in c.items() if v not in (None, [], {}, False)}) + "\0model.layers.1.mlp.down_proj")
    more = [{"alpha_pattern": {"^model.layers.0.*q_proj": 8, "v_proj": 2}}, {"layers_pattern": ["layers"], "layers_to_transform": 1}, {"init_lora_weights": "pissa"}, {"use_qalora": True},
            {"corda_config": {}}, {"r": 0}, {"r": 513}, {"lora_alpha": 1e308}, {"target_modules": "(?i)Q_PROJ"}, {"target_modules": "(a+)+$"}, {"target_modules": None}, {"target_modules": []},
            {"trainable_token_indices": [1]}, {"target_parameters": ["mlp.experts.gate_up_proj"]}, {"ensure_weight_tying": True, "modules_to_save": ["embed_tokens"]},
            {"task_type": "SEQ_CLS"}, {"peft_type": "IA3"}, {"lora_bias": True}, {"megatron_config": {}}, {"rank_pattern": {r"q_proj|(?<=k)_proj": 1}}, {"loftq_config": {"a": 1}}]
    more += [{"init_lora_weights": "pissa_niter_16"}, {"init_lora_weights": "Gaussian"}, {"init_lora_weights": "dream"}, {"init_lora_weights": 1}, {"alpha_pattern": {"a": 1e10}}, {"layers_to_transform": [3, 1, 2]}, {"layers_to_transform": 1024},
             {"alora_invocation_tokens": []}, {"alora_invocation_tokens": [-1]}, {"alora_invocation_tokens": [1], "use_dora": True}, {"alora_invocation_tokens": [1], "modules_to_save": ["lm_head"]}, {"layers_to_transform": 1, "target_modules": ".*q_proj"},
             {"exclude_modules": ".*down_proj"}, {"target_modules": "All-Linear"}, {"rank_pattern": {"(a*)*$": 2, "(.*)*x": 1}}, {"layers_pattern": "(" * 65 + "a" + ")" * 65, "layers_to_transform": 0}]
    seed("peft", *[dump(config(**m)) + "\0model.layers.0.self_attn.q_proj" for m in more])
    for how in "plfn":
        seed("peft", dump(config(how=how)) + "\0/" + how)
    seed("peft", "{\0/p", "version https://git-lfs.github.com/spec/v1\n\0/p")
    seed("tensor_name", "base_model.model.lm_head.modules_to_save.default.weight", "base_model.model.model.embed_tokens.base_layer.weight", "model.language_model.layers.3.self_attn.q_proj.lora_A.x.weight",
         "base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight", "base_model.model.model.layers.0.mlp.experts.lora_B.weight", "lm_head.lora_magnitude_vector.default.weight",
         "module._orig_mod.model.layers.1023.mlp.gate_up_proj.lora_B.weight", "model.embed_tokens.lora_embedding_A.default")
    desc = {"name": "Tiny", "digest": "ab" * 32, "also": ["x"], "layers": 2, "modules": {m: [b, a] for m, (a, b) in SHAPES.items()}, "vocab": 5, "hidden": 4, "experts": 2, "expert_mlp": 3}
    seed("base_desc", dump(desc) + "\0tiny", dump({**desc, "fused_qkv": True, "fused_gate_up": True}) + "\0org/Tiny-GGUF", dump({"name": "a"}) + "\0", dump({**desc, "layers": 0}), dump({**desc, "also": 1}),
         dump({**desc, "modules": {"q_proj": [1]}}), dump({**desc, "digest": "x"}) + "\0/tmp/x", dump(desc) + "\0unsloth/X-bnb-4bit", dump({**desc, "vocab": 1 << 40}))
    uneven = [[[4, 2, 6], [2, 2, 0]], [[4, 2, 6]], [[4, 2, 6], [9, 2, 6]], [[4, 2], [4, 2]], [4], "x", [[0, 0, 0], [0, 0, 6]], [[4, -1, 6], [4, 2, 1 << 40]]]
    seed("base_desc", *[dump({**desc, "widths": w}) + "\0tiny" for w in uneven])
    heads = {"medusa_num_heads": 3, "medusa_num_layers": 1, "hidden_size": 64, "vocab_size": 300, "medusa_accuracy": [[0.5, 0.1], [0.25, 0.125, 0], [1]]}
    seed("medusa", dump(heads), dump({"medusa_num_heads": 5}), dump({**heads, "hidden_size": 65}), dump({**heads, "medusa_accuracy": [[2], [], "x"]}), dump({**heads, "medusa_num_heads": 9}), dump({**heads, "medusa_num_layers": 0}),
         dump({**heads, "medusa_accuracy": None}), dump({**heads, "medusa_accuracy": [[0] * 8] * 3}), dump({**heads, "medusa_tokens": list(range(3, 20))}), dump({**heads, "medusa_tokens": [1, 1]}), "{}", "{")


# --- engine ---

def gguf(keys, tensors=(), version=3, align=32, tail=b""):
    def text(s):
        b = s.encode()
        return struct.pack("<Q", len(b)) + b

    def value(kind, v):
        if kind == 8:
            return text(v)
        if kind == 9:
            of, items = v
            return struct.pack("<IQ", of, len(items)) + b"".join(value(of, x) for x in items)
        return struct.pack("<" + "BbHhIifB"[kind] if kind < 8 else "<" + {10: "Q", 11: "q", 12: "d"}[kind], v)

    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, kind, v in keys:
        out += text(name) + struct.pack("<I", kind) + value(kind, v)
    at = 0
    for name, dims, kind, raw in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, at)
        at += len(raw) + -len(raw) % align
    out += b"\0" * (-len(out) % align)
    for _, _, _, raw in tensors:
        out += raw + b"\0" * (-len(raw) % align)
    return out + tail


def ggufs():
    arch = ("general.architecture", 8, "llama")
    kinds = [("a", k, 1 if k < 6 or k in (7, 10, 11) else 1.5) for k in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12)]
    words = ["<unk>", "<s>", "</s>", "\u2581a", "b", "ab", "<0x41>"]
    vocab = [("tokenizer.ggml.model", 8, "llama"), ("tokenizer.ggml.tokens", 9, (8, words)), ("tokenizer.ggml.scores", 9, (6, [0.0] * 3 + [-1.0, -2.0, -3.0, -4.0])),
             ("tokenizer.ggml.token_type", 9, (5, [2, 3, 3, 1, 1, 1, 6])), ("tokenizer.ggml.bos_token_id", 4, 1), ("tokenizer.ggml.eos_token_id", 4, 2)]
    bpe = [("tokenizer.ggml.model", 8, "gpt2"), ("tokenizer.ggml.pre", 8, "smollm"), ("tokenizer.ggml.tokens", 9, (8, ["<|endoftext|>", "a", "b", "ab", "\u0120", "\u0120a"])),
           ("tokenizer.ggml.merges", 9, (8, ["a b", "\u0120 a"])), ("tokenizer.ggml.token_type", 9, (5, [3, 1, 1, 1, 1, 1])), ("tokenizer.ggml.eos_token_id", 4, 0)]
    files = [gguf([arch]), gguf([arch] + [k]) if False else gguf([arch, ("general.alignment", 4, 64)], align=64), gguf([arch] + vocab), gguf([arch] + bpe), gguf([arch], version=2), gguf([arch], version=1),
             gguf([arch], [("t", [4], 0, values(4)), ("u", [4, 2], 1, values(8, "F16"))]), gguf([arch], [("q", [32, 2], 8, b"\1" * 68)]), gguf([arch], [("q", [32], 2, b"\1" * 18)]),
             gguf([arch], [("q", [256], 12, b"\1" * 144)]), gguf([arch], [("x", [4], 0, values(4))], tail=b"zz"), gguf([arch, ("b", 9, (9, [(4, [1, 2])]))]), b"GGUF", gguf([]),
             gguf([arch, ("general.name", 8, "")]), gguf([arch, arch]), gguf([arch], [("t", [1 << 62, 4], 0, b"")])]
    files += [gguf([arch, (n, k, v)]) for n, k, v in kinds]
    files += [gguf([arch, ("c", 9, (k, [1, 2, 3] if k != 8 else ["x", "yz"]))]) for k in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12)]
    seed("gguf", *files)
    pres = ["llama-bpe", "qwen2", "gpt-2", "deepseek-v3", "smollm", "default", "falcon", "tekken", "gpt-4o", "starcoder", "phi-2", "superbpe"]
    tok = [gguf([arch] + vocab), gguf([arch] + bpe)] + [gguf([arch] + [(n, k, p if n == "tokenizer.ggml.pre" else v) for n, k, v in bpe]) for p in pres]
    seed("tokenizer_gguf", *[t + b"\0Hello ab" for t in tok])


TYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "U8": 1, "I16": 2, "I32": 4, "I64": 8, "F8_E4M3": 1, "F8_E8M0": 1}


def header_of(tensors):
    """(name, dtype, shape): the header and the bytes of its data"""
    at, head = 0, {"__metadata__": {"format": "pt"}}
    for name, dtype, shape in tensors:
        n = TYPES[dtype]
        for d in shape:
            n *= d
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n]}
        at += n
    return dump(head), at


def folder(how, config, tensors, shard=None, index=None, room=None, b=None):
    """An input of shards: `tensors` in a.safetensors by their shapes alone, `shard` in b.safetensors whole."""
    head, data = header_of(tensors)
    b = safetensors(shard or []) if b is None else b
    if index is None:
        index = {"metadata": {"total_size": data}, "weight_map": {**{t[0]: "a.safetensors" for t in tensors}, **{t[0]: "b.safetensors" for t in shard or []}}}
    return bytes([how]) + (config if isinstance(config, str) else dump(config)).encode() + b"\0" + (index if isinstance(index, str) else dump(index)).encode() + b"\0" + head.encode() + b"\0" + struct.pack(">H", data if room is None else room) + b


def shards():
    c, at = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "model.layers.0."
    embed, b = [("model.embed_tokens.weight", "F16", [3, 32])], [("model.norm.weight", "F32", [4], values(4))]
    q, x = at + "self_attn.q_proj", at + "mlp.experts"
    plain = embed + [("lm_head.weight", "BF16", [3, 32]), (q + ".weight", "F32", [32, 32]), (q + ".bias", "F32", [32]), (at + "input_layernorm.weight", "F32", [32]), (at + "mlp.gate.weight", "F16", [2, 32])]
    out = [folder(0, c, plain, b), folder(1, c, [], [("model.embed_tokens.weight", "F32", [2, 4], values(8))]), folder(0, {**c, "tie_word_embeddings": True}, embed + [("lm_head.weight", "F16", [3, 32])], b),
           folder(0, {"model_type": "gemma3", "text_config": c}, [("language_model.model.embed_tokens.weight", "F16", [3, 32]), ("vision_tower.x.weight", "F32", [2])], b),
           folder(0, c, [("lm_head.weight", "F16", [3, 32]), ("norm.weight", "F32", [32])], b), folder(0, {**c, "tie_word_embeddings": False}, [("lm_head.weight", "F16", [3, 32]), ("model.norm.weight", "F32", [32])]),
           folder(0, c, embed + [(x + ".gate_up_proj", "F16", [2, 64, 32]), (x + ".down_proj", "F16", [2, 32, 32]), (x + ".0.up_proj.weight", "F16", [32, 32])]), folder(0, c, embed + [(x + ".gate_up_proj", "F16", [2, 32, 128]), (x + ".down_proj", "I8", [2, 32, 32])]),
           folder(0, c, embed + [(x + ".down_proj", "F16", [2, 5, 32]), (at + "block_sparse_moe.experts.1.w1.weight", "F16", [32, 32])]), folder(0, c, embed + [(q + ".weight", "I32", [32, 32]), (at + "self_attn.k_proj.weight", "F64", [4])]),
           folder(0, c, embed + [(at + "post_attention_layernorm.weight", "F32", [32]), (at + "pre_feedforward_layernorm.weight", "F32", [32]), (at + "self_attn.rotary_emb.inv_freq", "F32", [4]), (at + "self_attn.v_proj.bias", "F32", [0])]),
           folder(0, c, embed, [(at + "input_layernorm.weight", "F32", [2], struct.pack("<ff", float("nan"), 1)), (q + ".weight", "F32", [1, 2], struct.pack("<ff", float("inf"), 1))])]

    def quant(method, tensors, **more):
        return folder(0, {**c, "quantization_config": {"quant_method": method, **more}}, embed + [(q + end, t, s) for end, t, s in tensors])

    gptq = [(".qweight", "I32", [4, 32]), (".qzeros", "I32", [1, 4]), (".scales", "F16", [1, 32]), (".g_idx", "I32", [32])]
    packed, whole = [(".weight_packed", "I32", [32, 4]), (".weight_scale", "F16", [32, 1]), (".weight_shape", "I64", [2])], [(".weight", "F8_E4M3", [32, 32]), (".weight_scale", "F32", [1])]
    out += [quant("gptq", gptq), quant("gptq", gptq, checkpoint_format="gptq_v2"), quant("gptq", gptq, format="marlin"), quant("awq", [(".qweight", "I32", [32, 4]), (".qzeros", "I32", [1, 4]), (".scales", "F16", [1, 32])]), quant("awq", gptq, version="gemv"),
            quant("awq", gptq, checkpoint_format="gptq"), quant("fp8", [(".weight", "F8_E4M3", [32, 32]), (".weight_scale_inv", "F32", [1, 1])], weight_block_size=[32, 32], fmt="e4m3", activation_scheme="dynamic"), quant("fp8", whole, fmt="e5m2"),
            quant("fp8", whole, weight_block_size=[0]), quant("fp8", [(".weight", "F8_E4M3", [32, 32]), (".weight_scale", "F8_E8M0", [32, 1])]), quant("bitsandbytes", [(".weight", "U8", [512, 1]), (".weight.absmax", "F32", [16]), (".weight.quant_map", "F32", [16]), (".weight.quant_state.bitsandbytes__nf4", "U8", [80])]),
            quant("bitsandbytes", [(".weight", "I8", [32, 32]), (".SCB", "F32", [32]), (".weight_format", "U8", [])]), quant("compressed-tensors", packed, format="pack-quantized", config_groups={"group_0": {"weights": {"num_bits": 4}, "input_activations": {}, "format": "pack-quantized"}}),
            quant("compressed-tensors", [(".weight", "I8", [32, 32]), (".weight_scale", "F16", [32, 1])], format="int-quantized", config_groups={"g": {"weights": {"block_structure": [32, 32]}}}), quant("compressed-tensors", whole, format="mixed-precision", config_groups={"g": {"format": "x"}}),
            quant("compressed-tensors", whole, format="float-quantized", sparsity_config={"format": "sparse-24"}), quant("compressed-tensors", whole, transform_config={"a": 1}), quant("compressed-tensors", [], format="dense"), quant("compressed-tensors", whole, format="nvfp4"),
            quant("hqq", []), quant("gptq", whole), quant("fp8", [(".weight", "F8_E4M3", [32, 33])]), folder(0, {**c, "quantization_config": 1}, embed), folder(0, {**c, "compression_config": {"quant_method": "gptq"}}, embed), quant("gptq", gptq[1:])]
    out += [folder(how, c, embed, b) for how in (2, 6, 8, 12, 16, 17, 32)] + [folder(0, text, embed) for text in ("{", "", "[]", "version https://git-lfs.github.com/spec/v1\n")]
    name = "model.embed_tokens.weight"
    indices = ["", "{", "[]", "{}", '{"weight_map":{}}', '{"weight_map":{},"weight_map":{}}', '{"weight_map":[]}', '{"a":[[{"b":"\\""}],1.5],"weight_map":{"%s":"a.safetensors"}}' % name, '{"weight_map":{"%s":"../a.safetensors"}}' % name, '{"weight_map":{"%s":"c.safetensors"}}' % name,
               '{"weight_map":{"%s":"b.safetensors"}}' % name, '{"weight_map":{"%s":"a.bin"}}' % name, '{"weight_map":{"x":"a.safetensors"}}', '{"weight_map":{"\\u0061":"a.safetensors"}}', '{"weight_map":{"%s":"a.safetensors"' % name, '{"m":' + "[" * 40, '{"m":"x', '{"m":]}', '{"m":}',
               ' {\n"weight_map" :\t{ "%s" : "a.safetensors" , "model.norm.weight":"l.safetensors" } } ' % name, '{"weight_map":{"%s":"a.safetensors","model.norm.weight":"b.safetensors","%s":"b.safetensors"}}' % (name, name)]
    out += [folder(0, c, embed, b, index=i) for i in indices] + [folder(0, c, embed, embed and [(name, "F32", [1], values(1))]), folder(0, c, embed, b, room=191), folder(0, c, embed, b, room=193)]
    heads = ['{"%s":1}', '{"%s":{}}', '{"%s":{"dtype":"F32"}}', '{"%s":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}}', '{"%s":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}', '{"%s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', '{"%s":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}',
             '{"%s":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}', '{"%s":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,4]}}', '{"%s":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', '{"%s":{"dtype":"F32","shape":[1],"data_offsets":[0,5]}}', '{"%s":{"dtype":"F32","shape":[1],"data_offsets":[0,3]}}',
             '{"%s":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}', '{"%s":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"x":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}', '{"%s":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}', '{"":{}}', "{}", '{"%s":{"dtype":"F32","dtype":"F32"}}']
    out += [folder(1, c, [], b=safetensors([], header=h.replace("%s", name)) + values(1)) for h in heads] + [folder(1, c, [], b=x) for x in (b"", b"\0" * 9, b"\xff" * 16, b"version https://git-lfs.github.com/spec/v1\n")]
    seed("shards", *out)


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128, "vocab_size": 272}


def model_files():
    """Inputs of model_config: folders."""
    def of(c, how=0, words="", generation="", chat=""):
        return bytes([how]) + b"\0".join((x if isinstance(x, str) else dump(x)).encode() for x in (c, words, generation, chat))

    out = []
    for f in sorted(GOLDEN.glob("families/*/config.json")):
        out.append(of(json.loads(f.read_text()), 2 * (len(out) % 2)))
    scale = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    long = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    ropes = [scale, {**scale, "high_freq_factor": 0.5}, {**scale, "factor": None}, {"type": "linear", "factor": 2}, {"type": "dynamic", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.5, "truncate": False}, {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1, "beta_slow": 2}, long,
             {**long, "factor": 2.0, "original_max_position_embeddings": 32}, {**long, "long_factor": [-1.0] * 8}, {**long, "short_factor": 1}, {"type": "x"}, {"type": 1}, {"type": "linear", "factor": "2"}, {"type": "linear", "factor": -1}, {"type": "yarn", "attention_factor": -1, "factor": 2}, {"colour": 1}, []]
    out += [of({**LLAMA, "rope_scaling": r}, 2 * (i % 2)) for i, r in enumerate(ropes)]
    gemma = {**LLAMA, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "head_dim": 16, "num_key_value_heads": 2}
    nested = {"full_attention": {"rope_type": "linear", "factor": 8, "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    out += [of({**gemma, "rope_parameters": nested}, 2), of({**gemma, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 1e4}), of({**LLAMA, "rope_parameters": nested}), of({**gemma, "rope_parameters": {"rope_type": "default"}}), of({**gemma, "rope_parameters": {"full_attention": 1}}), of({**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 1.5}})]
    for more in ({"num_hidden_layers": 0}, {"num_hidden_layers": 1.5}, {"num_hidden_layers": "2"}, {"hidden_size": 65}, {"hidden_size": None}, {"num_key_value_heads": 3}, {"head_dim": 7}, {"head_dim": 6}, {"rms_norm_eps": 0}, {"rms_norm_eps": "x"}, {"num_nextn_predict_layers": 1}, {"is_causal": False}, {"hidden_act": "gelu"}, {"hidden_act": 1}, {"attn_logit_softcapping": 30.0},
                 {"tie_word_embeddings": "x"}, {"attention_bias": True, "mlp_bias": True}, {"attention_bias": 1}, {"use_sliding_window": True}, {"num_local_experts": 4}, {"rope_theta": 0.5}, {"partial_rotary_factor": 0.5}, {"vocab_size": 1 << 21}, {"max_position_embeddings": 1 << 20}, {"original_max_position_embeddings": 32},
                 {"model_type": "x"}, {"model_type": 1}, {"architectures": "x"}, {"architectures": ["GPT2LMHeadModel"]}, {"architectures": [1]}, {"model_type": None}, {"model_type": None, "architectures": None}, {"quantization_config": {"quant_method": "gptq"}}, {"text_config": LLAMA}):
        out.append(of({**LLAMA, **more}))
    window = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 4, "sliding_window": 16}
    out += [of({**window, **more}) for more in ({"use_sliding_window": True, "max_window_layers": 1}, {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True}, {"layer_types": ["sliding_attention"] * 2}, {"layer_types": ["x", "y"]}, {"layer_types": ["full_attention"]}, {"layer_types": 1}, {"sliding_window": -1})]
    moe = {**LLAMA, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    out += [of({**moe, **more}) for more in ({"mlp_only_layers": [0], "norm_topk_prob": True}, {"decoder_sparse_step": 2}, {"num_experts": 0}, {"num_experts_per_tok": None}, {"moe_intermediate_size": None}, {"norm_topk_prob": 1})]
    smol = {**LLAMA, "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"]}
    out += [of({**smol, **more}, 2) for more in ({"no_rope_layers": [1, 0]}, {"no_rope_layers": [1]}, {"no_rope_layer_interval": 2, "sliding_window": 8, "use_sliding_window": True})]
    out += [of(LLAMA, 4), of({**LLAMA, "tie_word_embeddings": True}, 4), of({**LLAMA, "vocab_size": 9}, 8), of({**LLAMA, "vocab_size": 3}), of("{"), of("[]"), of("")]
    words = [{"chat_template": "{{ messages[0].content }}", "bos_token": "<s>", "eos_token": {"content": "<s>"}, "model_max_length": 1000000000000000019884624838656, "add_bos_token": True}, {"chat_template": [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]}, {"chat_template": [{"name": "x"}]}, {"chat_template": 1},
             {"chat_template": "{% if"}, {"chat_template": None}, "{", {"added_tokens_decoder": {"4": {"content": "<s>", "special": True}}}]
    out += [of(LLAMA, 0, w) for w in words] + [of(LLAMA, 0, "", g) for g in ({"eos_token_id": [4, 1], "bos_token_id": 4}, {"eos_token_id": 999}, {"eos_token_id": "x"}, "[")]
    return out + [of(LLAMA, 0, "", "", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"), of(LLAMA, 16, words[0], "", "{{ 1 }}"), of(LLAMA, 16, words[0], "", "{% x"), of(LLAMA, 8)]


def model_ggufs():
    """Inputs of model_config: a GGUF's metadata with an embedding, in as many ways as it is read."""
    words = [("tokenizer.ggml.model", 8, "gpt2"), ("tokenizer.ggml.pre", 8, "smollm"), ("tokenizer.ggml.tokens", 9, (8, ["<|e|>", "a", "b", "ab"])), ("tokenizer.ggml.merges", 9, (8, ["a b"])), ("tokenizer.ggml.token_type", 9, (5, [3, 1, 1, 1])), ("tokenizer.ggml.eos_token_id", 4, 0)]
    embed = [("token_embd.weight", [32, 4], 8, b"\1" * 136)]

    def of(arch="llama", more=(), tensors=(), leave=(), how=1, also=()):
        keys = {"block_count": (4, 2), "embedding_length": (4, 32), "feed_forward_length": (4, 32), "attention.head_count": (4, 2), "context_length": (4, 64), "attention.layer_norm_rms_epsilon": (6, 1e-5)}
        keys.update({k: (t, v) for k, t, v in more})
        return bytes([how]) + gguf([("general.architecture", 8, arch)] + [(f"{arch}.{k}", t, v) for k, (t, v) in keys.items() if k not in leave] + list(also), embed + list(tensors))

    out = [of(also=words, how=3), of(also=words + [("tokenizer.chat_template", 8, "{{ 1 }}")], how=17), of("x"), of("qwen3", [("attention.key_length", 4, 16)]), of(leave=("block_count",)), of(leave=("attention.layer_norm_rms_epsilon",)), bytes([1]) + gguf([("general.architecture", 4, 1)]), bytes([1]) + gguf([("general.architecture", 8, "llama")])]
    out += [of("llama", [(k, t, v)], how=3) for k, t, v in (("rope.scaling.type", 8, "linear"), ("rope.scaling.type", 8, "llama3"), ("rope.scaling.type", 8, "x"), ("rope.dimension_count", 4, 8), ("rope.dimension_count", 4, 16), ("rope.freq_base", 6, 0.5), ("logit_scale", 6, 2.0), ("expert_count", 4, 4), ("attention.value_length", 4, 4),
            ("attention.causal", 7, 0), ("vocab_size", 4, 5), ("attention.head_count_kv", 4, 3), ("block_count", 8, "x"), ("expert_group_count", 4, 3), ("attention.sliding_window", 4, 8))]
    scaled = [("rope.scaling.factor", 6, 4.0), ("rope.scaling.original_context_length", 4, 16)]
    out += [of("llama", [("rope.scaling.type", 8, "yarn"), ("rope.scaling.yarn_log_multiplier", 6, 0.1), *scaled]), of("llama", [("rope.scaling.type", 8, "yarn"), ("rope.scaling.yarn_attn_factor", 6, 1.5), ("rope.scaling.attn_factor", 6, 0.5), *scaled]), of("llama", [("rope.scaling.type", 8, "linear"), *scaled])]
    eight = values(8)
    out += [of(tensors=[("rope_freqs.weight", [8], 0, eight)], how=3), of(tensors=[("rope_freqs.weight", [8], 0, b"\0" * 32)]), of("phi3", tensors=[("rope_factors_long.weight", [8], 0, eight), ("rope_factors_short.weight", [8], 0, eight)]), of("phi3", tensors=[("rope_factors_long.weight", [8], 0, eight)])]
    gemma, swa = [("attention.key_length", 4, 16), ("attention.value_length", 4, 16), ("attention.sliding_window", 4, 8)], "attention.sliding_window_pattern"
    out += [of("gemma3", gemma + more, how=3) for more in ([("rope.freq_base_swa", 6, 1e4)], [(swa, 4, 2)], [(swa, 9, (7, [1, 0]))], [(swa, 9, (7, [1]))], [(swa, 10, 1 << 40)], [(swa, 8, "x")], [("final_logit_softcapping", 6, 30.0)])]
    moe = [("expert_count", 4, 4), ("expert_used_count", 4, 2), ("expert_feed_forward_length", 4, 32)]
    out += [of("qwen3moe", moe, [("blk.0.ffn_gate_inp.weight", [32, 4], 8, b"\1" * 136)]), of("llama", moe), of("qwen2", [("attention.sliding_window", 4, 8)]), of("gemma2", [("block_count", 4, 46), ("attn_logit_softcapping", 6, 50.0)]), of("smollm3", how=3)]
    return out + [of(tensors=[("blk.0.attn_k.weight", [32, 16], 8, b"\1" * 544)]), of(tensors=[("blk.0.attn_q.bias", [32], 0, values(32))], also=words[:2])]


def small_tokenizer(d, keep=90):
    """The same parts with few words: the first ones (the single bytes stand there), and merges of these."""
    m = d["model"]
    if isinstance(m.get("vocab"), dict):
        words = sorted(m["vocab"].items(), key=lambda x: x[1])[:keep]
        m["vocab"] = dict(words)
        have = set(m["vocab"])
        merges = [x if isinstance(x, list) else x.split(" ") for x in m.get("merges", [])]
        m["merges"] = [" ".join(x) for x in merges if x[0] in have and x[1] in have and "".join(x) in have][:20]
    d["added_tokens"] = d.get("added_tokens", [])[:3]
    return d


def tokenizers():
    for f in sorted(GOLDEN.glob("tokenizer_hf/*.json")) + [GOLDEN / "adapters/base/tokenizer.json"]:
        d = json.loads(f.read_text())
        d = d.get("tokenizer", d) if isinstance(d, dict) else d
        if not isinstance(d, dict) or "model" not in d:
            continue
        for keep in (90, 40, 8):
            s = dump(small_tokenizer(json.loads(json.dumps(d)), keep))
            if len(s) <= MOST_BYTES - 10:
                seed("tokenizer_json", s + "\0ab cd 12")
                break
    m = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3, "<s>": 4}, "merges": ["a b"], "unk_token": "<s>", "byte_fallback": False}
    pres = [None, {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}, {"type": "Whitespace"},
            {"type": "Split", "pattern": {"Regex": "\\s+|\\p{L}+(?i:x)"}, "behavior": "Isolated", "invert": False}, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
            {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "ByteLevel"}]}]
    norms = [None, {"type": "NFC"}, {"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, {"type": "Prepend", "prepend": "\u2581"},
             {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}]
    decs = [None, {"type": "ByteLevel"}, {"type": "Metaspace", "replacement": "\u2581"}, {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}]
    added = [{"id": 4, "content": "<s>", "special": True, "lstrip": False, "rstrip": True, "normalized": False, "single_word": False}]
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}}
    for i in range(9):
        seed("tokenizer_json", dump({"version": "1.0", "added_tokens": added, "normalizer": norms[i % 8], "pre_tokenizer": pres[i], "post_processor": post if i % 2 else None, "decoder": decs[i % 4], "model": m}) + "\0ab <s> ba")
        seed("tokenizer_json", dump({"added_tokens": [], "normalizer": norms[(i + 3) % 8], "pre_tokenizer": pres[i], "decoder": decs[(i + 1) % 4], "model": {**m, "byte_fallback": True, "ignore_merges": bool(i % 2)}}) + "\0a")


def texts():
    chat = json.loads((GOLDEN / "chat.json").read_text())
    for c in chat["cases"]:
        seed("jinja", c["template"] + "\0more")
    for i in range(0, len(chat["expressions"]), 4):
        seed("jinja", "".join("{{ " + x["expr"] + " }}\n" for x in chat["expressions"][i:i + 4]))
    for f in sorted(GOLDEN.glob("chat_templates/*.jinja"), key=lambda f: f.stat().st_size)[:8]:
        seed("jinja", f.read_bytes())
    con = json.loads((GOLDEN / "constrain.json").read_text())
    step = max(1, len(con["schemas"]) // 50)
    for i, s in enumerate(con["schemas"]):
        if i % step == 0:
            seed("schema", dump(s["schema"]) + "\0" + "abcdefghijklmnop")
    for r in con["regexes"]:
        seed("regex", r["pattern"] + "\0" + "steer this walk")
    fields = [{}, {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 7, "stop": ["a", "b"]}, {"n": 2, "logprobs": True, "top_logprobs": 2}, {"logit_bias": {"5": 1.5, "7": -100}},
              {"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}}, {"guided_regex": "a+"},
              {"guided_choice": ["a", "b"]}, {"structured_outputs": {"json": {"type": "null"}}}, {"adapters": [{"name": "ab" * 32, "weight": 0.5}]}, {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
              {"stop_token_ids": [1, 2], "min_tokens": 1, "max_tokens": 9, "ignore_eos": True}, {"suffix": ""}, {"use_beam_search": True}, {"cache_salt": "s"}, {"max_completion_tokens": 3}, {"functions": []}, {"n": 1.0},
              {"presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 1.1, "typical_p": 0.5}, {"tool_choice": "required"}, {"parallel_tool_calls": False}, {"user": "u", "metadata": {}}]
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}]
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "1"}]
    for f in fields:
        chat_body, text_body = {"model": "m", "messages": messages[:2], **f}, {"model": "m", "prompt": "hello", **f}
        seed("ask", "\1" + dump(chat_body), "\0" + dump(text_body))
        seed("chat", "\1" + dump(chat_body), "\0" + dump(text_body))
        seed("words", b"\0\1" + dump(text_body).encode() + b'\0{"choices":[]}')
    for extra in ({"tools": tools}, {"tools": tools, "tool_choice": {"type": "function", "function": {"name": "f"}}}, {"tools": tools, "tool_choice": "none"}, {"tools": []}, {"chat_template_kwargs": {"a": 1}}):
        for target in ("ask", "chat"):
            seed(target, "\1" + dump({"model": "m", "messages": messages, **extra}))
    for prompt in (["a", "b"], [1, 2, 3], [[1], [2, 3]], [], [[]], None, 5):
        for target in ("ask", "chat"):
            seed(target, "\0" + dump({"model": "m", "prompt": prompt, "echo": True, "best_of": 2}))
    for adapters_ in ([{"name": "a"}] * 5, [{"name": "a", "weight": 1}, {"weight": 1}], [1], {"name": "a"}):
        seed("chat", "\1" + dump({"model": "m", "messages": messages[1:2], "adapters": adapters_}))
    policies = [{"truncate": {"max_tokens": 64, "head_turns": 1, "last_turns": 2}}, {"truncate": {"max_tokens": 32, "head_tokens": 8}}, {"compress": {"ratio": 0.5, "min_tokens": 64, "unit": "word"}},
                {"compress": {"ratio": 0.5}, "truncate": {"max_tokens": 99}, "text": {"a": "b"}}, {"text": {"a": 1}}, {"text": []}, {"other": 1}, [], {}, {"truncate": {}}, {"truncate": 1}, {"compress": []},
                {"compress": {"ratio": 2}}, {"compress": {}}, {"compress": {"ratio": 0.5, "unit": "page"}}, {"truncate": {"max_tokens": 16, "head_tokens": 16}}, {"truncate": {"max_tokens": 16, "x": 1}}]
    for p in policies:
        seed("ask", "\1" + dump({"model": "m", "messages": messages[:2], "weft_prompt_policy": p}))
    for p in policies[:3]:
        seed("ask", "\0" + dump({"model": "m", "prompt": "hello", "weft_prompt_policy": p}))
    seed("ask", "\1{", "\0[]", "\1" + '{"model":"m","model":"m"}')
    answers = ['<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
               '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2}}, {"name": "get_weather", "arguments": {}}]', '<|tool_call|>[{"name":"add","arguments":{"a":1}}]<|/tool_call|>',
               "Well.<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n</tool_call>", "<seed:tool_call>\n<function=add>\n</function>\n</seed:tool_call>",
               '<tool_calls>[{"name":"add","arguments":{}}]</tool_calls>', '<TOOLCALL>[{"name":"add","arguments":{}}]</TOOLCALL>', 'functools[{"name":"add","arguments":{}}]',
               "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>add\n```json\n{}\n```<\uff5ctool\u2581call\u2581end\uff5c><\uff5ctool\u2581calls\u2581end\uff5c>",
               '<function=add>{"a":1}</function>', '{"name": "add", "parameters": {"a": 1}}', '[TOOL_CALLS]add[CALL_ID]aB3dE6gH9[ARGS]{"a": 2}', '<|python_tag|>{"name":"add","parameters":{}}; {"name":"add","parameters":{}}']
    for i, a in enumerate(answers):
        seed("tools", bytes([i % 12, 8, 3]) + b"Text " + a.encode() + b" tail", bytes([i % 12, 8 + i % 8, 5]) + a.encode())
    ref = {"type": "object", "properties": {"$ref": {"$ref": "#/$defs/x"}, "b": {"enum": [{"$ref": "#"}], "items": [{"$ref": "#"}]}}, "$defs": {"x": {"$ref": "y#"}}}
    functions = [*tools, {"function": {"name": "g", "parameters": ref}}, {"function": {"name": "h", "parameters": {"type": 1, "default": {"$ref": "#"}}}}, {"function": 1}, 2]
    for named in (None, "f", "g", "h", "x"):
        seed("tools", b"\x0d\x08\0" + dump({"tools": functions[:3] if named else functions, "named": named, "messages": messages}).encode())
    seed("tools", b"\x0d\0\0" + dump({"tools": [], "messages": [{"tool_calls": [{"function": {"arguments": x}} for x in ("{\"a\":{}}", "[1]", "x", {}, None)]}]}).encode(), b"\x0c\x08\2Text <tool_call>")
    seed("tools", b"\0\x0d\1" + b'[{"name":"add","parameters":{"a":1}}]', b"\0\x0e\1" + b'{"a":1}', b"\0\x0e\1" + b'{"a":')
    seed("detok", "stop\0x\0\2hello stop", "\0\0\1caf\u00e9 \u65e5\u672c", b"\0\0\1\xc3\xff\xf0\x9f\x98", "ab\0bc\0\1aabbcc", "\u00e9\0\0\1x\u00e9y", "aab\0\0\1aaab")


# --- gateway ---

def what(kind, bits):
    """The first byte of an input of fuzz_engine, whose rest by 3 is the kind."""
    return next(bits + i for i in range(3) if (bits + i) % 3 == kind)


def streams():
    chunk = 'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
    last = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}\n\n'
    counts = ": weft 3 1 %d\n"
    for s in (counts % 1 + chunk + counts % 2 + last + "data: [DONE]\n\n", chunk + last, ": weft 1 0 0\n\n" + chunk, ": weft-time 1 2 3 4 5\n" + chunk, ": keep-alive\n\n" + chunk,
              'data: {"error":{"message":"m","code":"x"}}\n\n', ": weft 1 2\n: weft 1 2 3 4\n: weft -1 2 3\n: weft 9223372036854775807 0 9223372036854775807\n" + chunk,
              "data: drop\n\ndata: x\n\ndata: bad\n\ndata: y\n\ndata: [DONE]\n\n", chunk.replace("\n", "\r\n"), "event: ping\ndata:[DONE]\n\n", "data: a\ndata: b\n\n" + counts % 5 + "data: c", '{"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "choices":[{"finish_reason":"length"}]}', "1 2 3 4 5\r\n", "\n\n\r\n"):
        seed("relay", b"\3\7" + s.encode(), b"\x84\7" + s.encode())
    whole = {"id": "x", "model": "m", "choices": [{"index": 0, "text": "t", "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}}
    values_ = [dump(whole), dump({**whole, "choices": []}), dump({"error": {"message": "bad", "code": 400}}), dump({**whole, "usage": None}), '{ "a" : [ 1 , 2 ] , "b\\"c" : { } }', "[1,[2,{}],\"x\"]", "{}", "[]", "null", "12", '{"a":1,"a":2}',
               dump({"choices": [{"index": i, "delta": {"content": "x"}} for i in range(3)], "model": "m"}), "x", '{"a"', '{"model":"m","usage":{"completion_tokens":1}}', '{"choices":[{"index":200,"delta":{"tool_calls":[{}]}}]}']
    seed("json_walk", *values_)
    seed("json", *values_, '{"n":1e400}', '{"n":1000000000000000019884624838656}', '{"s":"\\u0000"}', '{"s":"\\ud800"}', '{"a":{"b":{"c":[[[[]]]]}}}', "\ufeff{}", '{"n":-0.0,"m":1E+2}', '{"i":9223372036854775808}')
    body = dump({"model": "m", "prompt": "x", "n": 2, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "adapters": [], "best_of": 2, "typical_p": 1.0, "guided_regex": "a", "max_tokens": 3})
    for i, v in enumerate(values_):
        seed("words", [b"\0\0", b"\1\1", b"\2\4"][i % 3] + (body if i % 4 else '{"model":"m"}').encode() + b"\0" + v.encode())
    digest = "0123456789abcdef" * 4
    told = [dump({"error": {"message": f"adapter {digest} of {digest[:8]} and `{digest}`", "code": "x"}}), dump({"object": "list", "data": [{"id": "base", "max_model_len": 4096}, {"id": digest, "parent": "base"}, {"id": "other", "parent": None}, {"id": 5}, {}]}),
            dump({"data": [{"id": "x" * 200}, {"id": "other", "max_model_len": -1}]}), dump({"data": [{"id": ""}]}), dump({"data": []}), dump({"id": "x", "choices": [{"index": 0, "text": "x"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
            "1 2 3 4 5\r\n", f"data: {dump(whole)}\n\ndata: [DONE]\n\n",
            ": weft 3 1 2\ndata: x\n\n: weft-time 1 2 3 4 5\n\n: weft 1 2 -3\n: weft 1 2\n\ndata: {\"error\":{\"code\":\"abc\"}}\n\ndata: [DONE]\n\n"]
    for i, v in enumerate(told):
        seed("words", *[bytes([k, i * 2 + (k == 0)]) + b'{"model":"m"}\0' + v.encode() for k in (0, 2)])
    for i, field in enumerate(('"guided_json":{}', '"guided_regex":"a","structured_outputs":{}', '"guided_choice":null', '"best_of":1,"n":1', '"best_of":3', '"typical_p":0.5', '"adapters":[{"name":"x","weight":1}]', '"adapters":[{"name":"x"},{"name":"y"}]', '"adapters":{}',
                  '"adapters":[{"name":"x","weight":0.5}]', '"stream_options":{"include_usage":true}', '"stream_options":{"include_usage":true,"continuous_usage_stats":true}', '"cache_salt":"s","n":3', '"adapters":null,"typical_p":1')):
        seed("words", b'\0\2{"model":"m",' + field.encode() + b"}\0{}")
        seed("engine", *[bytes([what(k, 64), how]) + b'{"model":"m",' + field.encode() + b"}" for k, how in ((0, 2), (2, 2 + i % 2), (1, 4)) if k == 0 or (k == 2 and i > 9) or i == 0])
    page = "# HELP x\nvllm:num_requests_running{engine=\"0\"} 1.0\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc{a=\"b\"} 0.5\nvllm:request_success_total{finished_reason=\"stop\"} 4\nvllm:generation_tokens_total 99\n"
    models = dump({"object": "list", "data": [{"id": "base", "max_model_len": 4096}, {"id": "ab" * 32, "parent": "base"}, {"id": "other", "parent": None}]})
    refusals = [dump({"error": {"message": m, "type": "t", "param": p, "code": c}}) for m, p, c in (("This model's maximum context length is 10 tokens (parameter=max_tokens, value=5000)", "input_tokens", 400), ("No adapter found for x", None, 404), ("has already been loaded", "", 400), ("max_lora_rank", None, 500), ("The model `" + "ab" * 32 + "` does not exist", "model", 404))]
    state = dump({"model": "base", "base": {"name": "Tiny", "digest": "ab" * 32, "layers": 2, "modules": {"q_proj": [4, 4]}}, "max_context": 4096, "pid": 5, "running": 1, "waiting": 2, "slots": {"total": 4}, "adapters": [{"digest": "ab" * 32}]})
    whole_state = dump({"model": "base", "base": {"name": "Tiny", "digest": "ab" * 32, "layers": 2, "modules": {"q_proj": [4, 4]}}, "store": "/s", "max_context": 4096, "pid": 5, "running": 1, "waiting": 2, "ready": True,
                        "device": {"backend": "cuda", "name": "x", "ranks": 1, "memory": 5}, "slots": {"total": 4, "resident": 2, "loading": 1}, "pages": {"total": 10, "used": 5}, "steps": {"count": 9, "p50_us": 5, "p99_us": 7},
                        "prompt_tokens": 3, "cached_tokens": 1, "output_tokens": 2, "finish_reason": "stop", "nonce": "ab" * 16, "proof": "cd" * 32, "data": [{"id": "ab" * 32, "state": "ready"}, {"id": "base", "max_model_len": 5}]})
    resident = dump({"data": [{"id": i, "state": "resident"} for i in ("ab" * 32, "base", "", "AB" * 32, 5)]})
    odd = whole_state.replace('"count":9', '"count":-9').replace('"used":5', '"used":50')
    seed("engine", *[bytes([what(k, 0)]) + x.encode() for k, x in ((0, page), (0, models), (1, page), (1, state), (1, whole_state), (2, models))], *[bytes([what(1, 0)]) + x.encode() for x in (resident, odd, "{}", '{"running":-1}')],
         bytes([what(0, 0)]) + page.replace("0.5", "50").encode(), bytes([what(0, 0)]) + page.replace("2", "9e9").encode(), *[bytes([what(k, 16)]) + dump({"base": json.loads(state)["base"], "store": "/s", "data": [{"id": "base"}]}).encode() for k in (0, 1)],
         *[bytes([what(k, 32), how]) + whole_state.encode() for k, how in ((0, 3), (1, 3), (2, 3), (2, 1), (1, 16 + 11), (2, 16 + 11), (2, 10), (1, 32 + 11), (0, 32 + 11), (1, 64 + 11))],
         *[bytes([what(k, 8), status]) + refusals[r].encode() for k, status, r in ((0, 0, 0), (0, 3, 4), (0, 3, 1), (0, 7, 1), (0, 8, 3), (0, 10, 2), (1, 3, 4), (1, 6, 2), (1, 10, 2), (1, 0, 0), (2, 0, 0), (2, 7, 3), (2, 8, 3))])
    form = "--b\r\nContent-Disposition: form-data; name=\"config\"\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; name=\"weights\"; filename=\"a.safetensors\"\r\nContent-Type: application/octet-stream\r\n\r\nDATA\r\n--bDATA\r\n-\r\n--b--\r\n"
    for head, b in (("multipart/form-data; boundary=b", form), ("multipart/form-data; boundary=\"b\"", form), ("Multipart/Form-Data; charset=x; boundary=b", "preamble\r\n" + form + "epilogue"), ("multipart/mixed; boundary=b", form),
                    ("text/plain", ""), ("multipart/form-data", form), ("multipart/form-data; boundary=", ""), ("multipart/form-data; boundary=a b", form), ("multipart/form-data; boundary=b; boundary=c", form),
                    ("multipart/form-data; boundary=b", form.replace("\r\n", "\n")), ("multipart/form-data; boundary=b", form.replace("form-data", "attachment")), ("multipart/form-data; boundary=b", form.replace('name="config"', "name*=utf-8''x")),
                    ("multipart/form-data; boundary=b", form.replace("Content-Type", "Content-Transfer-Encoding")), ("multipart/form-data; boundary=b", "--b--\r\n"), ("multipart/form-data; boundary=b", form.replace('"config"', '"c\\"x"')),
                    ("multipart/form-data; boundary=b", "".join(f"--b\r\nContent-Disposition: form-data; name={i}\r\n\r\n\r\n" for i in range(9)) + "--b--"), ("multipart/form-data; boundary=b", form.replace("}", "\r\n-\r\r\n--x"))):
        seed("multipart", head + "\n\4" + b)


def requests():
    lines = ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
             "GET /item/x%20y?a=1&b=%26+c HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /sink HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
             "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
             "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /%2e%2e HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
             "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
             "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
             "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "DELETE /echo HTTP/1.1\r\nHost: a\r\n\r\n", "POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n" + "x" * 99, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
             "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n", "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + "".join(f"X{i}: y\r\n" for i in range(70)) + "\r\n",
             "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcdeGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /item/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /item/%C3%A9 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"]
    seed("http", *[b"\x20" + x.encode("latin-1") for x in lines])
    get = "GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
    for how, steps in ((32, "sw.w.w"), (32, "scw.dw.rWd.w"), (32, "scWWx"), (9, "scw..w.....x"), (32, ".sc.w.......................w"), (160, "sc.........................."), (32, "srWrWrWcd"), (32, "scw.d" + "." * 20 + "d"), (32, "s" + "." * 20 + "wxc")):
        seed("http", bytes([how]) + (get % ("stream?a=" + steps)).encode())
    for how, text in ((32, get % "stream" + get % "later?a=...r"), (32, get % "later?a=x"), (160, get % "later?a=...................."), (32, get % "later?a=...................."), (96, get % ""), (32, (get % "stream?a=scw...").replace("GET", "HEAD")),
                      (32, (get % "stream?a=scw.d.rw").replace("1.1", "1.0")), (32, "POST /item/x HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\nContent-Length: 3\r\n\r\nabc" + get % ""), (32, "POST /item/x HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
                      (32, "POST /item/x HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\n\r\n"), (32, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n"), (5, "POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + "x" * 100 + "\r\nff\r\n" + "y" * 255 + "\r\n0\r\n\r\n"),
                      (32, "POST /later?a=.. HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nhalf"), (32, "GET /a/b/c HTTP/1.1\r\nHost: a\r\nAccept: x\r\nAccept: y\r\nAuthorization: Bearer  t\r\n\r\n"), (32, "GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\n\r\n"),
                      (32, "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), (32, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")):
        seed("http", bytes([how]) + text.encode())
    uris = ["/", "/v1/models?limit=5&after=x", "/a?after=x&before=y", "/a?limit=101", "/a%20b?x=%26&y=+z", "/%2e%2e", "/a//b", "/a/./b", "/%ff", "/a%2fb", "/a%00", "/%zz", "/\u00e9", "/a?", "/a?&&=&x", "/a?after=12&limit=3", "/a?before=99999999999999999",
            "/a?limit=1&limit=2", "/a?after=", "*", "http://x/", "/" + "a/" * 40, "/%e2%82%ac?after=%e2%82%ac", "/a?after=" + "x" * 256]
    seed("uri", *uris)
    for v in ('"3"', "*", '"0"', 'W/"3"', '"3", "4"', "3", '""', '"x"', '"999999999999999999"', '"9999999999999999999"'):
        seed("conditions", v + "\n\nkey-1", "\n" + v + "\n", v + "\n" + v + "\na b")
    seed("conditions", "\n*\n" + "k" * 255, "\n\n" + "k" * 256, "\n\n\u00e9")
    seed("trace_context", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
         "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "a=b, ,c@d=e f", ",".join(f"k{i}=v" for i in range(33)), "a=", "=b", "A=b")
    digest = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    seed("digest_header", f"sha-256=:{digest}:", f"sha-512=:AAAA:, sha-256=:{digest}:", "sha-256=:AAAA:", "md5=:x:", f"sha-256=:{digest}", f"xsha-256=:{digest}:", "bytes 0-99/1000", "bytes 5-9/*", "bytes 9-5/10", "bytes 0-10/10", "bytes 0-0/1x",
         "items 0-1/2", "bytes 1-", "bytes 999999999999999999-999999999999999999/*", f"\tsha-256=:{digest[:-2]}1=:")
    v6 = [bytes.fromhex(x) for x in ("00000000000000000000000000000001", "20014860486000000000000000008888", "00000000000000000000ffff7f000001", "0064ff9b000000000000000008080808", "20020a000001" + "00" * 10, "20010db8" + "00" * 12,
                                     "fd00ec2" + "0" * 25, "0a000001" + "00" * 12, "08080808" + "00" * 12, "a9fea9fe" + "00" * 12, "64400000" + "00" * 12, "3fff" + "00" * 14, "2620004f8000" + "00" * 10)]
    urls = ["https://huggingface.co/a/b", "http://[::1]:80/x", "https://u:p@h/", "ftp://x/", "https://", "HTTPS://EXAMPLE.com:443?x#y", "http://a\\b/", "http://a b/", "https://h/" + "x" * 2040, "http://" + "h" * 300]
    for i, a in enumerate(v6):
        seed("import_address", a + (urls[i % len(urls)] + "\nhuggingface.co, [::1],example.com:443").encode())
    seed("key", "wft_0123456789AB_" + "a" * 43 + "_000000", "wfa_0123456789AB_" + "Z" * 43 + "_abcdef", "admin,writer", "inference,adapters,usage,keys", "read,write", "viewer", "billing,", b"\x05a\x06b", "wft_")
    a, b = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
    files = [("archive/usage_202601.db", a), (f"blobs/{a[:2]}/{a}/adapter_config.json", b), (f"blobs/{a[:2]}/{a}/adapter_model.safetensors", a), ("pepper", b), ("weft.db", a)]
    sums = "".join(f"{d}  {p}\n" for p, d in files)
    seed("backup_sums", sums, sums[:-1], "", "x\n", sums.replace("weft.db", "../weft.db"), sums.replace("  pepper", " *pepper"), "".join(sorted(sums.splitlines(True), reverse=True)), sums + sums, sums.replace(a[:2] + "/", "00/"), *[f"{d}  {p}\n" for p, d in files])
    seed("conf", "# comment\nlisten = 127.0.0.1:0\ndata = \"/tmp/a b\" # x\n", "pool_only = yes\nthreads=4\nmax_running = 8\n", "nonsense = 1\n", "threads = 999\n", "threads = 1\nthreads = 2\n", "threads\n", "data = \"x\n", "max_body = 4m\n", "listen=\n",
         " threads = 1 # c\n\n\t\n", "precision = exact#no\n", "max_body = 9223372036854775807g\n", "threads = 1\0\n", "data = \"a\" b\n", "device = cuda:1\r\n", "pool_only = maybe\n")
    lines = "threads = 1\nlisten = 10.0.0.1:1\n"
    seed("conf", *[lines + "\x1e" + words for words in ("", "--config\n@", "--config=@\n--threads=2\n--pool-only\nyes", "--listen\n0.0.0.0:9\n--\n--x\ny", "a\nb", "a\nb\nc", "--help", "--print-config", "--\n--help", "--threads", "-x", "--no-such=1",
                                                        "--config=@\n--print-config\n--help", "--listen\n--help", "--config", "--data=\"a b\"\n--model= x #y", "--config=@\n--threads=65", "-", "--config=@\n--currency=EU\n--provider-name=", "--max-context=1k")],
         *[lines + "\x1e" + words + "\x1e" + env for words, env in (("--config\n@", "WEFT_THREADS=3\nWEFT_LISTEN=x y\n"), ("--threads=4", "WEFT_THREADS=3\nWEFT_PREFIX_CACHE=off"), ("--config=@", "WEFT_CURRENCY=EURO"), ("", "WEFT_THREADS=\nPATH=x\nWEFT_DATA"),
                                                                   ("--config=@", "WEFT_PROVIDER_NAME=#\nWEFT_MAX_CONTEXT= 5"))])
    seed("csv", "plain\0with,comma\0with\"quote\0=1+1\0-5\0@x\0\tx\0two\nlines\0\u00e9\0", b"\xff\xfe\0+\0 =1\0'\0", "\uff1dx\0\uff0b\0\uff0d\0\uff20", b"\0\0\0", b"\x80\0\0\0\0\0\0\0", b"\xff" * 8, "a" * 100, "\r\0\n\0,\0\"\0\"\"")
    commands = ["tenant create NAME --json", "adapter upload acme x --config a.json --weights b", "key create --tenant acme --scope inference --scope usage --expires 30d", "usage --tenant acme --from 2026-01-01 --to 2026-02-01T00:00:00Z",
                "limit set --tenant acme --requests-per-minute 100k --cost-per-day 12.50", "alias set --tenant acme name a=1 b=2", "chat model hello --max-tokens 5", "adapter rm x@3 --tenant acme", "price set --input 0.15 --output 0.6", "--help", "help", "x", "-h",
                "engine add e --url http://x --kind vllm --set store=/x", "tenant list --limit 5", "webhook create --own --url https://x", "export --format csv", "-- --x", "key create -- --x", "tenant create a b c d", "budget set --bytes 2GiB", "top", "doctor"]
    words = ["12.50", "100k", "1.5G", "2GiB", "90s", "15m", "4w", "2027-01-31", "2027-01-31T12:00:00Z", "never", "none", "a=1", "a=true", "x=y=z", "0.15", "-5", "true", "1e3", "999999999999999999", "30d", "1h", "3601s", "2e1", "a=1.5", "=", "0x10", "nan", "1."]
    seed("cli", *["\n".join(words[i:i + 4]) for i in range(0, len(words), 4)])
    seed("cli", *[c.replace(" ", "\n") for c in commands])
    config_file = "key = wft_k\nadmin_key = wfa_k # mine\n[staging]\nurl = \"https://x\"\n"
    row = dump({"id": "i1", "name": "acme", "key": "wft_x", "object": "tenant"})
    for line, status, said in (("tenant list", 0, dump({"data": [json.loads(row)] * 2, "has_more": True, "last_id": "i1"})), ("tenant create acme", 1, row), ("tenant list --json", 0, dump({"data": [], "has_more": False})), ("key create --tenant acme", 1, row),
                               ("adapter list --limit 1", 0, dump({"data": [{}, 5]})), ("tenant show acme", 6, dump({"error": {"message": "m", "code": "not_found", "param": "name"}})), ("key create --tenant acme --scope a --scope b --own", 0, row),
                               ("tenant show acme --profile staging", 0, row), ("tenant show acme --profile none", 0, row), ("tenant show acme --json --config=@", 0, row), ("tenant show acme --config @", 11, "x"), ("--version", 0, ""), ("tenant", 0, ""),
                               ("tenant --help", 0, ""), ("nothing", 0, ""), ("", 0, ""), ("engine add e --kind openai --base b --secret-file=@ --setting a=1 --setting b=2", 1, row), ("tenant show a --url ftp://x", 0, row), ("usage --tenant a --since 7d --format csv", 0, row)):
        seed("cli", line.replace(" ", "\n") + "\x1e" + config_file + "\x1e" + chr(status) + said)
    seed("cli", "tenant\nlist\x1enonsense", "tenant\nlist\x1eurl = ftp://x\nkey=k", "x\x1e" + "a" * 4090, "x\x1e\n", "key\ncreate" + "\n--scope\nx" * 11)


# --- a standby's primary ---

def answer(how, data):
    return bytes([how, len(data) & 255, len(data) >> 8]) + data


def moment(gen=1, pages=3, more=0, count=3, epoch=0, size=0, tag=0, old=0, back=0):
    """Of fuzz_follow: the beginning of an answer in few bytes."""
    return bytes([epoch | size << 2 | tag << 4 | old << 5 | back << 6, gen, pages, more, count])


def filled(*rows):
    return bytes(x for row in rows for x in row)


def primaries():
    def pages(rows, names="", anew=0, **more):
        return answer(4 | anew, moment(count=len(rows), **more) + (names.encode() + b"\xff" if names else b"\xff") + filled(*rows))

    def hashes(fills, **more):
        return answer(5, moment(count=len(fills), **more) + bytes(fills))

    def file(path, data, offset=0, total=None):
        return answer(0, dump({"path": path, "bytes": len(data) if total is None else total, "offset": offset}).encode() + b"\n" + data)

    digest, other = "ab" * 32, "cd" * 32
    month = b"a month of rows"
    line = f"archive/usage_202609.db {len(month)} {hashlib.sha256(month).hexdigest()}\n"
    three = ((1, 1), (2, 2), (3, 3))
    pepper = file("pepper", b"p" * 32)
    first = pages(three, anew=8) + pepper
    blobs = f"blobs/ab/{digest}\n"
    files = file("c", b"{}") + file("w", b"weights")
    seed("follow", first, first + pages(((2, 9),), gen=2), first + pages((), gen=2, pages=2), first + pages(((4, 4),), gen=2, pages=4) + pages(((1, 7),), gen=3, pages=4),
         pages(three, names=blobs) + pepper + files, pages(three, names=line) + pepper + file("m", month), pages(three, names=line) + pepper + file("m", b"another"),
         pages(three, names=blobs + line) + pepper + files + file("m", month) + pages(((1, 2),), names=f"blobs/cd/{other}\n", gen=2) + files,
         pages(three, names=blobs + line) + pepper + files + file("m", month) + pages(((1, 2),), names=blobs + line + line.replace("09", "10"), gen=2) + file("m", month),
         pages(three[:1], more=2) + pages(three[1:], gen=2) + pages((), gen=2) + pepper, pages(three[:1], more=2) + pages(three[1:], epoch=1),
         first + answer(2 | 3 << 4, b'{"error":{"message":"no"}}') + hashes((1, 2, 0xff), gen=5, epoch=1) + pages(((3, 5),), gen=5, epoch=1),
         first + answer(2 | 3 << 4, b"") + hashes((0xff, 2), gen=5, epoch=1, more=3) + hashes((0xff,), gen=5, epoch=1) + pages(three, gen=6, epoch=1),
         first + answer(2 | 3 << 4, b"") + hashes((1,), more=2) + hashes((1,), epoch=1), first + pages(((1, 1),), gen=2, tag=1), first + answer(3, b"") + pages(((1, 1),), gen=2, anew=8),
         # what is not right: page 0, a page that is not there, another size midway, no size, one that goes on at itself
         first + pages(((1, 9), (0, 1)), gen=2), first + pages(((1, 9), (4, 1)), gen=2), first + pages(((1, 1),), gen=2, more=2) + pages(((1, 1),), gen=2, size=1), first + pages((), gen=2, more=1),
         first + answer(0, b'{"epoch":"e","tag":"tag","names":"","gen":2,"pages":3,"next":0,"count":0}\n'), first + hashes((1,), more=1), pages((), gen=0), pages((), pages=0),
         pages(three, names="archive/usage_../../.db 1 x\n") + pepper, pages(three, names=f"blobs/ab/{other}\n") + pepper, pages(three, names="x" * 300 + "\n") + pepper, pages(three, names="pepper\n") + pepper,
         pages(three) + file("pepper", b"p", total=2) + file("pepper", b"q", offset=1, total=2), pages(three) + file("pepper", b"p", total=2) + file("pepper", b"q", offset=1, total=3),
         pages(three) + file("pepper", b"", total=2), pages(three) + file("pepper", b"pp", total=1), pages(three) + file("pepper", b"p", total=2) + answer(3, b"") + pages(three) + file("pepper", b"q", offset=1, total=2),
         # a state in more answers than a look has time for; cut between them; received by a process before; a primary that writes faster than it answers; a new epoch meanwhile; one that was set back
         first + b"".join(pages(((i, i),), gen=2, pages=30, more=i + 1) for i in range(1, 22)) + pages(((30, 9),), gen=2, pages=30), pages(three[:1], more=2) + answer(3, b"") + pages(three[1:]) + pepper,
         pages(three[:1], more=2) + answer(3, b"") + answer(5 | 8, moment(count=3) + bytes((1, 2, 9))) + pages(three[1:]) + pepper, pages(three[:1], more=2) + answer(3, b"") + answer(2 | 8, b"") + hashes((1, 2, 3)) + pages(()) + pepper,
         first + (pages(((1, 1),), gen=2, more=2) + pages(((2, 1),), gen=3)) * 5 + pages((), gen=4), first + pages(((1, 1),), gen=2, more=2) + pages(((2, 1),), gen=2, epoch=1) + hashes((1, 2, 3), epoch=1) + pages((), epoch=1),
         first + answer(2 | 3 << 4, b"") + hashes((1, 2, 3), epoch=1, back=1), first + pages(((1, 5),), gen=2, old=1) + pages(((1, 6),), gen=3, more=2, old=1) + pages((), gen=3, old=1) + pages((), gen=3), answer(2 | 5 << 4, b""), first + answer(2 | 5 << 4, b""),
         pages(three, names=blobs + line) + pepper + answer(2 | 2 << 4, b"") + answer(2 | 2 << 4, b"") + pages((), gen=2) + file("c", b"{}") + file("w", b"weights"), pages(three, names=line) + pepper + file("m", b"another") + pages((), gen=2) + file("m", b"another"),
         answer(1, b"no parcel"), answer(1, b"x" * 100), answer(0, b"no line"), answer(0, b"[]\n"), answer(0, b"{}\n"), answer(2, b"{"), b"")


# --- fetched adapters ---

def pulls():
    q = ["q_proj"]
    c, w = dump(config()).encode(), safetensors(lora(q))

    def fetched(*answers, bits=0, config=c, weights=w):
        return bytes([0, bits]) + config + b"\0" + struct.pack("<H", len(weights)) + weights + b"".join(answers)

    def files(**more):
        both = [{"name": "adapter_config.json", "bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()}, {"name": "adapter_model.safetensors", "bytes": len(w), "sha256": hashlib.sha256(w).hexdigest()}]
        return answer(0, dump({"digest": "a" * 64, "files": both, **more}).encode())

    right, nothing = bytes([5]), answer(4, b"")
    seed("pull", fetched(), *[fetched(bits=b) for b in (1, 2, 4, 8, 16, 24, 40, 48, 80)], fetched(nothing, right, nothing), fetched(right, answer(6, b"x" * 9), answer(6, b"x" * 4)), fetched(right, answer(0, c), answer(3, w[:40]), answer(0, w)),
         fetched(right, answer(6, b"x" * 9), answer(0, c)), fetched(right, answer(0, c + b"x")), fetched(right, answer(0, c[:-1] + b" ")), fetched(right, answer(0, c[:-1] + b" "), answer(0, c[:-1] + b" ")), fetched(right, answer(1, c)),
         *[fetched(answer(2 + 7 * i, b"no")) for i in range(7)], fetched(right, answer(2 + 14, b"")), *[fetched(nothing * i) for i in (3, 6, 8)], fetched(files(), bits=1), fetched(files(files=[]), bits=1), fetched(files(digest=1), bits=1),
         fetched(answer(0, b"x" * 4097)), fetched(config=b"{}"), fetched(weights=b"x" * 9), fetched(answer(0, dump({"digest": "a" * 64, "files": [{"name": "adapter_config.json", "bytes": 1 << 17, "sha256": "b" * 64}, {"name": "adapter_model.safetensors", "bytes": 1 << 40, "sha256": "b" * 64}]}).encode()), bits=1))
    seed("pull", b"\1", *[b"\1" + struct.pack("<HB", at, v) for at in range(0, 1000, 37) for v in (3, 255)], b"\1" + struct.pack("<HB", 0, 3), b"\1" + struct.pack("<HB", 0, 4))
    load, unload, need, full, done, end, late = 0, 4, 8, 72, 9, 6, 14
    ids = [b"".join(bytes([load, i, 0, 0]) for i in range(6))]
    seed("pull", b"\2" + ids[0] + b"".join(bytes([need, i, 64, 0, done, i, 64, 0]) for i in range(1, 7)), b"\2" + ids[0] + bytes([need, 1, 9, 0, need, 1, 9, 0, done, 5, 0, 0, done, 1, 9, 2, end, 0, 0, 0, load, 1, 0, 0]),
         b"\2" + bytes([load, 0, 0, 0, need, 1, 255, 0, done, 1, 255, 0, load, 1, 0, 0, need, 2, 255, 0, load, 0, 0, 3, need, 3, 255, 0, done, 3, 9, 0, unload, 0, 0, 0, unload, 0, 0, 3]),
         b"\2" + bytes([load, 0, 0, 0, need, 1, 200, 0, done, 1, 200, 5, load, 0, 0, 5, need, 2, 200, 0, load, 0, 61, 3, done, 2, 0, 0]), b"\2" + bytes([load, 0, 0, 0, need | 16, 1, 0, 1, need | 16, 1, 0, 0, done | 32, 1, 0, 9]),
         b"\2" + bytes([load, 0, 0, 0, need, 1, 128, 0, done, 1, 0, 0, load, 1, 0, 0, need, 2, 200, 8, need, 2, 100, 0, done, 2, 0, 0, load, 2, 0, 0, need, 3, 130, 0]),
         # an unload ends a pull, and waits for its end; so does one that comes while its files are opened; what waits too long hears it; a full disk; the next in turn
         b"\2" + bytes([load, 0, 0, 0, unload, 0, 0, 0, load, 0, 0, 0, unload, 0, 0, 1, done, 1, 0, 0, load, 0, 0, 0, late, 0, 80, 0, late, 0, 10, 0, done, 2, 9, 0]),
         b"\2" + bytes([load, 0, 0, 0, need, 1, 9, 0, done, 1, 0, 32, load, 0, 0, 0, need, 2, 9, 0, done, 2, 0, 35, load, 0, 0, 33]),
         b"\2" + ids[0] + bytes([late, 0, 80, 0, done, 1, 0, 0]) + ids[0] + bytes([late, 0, 80, 0]), b"\2" + bytes([load, 0, 0, 0, unload, 0, 0, 0, load, 0, 0, 0, late, 0, 60, 0, late, 0, 60, 0]),
         b"\2" + bytes([load, 0, 0, 0, need, 1, 9, 0, done, 1, 0, 0, load, 1, 0, 0, need, 2, 9, 0, full, 2, 0, 0, full, 2, 0, 0, full, 2, 0, 8, done, 2, 0, 2]), b"\2" + bytes([load | 128, 1, 0, 0]) * 3 + ids[0])
    seed("pull", *[b"\3" + bytes(b) for b in ((need, 0, 9, 0, full, 0, 9, 0, done, 0, 9, 0), (full, 0, 9, 0), (done, 0, 0, 0), (done, 0, 0, 5), (need, 0, 9, 0, need, 0, 9, 0), (need, 0, 9, 0, full, 0, 9, 0, full, 0, 9, 0),
                                               (need | 16, 0, 0, 1), (need, 0, 0, 0), (need, 0, 9, 0, done, 0, 9, 7, done, 0, 9, 7), (need | 32, 0, 9, 9), (done, 0, 0, 250))])


# --- what engines and standbys ask for ---

def asked():
    for size in (0, 1, 1000, (1 << 63) - 1):
        seed("give", *[b"\0" + struct.pack(">Q", size) + s for s in (b"bytes=0-", b"bytes=0-0", b"bytes=999-", b"bytes=1000-", b"bytes=5-4", b"bytes=5-9999999999999999999999", b"bytes=-5", b"bytes=0-1,3-4", b"bytes= 1-", b"Bytes=1-", b"bytes=1-x", b"bytes=1", b"")])
    digest = "ab" * 32
    seed("give", *["\1" + s for s in ("pepper", "weft.db", "archive/usage_202609.db", "archive/usage_ 2026.db", "archive/usage_-20260.db", "archive/usage_202609.db/..", "archive/usage_000000.db", f"blobs/ab/{digest}/adapter_config.json",
         f"blobs/ab/{digest}/adapter_model.safetensors", f"blobs/cd/{digest}/adapter_config.json", f"blobs/ab/{digest}/../x", f"blobs/ab/{digest.upper()}/adapter_config.json", "blobs/../../../etc/passwd", "")])
    for v in ({}, {"epoch": "e", "since": 4294967295, "from": 16777216, "names": digest, "ranges": [1, 1, 2, 9, 16777216, 16777216]}, {"ranges": [1]}, {"ranges": [0, 1]}, {"ranges": [5, 4]}, {"ranges": [1, 2, 2, 3]}, {"ranges": [1, 16777217]}, {"ranges": [1, "2"]},
              {"ranges": {}}, {"ranges": None}, {"from": 0}, {"since": -1}, {"epoch": "x" * 37}, {"names": 1}, {"ranges": [x for x in range(1, 700)] + [700]}, {"most": 1, "have": 0}, {"most": 8000, "have": 4294967295, "since": 1}, {"most": 8001}, {"most": 0}, {"have": -1}, {"have": 4294967296}, {"since": 3}, {"since": 3, "have": None}):
        seed("give", "\2" + dump(v))
    seed("give", "\2nonsense")


# --- packed files ---

def packed(entries, meta=b"{}", how=3, magic=b"WEFTPACK", version=1, count=None, index=None, spare=0):
    """entries: (kind, layout, n, k, bytes, name)"""
    def even(n):
        return -(-n // 64) * 64

    at = even(128 + 256 * len(entries) + len(meta))
    body, rows = b"", b""
    for kind, layout, n, k, raw, name in entries:
        rows += struct.pack("<IIiiQQ", kind, layout, n, k, at + len(body), len(raw)) + struct.pack("<16f", *range(16)) + bytes(32) + name.encode().ljust(128, b"\0")
        body += raw.ljust(even(len(raw)), b"\0")
    meta_at = 128 + 256 * len(entries)
    text = struct.pack("<8sIIQQQQQQ", magic, version, 0, 128 if index is None else index, len(entries) if count is None else count, meta_at if meta_at % 64 == 0 else even(meta_at), len(meta), 0, 0) + bytes(64)
    return bytes([how]) + text + rows + meta.ljust(at - 128 - len(rows), b" ") + body + bytes(spare)


def packed_files():
    sizes = {0: (2, 256), 1: (2, 128), 2: (32, 1088), 3: (32, 640), 4: (32, 1152), 5: (32, 672), 6: (32, 640), 7: (32, 1152), 8: (32, 384)}

    def weight(layout, n=3, name="w"):
        return (1, layout, n, sizes[layout][0], bytes(i % 251 for i in range(sizes[layout][1])), name)

    blob, vector = (0, 0, 0, 0, b"{}", "config.json"), (2, 0, 5, 0, values(5), "final_norm")
    seed("packed", packed([blob, vector, weight(0)]), *[packed([weight(l)]) for l in sizes], packed([weight(2), weight(3, name="v"), weight(8, 32, "u")]), packed([vector, blob], b'{"type":"int4"}'), packed([]), packed([], b"[]"), packed([], b"{"), packed([blob], how=1), packed([blob], how=2),
         packed([blob], how=7), packed([blob], magic=b"WEFTPACX"), packed([blob], version=2), packed([blob], count=2), packed([blob], count=1 << 21), packed([blob], count=1 << 60), packed([blob], index=64), packed([blob], index=129), packed([blob, blob]), packed([(0, 0, 0, 0, b"x", "")]), packed([(0, 0, 0, 0, b"x", "n" * 128)]),
         packed([(3, 0, 0, 0, b"x", "n")]), packed([(1, 9, 3, 32, b"x", "n")]), packed([(1, 2, 3, 31, b"x", "n")]), packed([(1, 2, -1, 32, b"x", "n")]), packed([weight(2, 33)]), packed([(2, 0, 4, 0, values(5), "n")]), packed([(2, 0, 0, 0, b"", "n")]), packed([blob], spare=64), packed([(0, 0, 0, 0, b"", "e")]), b"\3WEFTPACK", b"")


# --- what others answer us ---

def answers():
    def says(text, **more):
        return "data: " + dump({"choices": [{"delta": {"content": text}}], **more}) + "\n\n"

    end, fails = "data: [DONE]\n\n", "data: " + dump({"error": {"message": "no", "code": "engine_error"}}) + "\n\n"
    whole = dump({"choices": [{"message": {"content": "yes \u00fc"}}]})
    streams = (says("one ") + says("two") + end, says("one").replace("\n", "\r\n") + end, ": a comment\nevent: x\nid: 1\n\n" + says("\n\u2028\U0001f600") + end + says("late"), fails + says("x") + fails, says("cut")[:-9], "data:[DONE]",
               "data: {\"choices\":[]}\ndata: []\ndata: {\"choices\":[{\"delta\":{\"content\":null}}]}\ndata: {\"choices\":[{\"delta\":{\"content\":\"\\u0000\"}}]}\n" + end, "data:\ndata: \ndata:  {}\n\r\n" + end, says("a") * 9, "")
    seed("chat_stream", *["\0" + s for s in streams], *["\x14" + s for s in streams[:4]], "\1" + whole, "\5" + whole, "\1{\"choices\":[{\"message\":{\"content\":null}}]}", "\1[]", "\1" + whole[:9], "\2" + fails[6:], "\6" + "x" * 90, "\3" + whole)
    dates = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Mon, 23 Nov 2026 12:00:00 GMT", "Wed, 01 Jan 9999 00:00:00 GMT", "Mon, 23 Nov 2026 12:00:00 GMT ", "Mon, 23 Nov 2026 12:00:00", "Mon,\t23 Nov +026 12:00:00 GMT")
    after = ("", "0", "7", "29", "86401", "999999999", "10000000000000000000000", "-1", "+7", " 7", "7s", "1e3", "soon", *dates)
    bodies = ({}, {"partialSuccess": {}}, *[{"partialSuccess": {"rejectedSpans": v, "errorMessage": "no"}} for v in (3, "3", 0, -1, "-1", "", "3x", "9" * 18, "9" * 19, 1 << 62, 1.5, None, [])])
    seed("otlp_answer", *[bytes([s // 4, 9]) + a.encode() + b"\0" for s, a in zip((0, 200, 400, 429, 500, 502, 503, 504) * 3, after)], *[bytes([50, 9]) + b"\0" + dump(b).encode() for b in bodies], b"\x32\x09\0<html>", b"")
    for i, a in enumerate(after):
        seed("webhook_answer", struct.pack(">HBBHI", (200, 204, 302, 410, 413, 429, 500, 503)[i % 8], i % 20, i * 37 % 256, (0, 3, 900, 65535)[i % 4], i * 1234567891 % (1 << 32)) + a.encode())
    def head(*lines, status="200 OK", body=b"", version="1.1"):
        return "\r\n".join((f"HTTP/{version} {status}", *lines, "", "")).encode() + body

    json_head, sized = "Content-Type: application/json", "Content-Length: 2"
    fields = ("Retry-After: 7", "ETag: \"5\"", "X-Request-Id: 0191d8a0-0000-7000-8000-000000000001", "x-weft-time:1 2 3 4 5", "Location: https://a/b?c")
    chunks = b"2\r\n{}\r\n0\r\nETag: late\r\n\r\n"
    seed("client", *[bytes([h]) + a for h in (0, 1, 2, 6) for a in (head(json_head, sized, body=b"{}"), head("Transfer-Encoding: chunked", *fields, body=chunks), head(*fields, body=b"x" * 40), head("Location: /x", sized, *fields, status="302 Found", body=b"{}"))],
         *[b"\0" + a for a in (head("Link: x", "ETag: early", status="103 Early Hints") + head(sized, body=b"{}"), head(status="100 Continue") + head(sized, status="503 No", body=b"{}"), head("Retry-After: " + "1" * 70, "X-Weft-Time: " + "1 " * 70), head("ETag: a\x01b", "X-Request-Id: \x1b[2J", "Retry-After:\t 7 \t"),
                                head("ETag:", "ETag: a", "etag: b", "X-Request-Id"), head("Content-Length: 9", body=b"{}"), head("Content-Length: 1", "Content-Length: 2", body=b"{}"), head("Content-Length: -1"), head(status="204 No Content"), head(version="1.0", body=b"x" * 2049), head(version="2"),
                                head("Transfer-Encoding: chunked", body=b"zz\r\n"), head("A: b\r\n  folded", "ETag: x\r\n y"), b"HTTP/0.9 200\n\nx", b"garbage", b"", b"HTTP/1.1 200 OK", head("X: " + "y" * 900))])
    counts = {"prompt_tokens": 12, "cached_tokens": 8, "output_tokens": 3}
    seed("engine_answers", *["\0" + dump(v) for v in ({**counts, "state": "completed", "finish_reason": "stop"}, {**counts, "state": "running", "finish_reason": None}, {"state": "x" * 17}, {"state": 1}, {"finish_reason": "x" * 16}, {"prompt_tokens": -1},
                                                      {"prompt_tokens": 1 << 31}, {"output_tokens": "3"}, {"output_tokens": 3.0}, {})], *["\1" + dump(v) for v in (counts, {"prompt_tokens": 10 ** 9}, {"prompt_tokens": 10 ** 9 + 1}, {"prompt_tokens": "1"}, {})], "\0[]", "\1",
         *[bytes([2, s]) + dump(v).encode() for s, v in ((0, {"max_error": 1e-7, "modules": {"q_proj": 1e-7, "v_proj": 1e-9}}), (0, {"max_error": 0, "modules": {}}), (0, {"max_error": 1e308, "modules": {"x" * 62 + "\u00fc": 1}}), (0, {"max_error": -1}), (0, {"max_error": "0"}), (0, {}), (0, {"max_error": 1, "modules": [1]}),
                                                         (1, {}), (1, {"error": {"code": "adapter_not_loaded"}}), (2, {}), (3, {"error": {"code": "adapter_invalid", "message": "x" * 302 + "\u00fc"}}), (4, {"error": {"message": "\u00fc"}}), (3, {"error": 1}), (5, {}))], b"\2\3<html>")


def told():
    """One answer that has something of each that `weft`'s commands look for; 55 is how many lines fuzz_cli_run.c has."""
    target = {"adapter": "sql", "base": "smol", "version": 3, "weight": 9, "requests": 12, "error_rate": 0.01, "abort_rate": 0, "ttft_ms": {"p50": 12, "p99": 40}, "cost_nano_avg": 120.5}
    row = {"id": "x", "name": "n", "seq": 7, "tenant": "t", "adapter": "sql", "version": 3, "state": "ready", "bytes": 123456, "rank": 8, "pinned": True, "created_at": 1790000000, "t": 1790000000, "aliases": ["a"], "resident": [{"name": "e"}], "start_time": 1790000000, "end_time": 1790086400,
           "results": [{"num_model_requests": 3, "input_tokens": 40, "output_tokens": 9, "cost_nano": 500000000, "model": "sql", "amount_nano": 70, "line_item": "x", "amount": {"value": 0.1, "currency": "eur"}}], "total_nano": 9, "n": 4, "p50": 1, "p90": 2, "p99": 3}
    versions = [{"version": 3, "state": "ready"}, {"version": 4, "state": "validating"}]
    all_of = {"object": "list", "data": [row], "has_more": False, "last_id": "x", "revision": 5, "targets": [target], "verdict": "worse", "reason": "more errors", "versions": versions, "id": "up", "state": "ready", "files": {}, "percentiles": [{"n": 4, "p50": 1, "t": 5}], "total": {"n": 9, "p99": 3}, "previous": {"n": 1}, "month": "2026-10", "currency": "eur", "final": False, "lines": [{"line_item": "x", "amount_nano": 70}],
              "adjustments": [{"reason": "gift", "cost_nano": -5}], "months": [{"month": "2026-10", "rows": 5}], "webhooks": [{"name": "w", "lag": 0}], "engines": [{"name": "e", "ratio": 1}], "last_verify": {"t": 1, "rows": 2, "bad": 0}, "secret": "whsec_x", "key": "wf_k", "ok": True, "verification": {"ok": True}, "limits": {"tokens_per_day": 5}, "usage": {"tokens_per_day": {"used": 1}}, "settings": [{"name": "port", "value": 1}], "bad": 0, "rows": 3}
    first, rest = dump(all_of).encode(), dump({**all_of, "data": [], "state": "failed"}).encode()
    more = dump({**all_of, "has_more": True, "next_page": "2"}).encode()
    for i in range(55):
        seed("cli_run", bytes([i, 0]) + first + b"\x1e\0" + rest, bytes([i, 0]) + more + b"\x1e\0" + first if i % 3 == 0 else bytes([i, 7]) + b'{"error":{"code":"not_found","message":"no"}}')
    most = first.replace(b":70", b":9223372036854775807").replace(b":9,", b":9223372036854775807,").replace(b":120.5", b":1e300").replace(b":500000000", b":-9223372036854775808").replace(b":1790000000", b":9223372036854775807")
    seed("cli_run", *[bytes([i, 0]) + most for i in (0, 2, 3, 9, 12, 15, 19)])
    seed("cli_run", b"\0\0", b"\0\0[]", b"\0\x05<html>", b"\x0f\0{}", b"")


def main():
    answers()
    told()
    packed_files()
    adapters()
    primaries()
    pulls()
    asked()
    ggufs()
    shards()
    seed("model_config", *model_files(), *model_ggufs())
    tokenizers()
    texts()
    streams()
    requests()
    seeds_of_api.policies(seed, dump)
    seeds_of_api.headers(seed)
    seeds_of_api.bodies(seed, dump)
    seeds_of_api.rules(seed, dump)
    seeds_of_quality.strips(seed, dump)
    seeds_of_quality.transcripts(seed, dump)
    seeds_of_quality.redactions(seed, dump)
    for target, inputs in sorted(MADE.items()):
        folder = SEEDS / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9]*-*"):
            old.unlink()
        step = max(1, -(-len(inputs) // MORE_FILES.get(target, MOST_FILES)))
        for i, data in enumerate(list(inputs)[::step]):
            (folder / f"{i:02d}-{hashlib.sha256(data).hexdigest()[:8]}").write_bytes(data)
        print(f"{target:<16} {len(list(folder.iterdir())):>4} files {sum(f.stat().st_size for f in folder.iterdir()):>8} bytes")


main()
