"""R20, soak: clients ask, leave before the first byte and in mid-answer, send nonsense and come back, for as long as it takes; afterwards gateway and engine are as large as before, with as
many descriptors and threads, and the write-ahead log is no longer. (The same load on programs under TSan, ASan and UBSan: make soak-sanitized.)"""
import concurrent.futures
import json
import os
import random
import socket
import threading
import time
from pathlib import Path

import httpx

from gateway_process import BASE, SLOW, Gateway, until
from trust import row, without

CLIENTS = 8
WAIT_S = 30 * SLOW
KEPT = 2 * CLIENTS + 4  # connections between gateway and engine: never more requests at once than rest()'s, and the gateway's own questions


def kept_sockets():
    """The inodes of connected stream sockets in the file system: of /proc/net/unix (unix(7)), as they stand in /proc/PID/fd."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {f"socket:[{r[6]}]" for r in rows if r[4] == "0001" and r[5] == "03"}


def size_of(pid):
    """(resident KiB, descriptors without those of connections between gateway and engine, threads, such connections). How many are kept of those depends on how many requests ran at
    once; that they are bounded is what is asked."""
    said = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    open_files, kept = [], kept_sockets()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            open_files.append(os.readlink(fd))
        except FileNotFoundError:
            pass
    return int(said["VmRSS"].split()[0]), sum(f not in kept for f in open_files), int(said["Threads"]), sum(f in kept for f in open_files)


class Client(threading.Thread):
    def __init__(self, g, tenant, stop, seed):
        super().__init__(daemon=True)
        self.g, self.tenant, self.stop, self.draw = g, tenant, stop, random.Random(seed)
        self.done, self.errors = {}, []
        host, port = g.url.removeprefix("http://").rsplit(":", 1)
        self.address = (host, int(port))

    def body(self, **more):
        return {"model": self.draw.choice([BASE, "sql"]), "messages": [{"role": "user", "content": f"number {self.draw.randrange(1000)}"}], "max_tokens": 4, **more}

    def whole(self, c):
        assert c.post("/v1/chat/completions", json=self.body()).status_code == 200

    def stream(self, c):
        with c.stream("POST", "/v1/chat/completions", json=self.body(stream=True)) as r:
            assert "[DONE]" in b"".join(r.iter_raw()).decode()

    def leave_midway(self, c):
        with c.stream("POST", "/v1/chat/completions", json=self.body(stream=True, max_tokens=200)) as r:
            next(r.iter_raw(), None)

    def leave_early(self, c):
        """Before the first byte, or with half of the request sent."""
        text = json.dumps(self.body(stream=self.draw.random() < 0.5, max_tokens=100)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.tenant.key}\r\nContent-Length: {len(text)}\r\n\r\n".encode()
        with socket.create_connection(self.address, timeout=WAIT_S) as s:
            s.sendall((head + text)[: self.draw.choice([len(head) // 2, len(head) + 9, len(head) + len(text)])])

    def nonsense(self, c):
        assert c.post("/v1/chat/completions", content=b'{"model": "x", "messages": [').status_code == 400
        assert c.post("/v1/chat/completions", json=self.body(model="absent")).status_code == 404
        assert httpx.get(self.g.url + "/v1/models", headers={"Authorization": "Bearer x"}).status_code == 401

    def look(self, c):
        for path in ("/v1/models", "/v1/usage/requests", "/v1/adapters", "/v1/usage"):
            assert c.get(path).status_code == 200

    def run(self):
        ways = [self.whole, self.stream, self.leave_midway, self.leave_midway, self.leave_early, self.leave_early, self.nonsense, self.look]
        with self.tenant.http() as c:
            while not self.stop.is_set():
                way = self.draw.choice(ways)
                try:
                    way(c)
                except (AssertionError, httpx.HTTPError, OSError) as e:
                    self.errors.append(f"{way.__name__}: {e!r}")
                self.done[way.__name__] = self.done.get(way.__name__, 0) + 1


def load(g, tenant, seconds, least):
    """For so long, and until so much was done (a slow machine takes longer). (what was done, what went wrong)"""
    stop = threading.Event()
    clients = [Client(g, tenant, stop, i) for i in range(CLIENTS)]
    for c in clients:
        c.start()
    time.sleep(seconds)
    until(lambda: sum(sum(c.done.values()) for c in clients) >= least, 240, f"{least} requests")
    stop.set()
    for c in clients:
        c.join(WAIT_S)
        assert not c.is_alive(), "a client that does not end"
    return {k: sum(c.done.get(k, 0) for c in clients) for k in sorted({k for c in clients for k in c.done})}, [e for c in clients for e in c.errors]


def rest(g, tenant):
    """Once nothing runs: sizes of both programs, and of the write-ahead log. Before that as many at once as never else, so that what is kept (memory of requests) is kept in full."""
    def one(_):
        with tenant.http() as c:
            return c.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "all at once"}], "max_tokens": 16}).status_code
    with concurrent.futures.ThreadPoolExecutor(2 * CLIENTS) as pool:
        assert set(pool.map(one, range(2 * CLIENTS))) == {200}
    until(lambda: g.engine_state()["running"] == 0 and g.engine_state()["waiting"] == 0, WAIT_S, "an idle engine")
    until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, WAIT_S, "the last settlement")
    pids, seen = (g.process.pid, g.engine_pid()), []
    for _ in range(30):  # connections that were cut go within a second or two, and with the next thing that their worker is asked
        seen.append([size_of(p) for p in pids])
        httpx.get(g.url + "/health")
        time.sleep(0.1)
    wal = (g.data / "weft.db-wal").stat().st_size
    return pids, [tuple(min(s[i][k] for s in seen) for k in range(4)) for i in range(2)], wal


def still(pids):
    """Memory that is got ahead of its use, beside serving (the engine's KV pages), is there."""
    last, since, end = None, time.monotonic(), time.monotonic() + WAIT_S
    while time.monotonic() - since < 3 and time.monotonic() < end:
        now = [size_of(p)[0] // 1024 for p in pids]
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.2)


without("R20", "the memory of a request, given back", "base/http_exchange.c", old="    arena_free(x->r.arena); /* the exchange itself lies in it */\n", new="")


@row("R20", "a soak with clients that leave: as large as before, no descriptor, thread or log more")
def check(t):
    # A page cache that fills as rows come, and an allocator that spreads what thirty threads take over sixteen arenas, would grow all the time: both are kept small, so that what is left is what is lost.
    g = Gateway(t.folder, "--max-context", "512", "--db-cache-mb", "1", env={"MALLOC_ARENA_MAX": "1"})
    try:
        acme = g.tenant("acme")
        assert acme.upload("sql").status_code == 201
        still((g.process.pid, g.engine_pid()))
        load(g, acme, t.size(4, 120), 1200)  # caches, pools and stacks find their size
        pids, before, wal = rest(g, acme)
        done, errors = load(g, acme, t.size(4, 1200), 50)
        same, after, wal_after = rest(g, acme)
        verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
        files = g.temporary()
    finally:
        g.close()
    for e in errors[:10]:
        print(e)
    t.count("requests", sum(done.values()), least=t.size(50, 10_000))
    t.count("of them clients that left", done.get("leave_midway", 0) + done.get("leave_early", 0), least=t.size(20, 4000))
    t.count("requests that went wrong", len(errors), most=0)
    t.count("processes that are others now", sum(a != b for a, b in zip(pids, same)), most=0)
    for name, (kib, fds, threads, _), (kib_after, fds_after, threads_after, kept) in zip(("gateway", "engine"), before, after):
        t.count(f"{name}: memory in the place of 100", 100 * kib_after / kib, most=102)
        t.count(f"{name}: descriptors more", fds_after - fds, most=0)
        t.count(f"{name}: threads more", threads_after - threads, most=0)
        t.count(f"{name}: connections between the two", kept, least=1, most=KEPT)
    t.count("the write-ahead log's MB", wal_after / 1e6, most=max(8, 1.1 * wal / 1e6))
    t.count("files left in tmp/", len(files), most=0)
    t.count("admissions left open", verdict["open_admissions"], most=0)
    t.count("buckets of the ledger that do not add up", verdict["verify"]["bad_buckets"], most=0)
    t.note(f"memory before and after: gateway {before[0][0]} and {after[0][0]} KiB, engine {before[1][0]} and {after[1][0]} KiB; write-ahead log {wal} and {wal_after} bytes; {done}")
