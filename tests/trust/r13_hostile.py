"""R13: hostile adapters are refused by name and leave nothing; the fuzzers of every parser of foreign bytes run clean.

Files are made by tables out of a good adapter (ops/demo/sql): its header with one thing changed for one tensor, its bytes cut or changed at many places, values that are
no numbers, configs with one field changed, and the same to the form around them. The engine is the fake one (it says what the base looks like); the validation
is the gateway's own. The whole form sends all of them and then runs each fuzzer that is built (make fuzz-programs), a million inputs each."""
import json
import random
import re
import struct
import subprocess

from gateway_process import DEMO, Gateway, until
from trust import TOP, row, without

CONFIG = json.loads((DEMO / "sql/adapter_config.json").read_text())
WEIGHTS = (DEMO / "sql/adapter_model.safetensors").read_bytes()
HEADER_LEN = struct.unpack("<Q", WEIGHTS[:8])[0]
HEADER, DATA = json.loads(WEIGHTS[8:8 + HEADER_LEN]), WEIGHTS[8 + HEADER_LEN:]
TENSORS = sorted((k for k in HEADER if k != "__metadata__"), key=lambda k: HEADER[k]["data_offsets"][0])


def join(header, data=DATA, text=None):
    text = text if text is not None else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def changed(name, **fields):
    return join({**HEADER, name: {**HEADER[name], **fields}})


def renamed(name, to):
    return join({(to if k == name else k): v for k, v in HEADER.items()})


def without_tensor(name):
    """Its entry and its bytes, so that the file is whole."""
    first, last = HEADER[name]["data_offsets"]
    header = {k: v if k == "__metadata__" or v["data_offsets"][0] < last else {**v, "data_offsets": [x - (last - first) for x in v["data_offsets"]]} for k, v in HEADER.items() if k != name}
    return join(header, DATA[:first] + DATA[last:])


def with_value(at, raw):
    return WEIGHTS[:8 + HEADER_LEN + at] + raw + WEIGHTS[8 + HEADER_LEN + at + len(raw):]


def files():
    """(what, weights)"""
    for name in TENSORS[::max(1, len(TENSORS) // 8)][:8]:
        o, shape = HEADER[name]["data_offsets"], HEADER[name]["shape"]
        short = name.split("layers.")[-1]
        for dtype in ("I8", "F64", "F8_E4M3", "F32", "", "bf16", None, 5):
            yield f"dtype {dtype!r} of {short}", changed(name, dtype=dtype)
        for s in ([], [1], shape[::-1] if shape[0] != shape[1] else [1, 2], shape + [1], [-shape[0], -shape[1]], [shape[0] + 1, shape[1]], [2 ** 62, 4], [2 ** 33, 2 ** 33], "x", [1.5, 2], None):
            yield f"shape {s!r} of {short}", changed(name, shape=s)
        for x in ([o[0], o[1] + 2], [o[0] + 2, o[1] + 2], [o[1], o[0]], [o[0], 2 ** 63], [-2, o[1]], [o[0]], [o[0], o[1], 0], None, "0"):
            yield f"offsets {x!r} of {short}", changed(name, data_offsets=x)
        for to in ("x", "", name + ".x", name.replace("layers.", "layers.999"), name.replace("self_attn", "cross_attn").replace("mlp", "moe"), "../" + name, name + "\0", name.replace("lora_", "LORA_"), "a" * 300):
            yield f"name {to[:40]!r} for {short}", renamed(name, to)
        yield f"without {short}", without_tensor(name)
        for raw in (b"\xc0\x7f", b"\x80\x7f", b"\x80\xff", b"\x00\x7f", b"\xff\xff"):  # bfloat16: NaN, two infinities, 1.7e38, NaN
            yield f"{raw.hex()} in {short}", with_value((o[0] + o[1]) // 4 * 2, raw)
    for n in (0, 1, 7, 8, 9, HEADER_LEN // 2, 8 + HEADER_LEN, 9 + HEADER_LEN, len(WEIGHTS) // 2, len(WEIGHTS) - 1, len(WEIGHTS) - 2):
        yield f"cut to {n} bytes", WEIGHTS[:n]
    for n in (HEADER_LEN + 8, HEADER_LEN - 8, 1 << 22, (1 << 22) + 8, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1):
        yield f"a header of {n} bytes", struct.pack("<Q", n) + WEIGHTS[8:]
    for tail in (b"\0", b"PK\3\4" + bytes(60), bytes(4096)):
        yield f"{len(tail)} bytes behind", WEIGHTS + tail
    text = WEIGHTS[8:8 + HEADER_LEN]
    for what, t in (("a list", b"[]"), ("a number", b"5"), ("nothing", b""), ("blanks", b"        "), ("no tensors", b"{}"), ("only metadata", b'{"__metadata__":{}}'), ("no end", text.rstrip()[:-1]),
                    ("a key twice", b"{" + text.strip()[1:-1] + b"," + text.strip()[1:]), ("deep nesting", b'{"__metadata__":' + b"[" * 9 + b"]" * 9 + b"}"), ("a comment", b"/* */" + text), ("bad UTF-8", b'{"\xff":1}'),
                    ("an escape in a name", b'{"\\u0061":' + json.dumps(HEADER[TENSORS[0]]).encode() + b"}"), ("metadata of numbers", b'{"__metadata__":{"a":1},' + text.strip()[1:])):
        yield f"header: {what}", join(None, DATA, t)
    for magic in (b"\x80\x02}q\0.", b"PK\3\4", b"GGUF\3\0\0\0", b"\x1f\x8b\x08\0", b"\x7fELF", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b"<html>", b"%PDF-1.4"):
        yield f"another format: {magic[:6]!r}", magic + bytes(5000)


def configs():
    """(what, config bytes)"""
    wrong = {
        "peft_type": ["IA3", "PREFIX_TUNING", 5, "", []], "r": [0, -1, 513, 2 ** 31, 1.5, "4", True, [4]], "lora_alpha": ["x", 1e308, [1], 10 ** 6], "target_modules": [["x_proj"], 5, {"a": 1}, "(", [1], ["q_proj"] * 5000],
        "bias": ["all", "lora_only", 5], "modules_to_save": [["gate_proj"], "x", 5], "use_dora": ["yes", 1], "use_rslora": ["no", 0], "rank_pattern": [{"q_proj": 0}, {"(": 4}, [], {"q_proj": "x"}, {"q_proj": 600}],
        "alpha_pattern": [{"q_proj": "x"}, 5, {"[": 1}], "layers_to_transform": [[-1], ["a"], "x", [99999]], "base_model_name_or_path": ["meta-llama/Llama-3.1-8B", 5, []], "init_lora_weights": ["pissa", "olora", "corda"],
        "trainable_token_indices": [[1]], "layer_replication": [[[0, 1]]], "use_qalora": [True], "lora_bias": [True], "use_new_method": [True], "another_config": [{"a": 1}], "alora_invocation_tokens": ["x", [-1], list(range(300))],
        "target_parameters": ["x", [5]], "exclude_modules": [5, "("],
    }
    for field, values in wrong.items():
        for v in values:
            yield f"{field}: {str(v)[:40]}", json.dumps({**CONFIG, field: v}).encode()
    text = json.dumps(CONFIG).encode()
    for what, t in (("no JSON", b"{"), ("a list", b"[]"), ("empty", b""), ("a NUL", text.replace(b"LORA", b"LO\0RA")), ("bad UTF-8", text.replace(b"LORA", b"LO\xffRA")), ("a field twice", text[:-1] + b',"r":4}'), ("deep", b"[" * 200 + b"]" * 200),
                    ("another rank than the tensors'", json.dumps({**CONFIG, "r": CONFIG["r"] * 2}).encode()), ("no rank", json.dumps({k: v for k, v in CONFIG.items() if k != "r"} | {"r": None}).encode()), ("too long", b" " * 300000 + text)):
        yield f"config: {what}", t


def all_cases():
    """(what, config, weights): all of them, the same each time; ones that a rule would take are no part of it (tests/unit/test_adapters_*.c have those)."""
    return [("weights: " + w, None, data) for w, data in files()] + [(w, c, WEIGHTS) for w, c in configs()]


def says_why(answer):
    """A refusal whose message names something of what was sent: a tensor, a field, the file or a part."""
    error = answer.json().get("error", {})
    text = error.get("message", "")
    return error.get("code") and len(text) > 15 and re.search(r"adapter_config|adapter_model|safetensors|tensor|layers\.|'\w+'|config|weights|header|JSON", text)


@row("R13", "hostile files are refused by name and leave nothing; fuzzers of every parser run clean")
def check(t):
    cases = all_cases()
    random.Random(13).shuffle(cases)
    cases = cases[:t.size(short=40, whole=len(cases))]
    g = Gateway(t.folder / "g", fake=True)
    try:
        acme = g.tenant("acme")
        first = acme.upload("good", DEMO / "sql")
        assert first.status_code == 201, first.text
        blobs, refused, named, taken, odd = g.blobs(), 0, 0, [], []
        with acme.http() as c:
            for what, config, weights in cases:
                config = config if config is not None else json.dumps(CONFIG).encode()
                r = c.post("/v1/adapters?wait=ready", data={"name": "hostile"}, files={"config": config, "weights": weights})
                refused += 400 <= r.status_code < 500
                named += bool(400 <= r.status_code < 500 and says_why(r))
                if r.status_code < 400:
                    taken.append(what)
                    c.delete("/v1/adapters/hostile")
                elif r.status_code >= 500 or not says_why(r):
                    odd.append(f"{what}: {r.status_code} {r.text[:160]}")
            listed = [a["id"] for a in c.get("/v1/adapters").json()["data"]]
        until(lambda: g.temporary() == [], what="an empty tmp/")
        after = acme.upload("good2", DEMO / "pirate")
        answered = acme.ask("tokens=2", model="good").status_code
        for line in taken[:5] + odd[:5]:
            t.note("not as it must be: " + line)
        t.count("hostile uploads", len(cases), least=t.size(short=40, whole=300))
        t.count("refused with 4xx", refused, least=len(cases))
        t.count("of these naming what is wrong", named, least=len(cases))
        t.count("listed as an adapter", len([x for x in listed if x != "good"]), most=0)
        t.count("files left", len(g.blobs()) - len(blobs) - (after.status_code == 201), most=0)
        t.count("gateway and engine alive afterwards", int(g.process.poll() is None) + int(answered == 200), least=2)
    finally:
        g.close()
    if t.whole:
        fuzz(t)


def fuzz(t):
    """The fuzzers that are built; how long each may take is bounded, and one that did not come to a million says so. What was begun earlier with the same programs counts."""
    sources = len(list((TOP / "tests/fuzz").glob("fuzz_*.c")))
    programs = sorted((TOP / "build/fuzz").glob("fuzz_*")) if (TOP / "build/fuzz").is_dir() else []
    if not programs:
        t.note("no fuzzers are built here (make fuzz-programs, which needs clang): replays of their seeds are in every check")
        t.count("fuzzers", 0, least=sources)
        return
    out = t.folder / "fuzz.json"
    subprocess.run([TOP / "tests/fuzz/run", "--inputs", "1000000", "--go-on", "--limit", "3600", "--write", out], cwd=TOP, check=False)
    rows = json.loads(out.read_text())
    t.count("fuzzers", len(rows), least=sources)
    t.count("fewest inputs of one", min(r["inputs"] for r in rows), least=1000000)
    t.count("inputs that broke something", sum(r["broken"] for r in rows), most=0)
    t.count("least coverage of a parser", min(100 * r["covered"] / r["lines"] for r in rows if r["lines"]), least=85, unit="%")


without("R13", "the look at every value", file="adapters/adapter.c", old="        if (at < 0) continue;\n", new="        if (at < 0 || t->ndim) continue;\n")
without("R13", "the removal of what a refused upload wrote", file="gateway/registry/upload.c", old="    if (up->dir[0]) store_discard(up->dir);\n", new="")
