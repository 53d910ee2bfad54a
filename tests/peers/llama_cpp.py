"""llama.cpp beside us, on the same weights with the same threads, in turn: its llama-bench and llama-batched-bench beside our passes, its
server beside our engine over HTTP. Parts of tests/load/bench, with --peer llama-cpp-python.

The bf16 base is the widened demo base, q8_0 is made of it by llama-quantize, q4_1 is the demo base as it comes; both engines read the
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
from suite.servers import BUILD, CACHE, Engine, Load, Process, load, wait_for
from suite.speed import SMOL, base, median

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
        subprocess.run([programs() / "llama-quantize", wide, part, kind], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part.rename(path)
    return path


# --- without HTTP ---


def their_passes(model):
    run = lambda program, *args: subprocess.run([str(a) for a in (programs() / program, "-m", model, "-t", THREADS, *args)],
                                                capture_output=True, text=True, check=True).stdout
    tests = json.loads(run("llama-bench", "-p", 512, "-n", 64, "-r", 1, "-o", "json"))
    out = {"prefill 512": next(t["avg_ts"] for t in tests if t["n_prompt"]), "one stream": next(t["avg_ts"] for t in tests if t["n_gen"])}
    lines = run("llama-batched-bench", "-c", 4096, "-b", 2048, "-ub", 512, "-npp", 64, "-ntg", 32, "-npl", "8,16", "--output-format", "jsonl")
    for line in lines.splitlines():
        if line.startswith("{"):
            r = json.loads(line)
            out[f"batch {r['pl']}"] = r["speed_tg"]
    return out


def our_passes(model):
    cases = {"prefill:512": "prefill 512", "decode:1:1:64": "one stream", "decode:8:64:32": "batch 8", "decode:16:64:32": "batch 16"}
    out = subprocess.run([BUILD / "tests/load/steps", "--threads", str(THREADS), "--rounds", "1", model, *cases], capture_output=True,
                         text=True, check=True)
    return {cases[c["case"]]: c["tokens"] / c["seconds"] for c in json.loads(out.stdout)["cases"]}


GOALS = {"bf16": (1.75, 1.1, 2.5, 2.2), "q8_0": (3, 1.4, 3.5, 3.5), "q4_1": (2.5, 1.7, 3, 3)}
CASES = ("prefill 512", "one stream", "batch 8", "batch 16")


def passes(kind):
    def part(ctx):
        model = weights(ctx, kind)
        rounds = [(our_passes(model), their_passes(model)) for _ in range(2 if ctx.quick else 5)]
        rows = [{"case": c, "ours tokens/s": median(a[c] for a, _ in rounds), "llama.cpp tokens/s": median(b[c] for _, b in rounds),
                 "ratio": median(a[c] / b[c] for a, b in rounds), "least ratio": min(a[c] / b[c] for a, b in rounds)} for c in CASES]
        return {"title": f"Beside llama.cpp without HTTP, {SMOL} {kind}, {THREADS} threads each", "rows": rows,
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


def over_http(kind):
    def part(ctx):
        model, rows, goals, seed = weights(ctx, kind), [], [], 1
        points = [(w, p) for k, w, p in HTTP_GOALS if k == kind and not (ctx.quick and p == 512)]
        with Engine(model, SMOL, "--name", "base", "--threads", THREADS) as e, Server(model) as plain, \
                Server(model, their_adapters(e, STREAMS)) as adapted:
            ours = {"base": [e.target()], "8 different": e.load(e.adapters.mixed(STREAMS))}
            theirs = {"base": (plain, [plain.target()]), "8 different": (adapted, [adapted.target(i) for i in range(STREAMS)])}
            for w, p in points:
                load(e, ours[w], STREAMS, 64, 4)
                load(theirs[w][0], theirs[w][1], STREAMS, 64, 4)
                rounds = []
                for _ in range(1 if ctx.quick or (w, p) == ("8 different", 512) else 2):
                    seed += 1
                    rounds.append((load(e, ours[w], STREAMS, p, OUTPUT, seed=seed), load(*theirs[w], STREAMS, p, OUTPUT, seed=seed)))
                mid = lambda side, key: median(r[side][key] for r in rounds)
                ratio = median(a["tokens_s"] / b["tokens_s"] for a, b in rounds)
                rows.append({"adapters": w, "prompt": p, "ours tokens/s": mid(0, "tokens_s"), "llama.cpp tokens/s": mid(1, "tokens_s"),
                             "ratio": ratio, "ours TTFT p50 ms": mid(0, "ttft_ms"), "llama.cpp TTFT p50 ms": mid(1, "ttft_ms")})
                goals.append((f"llama.cpp {kind} over HTTP: 8 streams, {w}, prompts of {p}", ratio, ">=", HTTP_GOALS[kind, w, p]))
        return {"title": f"Beside llama.cpp over HTTP, {SMOL} {kind}, 8 streams", "rows": rows, "goals": goals}
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


PARTS = {"peer-bf16": passes("bf16"), "peer-q8_0": passes("q8_0"), "peer-q4_1": passes("q4_1"), "peer-http": over_http("bf16"),
         "peer-http-q8_0": over_http("q8_0"), "peer-lone": lone}
