"""R9: a thousand streams cut in the same moment give all back at once, and are billed for what was handed to them.

The client shuts its sending side on all connections at once, which is an end to the gateway, and goes on reading: so it counts to the last event what was handed to it before its end was seen.
A quarter as many streams wait for their next token all the while: nothing is written to them, so only the watcher can see their end. What is charged may be less than that by what was handed over in the last second, and never more."""
import os
import re
import shutil
import subprocess
import time
from collections import Counter

import httpx
from crowd import begin, crowd, result
from gateway_process import until
from trust import row, without

EVERY_US = 50000
A_SECOND = 1_000_000 // EVERY_US
BACK_MOST_S = 10


def limits(g, name):
    return g.admin.get(f"/admin/v1/tenants/{name}/limits").json()


def held(g, name):
    """What a tenant holds: places among its concurrent requests, reserved tokens."""
    used = limits(g, name)["used"]
    return used["concurrent_requests"] + sum(used["reserved"].values())


def back(g, name, before):
    return {"open admissions": g.metric("weft_open_admissions"), "held of limits": held(g, name), "connections": g.connections(),
            "descriptors": max(0, g.descriptors() - before), "in the engine": g.engine_state()["running"]}


def gone(g, name, before):
    """What is left of all that, once nothing is, or it takes too long."""
    end = time.monotonic() + BACK_MOST_S
    while any((left := back(g, name, before)).values()) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def kinds(g):
    """Its descriptors by kind, and its sockets by state."""
    folder = f"/proc/{g.process.pid}/fd"
    of = Counter(re.sub(r"\d+", "", os.readlink(f"{folder}/{fd}")) for fd in os.listdir(folder))
    sockets = subprocess.run(["ss", "-tanpx"], capture_output=True, text=True).stdout.splitlines() if shutil.which("ss") else []
    return dict(of) | Counter(" ".join(line.split()[:2]) for line in sockets if f"pid={g.process.pid}," in line)


@row("R9", "a thousand streams cut at once: all is given back, and what was delivered is charged")
def check(t):
    n = t.size(short=200, whole=1000)
    with crowd(t) as g:
        key = g.tenant("acme").key
        g.limit("acme", concurrent_requests=2 * n, tokens_per_day=1_000_000_000)
        g.connections()
        before, records = g.descriptors(), t.folder / "records"
        load = begin(*g.via(key), "--connections", n, "--each", 1, "--stream", "--tokens", 10000, "--step-us", EVERY_US, "--apart", "--seconds", 4, "--warm", 1.5,
                     "--cut", "--records", records)
        silent = begin(*g.via(key), "--connections", n // 4, "--each", 1, "--stream", "--tokens", 2, "--step-us", 1_000_000_000, "--seconds", 4, "--warm", 1.5, "--cut")
        until(lambda: held(g, "acme") >= n + n // 4 and g.metric("weft_open_admissions") == n + n // 4, what=f"{n} streams")
        t.count("streams", g.engine_state()["running"], least=n + n // 4)
        got = result(load)["via"]
        result(silent)
        began = time.monotonic()
        left = gone(g, "acme", before)
        t.speed("back after the last byte", time.monotonic() - began, most=1, unit="s")
        if left["descriptors"] > 2:  # an idle worker of libmicrohttpd may not have closed yet what it ended: asked something, it runs
            t.note(f"after {BACK_MOST_S} s: {kinds(g)}")
            for _ in range(8):
                httpx.get(g.url + "/health")
            left = gone(g, "acme", before)
            t.note(f"and after requests to idle workers: {kinds(g)}")
        for what, value in left.items():
            t.count(f"{what}, left", value, most=2 if what == "descriptors" else 0)  # of connections to the engine that are kept, the client may make one anew
        t.count("lost, doubled or reordered", got["lost"] + got["doubled"] + got["reordered"], most=0)
        charged(t, g, n, dict(line.split() for line in records.read_text().splitlines()))


def charged(t, g, n, delivered):
    billed = until(lambda: len(rows := g.billed()) >= n + n // 4 and rows, what="the usage rows")
    over = under = 0
    for id, tokens in delivered.items():
        over += max(0, billed[id] - int(tokens))
        under = max(under, int(tokens) - billed[id])
    t.count("streams with a row", len([i for i in delivered if i in billed]), least=n)
    t.count("rows", len(billed), most=n + n // 4)
    t.count("tokens delivered", sum(map(int, delivered.values())), least=n * A_SECOND // 2)
    t.count("tokens charged beyond what was delivered", over, most=0)
    t.count("tokens of a stream that were delivered and not charged (a second's, as promised)", under, most=A_SECOND)
    t.note(f"charged {sum(billed[id] for id in delivered):,} of {sum(map(int, delivered.values())):,} tokens")


without("R9", "the watcher, who sees that a suspended client is gone", file="base/http_watch.c", old="    http_lost(x, false);\n", new="")
without("R9", "the mark of what was handed over", file="base/http_stream.c", old="    atomic_store(&s->handed, s->copied);\n    bool lost", new="    bool lost")
without("R9", "the release of what was reserved", file="gateway/ledger/ledger.c", old="    if (!x->ledger->limits) return;\n", new="    if (!x->ledger->limits || x->s.state == USAGE_CLIENT_ABORT) return;\n")
