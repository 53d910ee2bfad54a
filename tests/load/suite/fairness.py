"""Who waits for whom: cold adapters, popularity, tenants, a lone request, a long prompt, loads beside decoding."""
import time

from .servers import Engine, Gateway, Load, load
from .speed import QWEN, SMOL, base, median

SLOTS = 32
TPOT_MS = 100  # what a request without a class may expect per output token


def cold(ctx):
    """One stream over adapters that are all out of their slots when they are asked for, and over resident ones."""
    count = 48 if ctx.quick else 96
    rows = []
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--max-slots", SLOTS) as e:
        for rank in (8, 16, 64):
            targets = e.load(e.adapters.equal(count if rank < 64 else 40, rank, first=1000))
            before = e.metric("weft_cold_requests_total")
            a = load(e, targets, 1, 64, 4, requests=len(targets), seed=rank)
            colds = e.metric("weft_cold_requests_total") - before
            b = load(e, targets[-8:], 1, 64, 4, requests=len(targets), seed=rank)
            rows.append({"rank": rank, "requests": len(targets), "of them cold": colds, "cold TTFT p50 ms": a["ttft_ms"],
                         "cold TTFT p99 ms": a["ttft_p99_ms"], "resident TTFT p50 ms": b["ttft_ms"], "resident TTFT p99 ms": b["ttft_p99_ms"]})
    return {"title": "Cold arrivals, one stream, prompts of 64", "rows": rows}


def zipf(ctx):
    """The same seeded requests over registered adapters of rank 8, with 32 slots and with all resident, in turn."""
    count = 200 if ctx.quick else 1000
    path, seconds, rounds = base(SMOL, "bf16", ctx.demo), 3 if ctx.quick else 5, 1 if ctx.quick else 2
    rows, keep = [], []
    with Engine(path, SMOL, "--max-slots", SLOTS) as few, Engine(path, SMOL, "--max-slots", count) as all_of_them:
        adapters = few.adapters.equal(count, 8, first=1000)
        targets = [(e, e.load(adapters)) for e in (few, all_of_them)]
        for r in range(rounds):
            got = []
            for e, t in targets:
                before = e.metric("weft_cold_requests_total")
                x = load(e, t, 16, 64, 64, zipf=1.0, seconds=seconds, cut=True, seed=1 + r)
                got.append(x)
                rows.append({"slots": SLOTS if e is few else count, "tokens/s": x["tokens_s"], "requests": x["requests"],
                             "cold": e.metric("weft_cold_requests_total") - before, "TTFT p50 ms": x["ttft_ms"],
                             "TTFT p99 ms": x["ttft_p99_ms"], "inter-token p99 ms": x["itl_p99_ms"]})
            keep.append(got[0]["tokens_s"] / got[1]["tokens_s"])
    return {"title": f"Zipf popularity (s = 1) over {count:,} registered adapters of rank 8, 16 streams", "rows": rows,
            "goals": [(f"Zipf over {count:,} adapters: {SLOTS} slots keep of all resident", median(keep), ">=", 0.85)]}


# --- tenants ---


def told_tenant(word, beside, r):
    return {"tenant": word, "beside": beside, "requests": r["requests"], "tokens/s": r["tokens_s"], "TTFT p50 ms": r["ttft_ms"],
            "TTFT p99 ms": r["ttft_p99_ms"], "inter-token p99 ms": r["itl_p99_ms"], "failed": r["failed"], "unsent": r["unsent"]}


def fair(ctx):
    """Through the gateway. What the server can do is measured first; B then offers an eighth of it, A ten times as much as B."""
    rows, seconds = [], 6 if ctx.quick else 20
    with Gateway(base(SMOL, "bf16", ctx.demo), "--base-name", "base") as g:
        g.vocab = 49152
        a, b = [f"{g.tenant(t)}=base" for t in ("a", "b")]
        load(g, [b], 8, 64, 16, requests=16)
        full = load(g, [b], 32, 64, 16, requests=192, seed=2)
        rate = full["requests"] / full["seconds"] / 8
        alone = load(g, [b], 0, 64, 16, rate=rate, seconds=seconds, seed=3)
        busy = Load(g, [a], 512, 64, 16, rate=10 * rate, seconds=seconds + 2, cut=True, seed=4)
        beside = load(g, [b], 0, 64, 16, rate=rate, seconds=seconds, seed=3)
        crowd = busy.result()
    rows = [told_tenant("B", "nobody", alone), told_tenant("B", "A", beside), told_tenant("A", "B", crowd)]
    ratio = beside["ttft_p99_ms"] / alone["ttft_p99_ms"]
    return {"title": f"Tenant A offers 10x of tenant B ({rate:.1f} requests/s of 16 tokens; the server can do {8 * rate:.1f}), through the gateway",
            "rows": rows, "goals": [("B's TTFT p99 beside A over alone", ratio, "<=", 2.0)]}


def shares(ctx):
    """Two tenants of equal weight, both backlogged; the one with 50 adapters and twice the streams gets no more."""
    seconds = 6 if ctx.quick else 12
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--max-slots", 64, "--max-running", 16) as e:
        loaded = e.load(e.adapters.equal(51, 8, first=1000))
        runs = [Load(e, t, n, 64, 48, seconds=seconds, cut=True, header=f"X-Weft-Tenant: {name}", seed=n)
                for name, t, n in (("a", loaded[:50], 64), ("b", loaded[50:], 32))]
        a, b = [r.result() for r in runs]
    rows = [told_tenant("A, 50 adapters, 64 streams", "B", a), told_tenant("B, one adapter, 32 streams", "A", b)]
    apart = abs(a["tokens"] - b["tokens"]) / max(a["tokens"], b["tokens"])
    return {"title": "Two backlogged tenants of equal weight, 16 sequences in a step", "rows": rows,
            "goals": [("tokens of two backlogged tenants apart", apart, "<=", 0.05)]}


def lone(ctx):
    """Requests for one adapter, one after the other, beside seven streams of another that never pause."""
    seconds, rounds, rows, ratios = 5 if ctx.quick else 8, 1 if ctx.quick else 2, [], []
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL) as e:
        other, mine = e.load(e.adapters.equal(1, 64) + e.adapters.equal(1, 8))
        load(e, [other], 8, 64, 16), load(e, [mine], 1, 64, 8, requests=4)
        for r in range(rounds):
            solo = load(e, [mine], 1, 64, 2, seconds=seconds / 2, seed=5 + r)
            crowd = Load(e, [other], 7, 64, 128, seconds=60, cut=True, seed=50 + r)
            time.sleep(1)
            beside = load(e, [mine], 1, 64, 2, seconds=seconds, seed=5 + r)
            step = crowd.end()["itl_ms"]
            ratios.append(beside["ttft_p99_ms"] / (2 * solo["ttft_ms"] + step))
            rows.append({"round": r + 1, "requests": beside["requests"], "solo TTFT p50 ms": solo["ttft_ms"], "solo p99 ms": solo["ttft_p99_ms"],
                         "beside seven p50 ms": beside["ttft_ms"], "beside seven p99 ms": beside["ttft_p99_ms"], "a step ms": step})
    return {"title": "A lone request beside seven busy streams of another adapter (rank 8 beside rank 64)", "rows": rows,
            "goals": [("the lone request: TTFT p99 over (2x solo TTFT + one step)", median(ratios), "<=", 1.0)]}


def long_prompt(ctx):
    """32,000 tokens come in by chunks while eight streams decode. Within the time of a bench not all of them: the row tells how many."""
    seconds = 10 if ctx.quick else 25
    with Engine(base(QWEN, "bf16", ctx.demo), QWEN, "--max-running", 16, "--kv-mb", 1024) as e:
        load(e, [e.target()], 8, 64, 8)
        alone = load(e, [e.target()], 8, 64, 4096, seconds=8, cut=True, seed=2)
        before = e.metric("weft_step_rows_total", 'kind="prefill"')
        crowd = Load(e, [e.target()], 8, 64, 4096, seconds=60, cut=True, seed=2)
        time.sleep(2)
        big = load(e, [e.target()], 1, 32000, 1, seconds=seconds, cut=True, seed=3)
        beside = crowd.end()
        done = e.metric("weft_step_rows_total", 'kind="prefill"') - before - 8 * 64
    row = lambda word, r, n: {"eight streams": word, "tokens/s": r["tokens_s"], "inter-token p50 ms": r["itl_ms"],
                              "inter-token p99 ms": r["itl_p99_ms"], "inter-token max ms": r["itl_max_ms"],
                              "per output token, worst stream ms": r["tpot_max_ms"], "of the prompt": n}
    title = f"A prompt of 32,000 tokens beside eight streams, {QWEN} bf16, {seconds} s of it"
    return {"title": title, "rows": [row("alone", alone, ""), row("beside", beside, max(done, 0) if big["unfinished"] else 32000)],
            "goals": [(f"beside a prompt of 32,000: time per output token of the worst stream over {TPOT_MS} ms", beside["tpot_max_ms"] / TPOT_MS,
                       "<=", 1.0)]}


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


def loads(ctx):
    """Eight streams of eight mixed adapters; in the middle one of three runs the engine loads others meanwhile, one after the other."""
    count, most_s, quiet_s, rows = 64 if ctx.quick else 256, 30, 3 if ctx.quick else 6, []
    with Engine(base(SMOL, "bf16", ctx.demo), SMOL, "--max-slots", 8 + count) as e:
        mixed = e.load(e.adapters.mixed(8))
        others = [(folder, e.adapters.digest(rank, folder)) for rank, folder in e.adapters.equal(count, 16, first=1000)]
        load(e, mixed, 8, 64, 16)
        stream = lambda seconds, seed: Load(e, mixed, 8, 64, 4096, seconds=seconds, cut=True, seed=seed)
        before = stream(quiet_s, 7).result()
        busy, end, n = stream(most_s + 10, 8), time.monotonic() + most_s, 0
        time.sleep(0.5)
        while n < count and time.monotonic() < end:
            e.ask("POST", "/v1/load_lora_adapter", {"lora_name": others[n][1], "lora_path": str(others[n][0])})
            n += 1
        beside = busy.end()
        after = stream(quiet_s, 9).result()
    rows = [{"when": w, "adapters loaded": k, "seconds": r["seconds"], "tokens/s": r["tokens_s"], "inter-token p50 ms": r["itl_ms"],
             "inter-token p99 ms": r["itl_p99_ms"], "inter-token max ms": r["itl_max_ms"]}
            for w, k, r in (("before", 0, before), ("meanwhile", n, beside), ("after", 0, after))]
    quiet = median([before["itl_p99_ms"], after["itl_p99_ms"]])
    return {"title": "Adapters of rank 16 loaded beside eight streams", "rows": rows,
            "goals": [("inter-token p99 while adapters are loaded over without", beside["itl_p99_ms"] / quiet, "<=", 1.2)]}
