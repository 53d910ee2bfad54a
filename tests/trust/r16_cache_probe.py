"""R16, the prefix cache and strangers: whether a tenant has asked something can't be seen by another who asks the same, not in the cached tokens that it is told and not in the time to
its first token; the tenant itself sees both. Cached tokens are counted in every run; of the times the area under the curve (AUC) is always told, and judged where the row is whole and
nothing runs beside it: with 400 probes of a kind chance alone goes beyond 0.55 once in 70 runs, with eight it nearly always does."""
import random
import time

from gateway_process import BASE, Gateway, until
from trust import row, without

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MODELS = (BASE, "sql")


def prompt(draw, words):
    """A secret: nothing of it was ever asked before."""
    return " ".join("".join(draw.choices(LETTERS, k=5)) for _ in range(words))


def ask(c, text, model=BASE):
    """(milliseconds to the first byte of the answer's stream, cached tokens)"""
    began, first, cached = time.monotonic(), None, None
    with c.stream("POST", "/v1/completions", json={"model": model, "prompt": text, "max_tokens": 1, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}) as r:
        assert r.status_code == 200, r.read()
        for line in r.iter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.monotonic() - began
            if '"cached_tokens":' in line:
                cached = int(line.split('"cached_tokens":')[1].split("}")[0].split(",")[0])
    assert cached is not None
    return first * 1000, cached


def auc(hits, misses):
    """The share of pairs in which the hit was the quicker one; of equal ones half."""
    wins = sum((h < m) + 0.5 * (h == m) for h in hits for m in misses)
    return wins / (len(hits) * len(misses))


def auc_of_kinds(times, hit, miss):
    """Of pairs that were asked of the same model: what makes one slower than another would hide a small difference."""
    areas = [auc(times[hit, m], times[miss, m]) for m in MODELS]
    return sum(areas) / len(areas)


def either_way(area):
    """A stranger may as well conclude from what is always slower: 0.2 tells as much as 0.8."""
    return max(area, 1 - area)


def check_arithmetic():
    assert (auc([1, 2], [3, 4]), auc([3, 4], [1, 2]), auc([1, 2], [1, 2]), auc([1, 3], [2])) == (1, 0, 0.5, 0.5)
    assert (either_way(0.2), either_way(0.8), either_way(0.5)) == (0.8, 0.8, 0.5)
    apart = {("hit", BASE): [1], ("miss", BASE): [2], ("hit", "sql"): [10], ("miss", "sql"): [20]}
    assert auc_of_kinds(apart, "hit", "miss") == 1 and auc([1, 10], [2, 20]) == 0.75


without("R16", "the tenant in the salt of the prefix cache", "gateway/proxy/chat_api.c",
        old='"%s %s %s", tenant, t->digest, base_digest', new='"%s %s %s", tenant ? "" : "-", t->digest, base_digest')
without("R16", "the salt in the root of the pages' keys", "engine/sched_gen.c", old='kv_key_root(&g->root, r->salt ? r->salt : "");', new='kv_key_root(&g->root, "");')


@row("R16", "probes of the prefix cache: a stranger sees no hit, the tenant its own")
def check(t):
    check_arithmetic()
    n, words = t.size(8, 400), t.size(25, 60)  # of three tokens or so each
    g = Gateway(t.folder, "--max-context", "1024", "--speculate", "0")
    draw = random.Random()
    times = {(k, m): [] for k in ("own", "fresh", "strange", "strange fresh") for m in MODELS}
    hits = dict.fromkeys(("asked first", "own", "fresh", "strange", "strange fresh"), 0)
    try:
        owner, stranger = g.tenant("owner"), g.tenant("stranger")
        assert {x.upload("sql").status_code for x in (owner, stranger)} == {201}  # the same bytes: one digest, one slot for both
        with owner.http() as a, stranger.http() as b:
            for m in MODELS:
                ask(a, prompt(draw, words), m), ask(b, prompt(draw, words), m)
            for i in range(n):
                secret, model = prompt(draw, words), MODELS[i % 2]
                hits["asked first"] += ask(a, secret, model)[1] > 0
                probes = [("own", a, secret), ("fresh", a, prompt(draw, words)), ("strange", b, secret), ("strange fresh", b, prompt(draw, words))]
                for kind, client, text in draw.sample(probes, 4):  # no kind always comes first, or after the same one
                    ms, cached = ask(client, text, model)
                    times[kind, model].append(ms)
                    hits[kind] += cached > 0
        state = until(lambda: g.engine_state(), what="the engine's counts")
        shared = state["prefix"]["hits"]
        digests = [m for m in g.admin.get("/admin/v1/adapters").json()["data"]]
    finally:
        g.close()
    t.count("probes of each kind", min(sum(len(v) for (k, _), v in times.items() if k == kind) for kind in ("own", "fresh", "strange", "strange fresh")), least=t.size(8, 400))
    t.count("hits told to a stranger", hits["strange"] + hits["strange fresh"], most=0)
    t.count("hits told of what was never asked", hits["asked first"] + hits["fresh"], most=0)
    t.count("hits of the tenant's own", hits["own"], least=n)
    t.count("tokens that the engine found in all", shared, least=n * 16)
    t.count("adapters of both, one digest", len(digests), least=2)
    goals = ({"most": 0.55}, {"least": 0.95}) if t.whole else ({}, {})
    t.speed("AUC of a stranger's probe by its time to the first token, whichever way it tells", either_way(auc_of_kinds(times, "strange", "strange fresh")), **goals[0])
    t.speed("AUC of the tenant's own", auc_of_kinds(times, "own", "fresh"), **goals[1])
    if not t.whole:
        t.note("of so few probes the areas under the curves say little, and are not judged: the whole form takes 400 of each kind")
