"""The verdict on a canary, with enough requests to give one: what came of them through the whole gateway, and the words for it in the API, on the page and in the command."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway_process import BIN, until

EACH, AT_ONCE = 60, 8  # of each target; canary.h wants fifty
CALM = "tokens=3 first_ms=100 delay_ms=50"  # so that what the machine adds is small beside it
CASES = {  # what the canary's requests are like, what the baseline's, the verdict, how the reason begins, what the page says
    "slower": ("tokens=3 first_ms=220 delay_ms=50", CALM, "worse", "pirate@1 has a longer time to the first token than sql@1: ", "Worse", "bad"),
    "failing": (CALM + " status=500", CALM, "worse", "pirate@1 has more errors than sql@1: ", "Worse", "bad"),
    "faster": ("tokens=3 first_ms=20 delay_ms=50", CALM, "better", "pirate@1 has a shorter time to the first token than sql@1: ", "Better", "good"),
    "mended": (CALM, CALM + " status=500", "better", "pirate@1 has fewer errors than sql@1: ", "Better", "good"),
    "alike": (CALM, CALM, "no difference", "No difference in errors, aborts or times is larger than chance would make it.", "No difference", ""),
}


def weft(t, *args):
    env = {**os.environ, "WEFT_URL": t.gateway.url, "WEFT_ADMIN_URL": t.gateway.admin_url, "WEFT_KEY": t.key, "WEFT_CONFIG": "/nonexistent/x"}
    r = subprocess.run([BIN / "weft", *args], env=env, capture_output=True, text=True, timeout=30)
    assert r.returncode == 0, r.stderr
    return r.stdout


def ask(c, text, user):
    r = c.post("/v1/chat/completions", json={"model": "chat", "stream": True, "user": user, "messages": [{"role": "user", "content": text}]})
    return r.headers.get("x-weft-adapter-version", "").split("@")[0]


def users_of(c, names):
    """Who is led where: users stick to their target."""
    found, i = {name: [] for name in names}, 0
    while not all(found.values()):
        r = c.post("/v1/chat/completions", json={"model": "chat", "user": f"u{i}", "messages": [{"role": "user", "content": CALM}]})
        found[r.headers["x-weft-adapter-version"].split("@")[0]].append(f"u{i}")
        i += 1
        assert i < 200
    return {name: of[0] for name, of in found.items()}, i


@pytest.mark.parametrize("case", CASES)
def test_enough_requests_have_a_verdict_with_its_reason(browser, real, case):
    canary, baseline, verdict, reason, page, kind = CASES[case]
    t = real.tenant("canary-" + case)
    for name in ("sql", "pirate"):
        assert t.upload(name).status_code == 201
    with t.http() as c, ThreadPoolExecutor(AT_ONCE) as pool:
        assert c.put("/v1/aliases/chat", json={"sticky": "user", "targets": [{"adapter": "sql", "weight": 60}, {"adapter": "pirate", "weight": 40}]}).status_code == 201
        user, few = users_of(c, ("sql", "pirate"))
        look = lambda: c.get("/v1/stats/canary", params={"alias": "chat"}).json()
        until(lambda: sum(x["requests"] for x in look()["targets"]) == few, what="the first ones settled")
        assert look()["verdict"] == "too few requests" and look()["reason"].endswith(" 50 of each are needed.")
        work = [(text, user[name]) for _ in range(EACH) for name, text in (("sql", baseline), ("pirate", canary))]  # by turns: a slow moment meets both
        list(pool.map(lambda w: ask(c, *w), work))
        said = until(lambda: (lambda x: x if sum(y["requests"] for y in x["targets"]) == few + 2 * EACH else None)(look()), what="all settled")
    assert said["verdict"] == verdict and said["reason"].startswith(reason), said
    lines = weft(t, "canary", "chat").splitlines()
    assert lines[0].split()[0] == "TARGET" and {x.split()[0] for x in lines[1:3]} == {"sql@1", "pirate@1"}
    assert lines[-1] == f"{verdict}: {said['reason']}"
    browser.login(real.admin_url, real.admin_key)
    browser.open(f"canary?alias=chat&tenant={t.name}")
    assert browser.text("#verdict strong") == page and browser.text("#verdict span") == said["reason"]
    assert browser.js("return document.getElementById('verdict').className") == ("verdict " + kind).strip()
    marked = [x["metric"] for x in said["comparison"] if x["significant"]]
    assert browser.text("section[aria-label=Differences]").count("more than chance") == len(marked) + 1  # and the heading's own
    assert bool(marked) == (verdict != "no difference") or marked == ["duration_ms"]
