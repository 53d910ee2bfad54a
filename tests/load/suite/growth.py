"""How cost grows: over streams and over distinct adapters, as tables and plots."""
import math

from . import plot
from .rounds import median, middle, spread
from .served import OUTPUT, told_point
from .servers import Engine, load
from .speed import SMOL, base

STREAMS = (1, 2, 4, 8, 16, 32, 64)
DISTINCT = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WAVE, SHORT = 32, 32  # streams and tokens out where adapters are counted
CLIFF = 0.2  # lost when there are twice as many


def drop(points):
    """(how much is lost from a point to the next at most, where); of points further than twice apart what is lost per doubling."""
    return max((1 - (b[1] / a[1]) ** (1 / math.log2(b[0] / a[0])), f"{a[0]} to {b[0]}") for a, b in zip(points, points[1:]))


def cliff_goal(what, points):
    lost, where = drop(points)
    return (f"{what}: largest relative drop where they double ({where})", max(lost, 0), "<=", CLIFF)


def draw(ctx, name, title, x_label, series):
    ctx.plots.mkdir(parents=True, exist_ok=True)
    plot.line_plot(ctx.plots / name, title, x_label, "tokens/s", series)
    return [name]


def streams(ctx):
    """Rounds over all points, so that a slow minute of the machine is nobody's cliff."""
    words = {"base": "base", "8": "8 adapters of ranks 8 to 64"}
    numbers, took = (1, 4, 16, 64) if ctx.quick else STREAMS, {}
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--name", "base", "--max-running", STREAMS[-1]) as e:
        targets = {"base": [e.target()], "8": e.load(e.adapters.mixed(8))}
        for w in targets:
            load(e, targets[w], STREAMS[-1], 64, 8)
        for r in range(1 if ctx.quick else 3):
            for n in numbers:
                for w in targets:
                    took.setdefault((n, w), []).append(load(e, targets[w], n, 64, OUTPUT, requests=max(n, 4), seed=10 * r + n))
    rows = [told_point(middle(rs), streams=n, adapters=words[w]) | {"tokens/s, spread": spread(x["tokens_s"] for x in rs)}
            for (n, w), rs in took.items()]
    series = {words[w]: [(n, median(x["tokens_s"] for x in took[n, w])) for n in numbers] for w in words}
    return {"title": "How cost grows with streams", "rows": rows, "goals": [cliff_goal(f"streams, {w}", s) for w, s in series.items()],
            "plots": draw(ctx, "streams.svg", f"{SMOL} bf16 over HTTP, prompts of 64, {OUTPUT} tokens out", "streams", series)}


def adapters(ctx):
    """Waves of 32 streams over n adapters, round robin: n = 64 takes two waves, 128 four; rounds as above, fewer where they are long."""
    numbers, took = (1, 8, 32, 256) if ctx.quick else DISTINCT, {}
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--name", "base", "--max-slots", 280) as e:
        some = e.load(e.adapters.equal(DISTINCT[-1], 16, first=1000))
        load(e, some[:WAVE], WAVE, 64, 8)
        for r in range(1 if ctx.quick else 3):
            for n in (n for n in numbers if r * max(n, WAVE) <= 2 * WAVE):
                took.setdefault(n, []).append(load(e, some[:n], WAVE, 64, SHORT, requests=max(n, WAVE), seed=10 * r + n))
    rows = [told_point(middle(rs), adapters=n, requests=max(n, WAVE)) | {"tokens/s, spread": spread(x["tokens_s"] for x in rs)} for n, rs in took.items()]
    series = [(n, median(x["tokens_s"] for x in rs)) for n, rs in took.items()]
    return {"title": f"How cost grows with distinct adapters of rank 16, {WAVE} streams", "rows": rows,
            "goals": [cliff_goal(f"distinct adapters, {WAVE} streams", series)],
            "plots": draw(ctx, "adapters.svg", f"{SMOL} bf16, {WAVE} streams, prompts of 64, {SHORT} tokens out", "distinct adapters of rank 16",
                          {f"{WAVE} streams": series})}
