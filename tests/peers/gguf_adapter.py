"""A PEFT adapter as llama.cpp's GGUF adapter, bf16 as it is: what its own converter writes for a Llama base, without torch.

Names: blk.N.attn_q.weight.lora_a and so on; a matrix [rows][columns] has the dimensions columns, rows. Llama's rope rotates neighbours
there instead of halves, so the rows of B of q and k are interleaved, head by head."""
import json
import struct
from pathlib import Path

BF16, ALIGN, STRING, FLOAT32 = 30, 32, 8, 6
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
         "up_proj": "ffn_up", "down_proj": "ffn_down"}


def string(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def interleave(data, rows, heads):
    size, dim = len(data) // rows, rows // heads
    row = lambda i: data[i * size:(i + 1) * size]
    return b"".join(row(h * dim + half * (dim // 2) + i) for h in range(heads) for i in range(dim // 2) for half in (0, 1))


def convert(folder, target, head_dim):
    """Writes `target` whole or not at all; an existing one is left as it is."""
    folder, target = Path(folder), Path(target)
    if target.exists():
        return target
    config = json.loads((folder / "adapter_config.json").read_text())
    raw = (folder / "adapter_model.safetensors").read_bytes()
    size = struct.unpack_from("<Q", raw)[0]
    tensors, infos, at = json.loads(raw[8:8 + size]), b"", 0
    tensors.pop("__metadata__", None)
    pieces = []
    for name, t in tensors.items():
        part = name.split(".")
        layer, module, which = part[part.index("layers") + 1], part[-3], part[-2][-1].lower()
        data = raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
        if which == "b" and module in ("q_proj", "k_proj"):
            data = interleave(data, t["shape"][0], t["shape"][0] // head_dim)
        infos += string(f"blk.{layer}.{NAMES[module]}.weight.lora_{which}") + struct.pack("<IQQIQ", 2, *reversed(t["shape"]), BF16, at)
        data += b"\0" * (-len(data) % ALIGN)
        pieces.append(data)
        at += len(data)
    words = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    meta = b"".join(string(k) + struct.pack("<I", STRING) + string(v) for k, v in words.items())
    meta += string("adapter.lora.alpha") + struct.pack("<If", FLOAT32, config["lora_alpha"])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(pieces), len(words) + 1) + meta + infos
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(str(target) + ".part")
    part.write_bytes(head + b"\0" * (-len(head) % ALIGN) + b"".join(pieces))
    part.rename(target)
    return target
