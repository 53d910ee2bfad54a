"""Seeded random weights: a base as a Hugging Face folder, adapters as PEFT folders. Plain Python, written as a stream.

A bf16 number is two bytes: the low one holds the exponent's last bit and seven bits of mantissa, the high one the sign and the rest of
the exponent. Random low bytes under a high byte that is one of two (+ and -) are numbers whose sizes spread over two octaves, which is
all that a bench needs of weights; numpy isn't needed for that.

  python3 random_weights.py base SHAPE FOLDER
  python3 random_weights.py adapter RANK FOLDER < state.json      (GET /weft/v1/state of the engine that is to serve it)
"""
import json
import os
import random
import shutil
import struct
import sys
from pathlib import Path

PIECE = 1 << 22  # numbers made at a time

# A bf16's high byte: sizes from 2^-7 to 2^-5 (weights), from 2^-9 to 2^-7 (adapters: their product is of second order)
WEIGHT_BYTE, ADAPTER_BYTE, ONE = 0x3C, 0x3B, b"\x80\x3f"

SHAPES = {
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True, "vocab_size": 151936, "torch_dtype": "bfloat16",
        "bos_token_id": 151643, "eos_token_id": 151645, "use_sliding_window": False,
    },
    "smollm2-135m-32k": {  # the small shape with a context that a prompt of 32,000 fits in
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": True, "vocab_size": 49152, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 49151,
    },
}


def numbers(rng, count, high):
    """`count` bf16 numbers as bytes, in pieces."""
    signs = bytes(high | (0x80 if i & 1 else 0) for i in range(256))
    while count:
        n = min(count, PIECE)
        piece = bytearray(2 * n)
        piece[0::2] = rng.randbytes(n)
        piece[1::2] = rng.randbytes(n).translate(signs)
        yield piece
        count -= n


def write_safetensors(path, tensors, seed):
    """tensors: name -> (shape, high byte, or None for ones); written in this order, whole or not at all."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, _) in tensors.items():
        size = 2
        for d in shape:
            size *= d
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    rng = random.Random(seed)
    part = Path(str(path) + ".part")
    with open(part, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        for name, (shape, high) in tensors.items():
            count = (header[name]["data_offsets"][1] - header[name]["data_offsets"][0]) // 2
            if high is None:
                f.write(ONE * count)
            else:
                for piece in numbers(rng, count, high):
                    f.write(piece)
    part.rename(path)


# --- a base ---


def base_tensors(c):
    hidden, mlp = c["hidden_size"], c["intermediate_size"]
    head = hidden // c["num_attention_heads"]
    q, kv = head * c["num_attention_heads"], head * c["num_key_value_heads"]
    t = {"model.embed_tokens.weight": ((c["vocab_size"], hidden), WEIGHT_BYTE)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"] = ((hidden,), None)
        for name, n in (("q", q), ("k", kv), ("v", kv)):
            t[f"{p}self_attn.{name}_proj.weight"] = ((n, hidden), WEIGHT_BYTE)
            if c["model_type"] == "qwen2":
                t[f"{p}self_attn.{name}_proj.bias"] = ((n,), WEIGHT_BYTE)
        t[p + "self_attn.o_proj.weight"] = ((hidden, q), WEIGHT_BYTE)
        t[p + "post_attention_layernorm.weight"] = ((hidden,), None)
        for name, n, k in (("gate", mlp, hidden), ("up", mlp, hidden), ("down", hidden, mlp)):
            t[f"{p}mlp.{name}_proj.weight"] = ((n, k), WEIGHT_BYTE)
    t["model.norm.weight"] = ((hidden,), None)
    return t


def byte_alphabet():
    """The characters that a byte-level BPE stands bytes for: printable ones for themselves, the others from 256 on."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = iter(range(256, 512))
    return [chr(b if b in printable else next(others)) for b in range(256)]


def tokenizer(vocab):
    """A byte-level BPE without merges; tokens beyond the bytes are words that no text becomes."""
    ids = {c: i for i, c in enumerate(byte_alphabet())}
    ids |= {f"w{i}": i for i in range(256, vocab)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "vocab": ids, "merges": []}}


def write_base(shape, folder, seed=1):
    """A Hugging Face folder; an existing one is left as it is."""
    folder, config = Path(folder), SHAPES[shape]
    if (folder / "config.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", base_tensors(config), seed)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(config["vocab_size"])))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"w{config['eos_token_id']}"}))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


# --- adapters ---

IN_MLP = ("gate_proj", "up_proj", "down_proj")


def adapter_tensors(base, rank):
    """`base`: what the engine's state says of its base; all of its modules, in all layers."""
    t = {}
    for i in range(base["layers"]):
        for name, (n, k) in base["modules"].items():
            p = f"base_model.model.model.layers.{i}.{'mlp' if name in IN_MLP else 'self_attn'}.{name}.lora_"
            t[p + "A.weight"] = ((rank, k), ADAPTER_BYTE)
            t[p + "B.weight"] = ((n, rank), ADAPTER_BYTE)
    return t


def write_adapter_config(folder, base, rank, alpha):
    (Path(folder) / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted(base["modules"]), "fan_in_fan_out": False, "inference_mode": True}))


def write_adapter(base, rank, folder, alpha=16, weights=None):
    """A PEFT folder. `weights`: an existing file of the same rank to link to instead of writing another: with another alpha it is
    another adapter all the same, with a digest, a slot and packed weights of its own."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        if weights:
            os.link(weights, file)
        else:
            write_safetensors(file, adapter_tensors(base, rank), rank)
    write_adapter_config(folder, base, rank, alpha)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("base", "adapter"):
        sys.exit(__doc__)
    if sys.argv[1] == "base":
        write_base(sys.argv[2], sys.argv[3])
    else:
        write_adapter(json.load(sys.stdin)["base"], int(sys.argv[2]), sys.argv[3])
