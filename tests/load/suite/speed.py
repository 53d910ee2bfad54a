"""What is fast: the machine, kernels, passes against their roofline."""
import json
import subprocess

from . import random_weights, widen
from .rounds import median, spread
from .servers import BUILD, CACHE, Engine

SMOL, QWEN, LONG = "smollm2-135m", "qwen2.5-0.5b", "smollm2-135m-32k"
KV_BYTES = 2  # of a number in the cache: bf16
COMMAND_S = 150  # no single one takes longer on a quiet machine


def run(*command):
    out = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=COMMAND_S)
    if out.returncode:
        raise RuntimeError(f"{command[0]}: {out.stderr.strip()[-500:]}")
    return out.stdout


def run_json(*command):
    return json.loads(run(*command))


# --- bases ---


def base(name, kind, demo):
    """The path of a base: seeded or widened once, quantized once, kept in the cache folder. `demo`: the demo base's file."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if name == SMOL:
        wide = widen.widen(demo, CACHE / f"{SMOL}.bf16.gguf")
    else:
        wide = random_weights.write_base(name, CACHE / name)
    if kind == "bf16":
        return wide
    path = CACHE / f"{name}.{kind}.weft"
    if not path.exists():
        subprocess.run([BUILD / "weft-engine", "quantize", wide, path, "--type", kind, "--log-level", "warn"], check=True)
    return path


# --- the machine and its kernels ---

BENCH_KERNELS = BUILD / "tests/kernels/bench_kernels"


def machine(*threads):
    """{"read_gb_s", "fma_gflop_s", "bf16_gflop_s", "int8_gop_s"} by plain loops, now."""
    return run_json(BENCH_KERNELS, *threads, "--machine")


RATES = {"read": "read_gb_s", "f32 multiply-add": "fma_gflop_s", "bf16 dot product": "bf16_gflop_s", "int8 dot product": "int8_gop_s"}


def machine_part(ctx):
    """Plain loops, with one thread and with all, in turn."""
    took = [(machine(1), machine()) for _ in range(2 if ctx.quick else 5)]
    rows = []
    for words, key in RATES.items():
        one, whole = [[r[i][key] for r in took] for i in (0, 1)]
        rows.append({"G a second": words + (" (bytes)" if key == "read_gb_s" else ""), "one thread": median(one), "all": median(whole),
                     "all, least": min(whole), "all, most": max(whole)})
    return {"title": "The machine's own rates by plain loops", "rows": rows,
            "notes": [f"the pool of {took[0][1]['threads']}: a run {median(b['run_us'] for _, b in took):.2f} us, "
                      f"a barrier {median(b['barrier_us'] for _, b in took):.3f} us"]}


KINDS = {"BF16": "bf16", "Q8_0": "int8", "Q4_1": "int4"}
PEER_ROWS, HOT_ROWS = (1, 8, 16, 64, 512), (4, 8, 16, 64, 512)
HOT_BYTES = 16e6  # a weight that the last cache holds
STEADY = 0.8  # a share of the machine's best dot-product rate: below, one of its processors is away
PAUSES, TRIES = 5, 2


def is_steady(ctx, rates):
    ctx.best = max(ctx.best, rates["bf16_gflop_s"])
    return rates["bf16_gflop_s"] >= STEADY * ctx.best


def while_steady(ctx, take):
    """`take()` -> (the machine's rates right before, what it took): begun when the machine is at its full speed, and once more if it no longer
    was by then. It stays bounded where the machine stays slow."""
    for _ in range(TRIES):
        for _ in range(PAUSES):
            if is_steady(ctx, machine()):
                break
        rates, got = take()
        if is_steady(ctx, rates):
            break
    return got


def products(ctx, kind):
    """Each product's figures, medians of several runs: what hits one for some milliseconds would look like a slow product."""
    def take():
        rates, *told = [json.loads(line) for line in run(BENCH_KERNELS, "--json", "--kind", kind, "--ms", "10" if ctx.quick else "20").splitlines()]
        return rates, [p for p in told if p["precision"] == "fast"]

    runs = [while_steady(ctx, take) for _ in range(1 if ctx.quick else 3)]
    middle = lambda same: {k: median(p[k] for p in same) if isinstance(v, float) else v for k, v in same[0].items()}
    return [middle(same) for same in zip(*runs)]


def of_product(p):
    return f"{p['shape']}, {p['state']}"


def peer_goals(kind, shown):
    """For each number of rows the least that our product reaches of oneDNN's, over all shapes, in caches and out of them."""
    goals = []
    for rows in PEER_ROWS:
        beside = [p for p in shown if p["rows"] == rows and "peer_ratio" in p]
        if beside:
            least = min(beside, key=lambda p: p["peer_ratio"])
            middle = median(p["peer_ratio"] for p in beside)
            goals.append((f"{KINDS[kind]} over oneDNN's packed, m = {rows}: least of {len(beside)} ({of_product(least)}; median {middle:.2f})",
                          least["peer_ratio"], ">=", 1.0))
    return goals


def hot_goals(kind, shown):
    """For each number of rows what the products whose weights caches hold reach of the plain dot-product rate."""
    goals = []
    for rows in HOT_ROWS:
        hot = [p for p in shown if p["state"] == "hot" and p["rows"] == rows and p["gb_s"] * p["us"] * 1e3 <= HOT_BYTES]
        if hot:
            least = min(hot, key=lambda p: p["of_peak"])
            goals.append((f"{KINDS[kind]} in caches, m = {rows}: of the dot-product rate, median of {len(hot)} "
                          f"(least {least['of_peak']:.0%}: {least['shape']})", median(p["of_peak"] for p in hot), ">=", 0.95))
    return goals


def kernels_of(kind):
    """bench_kernels' products of a kind, oneDNN's beside them in turn where it was built with that."""
    def part(ctx):
        shown = products(ctx, kind)
        rows = [{"product": p["shape"], "m": p["rows"], "": p["state"], "us": p["us"], "GFLOP/s": p["gflop_s"], "dot rate's share": p["of_peak"],
                 "GB/s": p["gb_s"], "read rate's share": p["of_read"], "over oneDNN": p.get("peer_ratio", "")} for p in shown]
        goals = hot_goals(kind, shown) + (peer_goals(kind, shown) if kind != "Q4_1" else [])
        return {"title": f"Matrix products, {KINDS[kind]} ({kind}), beside the machine's own rates and oneDNN's", "rows": rows, "goals": goals}
    return part


def attention(ctx):
    """bench_attention as it prints itself: reads beside the read rate, operations beside the dot-product rate, measured in turn."""
    return {"title": "Attention over pages beside the machine's own rates", "lines": run(BUILD / "tests/kernels/bench_attention").splitlines()}


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


STEP_CASES = ["prefill:512", "decode:1:256:24", "decode:16:256:8", "decode:8:256:12"]
PLAIN, EIGHT, SIXTEEN = "decode:8:256:12", "decode:8:256:12:8", "decode:16:256:8"


def passes(model, rounds, cases, adapters=()):
    """What weft-steps tells; each case by its name."""
    command = [BUILD / "tests/load/steps", "--rounds", rounds]
    for f in adapters:
        command += ["--adapter", f]
    told = run_json(*command, model, *cases)
    return told | {"cases": {c["case"]: c for c in told["cases"]}}


def shares(told, kind, c, adapter_bytes=0):
    """Of the bound: taken within each turn, whose rates were measured right before it."""
    return [bound(told, t, kind, c["case"], adapter_bytes) / t["seconds"] for t in c["turns"]]


def step_row(told, kind, c, words="", adapter_bytes=0):
    of = shares(told, kind, c, adapter_bytes)
    return {"base": kind, "case": c["case"] + words, "tokens/s": c["tokens"] / c["seconds"], "ms": c["seconds"] * 1e3,
            "least ms": c["least"] * 1e3, "of the bound": median(of), "spread": spread(of)}


def steps(ctx, name, kinds):
    rows, goals, prefill = [], [], {}
    for kind in kinds:
        model, rounds, adapters = base(name, kind, ctx.demo), 2 if ctx.quick else 9 if name == SMOL else 5, adapters_of(ctx, name)
        mixed = [f for _, f in adapters.mixed(8)]
        told = passes(model, rounds, STEP_CASES + [EIGHT], mixed)
        added = sum(told["adapter_bytes"])
        for c in told["cases"].values():
            rows.append(step_row(told, kind, c, " (ranks 8 to 64)", added) if c["case"] == EIGHT else step_row(told, kind, c))
        prefill[kind] = median(1 / t["seconds"] / t["bf16_gflop_s"] for t in told["cases"]["prefill:512"]["turns"])
        goals += step_goals(name, kind, told)
        if kind == "bf16":
            goals += adapter_goals(ctx, name, kind, told, model, rounds, rows)
    if "int8" in prefill and "bf16" in prefill:
        goals.append((f"{name}: int8 prefill over bf16, each beside the plain bf16 rate", prefill["int8"] / prefill["bf16"], ">=", 1.5))
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
    return goals + [(f"{name} {kind}: {c.split(':')[1]} streams of the roofline", median(shares(told, kind, told["cases"][c])), ">=", 0.7)
                    for c in (PLAIN, SIXTEEN)]


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
