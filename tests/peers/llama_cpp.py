"""llama.cpp beside us, on the same weights with the same threads, in turn: its llama-bench and llama-batched-bench beside our passes, its
server beside our engine over HTTP. Parts of tests/load/bench, with --peer llama-cpp-python.

The bf16 base is the widened demo base, q8_0 and q4_0 are made of it by llama-quantize, q4_1 is the demo base as it comes; both engines read the
same files. Its adapters are ours, rewritten by gguf_adapter.py. Its cache of prompts is off as ours is."""
import http.client
import json
import os
import socket
import subprocess
import time
from functools import cache
from pathlib import Path

import gguf_adapter
from suite.rounds import in_turn, median, spread
from suite.servers import BUILD, CACHE, Engine, Load, Process, load, wait_for
from suite.speed import COMMAND_S, SMOL, base, run, run_json

THREADS = os.cpu_count()
STREAMS, OUTPUT = 8, 64


@cache
def programs():
    out = subprocess.run([Path(__file__).parent / "llama-cpp-build"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(out.stdout.strip().splitlines()[-1])


def weights(ctx, kind):
    wide = base(SMOL, "bf16", ctx.demo)
    if kind == "bf16":
        return wide
    if kind == "q4_1":
        return Path(ctx.demo)
    path = CACHE / f"{SMOL}.{kind}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        subprocess.run([programs() / "llama-quantize", wide, part, kind], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       timeout=COMMAND_S)
        part.rename(path)
    return path


# --- without HTTP ---


def their_passes(model):
    """A pass of 512, then 64 tokens of one stream; 8 and 16 streams from 64 to 96. llama-bench warms up before what it times."""
    tests = json.loads(run(programs() / "llama-bench", "-m", model, "-t", THREADS, "-p", 512, "-n", 64, "-r", 1, "-o", "json"))
    out = {"prefill 512": next(t["avg_ts"] for t in tests if t["n_prompt"]), "one stream": next(t["avg_ts"] for t in tests if t["n_gen"])}
    lines = run(programs() / "llama-batched-bench", "-m", model, "-t", THREADS, "-c", 4096, "-b", 2048, "-ub", 512, "-npp", 64, "-ntg", 32, "-npl",
                "8,16", "--output-format", "jsonl")
    for line in lines.splitlines():
        if line.startswith("{"):
            r = json.loads(line)
            out[f"batch {r['pl']}"] = r["speed_tg"]
    return out


def our_passes(model):
    """The same; the mean of the passes, as theirs is."""
    cases = {"prefill:512": "prefill 512", "decode:1:1:64": "one stream", "decode:8:64:32": "batch 8", "decode:16:64:32": "batch 16"}
    told = run_json(BUILD / "tests/load/steps", "--threads", THREADS, "--rounds", 1, model, *cases)
    return {cases[c["case"]]: c["tokens"] / c["mean"] for c in told["cases"]}


FOUR_BITS = (2.5, 1.7, 3, 3)
GOALS = {"bf16": (1.75, 1.1, 2.5, 2.2), "q8_0": (3, 1.4, 3.5, 3.5), "q4_0": FOUR_BITS, "q4_1": FOUR_BITS}
QUANTIZED = "made of the bf16 file by llama-quantize"
MADE = {"bf16": "the demo base widened to bf16", "q8_0": QUANTIZED, "q4_0": QUANTIZED + ", the 4 bits that it is fastest with",
        "q4_1": "the demo base as it comes"}
CASES = ("prefill 512", "one stream", "batch 8", "batch 16")


def passes(kind):
    def part(ctx):
        model = weights(ctx, kind)
        rounds = in_turn(2 if ctx.quick else 6, lambda r: our_passes(model), lambda r: their_passes(model))
        rows = [{"case": c, "ours tokens/s": median(a[c] for a, _ in rounds), "llama.cpp tokens/s": median(b[c] for _, b in rounds),
                 "ratio": median(a[c] / b[c] for a, b in rounds), "spread": spread(a[c] / b[c] for a, b in rounds)} for c in CASES]
        return {"title": f"Beside llama.cpp without HTTP, {SMOL} {kind}, {THREADS} threads each, {len(rounds)} rounds", "rows": rows,
                "notes": [f"one file for both: {MADE[kind]}"],
                "goals": [(f"llama.cpp {kind}: {c}", r["ratio"], ">=", g) for c, r, g in zip(CASES, rows, GOALS[kind])]}
    return part


# --- over HTTP ---


class Server(Process):
    """llama-server; adapters by number."""

    def __init__(self, model, adapters=()):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        args = ["-m", model, "-t", THREADS, "--host", "127.0.0.1", "--port", self.port, "-np", STREAMS, "-c", STREAMS * 1024, "--cache-ram", 0]
        for a in adapters:
            args += ["--lora", a]
        super().__init__(lambda folder: [programs() / "llama-server", *args])
        self.url, self.vocab, self.count = f"http://127.0.0.1:{self.port}", 49152, len(adapters)
        try:
            wait_for("llama-server", self.healthy, self.process)
        except RuntimeError as e:
            print(self.tail())
            self.__exit__()
            raise e

    def healthy(self):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            c.request("GET", "/health")
            return c.getresponse().status == 200
        except OSError:
            return False

    def target(self, adapter=None):
        scales = [{"id": i, "scale": 1.0 if i == adapter else 0.0} for i in range(self.count)]
        more = f',"lora":{json.dumps(scales, separators=(",", ":"))}' if self.count else ""
        return f'=base "cache_prompt":false{more}'


def their_adapters(engine, count):
    head_dim = 64
    folder = CACHE / "peers" / "llama-cpp-python" / SMOL
    return [gguf_adapter.convert(f, folder / f"{f.name}.gguf", head_dim) for _, f in engine.adapters.mixed(count)]


HTTP_GOALS = {("bf16", "base", 64): 2, ("bf16", "base", 512): 1.8, ("bf16", "8 different", 64): 5, ("bf16", "8 different", 512): 4,
              ("q8_0", "8 different", 64): 7}


def over_http(kind, prompt):
    """Eight streams, a request each: ours, theirs, ours; what theirs is beside is the middle of the two."""
    points = [w for k, w, p in HTTP_GOALS if (k, p) == (kind, prompt)]

    def part(ctx):
        model, rows, goals, seed = weights(ctx, kind), [], [], 0
        rounds = 1 if ctx.quick else 3
        with Engine(model, SMOL, "--name", "base", "--threads", THREADS) as e:
            ours = {"base": [e.target()], "8 different": e.load(e.adapters.mixed(STREAMS))}
            for w in points:
                with Server(model, their_adapters(e, STREAMS) if w != "base" else ()) as s:
                    theirs = [s.target(i) for i in range(STREAMS)] if w != "base" else [s.target()]
                    load(e, ours[w], STREAMS, 64, 8), load(s, theirs, STREAMS, 64, 4)
                    took = []
                    for _ in range(rounds):
                        seed += 1
                        first, beside, second = [load(x, t, STREAMS, prompt, OUTPUT, seed=seed + 100 * i)
                                                 for i, (x, t) in enumerate(((e, ours[w]), (s, theirs), (e, ours[w])))]
                        took.append((first, beside, second))
                ratios = [(a["tokens_s"] + c["tokens_s"]) / 2 / b["tokens_s"] for a, b, c in took]
                mine, beside = [x for a, _, c in took for x in (a, c)], [b for _, b, _ in took]
                rows.append({"adapters": w, "prompt": prompt, "ours tokens/s": median(x["tokens_s"] for x in mine),
                             "llama.cpp tokens/s": median(x["tokens_s"] for x in beside), "ratio": median(ratios), "spread": spread(ratios),
                             "ours TTFT p50 ms": median(x["ttft_ms"] for x in mine), "llama.cpp TTFT p50 ms": median(x["ttft_ms"] for x in beside)})
                goals.append((f"llama.cpp {kind} over HTTP: 8 streams, {w}, prompts of {prompt}", median(ratios), ">=", HTTP_GOALS[kind, w, prompt]))
        return {"title": f"Beside llama.cpp over HTTP, {SMOL} {kind}, 8 streams, prompts of {prompt}, {rounds} rounds", "rows": rows, "goals": goals}
    return part


def lone(ctx):
    """A request for the second adapter while seven streams of the first go on for some seconds."""
    model, rows, seconds = weights(ctx, "bf16"), [], 4 if ctx.quick else 8
    with Engine(model, SMOL, "--name", "base", "--threads", THREADS) as e, Server(model, their_adapters(e, 2)) as s:
        ours = e.load(e.adapters.mixed(2))
        for name, server, (one, other) in (("ours", e, ours), ("llama.cpp", s, [s.target(0), s.target(1)])):
            load(server, [one, other], 2, 64, 4)
            solo = load(server, [other], 1, 64, 4, requests=4)
            crowd = Load(server, [one], 7, 64, 64, seconds=seconds, seed=3)
            time.sleep(1)
            beside = load(server, [other], 1, 64, 4, requests=4, seed=4)
            step = crowd.result()["itl_ms"]
            rows.append({"engine": name, "solo TTFT p50 ms": solo["ttft_ms"], "beside seven p50 ms": beside["ttft_ms"],
                         "worst ms": beside["ttft_max_ms"], "a step ms": step})
    return {"title": f"A lone request beside seven busy streams of another adapter that last {seconds} s, bf16, both of rank 8", "rows": rows}


PARTS = {"peer-bf16": passes("bf16"), "peer-q8_0": passes("q8_0"), "peer-q4_0": passes("q4_0"), "peer-q4_1": passes("q4_1"),
         "peer-http": over_http("bf16", 64), "peer-http-512": over_http("bf16", 512), "peer-http-q8_0": over_http("q8_0", 64), "peer-lone": lone}
