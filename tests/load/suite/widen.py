"""A GGUF file whose matrices are Q4_1 and Q8_0 again as one whose matrices are bf16: the demo base for those who compare in bf16.

The blocks stand for exactly d * q + m, or d * q; that is rounded to bf16 by cutting the float32 off. Norms and metadata are taken over,
so that an engine of any make can load the result. Plain Python: per block of 32 numbers a table of what its codes mean, looked up by
bytes.translate(). Formats: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md), version 3.

  python3 widen.py IN.gguf OUT.gguf
"""
import struct
import sys
from pathlib import Path

F32, Q4_1, Q8_0, BF16 = 0, 3, 8, 30
BLOCK, ALIGN = 32, 32
BYTES = {F32: (1, 4), Q4_1: (BLOCK, 20), Q8_0: (BLOCK, 34), BF16: (1, 2)}  # numbers and bytes of a block
FILE_TYPE_BF16 = 32
SCALAR = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, form):
        (v,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return v

    def string(self):
        n = self.number("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def skip_value(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in SCALAR:
                self.at += SCALAR[inner] * count
            else:
                for _ in range(count):
                    self.skip_value(inner)
        else:
            self.at += SCALAR[kind]


def read_head(data):
    """Metadata as bytes (the file's type changed), and tensors: name, dimensions, type, where its data begins."""
    r = Reader(data)
    if data[:4] != b"GGUF":
        sys.exit("not a GGUF file")
    r.at = 4
    r.number("I")
    tensors, values = r.number("Q"), r.number("Q")
    begin, patches = r.at, []
    for _ in range(values):
        key, kind = r.string(), r.number("I")
        if key == "general.file_type":
            patches.append(r.at)
        r.skip_value(kind)
    meta = bytearray(data[begin:r.at])
    for p in patches:
        struct.pack_into("<I", meta, p - begin, FILE_TYPE_BF16)
    infos = []
    for _ in range(tensors):
        name = r.string()
        dims = [r.number("Q") for _ in range(r.number("I"))]
        infos.append((name, dims, r.number("I"), r.number("Q")))
    base = -(-r.at // ALIGN) * ALIGN
    return values, meta, [(name, dims, kind, base + offset) for name, dims, kind, offset in infos]


LOW = bytes(b & 15 for b in range(256))
HIGH = bytes(b >> 4 for b in range(256))


def widen_q4_1(data):
    """Code q of a block means d * q + m; the low halves of its 16 bytes come first."""
    codes = (data.translate(LOW), data.translate(HIGH))
    out = bytearray(len(data) // 20 * 64)
    for i in range(len(data) // 20):
        d, m = struct.unpack_from("<2e", data, 20 * i)
        table = struct.pack("<16f", *(d * q + m for q in range(16)))
        at = slice(20 * i + 4, 20 * i + 20)
        for byte in (0, 1):
            t = table[2 + byte::4] * 16
            out[64 * i + byte:64 * i + 64:2] = codes[0][at].translate(t) + codes[1][at].translate(t)
    return out


def widen_q8_0(data):
    count = len(data) // 34
    out = bytearray(count * 64)
    for i in range(count):
        (d, *q) = struct.unpack_from("<e32b", data, 34 * i)
        wide = struct.pack("<32f", *(d * x for x in q))
        out[64 * i:64 * i + 64:2] = wide[2::4]
        out[64 * i + 1:64 * i + 64:2] = wide[3::4]
    return out


WIDEN = {Q4_1: widen_q4_1, Q8_0: widen_q8_0}


def widen(source, target):
    """Writes `target` whole or not at all; an existing one is left as it is."""
    target = Path(target)
    if target.exists():
        return target
    data = Path(source).read_bytes()
    values, meta, tensors = read_head(data)
    head, at = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), values) + meta), 0
    pieces = []
    for name, dims, kind, begin in tensors:
        if kind not in BYTES:
            sys.exit(f"{name} is of a type that is not widened: {kind}")
        count = 1
        for d in dims:
            count *= d
        numbers, size = BYTES[kind]
        pieces.append((kind, begin, begin + count // numbers * size))
        kind = BF16 if kind in WIDEN else kind
        head += struct.pack("<Q", len(name.encode())) + name.encode() + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)
        at += -(-count * BYTES[kind][1] // ALIGN) * ALIGN
    part = Path(str(target) + ".part")
    with open(part, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGN))
        for kind, begin, end in pieces:
            piece = WIDEN.get(kind, bytes)(data[begin:end])
            f.write(piece + b"\0" * (-len(piece) % ALIGN))
    part.rename(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    widen(sys.argv[1], sys.argv[2])
