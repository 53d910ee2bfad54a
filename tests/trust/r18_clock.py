"""R18: somebody sets the clock. An hour back, an hour ahead, thirty days ahead and back again, while requests are under way (tests/trust/faults/shim.c
shifts the wall clock of the gateway alone; the monotonic one goes on).

Nothing that lasts is measured by the wall clock, ids go on in their order, and what is told to be final stays final: a request that began before a jump
ahead and was not admitted yet is refused with 408, which clients repeat, and no other is. Limits by rate know nothing of it; those of a day or a month are
the day's of the clock, and the old day's when it comes back. A key is expired only as long as the clock says so. Webhooks and scheduled exports go on."""
import concurrent.futures
import sqlite3
import threading
import time

import httpx

import webhook_process
from faults.shim import Shim
from gateway_process import BASE, Gateway, until
from trust import row, without

JUMPS = [("an hour back", -1), ("an hour ahead", 1), ("thirty days ahead", 720)]
WORKERS = 6
LONGEST_S = 30  # of a request, on any machine; the least jump is 3,600


def body(tokens, stream):
    return {"model": BASE, "stream": stream, "max_tokens": 10, "messages": [{"role": "user", "content": f"tokens={tokens} delay_ms=4"}]}


class Load:
    """Clients that ask all the time, and one that asks one after the other and notes the ids."""

    def __init__(self, g, tenant):
        self.g, self.tenant, self.over = g, tenant, threading.Event()
        self.status, self.ids, self.lock, self.broken = {}, [], threading.Lock(), 0

    def one(self, c, n):
        r = c.post("/v1/chat/completions", json=body(1 + n % 9, n % 2 == 0))
        with self.lock:
            self.status[r.status_code] = self.status.get(r.status_code, 0) + 1
            self.broken += r.status_code == 200 and n % 2 == 0 and not r.text.rstrip().endswith("data: [DONE]")
        return r.headers["x-request-id"]

    def worker(self, k):
        with self.tenant.http() as c:
            n = k
            while not self.over.is_set():
                found = self.one(c, n)
                if k == 0:
                    self.ids.append(found)
                n += 1

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
        self.futures = [self.pool.submit(self.worker, k) for k in range(WORKERS)]
        return self

    def __exit__(self, *_):
        self.over.set()
        self.pool.shutdown()
        for f in self.futures:
            f.result()


def may(g, key, tokens=1):
    return httpx.post(g.url + "/v1/chat/completions", json=body(tokens, False), headers={"Authorization": f"Bearer {key}"}, timeout=30).status_code


def rows_of(g):
    c = sqlite3.connect(f"file:{g.data}/weft.db?mode=ro", uri=True)
    tables = [n for (n,) in c.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'usage_[0-9]*'")]
    found = [r for t in tables for r in c.execute(f"SELECT id, t_start, t_first, t_end, http FROM {t}")]
    c.close()
    return found


class Watched:
    """Tenants that a limit holds, and a key that ends in two hours."""

    def __init__(self, g):
        self.g = g
        self.frugal, self.quick = g.tenant("frugal"), g.tenant("quick")
        for name, limits in (("frugal", {"tokens_per_day": 60}), ("quick", {"requests_per_minute": 600})):
            assert g.admin.put(f"/admin/v1/tenants/{name}/limits", json=limits).status_code == 200
        r = g.admin.post("/admin/v1/tenants/quick/keys", json={"roles": ["inference"], "expires_at": int(time.time()) + 7200})
        assert r.status_code == 201, r.text
        self.key = r.json()["key"]
        assert not self.asks(200), "it should have tokens for one"
        self.spend()

    def spend(self):
        """All of the day's tokens."""
        for _ in range(40):
            if may(self.g, self.frugal.key) == 429:
                return
        raise AssertionError("a budget of 60 tokens let 40 requests in")

    def asks(self, want):
        """1 where the budget says otherwise."""
        return may(self.g, self.frugal.key) != want

    def stuck(self):
        """A rate that would let ten in a second lets none in."""
        return all(may(self.g, self.quick.key) != 200 for _ in range(3) if not time.sleep(0.2))


@row("R18", "the clock is set under load: no negative duration, limits and keys as the clock says, ids in order, nothing lost")
def check(t):
    inbox = webhook_process.Inbox(t.folder / "inbox")
    with Shim(t.folder, "weft-gateway") as shim:
        g = Gateway(t.folder, "--webhook-hosts", "127.0.0.1", "--webhook-retry-s", "1", fake=True, env=shim.env())
        try:
            tenant = g.tenant("acme")
            webhook_process.make(g, inbox, "usage", usage=True)
            assert g.admin.post("/admin/v1/export-schedules", json={"name": "daily", "format": "csv", "every": "day", "from": int(time.time()) - 86400}).status_code == 201
            watched, stuck, keys, budgets, jumps = Watched(g), 0, 0, 0, 0
            with Load(g, tenant) as load:
                for n in range(t.size(1, 8)):
                    for _, hours in JUMPS:
                        hours += 48 * n if hours > 24 else 0  # a day that was not yet: of one that was, the budget is spent
                        time.sleep(t.size(0.4, 2))
                        shim.clock(hours=hours)
                        time.sleep(t.size(0.6, 2))
                        jumps += 1
                        stuck += watched.stuck()
                        keys += may(g, watched.key) != (401 if hours > 2 else 200)
                        budgets += hours > 24 and watched.asks(200)
                        watched.spend()
                        shim.clock()
                        jumps += 1
                        time.sleep(0.2)
                        stuck += watched.stuck()
                        keys += may(g, watched.key) != 200
                        budgets += watched.asks(429)
            until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, 30, "the end of all admissions")
            verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
            found = rows_of(g)
            until(lambda: {r[0] for r in found} <= set(inbox.usage("usage")), 30, "all rows at the webhook")
            used = g.admin.get("/admin/v1/tenants/acme/limits").json()["used"]
            schedule = g.admin.get("/admin/v1/export-schedules/daily").json()
            g.stop()
            g.start()
            again = g.admin.get("/admin/v1/ledger?verify=1").json()
            served = may(g, tenant.key)
        finally:
            inbox.kill()
            g.close()
    answered = load.status.get(200, 0)
    t.count("jumps under load", jumps, least=6)
    t.count("requests", sum(load.status.values()), least=t.size(200, 5000))
    t.count("refused with 408 at a jump ahead", load.status.get(408, 0), most=jumps * WORKERS)
    t.count("any other refusal", sum(load.status.values()) - answered - load.status.get(408, 0), most=0)
    t.count("streams broken", load.broken, most=0)
    t.count("negative durations", sum(not (s <= e and (not f or s <= f <= e)) for _, s, f, e, _ in found), most=0)
    t.count("durations that hold a jump", sum(e - s > LONGEST_S * 1e6 for _, s, _, e, _ in found), most=0)
    t.count("durations of nothing", sum(e <= s for _, s, _, e, status in found if status == 200), most=0)
    t.count("ids out of order", sum(a >= b for a, b in zip(load.ids, load.ids[1:])), most=0)
    t.count("rows missing", max(0, answered - len(found)), most=0)
    t.count("rollups that differ", verdict["verify"]["bad_buckets"] + again["verify"]["bad_buckets"], most=0)
    t.count("limiter stuck", stuck, most=0)
    t.count("budgets of another day", budgets, most=0)
    t.count("keys judged otherwise than by the clock", keys, most=0)
    t.count("places still held", used["concurrent_requests"] + sum(used["reserved"].values()), most=0)
    t.count("scheduled exports that failed", int(bool(schedule["last_error"])), most=0)
    t.count("served after a restart", int(served == 200), least=1)


without("R18", "durations by the monotonic clock", file="gateway/proxy/upstream_settle.c",
         old="return x->adm.t_start + (clock_mono_us() - x->arrived_us);", new="(void)x; return clock_wall_us();")

without("R18", "rollups that a clock set ahead does not take", file="gateway/ledger/ledger_trim.c",
         old="(wall_us < passed ? wall_us : passed) / 3600000000ll", new="(passed > 0 ? wall_us : 0) / 3600000000ll")

without("R18", "ids that go on where the clock was set back", file="base/sha256.c", old="next = now > seen ? now : seen + 1;", new="next = now;")
