"""R8: connections that are slow, stall or are half open are cut in time, and those who behave do not notice.

Three kinds of nuisance at once: heads and bodies that drip, a byte at a time; readers of streams who do not read; connections of half a request and nothing after it. Meanwhile one client asks
fifty times a second. The times are set shorter than a production's, so that the row ends; they are the same code."""
import socket
import time

from crowd import MODEL, begin, crowd, result
from gateway_process import until
from trust import row, without

HEAD_S, BODY_S, SEND_S = 2, 1, 2
DRIP_S = 0.2
LATE_S = 4  # the watcher looks once a second; TCP's probes of a closed window grow apart


def dial(g, buffer=0):
    s = socket.socket()
    if buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    host, port = g.at.split(":")
    s.connect((host, int(port)))
    s.setblocking(False)
    return s


class Nuisance:
    """One connection: what it sends at first, and whether it goes on dripping."""

    def __init__(self, g, kind, first, drips, allowed):
        self.kind, self.drips, self.allowed = kind, drips, allowed
        self.s = dial(g, 4096 if kind == "stalled" else 0)
        self.began, self.ended = time.monotonic(), None
        self.s.send(first)

    def step(self, now):
        try:
            if self.drips:
                self.s.send(b"x")
            if self.kind != "stalled" and self.s.recv(4096) == b"":
                self.ended = now
        except BlockingIOError:
            pass
        except OSError:
            self.ended = now

    def late(self, now):
        return (self.ended or now) - self.began > self.allowed


def heads(key):
    start = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    stream = f'{{"model":"{MODEL}","stream":true,"messages":[{{"role":"user","content":"tokens=%d step_us=20000 pad=8000"}}],"max_tokens":%d}}'
    body = [stream % (n, n) for n in (40, 520)]  # at the pace of an engine that has steps; one fits the gateway's own buffer, so TCP must tell; the other passes its bound
    return {"drip head": (start + "X-Long: ").encode(), "drip body": (start + "Content-Length: 9000\r\n\r\n{").encode(),
            "drip refused": b"POST /v1/nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{", "half open": start.encode(),
            "stalled": [(start + f"Content-Length: {len(b)}\r\n\r\n{b}").encode() for b in body]}


def nuisances(t, g, key):
    first, drips, stalled, half = heads(key), t.size(90, 500), t.size(40, 200), t.size(40, 200)
    head, body = HEAD_S + LATE_S, 2 * BODY_S + LATE_S
    kinds = [("drip head", first["drip head"], True, head), ("drip body", first["drip body"], True, body), ("drip refused", first["drip refused"], True, body)]
    made = [Nuisance(g, *kinds[i % 3]) for i in range(drips)]
    made += [Nuisance(g, "stalled", first["stalled"][i % 2], False, 4 * SEND_S + LATE_S) for i in range(stalled)]
    return made + [Nuisance(g, "half open", first["half open"] if i % 2 else b"G", False, head) for i in range(half)]


def drip_all(made, seconds):
    """Until all but the stalled have ended; these see no end, for they do not read."""
    end, going = time.monotonic() + seconds, [m for m in made if m.kind != "stalled"]
    while going and time.monotonic() < end:
        now = time.monotonic()
        for m in going:
            m.step(now)
        going = [m for m in going if not m.ended]
        time.sleep(max(0, DRIP_S - (time.monotonic() - now)))
    return going


@row("R8", "slow, stalled and half-open connections are cut in time, and nobody else notices")
def check(t):
    with crowd(t, "--head-s", HEAD_S, "--body-s", BODY_S, "--send-s", SEND_S, "--stream-buffer", "1m") as g:
        bad, good, seconds = g.tenant("bad").key, g.tenant("good").key, t.size(short=11, whole=25)
        load = begin(*g.via(good), "--connections", 8, "--rate", 50, "--seconds", seconds, "--warm", 0.5)
        time.sleep(0.5)
        began = time.monotonic()
        made = nuisances(t, g, bad)
        going = drip_all(made, 2 * BODY_S + HEAD_S + LATE_S)
        now = time.monotonic()
        for kind in ("drip head", "drip body", "drip refused", "half open"):
            of = [m for m in made if m.kind == kind]
            t.count(f"{kind}", len(of), least=1)
            t.count(f"{kind}: not cut in time", sum(m.late(now) or m in going for m in of), most=0)
        stalled = [m for m in made if m.kind == "stalled"]
        left = until_gone(g, began + 4 * SEND_S + LATE_S, 8)
        t.count("stalled readers", len(stalled), least=1)
        t.count("stalled: not cut in time", left, most=0)
        t.count("cut for being slow", g.metric("weft_http_cut", listener="public"), least=len(made) - len(stalled) - len(made) // 3)
        got = result(load)["via"]
        t.count("good requests", got["requests"], least=50 * (seconds - 2) // 2)
        t.count("good requests that failed", got["failed"], most=0)
        t.speed("good requests' p99", got["latency_p99_ms"], most=50, unit="ms")
        for m in made:
            m.s.close()
        until(lambda: g.metric("weft_open_admissions") == 0, what="nothing left open")


def until_gone(g, end, good):
    """How many connections beyond the good client's are left."""
    while True:
        left = max(0, int(g.connections()) - good)
        if left == 0 or time.monotonic() > end:
            return left
        time.sleep(0.1)


without("R8", "the time of a head", file="base/http_reap.c", old="        late = head_us && c->reap.head_us && now - c->reap.head_us > head_us;\n", new="        late = head_us < 0;\n")
without("R8", "the time of a body", file="base/http_reap.c", old="    bool late = by && now > by;\n", new="    bool late = by && now > by + 600000000;\n")
without("R8", "TCP's time for a reader", file="base/http_reap.c", old="    set_tcp(c, TCP_USER_TIMEOUT, s * 1000);\n", new="")
