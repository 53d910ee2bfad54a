"""What is fast: the machine, kernels, passes against their roofline, tokens over HTTP, how cost grows."""
import json
import statistics
import subprocess

from . import plot, random_weights, widen
from .servers import BUILD, CACHE, Engine, Gateway, load

SMOL, QWEN = "smollm2-135m", "qwen2.5-0.5b"
PROMPTS = (64, 512)
OUTPUT = 64
KV_BYTES = 2  # of a number in the cache: bf16


def median(values):
    return statistics.median(list(values))


def run_json(*command):
    out = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if out.returncode:
        raise RuntimeError(f"{command[0]}: {out.stderr.strip()[-500:]}")
    return json.loads(out.stdout)


# --- bases ---


def base(name, kind, demo):
    """The path of a base: seeded or widened once, quantized once, kept in the cache folder. `demo`: the demo base's file."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if name == SMOL:
        wide = widen.widen(demo, CACHE / f"{SMOL}.bf16.gguf")
    else:
        wide = random_weights.write_base(QWEN, CACHE / QWEN)
    if kind == "bf16":
        return wide
    path = CACHE / f"{name}.{kind}.weft"
    if not path.exists():
        subprocess.run([BUILD / "weft-engine", "quantize", wide, path, "--type", kind, "--log-level", "warn"], check=True)
    return path


# --- the machine and its kernels ---


def machine():
    """{"read_gb_s", "fma_gflop_s", "bf16_gflop_s", "int8_gop_s"} by plain loops, now."""
    return run_json(BUILD / "tests/kernels/bench_kernels", "--machine")


KINDS = ("BF16", "Q8_0", "Q4_1")


def kernels(ctx):
    """bench_kernels' products, and oneDNN's beside them where it was built with that: one JSON object a line, the machine's first."""
    program, products = str(BUILD / "tests/kernels/bench_kernels"), []
    for kind in KINDS:
        out = subprocess.run([program, "--json", "--kind", kind, "--ms", "10" if ctx.quick else "20"], capture_output=True, text=True)
        try:
            products += [json.loads(line) for line in out.stdout.splitlines()][1:]
        except ValueError:  # one that speaks no JSON: what it says of whole models
            lines = [line for line in out.stdout.splitlines() if line.startswith(("machine", "pool", "model", "attention"))]
            return {"title": "Kernels beside the machine's own rates", "lines": lines}
    shown = [p for p in products if p["precision"] == "fast"]
    rows = [{"product": p["shape"], "weights": p["type"], "rows": p["rows"], "": p["state"], "us": p["us"], "GFLOP/s": p["gflop_s"],
             "dot rate's share": p["of_peak"], "read rate's share": p["of_read"], "over oneDNN": p.get("peer_ratio", "")} for p in shown]
    beside = [p["peer_ratio"] for p in shown if "peer_ratio" in p]
    hot = [p["of_peak"] for p in shown if p["state"] == "hot" and p["rows"] >= 4]
    goals = [("products of 4 rows and more in caches: share of the dot-product rate, median", median(hot), ">=", 0.95)] if hot else []
    if beside:
        goals += [("products over oneDNN's packed ones: median", median(beside), ">=", 1.0), ("the same: least", min(beside), ">=", 1.0)]
    return {"title": "Matrix products beside the machine's own rates", "rows": rows, "goals": goals, "data": products}


# --- passes without HTTP, and their roofline ---


def bound(told, mach, kind, case, adapter_bytes):
    """Seconds that the machine's own rates `mach` allow for a pass: what must be read, or multiplied, whichever takes longer."""
    word, *n = case.split(":")
    n = [int(x) for x in n]
    head = told["hidden"] * told["vocab"]
    per_pair = 4 * told["layers"] * told["heads"] * told["head_dim"]
    kv_token = 2 * told["layers"] * told["kv_heads"] * told["head_dim"] * KV_BYTES
    if word == "prefill":
        rows, heads, pairs, kv = n[0], 1, n[0] * (n[0] + 1) / 2, 0
    else:
        rows = heads = n[0]
        context = n[1] + n[2] / 2
        pairs, kv = rows * context, rows * context * kv_token
    rate = mach["bf16_gflop_s" if kind == "bf16" else "int8_gop_s"] * 1e9
    multiply = 2 * (rows * told["matrices"] + heads * head) / rate + per_pair * pairs / (mach["bf16_gflop_s"] * 1e9)
    return max((told["read_bytes"] + kv + adapter_bytes) / (mach["read_gb_s"] * 1e9), multiply)


STEP_CASES = ["prefill:512", "decode:1:256:24", "decode:8:256:12", "decode:16:256:8"]
PLAIN, EIGHT = "decode:8:256:12", "decode:8:256:12:8"


def passes(model, rounds, cases, adapters=()):
    """What weft-steps tells; each case by its name."""
    command = [BUILD / "tests/load/steps", "--rounds", rounds]
    for f in adapters:
        command += ["--adapter", f]
    told = run_json(*command, model, *cases)
    return told | {"cases": {c["case"]: c for c in told["cases"]}}


def share(told, kind, c, adapter_bytes=0):
    """Of the bound: taken within each turn, whose rates were measured right before it."""
    return median(bound(told, t, kind, c["case"], adapter_bytes) / t["seconds"] for t in c["turns"])


def step_row(told, kind, c, words="", adapter_bytes=0):
    return {"base": kind, "case": c["case"] + words, "tokens/s": c["tokens"] / c["seconds"], "ms": c["seconds"] * 1e3,
            "least ms": c["least"] * 1e3, "of the bound": share(told, kind, c, adapter_bytes)}


def steps(ctx, name, kinds):
    rows, goals, prefill = [], [], {}
    for kind in kinds:
        model, rounds, adapters = base(name, kind, ctx.demo), 2 if ctx.quick else 5 if name == SMOL else 3, adapters_of(ctx, name)
        mixed = [f for _, f in adapters.mixed(8)]
        told = passes(model, rounds, STEP_CASES + [EIGHT], mixed)
        added = sum(told["adapter_bytes"])
        for c in told["cases"].values():
            rows.append(step_row(told, kind, c, " (ranks 8 to 64)", added) if c["case"] == EIGHT else step_row(told, kind, c))
        prefill[kind] = [t["seconds"] for t in told["cases"]["prefill:512"]["turns"]]
        goals += step_goals(name, kind, told)
        if kind == "bf16":
            goals += adapter_goals(ctx, name, kind, told, model, rounds, rows)
    if "int8" in prefill and "bf16" in prefill:
        goals.append((f"{name}: int8 prefill over bf16", median(prefill["bf16"]) / median(prefill["int8"]), ">=", 1.5))
    return {"title": f"Passes of {name} without HTTP, beside their roofline", "rows": rows, "goals": goals}


def adapters_of(ctx, name):
    if name not in ctx.adapters:
        with Engine(base(name, "bf16", ctx.demo), name) as e:
            ctx.adapters[name] = e.adapters
    return ctx.adapters[name]


def step_goals(name, kind, told):
    flop = 2 * (512 * told["matrices"] + told["hidden"] * told["vocab"])
    of = lambda c, work, rate: median(work / t["seconds"] / t[rate] / 1e9 for t in told["cases"][c]["turns"])
    goals = [(f"{name} {kind}: one stream of the plain read rate", of("decode:1:256:24", told["read_bytes"], "read_gb_s"), ">=", 0.9)]
    if kind == "bf16":
        goals.append((f"{name} {kind}: prefill 512 of the plain bf16 rate", of("prefill:512", flop, "bf16_gflop_s"), ">=", 0.8))
    return goals + [(f"{name} {kind}: {c.split(':')[1]} streams of the roofline", share(told, kind, told["cases"][c]), ">=", 0.7)
                    for c in STEP_CASES[2:]]


def keeps(told):
    """What eight adapters leave of the base's speed, turn by turn."""
    return median(a["seconds"] / b["seconds"] for a, b in zip(told["cases"][PLAIN]["turns"], told["cases"][EIGHT]["turns"]))


def adapter_goals(ctx, name, kind, told, model, rounds, rows):
    """On the demo base what is kept; on the larger shape what is kept of what the adapters' bytes allow."""
    added = sum(told["adapter_bytes"]) / told["read_bytes"]
    if name != SMOL:
        return [(f"{name} {kind}: 8 mixed adapters keep of what their bytes allow ({1 / (1 + added):.0%})", keeps(told) * (1 + added), ">=", 0.9)]
    small = passes(model, rounds, [PLAIN, EIGHT], [f for _, f in adapters_of(ctx, name).equal(8, 8, first=100)])
    few = sum(small["adapter_bytes"])
    rows.append(step_row(small, kind, small["cases"][EIGHT], " (rank 8 each)", few))
    return [(f"{name} {kind}: 8 mixed adapters keep of the base ({added:.0%} more bytes)", keeps(told), ">=", 0.6),
            (f"{name} {kind}: 8 adapters of rank 8 keep of the base ({few / told['read_bytes']:.0%} more)", keeps(small), ">=", 0.83)]


def steps_smol(ctx):
    return steps(ctx, SMOL, ("bf16", "int4") if ctx.quick else ("bf16", "int8", "int4"))


def steps_qwen(ctx):
    return steps(ctx, QWEN, ("bf16",) if ctx.quick else ("bf16", "int8", "int4"))


# --- over HTTP ---


def enough(streams):
    """Requests of a point: a whole wave, and no fewer than four."""
    return max(streams, 4)


def point(server, targets, streams, prompt, seed, output=OUTPUT):
    return load(server, targets, streams, prompt, output, requests=max(enough(streams), min(len(targets), 256)), seed=seed)


def told_point(r, **words):
    return words | {"tokens/s": r["tokens_s"], "TTFT p50 ms": r["ttft_ms"], "TTFT p99 ms": r["ttft_p99_ms"], "inter-token p50 ms": r["itl_ms"],
                    "inter-token p99 ms": r["itl_p99_ms"]}


def sets_of(server, which):
    """Targets: no adapter, one, eight and 32 different ones of ranks 8 to 64."""
    targets = {"base": [server.target()]}
    most = max([{"base": 0, "1": 8, "8": 8, "32": 32}[w] for w in which])
    loaded = server.load(server.adapters.mixed(most)) if most else []
    if loaded:
        targets |= {"1": loaded[4:5], "8": loaded[:8], "32": loaded}  # the one is of rank 32
    return {w: targets[w] for w in which}


def worth_it(kind, which, streams, prompt):
    """Eight different adapters want eight streams, 32 take turns on them; of long prompts, which take long, fewer points."""
    if prompt > 64 and which in ("1", "32"):
        return streams == {"1": 8, "32": 32}[which]
    if prompt > 64 and kind != "bf16":
        return streams == 8
    return streams >= 8 or which in ("base", "1")


def http(ctx, name, kind, streams, prompts, which):
    rows, seed = [], 1
    with Engine(base(name, kind, ctx.demo), name, "--name", "base", "--max-slots", 64) as e:
        sets = sets_of(e, which)
        point(e, sets["base"], 8, 64, 0, 16)
        for prompt in prompts:
            for n in streams:
                for w in which:
                    if not worth_it(kind, w, n, prompt):
                        continue
                    seed += 1
                    rows.append(told_point(point(e, sets[w], n, prompt, seed), base=kind, prompt=prompt, streams=n, adapters=w))
    words = f"prompts of {prompts[0]}" if len(prompts) == 1 else "prompts of both lengths"
    return {"title": f"{name} {kind} over HTTP, the engine directly, {words}", "rows": rows}


def http_short(ctx):
    return http(ctx, SMOL, "bf16", (1, 8, 32) if ctx.quick else (1, 2, 4, 8, 16, 32), (64,),
                ("base", "8") if ctx.quick else ("base", "1", "8", "32"))


def http_long(ctx):
    return http(ctx, SMOL, "bf16", (1, 8) if ctx.quick else (1, 2, 4, 8, 16, 32), (512,), ("base", "8") if ctx.quick else ("base", "1", "8", "32"))


def http_quantized(ctx):
    parts = [http(ctx, SMOL, kind, (1, 8) if ctx.quick else (1, 8, 32), (64,) if ctx.quick else PROMPTS, ("base", "8")) for kind in ("int8", "int4")]
    return {"title": f"{SMOL}, int8 and int4 over HTTP, the engine directly", "rows": sum((p["rows"] for p in parts), [])}


def http_qwen(ctx):
    kinds = ("bf16",) if ctx.quick else ("bf16", "int8", "int4")
    parts = [http(ctx, QWEN, kind, (8,) if ctx.quick or kind != "bf16" else (1, 8, 16), (64,), ("base", "8")) for kind in kinds]
    if not ctx.quick:
        parts.append(http(ctx, QWEN, "bf16", (8,), (512,), ("base", "8")))
    return {"title": f"{QWEN} (seeded random weights of its shape) over HTTP, the engine directly", "rows": sum((p["rows"] for p in parts), [])}


def http_gateway(ctx):
    """Eight tenants with an adapter each, and the same points asked of an engine alone, in turn."""
    rows, keep = [], []
    path = base(SMOL, "bf16", ctx.demo)
    with Engine(path, SMOL, "--name", "base") as e, Gateway(path, "--base-name", "base") as g:
        g.vocab = e.vocab
        mixed = e.adapters.mixed(8)
        keys = [g.tenant(f"t{i}") for i in range(8)]
        via = {"base": [f"{k}=base" for k in keys], "8": [g.push(k, f"a{i}", f) for i, (k, (_, f)) in enumerate(zip(keys, mixed))]}
        direct = {"base": [e.target()], "8": e.load(mixed)}
        for w in ("base", "8"):
            point(g, via[w], 8, 64, 0, 16), point(e, direct[w], 8, 64, 0, 16)
        for prompt in (64,) if ctx.quick else PROMPTS:
            for n in (1, 8) if ctx.quick else (1, 8, 32):
                for w in ("base", "8"):
                    if n < 8 and w == "8":
                        continue
                    times = 1 if prompt > 64 or ctx.quick else 3
                    a, b = zip(*[(point(g, via[w], n, prompt, 1 + i), point(e, direct[w], n, prompt, 1 + i)) for i in range(times)])
                    for word, rs in (("gateway", a), ("engine", b)):
                        m = {k: median(r[k] for r in rs) for k in rs[0]}
                        rows.append(told_point(m, path=word, prompt=prompt, streams=n, adapters=w))
                    keep += [x["tokens_s"] / y["tokens_s"] for x, y in zip(a, b)]
    return {"title": f"{SMOL} bf16 through the gateway, eight tenants, beside the engine directly", "rows": rows,
            "notes": [f"the gateway keeps {median(keep):.1%} of the engine's tokens/s (median over the points, paired)"]}


# --- how cost grows ---


def growth(ctx):
    rows, seed = [], 1
    series = {"base": [], "8 adapters of ranks 8 to 64": []}
    distinct = []
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--name", "base", "--max-slots", 280) as e:
        mixed = e.load(e.adapters.mixed(8))
        for n in (1, 8, 64) if ctx.quick else (1, 2, 4, 8, 16, 32, 64):
            for word, targets in (("base", [e.target()]), ("8 adapters of ranks 8 to 64", mixed)):
                seed += 1
                r = point(e, targets, n, 64, seed)
                series[word].append((n, r["tokens_s"]))
                rows.append(told_point(r, streams=n, adapters="base" if word == "base" else "8 of ranks 8 to 64"))
        some = e.load(e.adapters.equal(64 if ctx.quick else 256, 16, first=1000))
        for n in (1, 8, 32, 64) if ctx.quick else (1, 2, 4, 8, 16, 32, 64, 128, 256):
            seed += 1
            r = point(e, some[:n], 32, 64, seed, 32)
            distinct.append((n, r["tokens_s"]))
            rows.append(told_point(r, streams=32, adapters=f"{n} of rank 16"))
    ctx.plots.mkdir(parents=True, exist_ok=True)
    plot.line_plot(ctx.plots / "streams.svg", f"{SMOL} bf16 over HTTP, prompts of 64, {OUTPUT} tokens out", "streams", "tokens/s", series)
    plot.line_plot(ctx.plots / "adapters.svg", f"{SMOL} bf16, 32 streams, prompts of 64, 32 tokens out", "distinct adapters of rank 16",
                   "tokens/s", {"32 streams": distinct})
    cliff = min(b[1] / a[1] for a, b in zip(distinct, distinct[1:]))
    return {"title": "How cost grows", "rows": rows, "plots": ["streams.svg", "adapters.svg"],
            "notes": [f"largest loss from one number of adapters to the next: {1 - cliff:.0%}"]}
