"""Who waits for whom: cold adapters, popularity, tenants, a lone request, a long prompt, loads beside decoding."""
import time
from concurrent.futures import ThreadPoolExecutor

from .rounds import in_turn, median, middle, quantile, spread
from .servers import Engine, Gateway, Load, load, load_recorded
from .speed import LONG, SMOL, base

SLOTS = 32
TPOT_MS = 100  # what a request without a class may expect per output token


def cold(ctx):
    """One stream over adapters that are all out of their slots when they are asked for, and over resident ones, in turn."""
    count, rounds, rows = 48, 2 if ctx.quick else 4, []
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--max-slots", SLOTS) as e:
        for rank in (8, 16, 64):
            targets, each = e.load(e.adapters.equal(count, rank, first=1000)), count // rounds
            before = e.metric("weft_cold_requests_total")
            first = lambda r: load(e, targets[r * each:(r + 1) * each], 1, 64, 4, requests=each, seed=rank + r)
            again = lambda r: load(e, targets[r * each:(r + 1) * each][-8:], 1, 64, 4, requests=each, seed=rank + r)
            took = [(first(r), again(r)) for r in range(rounds)]
            a, b = [middle([t[i] for t in took]) for i in (0, 1)]
            rows.append({"rank": rank, "requests": count, "of them cold": e.metric("weft_cold_requests_total") - before, "cold TTFT p50 ms": a["ttft_ms"],
                         "cold TTFT p99 ms": a["ttft_p99_ms"], "resident TTFT p50 ms": b["ttft_ms"], "resident TTFT p99 ms": b["ttft_p99_ms"],
                         "cold over resident": spread(x["ttft_ms"] / y["ttft_ms"] for x, y in took)})
    return {"title": "Cold arrivals, one stream, prompts of 64", "rows": rows}


def zipf(ctx):
    """The same seeded requests over registered adapters of rank 8, with 32 slots and with all resident, in turn."""
    count, rounds = (200, 2) if ctx.quick else (1000, 4)
    path, colds = base(SMOL, "bf16", ctx.demo), {}
    with Engine(path, SMOL, "--max-slots", SLOTS) as few, Engine(path, SMOL, "--max-slots", count) as everyone:
        adapters = few.adapters.equal(count, 8, first=1000)
        with ThreadPoolExecutor(2) as both:
            targets = dict(zip((few, everyone), both.map(lambda e: e.load(adapters), (few, everyone))))

        def ask(e, seed):
            before = e.metric("weft_cold_requests_total")
            r = load(e, targets[e], 16, 64, 64, zipf=1.0, seconds=4.5, warm=0.5, cut=True, seed=seed)
            colds.setdefault(e, []).append(e.metric("weft_cold_requests_total") - before)
            return r

        ask(few, 99), ask(everyone, 99)
        took = in_turn(rounds, lambda r: ask(few, 1 + r), lambda r: ask(everyone, 1 + r))
        rows = []
        for i, (e, slots) in enumerate(((few, SLOTS), (everyone, count))):
            x = middle([t[i] for t in took])
            rows.append({"slots": slots, "tokens/s": x["tokens_s"], "requests": x["requests"], "cold": median(colds[e][1:]), "TTFT p50 ms": x["ttft_ms"],
                         "TTFT p99 ms": x["ttft_p99_ms"], "inter-token p99 ms": x["itl_p99_ms"]})
    keep = [a["tokens_s"] / b["tokens_s"] for a, b in took]
    return {"title": f"Zipf popularity (s = 1) over {count:,} registered adapters of rank 8, 16 streams, medians of {rounds} rounds", "rows": rows,
            "notes": [f"few slots over all resident, round by round: {spread(keep)}"],
            "goals": [(f"Zipf over {count:,} adapters: {SLOTS} slots keep of all resident", median(keep), ">=", 0.85)]}


# --- tenants ---


def told_tenant(word, beside, r):
    return {"tenant": word, "beside": beside, "requests": r["requests"], "tokens/s": r["tokens_s"], "TTFT p50 ms": r["ttft_ms"],
            "TTFT p99 ms": r["ttft_p99_ms"], "inter-token p99 ms": r["itl_p99_ms"], "failed": r["failed"], "unsent": r["unsent"]}


def gathered(runs):
    """Of runs (result, records): the medians, but TTFT over all requests of all rounds, and requests and failures summed."""
    ttft = [r["ttft_ms"] for _, records in runs for r in records if r["ttft_ms"] >= 0]
    sums = {k: sum(r[k] for r, _ in runs) for k in ("requests", "failed", "unfinished", "unsent")}
    return middle([r for r, _ in runs]) | sums | {"ttft_ms": median(ttft), "ttft_p99_ms": quantile(ttft, 0.99)}


def fair(ctx):
    """Through the gateway. What the server can do is measured first; B then offers an eighth of it, alone and beside A, who offers ten times as
    much as B and has a backlog when B begins; the same arrivals, in turn."""
    seconds, rounds, crowds = 5 if ctx.quick else 9, 1 if ctx.quick else 4, []
    with Gateway(base(SMOL, "bf16", ctx.demo), "--base-name", "base") as g:
        g.vocab = 49152
        a, b = [f"{g.tenant(t)}=base" for t in ("a", "b")]
        load(g, [b], 8, 64, 16, requests=16)
        full = load(g, [b], 32, 64, 16, requests=192, seed=2)
        rate = full["requests"] / full["seconds"] / 8
        alone = lambda r: load_recorded(g, [b], 0, 64, 16, rate=rate, seconds=seconds, seed=3 + r)

        def beside(r):
            busy = Load(g, [a], 512, 64, 16, rate=10 * rate, seconds=seconds + 30, cut=True, seed=40 + r)
            time.sleep(1)
            got = alone(r)
            crowds.append(busy.end())
            time.sleep(0.5)
            return got

        took = in_turn(rounds, alone, beside)
    quiet, busy = [gathered([t[i] for t in took]) for i in (0, 1)]
    rows = [told_tenant("B", "nobody", quiet), told_tenant("B", "A", busy), told_tenant("A", "B", middle(crowds))]
    ratios = [y["ttft_p99_ms"] / x["ttft_p99_ms"] for (x, _), (y, _) in took]
    return {"title": f"Tenant A offers 10x of tenant B ({rate:.1f} requests/s of 16 tokens; the server can do {8 * rate:.1f}), through the gateway",
            "rows": rows, "notes": [f"B's TTFT p99 beside A over alone, round by round: {spread(ratios)}; the rows have the TTFT of all rounds' requests, "
                      "where one stall of the machine decides the p99"],
            "goals": [("B's TTFT p99 beside A over alone, median of rounds", median(ratios), "<=", 2.0),
                      ("B's requests beside A that were not answered", (busy["failed"] + busy["unsent"]) / busy["requests"], "<=", 0.0)]}


def shares(ctx):
    """Two tenants of equal weight, both backlogged; the one with 50 adapters and twice the streams gets no more."""
    (rounds, seconds), took = (1, 8) if ctx.quick else (2, 12), []
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--max-slots", 64, "--max-running", 16) as e:
        loaded = e.load(e.adapters.equal(51, 8, first=1000))
        for r in range(rounds):
            runs = [Load(e, t, n, 64, 24, seconds=seconds, warm=1.5, cut=True, header=f"X-Weft-Tenant: {name}", seed=n + r)
                    for name, t, n in (("a", loaded[:50], 64), ("b", loaded[50:], 32))]
            took.append([x.result() for x in runs])
            time.sleep(0.5)
    a, b = [middle([t[i] for t in took]) for i in (0, 1)]
    rows = [told_tenant("A, 50 adapters, 64 streams", "B", a), told_tenant("B, one adapter, 32 streams", "A", b)]
    sums = [sum(t[i]["tokens"] for t in took) for i in (0, 1)]
    return {"title": "Two backlogged tenants of equal weight, 16 sequences in a step, 24 tokens out", "rows": rows,
            "notes": [f"tokens of A over B's, round by round: {spread(x['tokens'] / y['tokens'] for x, y in took)}"],
            "goals": [("tokens of two backlogged tenants apart", abs(sums[0] - sums[1]) / max(sums), "<=", 0.05)]}


def lone(ctx):
    """Requests for one adapter, one after the other, alone and beside seven streams of another that never pause, in turn."""
    rounds, rows, solos, besides, steps = 1 if ctx.quick else 4, [], [], [], []
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL) as e:
        other, mine = e.load(e.adapters.equal(1, 64) + e.adapters.equal(1, 8))
        load(e, [other], 8, 64, 16), load(e, [mine], 1, 64, 8, requests=4)
        for r in range(rounds):
            solo = load_recorded(e, [mine], 1, 64, 2, seconds=2, seed=5 + r)
            crowd = Load(e, [other], 7, 64, 128, seconds=60, warm=1, cut=True, seed=50 + r)
            time.sleep(1)
            beside = load_recorded(e, [mine], 1, 64, 2, seconds=4, seed=5 + r)
            step = crowd.end()["itl_ms"]
            solos.append(solo), besides.append(beside), steps.append(step)
            rows.append({"round": r + 1, "requests": beside[0]["requests"], "solo TTFT p50 ms": solo[0]["ttft_ms"], "solo p99 ms": solo[0]["ttft_p99_ms"],
                         "beside seven p50 ms": beside[0]["ttft_ms"], "beside seven p99 ms": beside[0]["ttft_p99_ms"], "a step ms": step})
            time.sleep(0.3)
    ratios = [b[0]["ttft_p99_ms"] / (2 * s[0]["ttft_ms"] + t) for s, b, t in zip(solos, besides, steps)]
    all_in_all = gathered(besides)["ttft_p99_ms"] / (2 * gathered(solos)["ttft_ms"] + median(steps))
    return {"title": "A lone request beside seven busy streams of another adapter (rank 8 beside rank 64)", "rows": rows,
            "notes": [f"round by round: {spread(ratios)}; the p99 of all rounds' requests over the medians of all: {all_in_all:.2f}, which mixes the "
                      "machine's states"],
            "goals": [("the lone request: TTFT p99 over (2x solo TTFT p50 + one step), median of rounds", median(ratios), "<=", 1.0)]}


# --- a long prompt ---

LONG_PROMPT, LONG_S = 32000, 85


def long_prompt(ctx):
    """32,000 tokens come in by chunks while eight streams go on; what these do before is beside it. The whole prompt, if it takes no longer than
    LONG_S (--quick: 15 s of it)."""
    with Engine(base(LONG, "bf16", ctx.demo), LONG, "--max-running", 16, "--kv-mb", 2048) as e:
        stream = lambda seconds, seed: Load(e, [e.target()], 8, 64, 128, seconds=seconds, warm=1, cut=True, seed=seed)
        load(e, [e.target()], 8, 64, 8)
        alone, steps = stream(5, 2).result(), lambda: e.metric("weft_step_rows_total", 'kind="prefill"')
        before, begin = steps(), time.monotonic()
        big = Load(e, [e.target()], 1, LONG_PROMPT, 1, seconds=15 if ctx.quick else LONG_S, cut=True, seed=3)
        crowd = stream(LONG_S + 30, 4)
        whole = big.result()
        beside, took = crowd.end(), time.monotonic() - begin
        came = LONG_PROMPT if not whole["unfinished"] else max(steps() - before - 64 * beside["requests"], 0)
    row = lambda word, r, **more: {"eight streams": word, "tokens/s": r["tokens_s"], "per output token p50 ms": r["tpot_ms"], "p99 ms": r["tpot_p99_ms"],
                                   "inter-token p50 ms": r["itl_ms"], "inter-token p99 ms": r["itl_p99_ms"], "max ms": r["itl_max_ms"]} | more
    rows = [row("alone", alone), row("beside", beside, **{"of the prompt": int(came), "prompt tokens/s": came / took})]
    target = lambda k: beside[k] / TPOT_MS
    goals = [(f"beside a prompt of {LONG_PROMPT:,}: time per output token p50 of the {TPOT_MS} ms of its class", target("tpot_ms"), "<=", 1.0),
             ("the same: p99", target("tpot_p99_ms"), "<=", 1.0)]
    if not ctx.quick:
        goals.append((f"of the prompt of {LONG_PROMPT:,} came in within {LONG_S} s", came / LONG_PROMPT, ">=", 1.0))
    return {"title": f"A prompt of {LONG_PROMPT:,} tokens beside eight streams, {LONG}, {took:.0f} s",
            "rows": rows, "notes": [f"class normal: {TPOT_MS} ms per output token is its target; per output token: a request's 128 tokens, all requests"],
            "goals": goals}


# --- pages ---

PAGE = 16  # tokens


def pages(ctx):
    """Tokens that have a place in pages, beside what the pages that are taken could hold, while no sequence has ended yet."""
    rows, worst = [], 0
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--max-running", 32) as e:
        for streams, prompt in ((16, 64), (16, 512)):
            computed = lambda: e.metric("weft_step_rows_total")
            before, crowd, waste = computed(), Load(e, [e.target()], streams, prompt, 2048, seconds=30, cut=True), []
            while computed() - before < streams * (prompt + 8):
                time.sleep(0.1)
            for _ in range(10):
                time.sleep(0.1)
                held = computed() - before
                waste.append(1 - held / (PAGE * e.get_state()["pages"]["used"]))
            crowd.end()
            worst = median(waste)
            rows.append({"streams": streams, "prompt": prompt, "tokens held": held, "of the pages not used, share": worst})
            time.sleep(0.5)
    return {"title": "What pages of keys and values hold", "rows": rows,
            "goals": [("pages taken and not used, prompts of 512", worst, "<=", 0.04)]}


# --- loads ---

LOADS_MOST_S = 20  # of a round


def loads(ctx):
    """Eight streams of eight mixed adapters, quiet and while the engine loads others one after the other, in turn. Answers of 320 tokens keep the
    contexts of both alike: longer ones would grow with the time that the loads take."""
    count, rounds = (32, 2) if ctx.quick else (64, 4)
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--max-slots", 8 + count * rounds) as e:
        mixed = e.load(e.adapters.mixed(8))
        others = [(folder, e.adapters.digest(rank, folder)) for rank, folder in e.adapters.equal(count * rounds, 16, first=1000)]
        load(e, mixed, 8, 64, 16)
        stream = lambda seconds, seed: Load(e, mixed, 8, 64, 320, seconds=seconds, warm=0.5, cut=True, seed=seed)
        loaded = [0]

        def meanwhile(r):
            busy, end = stream(LOADS_MOST_S + 10, 20 + r), time.monotonic() + LOADS_MOST_S
            time.sleep(0.5)
            for folder, digest in others[r * count:(r + 1) * count]:
                if time.monotonic() < end:
                    e.ask("POST", "/v1/load_lora_adapter", {"lora_name": digest, "lora_path": str(folder)})
                    loaded[0] += 1
            return busy.end()

        took = in_turn(rounds, lambda r: stream(4.5, 10 + r).result(), meanwhile)
    rows = []
    for i, (word, n) in enumerate((("quiet", 0), ("loads", loaded[0]))):
        rs = [t[i] for t in took]
        r = middle(rs)
        rows.append({"eight streams beside": word, "adapters loaded": n, "seconds": sum(x["seconds"] for x in rs), "tokens/s": r["tokens_s"],
                     "inter-token p50 ms": r["itl_ms"], "inter-token p99 ms": r["itl_p99_ms"], "inter-token max ms": max(x["itl_max_ms"] for x in rs)})
    ratios = [y["itl_p99_ms"] / x["itl_p99_ms"] for x, y in took]
    return {"title": "Adapters of rank 16 loaded beside eight streams", "rows": rows, "notes": [f"inter-token p99, round by round: {spread(ratios)}"],
            "goals": [("inter-token p99 while adapters are loaded over without", median(ratios), "<=", 1.2),
                      (f"of {count * rounds} adapters loaded beside", loaded[0] / (count * rounds), ">=", 1.0)]}
