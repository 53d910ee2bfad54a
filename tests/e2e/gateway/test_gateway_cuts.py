"""A stream that ends at any byte. The wire between gateway and engine is cut, reset or falls silent behind each byte of a short answer; the client sends its
request, or reads its answer, up to each byte and leaves. Whatever comes, the client has read whole events and one end, the ledger has one row with the tokens
that were delivered, and nothing stays open. WEFT_CUTS=all takes every byte; else every seventh, and those around each line's end."""

import concurrent.futures
import json
import os
import re
import socket
import struct
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from gateway_process import BASE, FAKE, TOP, Gateway, until

sys.path.insert(0, str(TOP / "tests/trust"))
from faults.proxy import Proxy

STEP = 1 if os.environ.get("WEFT_CUTS") == "all" else 7
TOKENS, BESIDE, ANSWER_S = 3, 16, 20
IDLE_MS = 1000


def request(key, text, stream=True):
    body = json.dumps({"model": BASE, "stream": stream, "max_tokens": 16, "messages": [{"role": "user", "content": text}]}).encode()
    return (f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def connect(g):
    at = urlsplit(g.url)
    s = socket.create_connection((at.hostname, at.port), ANSWER_S)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


class Answer:
    """What was read of an answer, byte by byte as HTTP says; .over: its end came."""

    def __init__(self):
        self.raw, self.over = b"", False

    def take(self, s, most=None):
        """Reads to the end, or until `most` bytes are there."""
        try:
            while not self.over and (most is None or len(self.raw) < most):
                got = s.recv(65536 if most is None else most - len(self.raw))
                if not got:
                    break
                self.raw += got
                self.parse()
        except ConnectionError:
            pass
        return self

    def parse(self):
        self.status, self.id, self.body = 0, None, b""
        head, sep, rest = self.raw.partition(b"\r\n\r\n")
        if not sep:
            return
        assert head.startswith(b"HTTP/1.1 "), self.raw[:200]
        self.status = int(head.split()[1])
        id = re.search(rb"(?i)\r\nx-request-id: *(\S+)", head)
        self.id = id and id.group(1).decode()
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length:
            self.body, self.over = rest, len(rest) >= int(length.group(1))
            return
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            n = int(size, 16)
            if n == 0 and rest.startswith(b"\r\n"):
                self.over = True
                return
            self.body += rest[:n]
            if len(rest) < n + 2:
                return
            assert rest[n:n + 2] == b"\r\n", rest[:40]
            rest = rest[n + 2:]

    def events(self):
        """Data of the events that are whole, and what is left behind them."""
        *pieces, left = self.body.decode().split("\n\n")
        return [p[6:] for p in pieces if p.startswith("data: ")], left

    def tokens(self):
        return sum('"tok' in d for d in self.events()[0])

    def judge(self):
        """How it ended: "done", "error" or its status; a torn event or a second end is an AssertionError."""
        assert self.over, self.raw[-300:]
        if self.status != 200:
            assert json.loads(self.body)["error"]["message"]
            return self.status
        data, left = self.events()
        assert left == "", f"torn: {left!r}"
        parsed = [d if d == "[DONE]" else json.loads(d) for d in data]
        assert parsed and all("error" not in d for d in parsed[:-1] if d != "[DONE]") and "[DONE]" not in parsed[:-1], data[-3:]
        if parsed[-1] == "[DONE]":
            assert self.tokens() == TOKENS
            return "done"
        assert "error" in parsed[-1] and parsed[-1]["error"]["code"] and parsed[-1]["error"]["message"], self.raw[-500:]
        return "error"


class Fake:
    """A fake engine at an address."""

    def __init__(self):
        self.process = subprocess.Popen([str(FAKE), "serve", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[1])


@pytest.fixture(scope="module")
def wired(tmp_path_factory):
    """A gateway, its tenant, and the wire to its only engine."""
    engine = Fake()
    with Proxy(("127.0.0.1", engine.port)) as wire:
        g = Gateway(tmp_path_factory.mktemp("cuts"), "--pool-only", "true", "--model", "", "--idle-ms", str(IDLE_MS), "--first-byte-ms", str(IDLE_MS), fake=True, ready=False)
        r = g.admin.post("/admin/v1/engines", json={"name": "e", "base": BASE, "url": wire.url, "local": True})
        assert r.status_code == 201, r.text
        until(lambda: g.admin.get("/admin/v1/engines/e").json()["status"]["state"] == "ready", what="the engine")
        yield g, g.tenant("acme"), wire.wire
        g.close()
    engine.process.kill()
    engine.process.wait()


def ask(g, t, text, **more):
    with connect(g) as s:
        s.sendall(request(t.key, text, **more))
        return Answer().take(s)


def settled(g, t):
    """The rows by request, once nothing is open any more."""
    until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, what="a settled ledger")
    until(lambda: g.admin.get("/admin/v1/now").json()["in_flight"] == 0, what="nobody in flight")
    used = g.admin.get(f"/admin/v1/tenants/{t.name}/limits").json()["used"]
    assert used["concurrent_requests"] == 0 and not any(used["reserved"].values()), used
    rows = {}
    for x in t.usage_rows():
        assert x["id"] not in rows, x
        rows[x["id"]] = x
    return rows


def after(g, t):
    """The next one is served."""
    a = until(lambda: (a := ask(g, t, f"tokens={TOKENS}")) and a.status == 200 and a, what="the next answer")
    assert a.judge() == "done"


def beside(work, offsets, n=BESIDE):
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return list(pool.map(work, offsets))


@pytest.mark.parametrize("kind", ["cut", "reset", "once", "stall"])
def test_a_wire_to_the_engine_that_ends_behind_any_byte(wired, kind):
    g, t, wire = wired
    assert ask(g, t, f"tokens={TOKENS} wire=none:00000").judge() == "done"
    whole = wire.last
    offsets = sorted({*range(0, len(whole) + 1, STEP), *(m.start() + k for m in re.finditer(b"\n", whole) for k in (0, 1))})
    answers = beside(lambda n: ask(g, t, f"tokens={TOKENS} wire={kind}:{n:05}"), offsets, 64 if kind == "stall" else BESIDE)
    rows = settled(g, t)
    bad = []
    for n, a in zip(offsets, answers):
        try:
            end = a.judge()
            assert end in ("done", "error", 502, 504), end
            assert rows[a.id]["output_tokens"] == a.tokens(), rows[a.id]
        except (AssertionError, ValueError, KeyError) as e:
            bad.append(f"behind byte {n}: {e!r}: {a.raw[-300:]}")
    assert not bad, f"{len(bad)} of {len(answers)}: " + "\n".join(bad[:4])
    after(g, t)


def test_a_line_too_long_to_be_held_is_never_ended_for_the_engine(wired):
    """Half of it is with the client: what followed would be read as a part of it, or end it."""
    g, t, _ = wired
    a = ask(g, t, "tokens=1 bytes=300000 wire=cut:290000")
    assert a.status == 200 and not a.over and a.tokens() == 0 and len(a.body) > 200000
    assert settled(g, t)[a.id]["output_tokens"] == 0
    after(g, t)


def leave(s, how):
    """Ends the client's side of a connection."""
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        s.shutdown(socket.SHUT_WR)
        try:
            while s.recv(65536):
                pass
        except ConnectionError:
            pass
    s.close()


LEAVES = ["close", "reset", "half"]


@pytest.mark.parametrize("how", LEAVES)
def test_a_client_that_leaves_behind_any_byte_of_its_request(wired, how):
    g, t, _ = wired
    before = len(settled(g, t))
    data = request(t.key, f"tokens={TOKENS}")

    def part(n):
        s = connect(g)
        s.sendall(data[:n])
        leave(s, how)

    beside(part, range(0, len(data), STEP), 64)  # a half-closed one is looked at once a second
    assert len(settled(g, t)) == before, "who did not ask in full pays"
    beside(part, [len(data)] * 4)
    rows = settled(g, t)
    assert len(rows) <= before + 4 and all(r["output_tokens"] <= TOKENS for r in rows.values())
    after(g, t)


def tokens_until(whole, n):
    """How many tokens the engine has to send so that the client can read n bytes; None: all, and the end."""
    ends = [m.end() for m in re.finditer(rb'"tok[^\n]*\n\n', whole)]
    return next((k for k, end in enumerate(ends, 1) if n <= end), None)


@pytest.mark.parametrize("how", LEAVES)
def test_a_client_that_leaves_behind_any_byte_of_its_answer(wired, how):
    g, t, _ = wired
    whole = ask(g, t, f"tokens={TOKENS} delay_ms=50").raw

    def read(n):
        k = tokens_until(whole, n)
        with connect(g) as s:
            s.sendall(request(t.key, f"tokens={TOKENS} delay_ms=5" + (f" stall_after={k}" if k else "")))
            a = Answer().take(s, n)
            leave(s, how)
        return k or TOKENS, a

    offsets = range(whole.index(b"\r\n\r\n") + 4, len(whole), STEP)
    answers = beside(read, offsets)
    rows = settled(g, t)
    bad = []
    for n, (k, a) in zip(offsets, answers):
        row = rows[a.id]
        if not a.tokens() <= row["output_tokens"] <= k:
            bad.append(f"{n} of {len(whole)}: {a.tokens()} of {k} were read: {row}")
    assert not bad, f"{len(bad)} of {len(answers)}: " + "\n".join(bad[:4])
    after(g, t)
