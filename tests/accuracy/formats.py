"""Formats of weights: each row of FORMATS makes a model of that format out of a plain one, with someone else's packer where
there is one, and says what every matrix then stands for, in float32.

Directories: make(format, plain, out) -> folder; its matrices of layers are packed (embedding, head, routers and norms stay as
they are), and beside it lies out + "-meaning", a plain float32 directory of what they mean: transformers reads that. Packers:
bitsandbytes and compressed-tensors are their own; GPTQ's, AWQ's and fp8's packing is written out here (what AutoGPTQ and
AutoAWQ make of it is compared in tests/golden/make_formats.py).

GGUF files: requantize() by ggml's own quantizers, compiled from llama.cpp's sources; their meaning is the gguf package's."""
import ctypes
import json
import os
import re
import shutil
import subprocess

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

MATRIX = re.compile(r"layers\.\d+\..*(_proj|w[123])\.weight$")
NOT_OURS = ("vision_tower.", "multi_modal_projector.")
E4M3_MAX = 448.0


# --- packing of one matrix: w [n][k] -> ({suffix: tensor}, float32 meaning) ---

def words(q, bits):
    """Codes [..][n] into int32 [..][n * bits / 32], from the low end."""
    per = 32 // bits
    out = torch.zeros(*q.shape[:-1], q.shape[-1] // per, dtype=torch.int64)
    for i in range(per):
        out |= q[..., i::per].long() << bits * i
    return torch.where(out >= 2**31, out - 2**32, out).to(torch.int32)


def affine(w, group, bits, g_idx, symmetric=False):
    """Codes [n][k], zeros and float16 scales [n][groups] by the extremes of each group; zeros are 1 at least."""
    top, groups = 2**bits - 1, w.shape[1] // group
    scale, zero = torch.zeros(w.shape[0], groups), torch.zeros(w.shape[0], groups, dtype=torch.int64)
    for g in range(groups):
        part = w[:, g_idx == g]
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if symmetric:
            high = torch.maximum(high, -low)
            low = -high
        s = ((high - low) / top).half().float().clamp(min=2**-14)
        scale[:, g] = s
        zero[:, g] = top // 2 + 1 if symmetric else (-low / s).round().clamp(1, top).long()
    q = (w / scale[:, g_idx]).round().long() + zero[:, g_idx]
    return q.clamp(0, top), zero, scale.half()


def meaning(q, zero, scale, g_idx):
    return scale.float()[:, g_idx] * (q - zero[:, g_idx]).float()


def gptq(bits, group, order=False, symmetric=False):
    def pack(w, seed):
        g_idx = torch.arange(w.shape[1]) // group
        if order:
            g_idx = g_idx[torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(seed))]
        q, zero, scale = affine(w, group, bits, g_idx, symmetric)
        return {"qweight": words(q, bits).t(), "qzeros": words(zero.t() - 1, bits),
                "scales": scale.t(), "g_idx": g_idx.int()}, meaning(q, zero, scale, g_idx)
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": symmetric,
              "checkpoint_format": "gptq"}
    return pack, config, group


def awq(group):
    places = [0, 2, 4, 6, 1, 3, 5, 7]  # of a word's eight outputs

    def shuffled(x):
        return x.reshape(*x.shape[:-1], -1, 8)[..., places].reshape(x.shape)

    def pack(w, _seed):
        g_idx = torch.arange(w.shape[1]) // group
        q, zero, scale = affine(w, group, 4, g_idx)
        return {"qweight": words(shuffled(q.t()), 4), "qzeros": words(shuffled(zero.t()), 4),
                "scales": scale.t()}, meaning(q, zero, scale, g_idx)
    return pack, {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}, group


def bnb4(kind, nested):
    def pack(w, _seed):
        import bitsandbytes.functional as F
        packed, state = F.quantize_4bit(w, blocksize=64, compress_statistics=nested, quant_type=kind)
        parts = {"weight." + k: v for k, v in state.as_dict(packed=True).items()}
        # As one row: a block of 64 may reach into the next row, which the dequantizer on CPUs (0.50.2) does not see.
        state.shape = torch.Size([w.numel()])
        return {"weight": packed, **parts}, F.dequantize_4bit(packed, state).float().reshape(w.shape)
    return pack, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
                  "bnb_4bit_use_double_quant": nested}, 1


def bnb8():
    def pack(w, _seed):
        import bitsandbytes.functional as F
        q, scb, _ = F.int8_vectorwise_quant(w.half())
        return {"weight": q, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)}, F.int8_vectorwise_dequant(q, scb)
    return pack, {"quant_method": "bitsandbytes", "load_in_8bit": True}, 1


def fp8(block):
    def pack(w, _seed):
        if not block:
            scale = (w.abs().amax() / E4M3_MAX).float()
            q = (w / scale).to(torch.float8_e4m3fn)
            return {"weight": q, "weight_scale": scale, "input_scale": torch.tensor(1.0)}, q.float() * scale
        n, k = (-(-x // block) for x in w.shape)
        padded = torch.zeros(n * block, k * block)
        padded[:w.shape[0], :w.shape[1]] = w
        scale = padded.reshape(n, block, k, block).abs().amax((1, 3)) / E4M3_MAX
        full = scale.repeat_interleave(block, 0).repeat_interleave(block, 1)[:w.shape[0], :w.shape[1]]
        q = (w / full).to(torch.float8_e4m3fn)
        return {"weight": q, "weight_scale_inv": scale}, q.float() * full
    config = {"quant_method": "fp8", "activation_scheme": "dynamic" if block else "static"}
    return pack, dict(config, fmt="e4m3", weight_block_size=[block, block]) if block else config, 1


def compressed(fmt, group, **weights):
    """compressed-tensors' own compressor; the meaning in float32, since its decompress() rounds to the scales' type."""
    args = {"type": "int", "num_bits": 4, "symmetric": True, "strategy": "group" if group else "channel",
            "group_size": group or None, **weights}

    def pack(w, _seed):
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
        a = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=a)
        groups = w.shape[1] // group if group else 1
        parts = w.reshape(w.shape[0], groups, -1)
        low, high = parts.amin(2).clamp(max=0), parts.amax(2).clamp(min=0)
        top = E4M3_MAX if a.type == "float" else 2**(a.num_bits - 1) - 1
        zero = None
        if a.symmetric:
            scale = (torch.maximum(high, -low) / top).to(torch.bfloat16)
        else:
            scale = ((high - low) / (2 * top + 1)).to(torch.bfloat16)
            zero = (-(top + 1) - low / scale.float()).round().clamp(-(top + 1), top).to(torch.int8)
        given = {"weight": w, "weight_scale": scale, **({} if zero is None else {"weight_zero_point": zero})}
        packed = BaseCompressor.get_value_from_registry(fmt).compress(given, scheme)
        q = packed["weight"] if "weight" in packed else unpack_from_int32(packed["weight_packed"], a.num_bits, w.shape)
        z = torch.zeros_like(low) if zero is None else zero.float()
        each = w.shape[1] // groups
        return packed, (q.float() - z.repeat_interleave(each, 1)) * scale.float().repeat_interleave(each, 1)
    config = {"quant_method": "compressed-tensors", "format": fmt, "ignore": ["lm_head"],
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": args, "input_activations": None}}}
    return pack, config, group or 1


def plain(dtype):
    return dtype, None, 1


# name: (packer, quantization_config, columns that must divide k)
DIRECTORIES = {
    "F32": plain(torch.float32),
    "BF16": plain(torch.bfloat16),
    "F16": plain(torch.float16),
    "GPTQ 4 g32": gptq(4, 32),
    "GPTQ 4 g128": gptq(4, 128, symmetric=True),
    "GPTQ 4 g128 act-order": gptq(4, 128, order=True),
    "GPTQ 8 g128": gptq(8, 128, symmetric=True),
    "GPTQ 8 g32 zeros": gptq(8, 32),
    "GPTQ 2 g32": gptq(2, 32),
    "AWQ g128": awq(128),
    "NF4": bnb4("nf4", False),
    "NF4 nested": bnb4("nf4", True),
    "FP4": bnb4("fp4", False),
    "LLM.int8": bnb8(),
    "fp8 tensor": fp8(0),
    "fp8 block 128": fp8(128),
    "pack-quantized 4 g128": compressed("pack-quantized", 128),
    "pack-quantized 4 g32 zeros": compressed("pack-quantized", 32, symmetric=False),
    "pack-quantized 8": compressed("pack-quantized", 0, num_bits=8),
    "int-quantized 8": compressed("int-quantized", 0, num_bits=8),
    "float-quantized 8": compressed("float-quantized", 0, num_bits=8, type="float"),
}
GGUF = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "IQ4_NL", "MXFP4"]
PACKED = ["bf16", "int8", "int4", "nf4", "fp4", "mxfp4", "mxfp8", "int2"]


class Misfit(Exception):
    """A combination that no file can have."""


def pack_all(name, tensors):
    """What the file holds, and what it means."""
    packer, config, group = DIRECTORIES[name]
    stored, means = {}, {}
    for i, (key, w) in enumerate(sorted(tensors.items())):
        w = w.float()
        if key.startswith(NOT_OURS) or (config and not MATRIX.search(key)):
            stored[key], means[key] = w.to(torch.bfloat16), w
        elif not config:
            stored[key] = w.to(packer)
            means[key] = stored[key].float()
        elif w.shape[1] % group:
            raise Misfit("%d columns are no multiple of the group of %d" % (w.shape[1], group))
        else:
            parts, means[key] = packer(w, i)
            stem = key[:-len("weight")]
            stored.update({stem + suffix: v for suffix, v in parts.items()})
    return stored, means


def make(name, plain_folder, out):
    stored, means = pack_all(name, load_file(os.path.join(plain_folder, "model.safetensors")))
    for folder, tensors in ((out, stored), (out + "-meaning", means)):
        shutil.copytree(plain_folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "adapter*"))
        save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    if DIRECTORIES[name][1]:
        path = os.path.join(out, "config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dict(config, quantization_config=DIRECTORIES[name][1]), f)
    return out


# --- ggml ---

STUBS = "".join("void %s(void); void %s(void) {}\n" % (f, f) for f in (
    "ggml_backend_buffer_get_usage", "ggml_backend_tensor_memset", "ggml_backend_tensor_set"))


def build_ggml(llama_cpp, work):
    """ggml's quantizers as a library, from three of its files."""
    for name, text in (("ggml-version.h", '#define GGML_VERSION "0"\n#define GGML_COMMIT "0"\n'), ("stubs.c", STUBS)):
        with open(os.path.join(work, name), "w", encoding="utf-8") as f:
            f.write(text)
    top = os.path.join(llama_cpp, "ggml")
    objects = []
    for source in (os.path.join(top, "src", "ggml.c"), os.path.join(top, "src", "ggml-quants.c"),
                   os.path.join(top, "src", "ggml-threading.cpp"), os.path.join(work, "stubs.c")):
        objects.append(os.path.join(work, os.path.basename(source) + ".o"))
        subprocess.run(["g++" if source.endswith("pp") else "gcc", "-O2", "-fPIC", "-D_GNU_SOURCE", "-I" + work,
                        "-I" + os.path.join(top, "include"), "-I" + os.path.join(top, "src"), "-c", source, "-o", objects[-1]],
                       check=True)
    library = os.path.join(work, "libggml-quants.so")
    subprocess.run(["g++", "-shared", "-o", library, *objects, "-lm"], check=True)
    return library


def quantizer(library):
    f = ctypes.CDLL(library).ggml_quantize_chunk
    f.restype = ctypes.c_size_t
    f.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantize(kind, values):
        values = np.ascontiguousarray(values, dtype=np.float32)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        k = values.shape[-1]
        out = np.zeros((*values.shape[:-1], k // block * size), dtype=np.uint8)
        n = f(int(kind), values.ctypes.data, out.ctypes.data, 0, values.size // k, k, None)
        assert n == out.nbytes, (kind, n)
        return out
    return quantize


def requantize(source, out, name, quantize):
    """A float32 GGUF file with its matrices in another type; routers and vectors stay."""
    kind, reader = gguf.GGMLQuantizationType[name], gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=field.types[-1] if array else None)
    for t in reader.tensors:
        values = gguf.dequantize(t.data, t.tensor_type)
        small = values.ndim < 2 or "ffn_gate_inp" in t.name
        if not small and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            raise Misfit("%d columns are no multiple of %s's block" % (values.shape[-1], name))
        if small:
            writer.add_tensor(t.name, values.astype(np.float32))
        elif kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(t.name, values.astype(np.float32))
        else:
            writer.add_tensor(t.name, quantize(kind, values), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
