"""R7: the engine is killed under its streams. Each stream ends in a well-formed error event, what had not begun is sent again and completes, what was not
delivered is not billed; and what takes engines down by itself is put into quarantine after two (after a third, alone, beside other tenants), while a
kill from outside blames nobody, a crash of another tenant's does not either, and who brings a new body each time is refused as a whole."""

import asyncio
import threading
import time

import clients
from gateway_process import BASE, Gateway, until
from trust import row, without

STREAMS, QUEUED, TOKENS = 50, 10, 3


async def one(g, t, text, stream, model=BASE):
    a = clients.Answer()
    c = clients.Connection(g.url)
    try:
        await c.ask(clients.chat(t.key, model, text, stream, 4096), a, timed=False)
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        a.over = False
    c.close()
    return a


async def round_of(g, t, n):
    """Streams in mid-answer and requests without a first token, when the engine is killed."""
    loop = asyncio.get_running_loop()
    streams = [asyncio.create_task(one(g, t, f"tokens=4000 delay_ms=40 round={n} prompt={i + 5}", True, ("sql", BASE)[i % 2])) for i in range(STREAMS)]
    def running(n):
        return lambda: g.engine_pid() and g.engine_state()["running"] == n

    await loop.run_in_executor(None, until, running(STREAMS), 60, "all streams on the engine")
    queued = [asyncio.create_task(one(g, t, f"tokens={TOKENS} first_ms=2000 round={n} prompt={i + 5}", i % 2 == 0)) for i in range(QUEUED)]
    await loop.run_in_executor(None, until, running(STREAMS + QUEUED), 20, "all requests on the engine")
    await asyncio.sleep(0.15)
    at = time.monotonic()
    await loop.run_in_executor(None, g.kill_engine)
    return at, await asyncio.gather(*streams), await asyncio.gather(*queued)


def well_formed(a):
    return a.over and not a.done and a.error and a.error[1]["code"] == "engine_error" and a.error[1]["type"] == "server_error" and a.error[1]["message"]


def poison(g, t, count):
    """Crashes of the engine's own until the adapter is quarantined; what its requests and those of others then get."""
    crashes = 0
    while crashes < 5:
        r = t.ask(f"die_after=2 prompt={crashes + 5}", model="triage", stream=True)
        if r.status_code != 200:
            break
        crashes += 1
        until(g.engine_pid, 30, "the next engine")
    count["crashes until the poison adapter is quarantined"] = crashes
    count["clear refusals of it"] = int(r.status_code == 422 and r.json()["error"]["code"] == "quarantined")
    others = [until(lambda m=m: (r := t.ask("tokens=2", model=m)) and r.status_code != 503 and r) for m in ("sql", BASE)]
    count["others that go on"] = sum(r.status_code == 200 for r in others)
    with t.http() as c:
        versions = {n: c.get(f"/v1/adapters/{n}/versions/1").json()["state"] for n in ("triage", "sql")}
    count["innocent adapters quarantined"] = int(versions["sql"] != "ready")


def attack(g, t, evil, count):
    """Another tenant's crashes, a new body each, at all of which the innocent one's adapter is in flight; until that tenant is refused."""
    before, refused = g.log.read_text().count("event=engine_down"), None
    for i in range(12):
        innocent = threading.Thread(target=lambda: t.ask("tokens=60 delay_ms=20", model="sql", stream=True))
        innocent.start()
        time.sleep(0.4)
        r = evil.ask(f"die_after=2 prompt={i + 5}", stream=True)
        innocent.join()
        if r.status_code == 429:
            refused = r
            break
        until(g.engine_pid, 30, "the next engine")
    count["crashes of ever new bodies until their tenant is refused"] = g.log.read_text().count("event=engine_down") - before
    count["refusals of that tenant, with Retry-After"] = int(refused is not None and int(refused.headers.get("retry-after", 0)) > 0)
    r = until(lambda: (r := t.ask("tokens=2", model="sql")) and r.status_code != 503 and r)
    with t.http() as c:
        count["innocent's adapter quarantined"] = int(r.status_code != 200 or c.get("/v1/adapters/sql/versions/1").json()["state"] != "ready")


@row("R7", "engine killed under 50 streams: error events, no loss, poison quarantined")
def check(t):
    kills = t.size(short=3, whole=30)
    g = Gateway(t.folder / "g", fake=True)
    try:
        a = g.tenant("acme")
        for name in ("sql", "triage"):
            assert a.upload(name).status_code == 201
        bad = over_billed = completed = cut = 0
        late, said = [], {}
        for n in range(kills):
            at, streams, queued = asyncio.run(round_of(g, a, n))
            bad += sum(not well_formed(s) for s in streams)
            cut += sum(bool(s.error) for s in streams)
            late += [s.error[0] - at for s in streams if s.error]
            completed += sum(q.done and q.over and (q.events or q.tokens()) == TOKENS for q in queued)
            said.update({s.id: (s.events, "upstream_error") for s in streams} | {q.id: (TOKENS, "completed") for q in queued})
            until(g.engine_pid, 60, "the next engine")
        rows = until(lambda: (r := a.usage_rows()) and len(r) >= len(said) and r, 30, "the usage rows")
        over_billed = sum(r["output_tokens"] > said[r["id"]][0] for r in rows)
        wrong = sum(r["state"] != said[r["id"]][1] or (r["state"] == "completed" and r["output_tokens"] != TOKENS) for r in rows)
        t.count("engines that were killed, as the gateway saw it", g.log.read_text().count("event=engine_down"), least=kills)
        t.count("streams cut", cut, least=kills * STREAMS)
        t.count("without a well-formed error event", bad, most=0)
        t.count("not begun, completed", completed, least=kills * QUEUED)
        t.count("requests with a row of their own", len({r["id"] for r in rows}), least=len(said), most=len(said))
        t.count("billed above what was delivered", over_billed, most=0)
        t.count("in the wrong state", wrong, most=0)
        t.speed("slowest error event", max(late, default=99), most=1, unit="s")
        found = {}
        poison(g, a, found)
        t.count("crashes until the poison adapter is quarantined", found["crashes until the poison adapter is quarantined"], least=2, most=2)
        t.count("clear refusals of it", found["clear refusals of it"], least=1)
        t.count("others of the tenant that go on", found["others that go on"], least=2)
        t.count("innocent adapters quarantined", found["innocent adapters quarantined"], most=0)
        attack(g, a, g.tenant("evil"), found)
        t.count("crashes of ever new bodies until their tenant is refused", found["crashes of ever new bodies until their tenant is refused"], least=4, most=5)
        t.count("refusals of that tenant, with Retry-After", found["refusals of that tenant, with Retry-After"], least=1)
        t.count("adapters quarantined that were in flight at all of these", found["innocent's adapter quarantined"], most=0)
        t.note("kill -9 comes from outside and blames nobody; the poison adapter's engine ends by itself, in mid-stream")
    finally:
        g.close()


without("R7", "the error event of a stream that breaks", "gateway/proxy/upstream_answer.c",
        "    json_error(e, &b);\n    end_with_event(x, b.data, b.len);", "    json_error(e, &b);\n    http_stream_end(x->stream);")
without("R7", "sending again what had not begun", "gateway/proxy/upstream_impl.h", "#define EXCHANGE_RETRIES 2 ", "#define EXCHANGE_RETRIES 0 ")
without("R7", "billing what was delivered, not more", "gateway/proxy/upstream_settle.c",
        "    s.delivered = least(s.delivered, c->output);", "    s.delivered = c->output + (s.state == USAGE_UPSTREAM_ERROR);")
without("R7", "the quarantine of what takes engines down", "gateway/proxy/blame.c",
        "    if (v.adapter && !b->stopped) b->o.adapter(b->o.user, &v.who, v.crashes);", "")
without("R7", "that a crash convicts nobody where another tenant lost something", "gateway/proxy/blame.c",
        "one && strcmp(one, l->who.tenant) != 0", "one && !*one")
without("R7", "the difference between a crash and a kill from outside", "gateway/pool/engine.c", "        return kills >= 0 && memory_oom_kills() > kills;\n", "        return kills != -2 || memory_oom_kills() > kills;\n")
