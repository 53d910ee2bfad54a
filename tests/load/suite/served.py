"""Tokens over HTTP: streams, prompts, adapters and bases; the gateway beside the engine; how soon an engine is there."""
import tempfile
from pathlib import Path

from .rounds import in_turn, median, middle, spread
from .servers import Engine, Gateway, load, wait_for
from .speed import QWEN, SMOL, base

PROMPTS = (64, 512)
STREAMS = (1, 2, 4, 8, 16, 32)
OUTPUT = 64
SETS = ("base", "1", "8", "32")
FIRST_OF_32 = 5  # so that points of few requests don't ask the eight of "8" again


def requests_of(targets, streams):
    """A whole wave and no fewer than four; each adapter of many once, as far as three waves go."""
    return max(streams, 4, min(len(targets), 3 * streams))


def point(server, targets, streams, prompt, seed, output=OUTPUT):
    return load(server, targets, streams, prompt, output, requests=requests_of(targets, streams), seed=seed)


def told_point(r, **words):
    return words | {"tokens/s": r["tokens_s"], "TTFT p50 ms": r["ttft_ms"], "TTFT p99 ms": r["ttft_p99_ms"], "inter-token p50 ms": r["itl_ms"],
                    "inter-token p99 ms": r["itl_p99_ms"], "the client's share": r["client_cpu"]}


def sets_of(server, which):
    """Targets: no adapter, one, eight and 32 different ones of ranks 8 to 64."""
    targets = {"base": [server.target()]}
    most = max([{"base": 0, "1": 8, "8": 8, "32": 32}[w] for w in which])
    loaded = server.load(server.adapters.mixed(most)) if most else []
    if loaded:
        targets |= {"1": loaded[4:5], "8": loaded[:8], "32": loaded[FIRST_OF_32:] + loaded[:FIRST_OF_32]}  # the one is of rank 32
    return {w: targets[w] for w in which}


def grid(ctx, name, kind, points, output=OUTPUT):
    """`points`: (prompt, streams, sets)."""
    rows, seed = [], 1
    which = [w for w in SETS if any(w in sets for _, _, sets in points)]
    with Engine(base(name, kind, ctx.demo), name, "--name", "base", "--max-slots", 64) as e:
        targets = sets_of(e, which)
        for w in which:
            point(e, targets[w], 8, 64, 0, 8)
        for prompt, streams, sets in points:
            for w in sets:
                seed += 1
                rows.append(told_point(point(e, targets[w], streams, prompt, seed, output), base=kind, prompt=prompt, streams=streams, adapters=w))
    return rows


def bf16_of(prompt, streams):
    def part(ctx):
        points = [(prompt, n, ("base", "8") if ctx.quick else SETS) for n in streams if not ctx.quick or n in (1, 8, 32)]
        words = f"{streams[0]} to {streams[-1]} streams with prompts of {prompt}"
        return {"title": f"{SMOL} bf16 over HTTP, the engine directly, {words}", "rows": grid(ctx, SMOL, "bf16", points)}
    return part


def quantized(ctx):
    """Base and eight adapters over all numbers of streams with short prompts; long ones at eight streams, where they are compared."""
    points = [(64, n, ("base", "8")) for n in ((1, 8) if ctx.quick else STREAMS)] + ([] if ctx.quick else [(512, 8, ("base", "8"))])
    return {"title": f"{SMOL}, int8 and int4 over HTTP, the engine directly", "rows": sum((grid(ctx, SMOL, k, points) for k in ("int8", "int4")), [])}


def qwen(ctx):
    output = OUTPUT // 2
    wide = [(64, n, ("base", "8")) for n in ((8,) if ctx.quick else STREAMS)] + ([] if ctx.quick else [(512, 8, ("base", "8"))])
    rows = grid(ctx, QWEN, "bf16", wide, output)
    for kind in () if ctx.quick else ("int8", "int4"):
        rows += grid(ctx, QWEN, kind, [(64, n, ("base", "8")) for n in (1, 8, 32)], output)
    return {"title": f"{QWEN} (seeded random weights of its shape) over HTTP, the engine directly, {output} tokens out", "rows": rows}


def gateway(ctx):
    """Eight tenants with an adapter each, and the same points asked of an engine alone, in turn."""
    rows, keep = [], []
    path, rounds = base(SMOL, "bf16", ctx.demo), 1 if ctx.quick else 3
    points = [(64, 1, "base"), (64, 8, "base"), (64, 8, "8")] + ([] if ctx.quick else [(64, 32, "base"), (512, 8, "base")])
    with Engine(path, SMOL, "--name", "base") as e, Gateway(path, "--base-name", "base") as g:
        g.vocab = e.vocab
        mixed = e.adapters.mixed(8)
        keys = [g.tenant(f"t{i}") for i in range(8)]
        via = {"base": [f"{k}=base" for k in keys], "8": [g.push(k, f"a{i}", f) for i, (k, (_, f)) in enumerate(zip(keys, mixed))]}
        direct = {"base": [e.target()], "8": e.load(mixed)}
        for w in ("base", "8"):
            point(g, via[w], 8, 64, 0, 16), point(e, direct[w], 8, 64, 0, 16)
        for prompt, n, w in points:
            took = in_turn(rounds, lambda r: point(g, via[w], n, prompt, 1 + r), lambda r: point(e, direct[w], n, prompt, 1 + r))
            ratios = [a["tokens_s"] / b["tokens_s"] for a, b in took]
            keep += ratios
            for word, i in (("gateway", 0), ("engine", 1)):
                rows.append(told_point(middle([r[i] for r in took]), path=word, prompt=prompt, streams=n, adapters=w)
                            | {"gateway over engine": spread(ratios) if word == "gateway" else ""})
    return {"title": f"{SMOL} bf16 through the gateway, eight tenants, beside the engine directly", "rows": rows,
            "notes": [f"the gateway keeps {median(keep):.1%} of the engine's tokens/s (median over points and rounds, paired)"]}


def start(ctx):
    """From the process to a ready server: packing at first, which leaves a copy in a cache of its own, then mapping that."""
    rows, worst = [], 0
    for kind in ("bf16",) if ctx.quick else ("bf16", "int8"):
        path = base(QWEN, kind, ctx.demo)
        with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
            cache = Path(folder) / "cache"
            with Engine(path, QWEN, "--cache", cache) as first:
                made = first.state["memory"]["weights"]["from"]
                if made == "packed":
                    wait_for("the packed copy", lambda: list(cache.glob("*.weft")), first.process)
            took = []
            for _ in range(3):
                with Engine(path, QWEN, "--cache", cache) as e:
                    took.append(e.start_s)
                    later = e.state["memory"]["weights"]["from"]
        worst = max(worst, *took)
        rows.append({"base": kind, "first start s": first.start_s, "weights": made, "later starts s": median(took), "least and most": spread(took),
                     "weights then": later})
    return {"title": f"Starts of {QWEN}", "rows": rows, "goals": [("later starts of a 0.5B base in seconds, the slowest", worst, "<=", 2)]}
