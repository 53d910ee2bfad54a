#!/usr/bin/env python3
"""Golden files of quantized formats: tests/golden/formats/*, read by tests/unit/test_source_formats.c.

Every file is packed by the project that defines its format, and what it stands for is computed by that project too, in float32:
ggml's blocks by the gguf package (random codes, so that every bit of a block counts), GPTQ by AutoGPTQ's pack(), AWQ by AutoAWQ's
unpacking, NF4, FP4 and LLM.int8 by bitsandbytes, packed and 8-bit formats by compressed-tensors; fp8 by torch's own e4m3.

    LD_LIBRARY_PATH=... python make_formats.py AUTO_GPTQ_DIR AUTOAWQ_DIR

The two folders are unpacked archives of auto-gptq 0.7.1 and autoawq 0.2.9: single files of theirs are loaded, since the packages
themselves want older transformers. Beside them: gguf 0.19.0, bitsandbytes 0.50.2, compressed-tensors 0.20.0, torch, safetensors."""
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent / "formats"
STEM = "model.layers.0.mlp.down_proj"
N, K, G = 16, 64, 32
torch.manual_seed(7)
rng = np.random.default_rng(7)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(name, config, tensors, expected):
    d = OUT / name
    d.mkdir(parents=True, exist_ok=True)
    text = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    if config:
        text["quantization_config"] = config
    (d / "config.json").write_text(json.dumps(text, indent=1) + "\n")
    named = {f"{STEM}.{k}": v.contiguous() for k, v in tensors.items()}
    save_file({"model.embed_tokens.weight": torch.ones(1, 32, dtype=torch.float16), **named}, d / "model.safetensors")
    save_file({"w": expected.float().contiguous()}, d / "expected.safetensors")


# --- ggml ---

GGML = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13,
        "Q6_K": 14, "IQ4_NL": 20, "BF16": 30, "MXFP4": 39}
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0]}  # where a block keeps float16 scales


def ggml():
    import gguf
    w = gguf.GGUFWriter(OUT / "ggml.gguf", "qwen2")
    for name, number in GGML.items():
        kind = gguf.GGMLQuantizationType(number)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if block == 1:
            raw = rng.standard_normal((2, 256)).astype(np.float32)
            raw = gguf.quants.quantize(raw, kind)
        else:
            blocks = rng.integers(0, 256, (2 * 256 // block, size), dtype=np.uint8)
            for at in HALVES.get(name, []):
                half = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
                blocks[:, at:at + 2] = half.view(np.uint8).reshape(-1, 2)
            if name == "MXFP4":
                blocks[:, 0] = rng.integers(100, 140, len(blocks))
                blocks[:2, 0] = [0, 1]
            raw = blocks.reshape(2, -1)
        w.add_tensor(f"blk.{number}.ffn_down.weight", raw, raw_dtype=kind)
        w.add_tensor(f"expected.{number}", gguf.quants.dequantize(raw, kind).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# --- GPTQ and AWQ ---

def grid(n, k, group, bits, least_zero=0):
    groups = k // group
    q = torch.randint(0, 2**bits, (n, k))
    z = torch.randint(least_zero, 2**bits, (n, groups))
    s = (torch.rand(n, groups) * 0.02 + 0.001).half()
    return q, z, s


def value(q, z, s, g_idx):
    return s.float()[:, g_idx] * (q - z[:, g_idx]).float()


def gptq(pkg, name, bits, n=32, group=G, v2=False, order=False, middle=False):
    qlinear = load(pkg / "auto_gptq/nn_modules/qlinear" / ("qlinear_cuda.py" if order else "qlinear_cuda_old.py"))
    q, z, s = grid(n, K, group, bits, least_zero=0 if v2 else 1)
    if middle:
        z[:] = 2**(bits - 1)
    g_idx = torch.arange(K) // group
    if order:
        g_idx = g_idx[torch.randperm(K)]
    w = value(q, z, s, g_idx)
    linear = torch.nn.Linear(K, n, bias=False)
    linear.weight.data = w
    m = qlinear.QuantLinear(bits, group, K, n, False)
    stored = (z + 1 if v2 else z).float()
    # pack() takes one from the zeros for the first format; the scales times zeros must still be the real ones
    real = value(q, torch.zeros_like(z), s, g_idx) - s.float()[:, g_idx] * stored[:, g_idx]
    linear.weight.data = real
    m.pack(linear, s.float(), stored.clone(), g_idx.int())
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": False,
              "checkpoint_format": "gptq_v2" if v2 else "gptq"}
    save(name, config, {"qweight": m.qweight, "qzeros": m.qzeros, "scales": s.t(), "g_idx": g_idx.int()}, w)


def awq(pkg):
    packing = load(pkg / "awq/utils/packing_utils.py")
    q, z, s = grid(N, K, G, 4)

    def pack(x):  # [rows][outputs]
        out = torch.zeros(x.shape[0], x.shape[1] // 8, dtype=torch.int64)
        for i, o in enumerate(packing.AWQ_ORDER):
            out |= x[:, o::8].long() << 4 * i
        return out.to(torch.int32)

    qweight, qzeros, scales = pack(q.t()), pack(z.t()), s.t().contiguous()
    iw, iz = packing.reverse_awq_order(*packing.unpack_awq(qweight, qzeros, 4), 4)
    iw, iz = iw & 15, iz & 15
    expected = ((iw - iz.repeat_interleave(G, 0)).float() * scales.float().repeat_interleave(G, 0)).t()
    save("awq", {"quant_method": "awq", "bits": 4, "group_size": G, "version": "gemm", "zero_point": True},
         {"qweight": qweight, "qzeros": qzeros, "scales": scales}, expected)


# --- bitsandbytes ---

def bnb():
    import bitsandbytes.functional as F
    w = torch.randn(N, K) * 0.05
    for name, kind, nested in (("nf4", "nf4", False), ("nf4_nested", "nf4", True), ("fp4", "fp4", False)):
        packed, state = F.quantize_4bit(w, blocksize=64, compress_statistics=nested, quant_type=kind)
        parts = {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
        save(name, config, {"weight": packed, **parts}, F.dequantize_4bit(packed, state))
    q, scb, _ = F.int8_vectorwise_quant(w.half())
    save("int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}, {"weight": q, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)},
         F.int8_vectorwise_dequant(q, scb))


# --- 8-bit floats ---

def fp8():
    e4m3 = torch.float8_e4m3fn
    w = (torch.randn(N, 2 * K) * 40).to(e4m3)
    block = torch.rand(2, 2) * 0.01
    full = block.repeat_interleave(12, 0)[:N].repeat_interleave(96, 1)[:, :2 * K]
    save("fp8_block", {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [12, 96]},
         {"weight": w, "weight_scale_inv": block}, w.float() * full)
    one = torch.tensor(0.0123)
    save("fp8_tensor", {"quant_method": "fp8", "activation_scheme": "static"},
         {"weight": w[:, :K], "weight_scale": one, "input_scale": torch.tensor(1.0)}, w[:, :K].float() * one)


# --- compressed-tensors ---

def ct():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def one(name, fmt, args, scale, zero):
        a = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=a)
        c = BaseCompressor.get_value_from_registry(fmt)
        groups = scale.shape[-1] if scale.ndim == 2 else 1
        w = torch.randn(N, K) * 0.3
        parts = {"weight": w, "weight_scale": scale}
        if zero is not None:
            parts["weight_zero_point"] = zero
        packed = c.compress(parts, scheme)
        expected = c.decompress(dict(packed), scheme)["weight"]
        if fmt != "float-quantized":  # what it means, in float32: decompress() rounds to the scale's type
            import compressed_tensors.compressors.pack_quantized.helpers as h
            q = packed["weight"] if "weight" in packed else h.unpack_from_int32(packed["weight_packed"], a.num_bits, torch.Size([N, K]))
            z = torch.zeros(N, groups) if zero is None else zero.float()
            s = scale.float().expand(N, groups)
            exact = (q.float() - z.repeat_interleave(K // groups, 1)) * s.repeat_interleave(K // groups, 1)
            assert torch.allclose(exact, expected.float(), rtol=2e-2, atol=1e-6), name
            expected = exact
        else:
            exact = packed["weight"].float() * scale.float()
            assert torch.allclose(exact, expected.float(), rtol=2e-2)
            expected = exact
        config = {"quant_method": "compressed-tensors", "format": fmt, "ignore": ["lm_head"],
                  "config_groups": {"group_0": {"targets": ["Linear"], "weights": {k: v for k, v in args.items()}, "input_activations": None}}}
        save(name, config, packed, expected)

    def scales(groups):
        return (torch.rand(N, groups) * 0.05 + 0.05).to(torch.bfloat16)

    def zeros(groups, bits):
        return torch.randint(-(2**(bits - 1)), 2**(bits - 1), (N, groups)).to(torch.int8)

    base = {"type": "int", "num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 32}
    one("ct_pack4", "pack-quantized", base, scales(2), None)
    one("ct_pack4_zero", "pack-quantized", {**base, "symmetric": False}, scales(2), zeros(2, 4))
    one("ct_pack8", "pack-quantized", {**base, "num_bits": 8, "strategy": "channel", "group_size": None}, scales(1), None)
    one("ct_pack3", "pack-quantized", {**base, "num_bits": 3}, scales(2), None)
    int8 = {"type": "int", "num_bits": 8, "symmetric": True, "strategy": "channel"}
    one("ct_int8", "int-quantized", int8, scales(1), None)
    one("ct_int8_zero", "int-quantized", {**int8, "symmetric": False}, scales(1), zeros(1, 8))
    one("ct_fp8", "float-quantized", {"type": "float", "num_bits": 8, "symmetric": True, "strategy": "channel"}, scales(1), None)


def main():
    auto_gptq, autoawq = Path(sys.argv[1]), Path(sys.argv[2])
    OUT.mkdir(exist_ok=True)
    ggml()
    gptq(auto_gptq, "gptq4", 4)
    gptq(auto_gptq, "gptq4_v2", 4, v2=True)
    gptq(auto_gptq, "gptq4_order", 4, order=True)
    gptq(auto_gptq, "gptq2", 2)
    gptq(auto_gptq, "gptq3", 3)
    gptq(auto_gptq, "gptq8", 8, middle=True)
    gptq(auto_gptq, "gptq8_zero", 8)
    awq(autoawq)
    bnb()
    fp8()
    ct()


main()
