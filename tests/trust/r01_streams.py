"""R1: streams pass the gateway whole, in order, soon, for little of a core, and idle ones for little memory.

A thousand streams of weft-fake-engine, each with a phase of its own, twenty events a second in each; first straight from the engine, then through the gateway. Every event
carries its number, so what is lost, doubled or overtaken is counted."""
import time

from crowd import crowd, exchanges, begin, result
from trust import row, without

EVERY_US = 50000


def streams_of(g, where, n, seconds):
    tokens = seconds * 1_000_000 // EVERY_US
    got = exchanges(*where, "--connections", n, "--each", 1, "--stream", "--tokens", tokens, "--step-us", EVERY_US, "--apart", "--seconds", seconds + 3, "--warm", 1)
    return tokens, got


@row("R1", "streams: nothing lost, doubled or reordered; what the gateway adds")
def check(t):
    n, seconds = t.size(short=200, whole=1000), t.size(short=3, whole=30)
    with crowd(t) as g:
        key = g.tenant("acme").key
        tokens, raw = streams_of(g, ["--direct", g.direct], n, seconds)
        _, got = streams_of(g, g.via(key), n, seconds)
        via, direct = got["via"], raw["direct"]
        t.count("streams", via["requests"], least=n)
        t.count("events", via["requests"] * tokens, least=n * tokens)
        for what in ("lost", "doubled", "reordered", "failed"):
            t.count(what, via[what], most=0)
        t.count("half of the first events came within so much of their stream's time", via.get("first_p50_ms", 1) / via.get("latency_p50_ms", 1), most=0.5)
        t.count("lost by the control", direct["lost"] + direct["failed"], most=0)
        t.speed("control's p99", direct["chunk_p99_ms"], unit="ms")
        t.speed("added p99", via.get("chunk_p99_ms", 0) - direct["chunk_p99_ms"], most=10, unit="ms")
        t.speed("a core's share", got["cpu_share"], most=0.60)
    idle(t)


def idle(t):
    """Streams that have begun and wait for their next token."""
    n = t.size(short=400, whole=4000)
    with crowd(t) as g:
        key = g.tenant("acme").key
        exchanges(*g.via(key), "--connections", 16, "--each", 4, "--stream", "--tokens", 2, "--seconds", 1, "--warm", 0)  # what the first ones make
        before, seconds = g.resident(), t.size(short=3, whole=12)
        load = begin(*g.via(key), "--connections", n, "--each", 1, "--stream", "--tokens", 2, "--step-us", 1_000_000_000, "--seconds", seconds, "--warm", seconds / 2, "--cut")
        end, most, open_ = time.monotonic() + seconds - 0.2, 0, 0
        while time.monotonic() < end:
            most, open_ = max(most, g.resident() - before), max(open_, g.metric("weft_http_in_flight", listener="public"))
            time.sleep(0.1)
        result(load)
        t.count("idle streams", open_, least=n)
        t.count("memory of 4,000 idle streams", most / n * 4000 / 1e6, most=200, unit="MB")


without("R1", "a write's bytes, one of sixteen times", file="base/http_stream.c",
        old="    else if (is_clear(x, n) && send_now(x, bytes, n, mark))", new="    else if (is_clear(x, n) && (mark % 16 == 15 || send_now(x, bytes, n, mark)))")
