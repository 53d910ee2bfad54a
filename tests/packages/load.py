"""Requests to the gateway on 127.0.0.1 until a line comes on standard input: so many a second whether or not somebody answers, and streams beside them. Then one line
of counts; exit status 0 only where each was answered whole and stands in the ledger once (as R6 judges it, tests/trust/r06_restart.py).

    load.py MODEL      WEFT_KEY: a tenant's key; WEFT_ADMIN_KEY: an admin's"""

import asyncio
import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trust"))
import clients  # noqa: E402

URL, ADMIN = "http://127.0.0.1:8080", "http://127.0.0.1:8081"
RATE, CONNECTIONS, STREAMS = 10, 32, 2
SETTLED_S = 30


class Load:
    def __init__(self, model):
        key = os.environ["WEFT_KEY"]
        self.short = clients.chat(key, model, "How many orders were paid in 2023?", max_tokens=4)
        self.long = clients.chat(key, model, "Show all shipped orders over 70 dollars.", stream=True, max_tokens=24)
        self.over = threading.Event()
        self.sent = self.answered = self.streams = 0
        self.failed, self.longest = [], 0.0

    async def ask(self, c, data):
        a, why = clients.Answer(), ""
        if c.reader and c.reader.at_eof():  # closed meanwhile: every client of HTTP looks before it sends
            c.close()
        try:
            await c.ask(data, a)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as e:
            why = repr(e)
        if why or not a.done:
            self.failed.append((why, a.status, a.body[-200:].decode(errors="replace"), str(a.error)))
            return 0
        return 1

    async def worker(self, due):
        c = clients.Connection(URL)
        while (at := await due.get()) is not None:
            fine = await self.ask(c, self.short)
            self.answered += fine
            self.longest = max(self.longest, time.monotonic() - at)
        c.close()

    async def streamer(self):
        c = clients.Connection(URL)
        while not self.over.is_set():
            self.sent += 1
            fine = await self.ask(c, self.long)
            self.streams += fine
        c.close()

    async def arrivals(self, due):
        """By the clock: what could not be sent in time is sent at once, not left out."""
        began, n = time.monotonic(), 0
        while not self.over.is_set():
            now = time.monotonic()
            while n < (now - began) * RATE:
                due.put_nowait(now)
                n += 1
            await asyncio.sleep(0.01)
        self.sent += n
        for _ in range(CONNECTIONS):
            due.put_nowait(None)

    async def run(self):
        due = asyncio.Queue()
        await asyncio.gather(self.arrivals(due), *(self.worker(due) for _ in range(CONNECTIONS)), *(self.streamer() for _ in range(STREAMS)))


def ledger():
    """Rows, once nothing is open."""
    ask = urllib.request.Request(ADMIN + "/admin/v1/ledger?verify=1", headers={"Authorization": f"Bearer {os.environ['WEFT_ADMIN_KEY']}"})
    end = time.monotonic() + SETTLED_S
    while True:
        with urllib.request.urlopen(ask, timeout=30) as r:
            health = json.load(r)
        if health["open_admissions"] == 0 or time.monotonic() > end:
            return health["verify"]["rows"], health["open_admissions"], health["verify"]["bad_buckets"]
        time.sleep(0.2)


def main():
    load, before = Load(sys.argv[1]), ledger()
    threading.Thread(target=lambda: (sys.stdin.readline(), load.over.set()), daemon=True).start()
    asyncio.run(load.run())
    rows, still_open, bad = ledger()
    extra = rows - before[0] - load.answered - load.streams
    print(f"sent {load.sent}, answered {load.answered} and {load.streams} streams, failed {len(load.failed)}; rows of the ledger less answers {extra}, open admissions {still_open}, "
          f"rollups that differ {bad}; the longest wait was {load.longest:.2f} s")
    for what in load.failed[:5]:
        print(f"failed: {what}")
    return 1 if load.failed or load.answered + load.streams != load.sent or not load.streams or extra or still_open or bad else 0


sys.exit(main())
