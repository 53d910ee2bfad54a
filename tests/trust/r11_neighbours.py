"""R11: a tenant at ten times its quota takes nothing from another: none of its requests is refused, and they take hardly longer.

The other tenant asks at a steady rate, first alone, then while the noisy one comes ten times as fast as its requests a minute allow. Most of its minute is used up before, so that what is
measured is a tenant who passes its quota, not one who still may.

And where no quota stands between them, on an engine that has more to do than it can: six times as many requests get a tenant no more tokens than the other one (the virtual token
counter of engine/sched_tenant.c)."""
import threading
import time

import httpx

from crowd import begin, crowd, exchanges, result
from gateway_process import BASE, Gateway
from trust import row, without

QUOTA_S, TIMES, RATE, WHOLE_US = 20, 10, 40, 20_000
RUNNING, ANSWER = 4, 24


class Asker(threading.Thread):
    """Asks again and again until told to stop. tokens: of answers that came after `since`."""

    def __init__(self, tenant, since, end):
        super().__init__(daemon=True)
        self.tenant, self.since, self.end = tenant, since, end
        self.tokens = self.refused = 0

    def run(self):
        body = {"model": BASE, "messages": [{"role": "user", "content": f"Tell me of {self.tenant.name} {id(self)}."}], "max_tokens": ANSWER, "min_tokens": ANSWER}
        with self.tenant.http() as c:
            while time.monotonic() < self.end:
                try:
                    r = c.post("/v1/chat/completions", json=body)
                except httpx.HTTPError:
                    self.refused += 1
                    continue
                self.refused += r.status_code != 200
                if r.status_code == 200 and self.since < time.monotonic() < self.end:
                    self.tokens += r.json()["usage"]["completion_tokens"]


def shares(t):
    g = Gateway(t.folder / "shares", "--max-context", "512", "--max-running", RUNNING)
    try:
        tenants = [(g.tenant("loud"), 6 * RUNNING), (g.tenant("soft"), RUNNING)]
        since = time.monotonic() + 2
        crowd_ = [Asker(tenant, since, since + t.size(10, 60)) for tenant, n in tenants for _ in range(n)]
        for a in crowd_:
            a.start()
        for a in crowd_:
            a.join(120)
    finally:
        g.close()
    soft, loud = (sum(a.tokens for a in crowd_ if a.tenant.name == name) for name in ("soft", "loud"))
    t.count("without quotas: tokens served", soft + loud, least=t.size(200, 2000))
    t.count("of them to a tenant with a seventh of the requests", 100 * soft / max(1, soft + loud), least=33, unit="%")
    t.count("its requests that were refused", sum(a.refused for a in crowd_ if a.tenant.name == "soft"), most=0)


@row("R11", "a tenant at ten times its quota: the other's requests are not refused, and not slower")
def check(t):
    seconds = t.size(short=4, whole=30)
    shares(t)
    with crowd(t) as g:
        quiet, noisy = g.tenant("quiet").key, g.tenant("noisy").key
        g.limit("noisy", requests_per_minute=60 * QUOTA_S)
        asks = [*g.via(quiet), "--connections", 8, "--rate", RATE, "--whole-us", WHOLE_US, "--seconds", seconds, "--warm", 0.5, "--refusals"]
        exchanges(*g.via(quiet), "--connections", 8, "--seconds", 0.5, "--warm", 0)
        alone = exchanges(*asks)["via"]
        used = exchanges(*g.via(noisy), "--connections", 10, "--each", 55 * QUOTA_S // 10, "--seconds", 20, "--warm", 0)["via"]["requests"]
        load = begin(*g.via(noisy), "--connections", 256, "--open", TIMES * QUOTA_S, "--whole-us", WHOLE_US, "--seconds", seconds + 1, "--warm", 0, "--refusals")
        beside = exchanges(*asks)["via"]
        crowd_ = result(load)["via"]
        came = crowd_["requests"] + crowd_["refused"]
        allowed = 60 * QUOTA_S - used
        t.count("noisy: requests", came, least=TIMES * QUOTA_S * seconds)
        t.count("noisy: let in", crowd_["requests"], most=allowed)
        t.count("noisy: refused", crowd_["refused"], least=came - allowed)
        t.count("noisy: refused without Retry-After", crowd_["refused_mute"], most=0)
        t.count("quiet: requests", beside["requests"], least=RATE * (seconds - 1) // 2)
        t.count("quiet: refused or failed", beside["refused"] + beside["failed"] + alone["refused"] + alone["failed"], most=0)
        t.speed("quiet alone, p99", alone["latency_p99_ms"], unit="ms")
        t.speed("quiet beside it, p99 of that", beside["latency_p99_ms"] / alone["latency_p99_ms"], most=2)


without("R11", "the limit of requests a minute", file="gateway/limits/limit_window.c", old="nth(w, w->n - 1);\n    x->requests += requests;", new="nth(w, w->n - 1);\n    requests = 0;")
without("R11", "the counters of tokens served", file="engine/sched_tenant.c", old="    t->counter += tokens / t->weight;", new="    t->counter += 0 * tokens;")
