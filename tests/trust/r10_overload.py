"""R10: at five times what the engine can do, what it can do is still done; the rest is refused at once, says when to come again, and costs no memory.

The engine has so many places, and each request takes one for a fixed time: its capacity is known. Requests come five times as fast, whether or not earlier ones have ended. A crowd of one tenant
meanwhile leaves others their place: the second part counts them."""
import time

from crowd import begin, crowd, exchanges, result
from trust import row, without

WHOLE_US = 200_000
OVER = 5
REFUSED_MOST_MS, GOODPUT_LEAST, MEMORY_MOST_MB = 50, 0.9, 64


@row("R10", "five times too much: the engine stays busy, refusals are quick, memory is bounded")
def check(t):
    places, seconds = t.size(short=16, whole=64), t.size(short=6, whole=30)
    capacity = places * 1e6 / WHOLE_US
    with crowd(t, "--max-waiting", 4 * places, places=places) as g:
        key, other = g.tenant("acme").key, g.tenant("other").key
        exchanges(*g.via(key), "--connections", 4 * places, "--seconds", 1, "--warm", 0, "--refusals")
        before, most = g.resident(), 0
        load = begin(*g.via(key), "--connections", 16 * places, "--open", OVER * capacity, "--whole-us", WHOLE_US, "--seconds", seconds, "--warm", 1.5, "--refusals")
        time.sleep(1)
        few = begin(*g.via(other), "--connections", 2, "--rate", capacity / 8, "--whole-us", WHOLE_US, "--seconds", seconds - 1, "--warm", 0.2, "--refusals")
        while load.poll() is None:
            most = max(most, g.resident() - before)
            time.sleep(0.1)
        crowd_, others = result(load), result(few)["via"]
        got = crowd_["via"]
        t.count("refused", got["refused"], least=1)
        t.count("refused without Retry-After", got["refused_mute"], most=0)
        t.count("let in, and failed or refused late", got["failed"], most=0)
        t.count("not sent for want of a connection", crowd_["unsent"], most=0)
        t.count("memory for the crowd", most / 1e6, most=MEMORY_MOST_MB, unit="MB")
        t.count("another tenant's requests", others["requests"], least=2)
        t.count("another tenant's refused", others["refused"] + others["failed"], most=0)
        t.speed("goodput of capacity", (got["requests"] / crowd_["seconds"] + others["requests"] / (seconds - 1.2)) / capacity, least=GOODPUT_LEAST)
        t.speed("refusals' p50", got.get("refused_p50_ms", 0), most=REFUSED_MOST_MS, unit="ms")
        t.speed("refusals' p99", got.get("refused_p99_ms", 0), most=REFUSED_MOST_MS, unit="ms")
        t.speed("another tenant's p99", others["latency_p99_ms"], unit="ms")


without("R10", "the bound of those who wait", file="gateway/proxy/upstream_wait.c", old="    return q.all < most && q.own < (most + 1) / 2 && is_in_time(u, &q);\n", new="    return q.all >= 0 || most || is_in_time(u, &q);\n")
without("R10", "Retry-After", file="base/http_reply.c", old="http_set_header(r, \"Retry-After\", after);", new="http_set_header(r, \"x-nothing\", after);")
without("R10", "a tenant's share of those who wait", file="gateway/proxy/upstream_wait.c", old=" && q.own < (most + 1) / 2 &&", new=" &&")
