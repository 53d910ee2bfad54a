"""R6: graceful restarts under an open load. Requests come so many a second whether or not the gateway is between two processes; none fails, and streams that
began before a restart come to their end."""

import asyncio
import time

import clients
import service_manager
from gateway_process import TOP, until
from trust import row, without

FAST = TOP / "build/release/tests/load/fake_engine"  # one that is not the bottleneck; it serves its own base
BASE, CONNECTIONS, STREAMS, TOKENS = "fake-base", 128, 20, 60


class Load:
    def __init__(self, g, tenant, rate):
        self.g, self.rate = g, rate
        self.url = "http://{}:{}".format(*g.sockets[0].getsockname())  # stays, whichever process listens
        self.short = clients.chat(tenant.key, BASE, "tokens=2")
        self.long = clients.chat(tenant.key, BASE, f"tokens={TOKENS} step_us=25000", stream=True)
        self.over = False
        self.sent = self.answered = self.streams = 0
        self.failed, self.waits = [], []

    def note(self, a, why, fine):
        if why or not fine:
            self.failed.append((why, a.status, a.body[-200:], a.error))
        return not why and fine

    async def ask(self, c, data):
        a, why = clients.Answer(), ""
        try:
            await c.ask(data, a)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as e:
            why = repr(e)
        return a, why

    async def worker(self, due):
        c = clients.Connection(self.url)
        while (at := await due.get()) is not None:
            a, why = await self.ask(c, self.short)
            self.answered += self.note(a, why, a.done)
            self.waits.append(time.monotonic() - at)
        c.close()

    async def streamer(self):
        c = clients.Connection(self.url)
        while not self.over:
            a, why = await self.ask(c, self.long)
            self.streams += self.note(a, why, a.done and a.events == TOKENS)
        c.close()

    async def arrivals(self, due):
        """So many a second, by the clock: what could not be sent in time is sent at once, not left out."""
        began = self.began = time.monotonic()
        while not self.over:
            now = time.monotonic()
            while self.sent < (now - began) * self.rate:
                due.put_nowait(now)
                self.sent += 1
            await asyncio.sleep(0.005)
        for _ in range(CONNECTIONS):
            due.put_nowait(None)

    async def run(self, restarts):
        due = asyncio.Queue()
        tasks = [asyncio.create_task(x) for x in [self.arrivals(due), *(self.worker(due) for _ in range(CONNECTIONS)), *(self.streamer() for _ in range(STREAMS))]]
        for _ in range(restarts):
            before = self.answered, self.streams
            while self.answered < before[0] + self.rate or self.streams < before[1] + STREAMS // 2:
                await asyncio.sleep(0.05)
                if self.failed:
                    break
            await asyncio.to_thread(self.g.restart)
        await asyncio.sleep(0.5)
        self.took = time.monotonic() - self.began
        self.over = True
        await asyncio.gather(*tasks)


@row("R6", "graceful restarts under load: nothing fails, streams finish")
def check(t):
    restarts, rate = t.size(short=2, whole=10), t.size(short=200, whole=1000)
    service_manager.FAKE = FAST
    g = service_manager.Held(t.folder / "g", "--linger-ms", "500", "--drain-ms", "20000", fake=True)
    try:
        acme = g.tenant("acme")
        load = Load(g, acme, 1.01 * rate)  # a twentieth of a second of them is not out yet when the clock is read
        asyncio.run(load.run(restarts))
        g.restart()  # all that was answered is settled
        health = until(lambda: (h := g.admin.get("/admin/v1/ledger?verify=1").json())["open_admissions"] == 0 and h, what="the end of all admissions")
        for what in load.failed[:5]:
            t.note(f"failed: {what}")
        t.count("restarts", restarts, least=restarts)
        t.count("requests", load.sent, least=restarts * rate)
        t.count("answered", load.answered, least=load.sent)
        t.count("failed", len(load.failed), most=0)
        t.count("streams that finished", load.streams, least=restarts * STREAMS // 2)
        t.count("rows of the ledger, less answers", health["verify"]["rows"] - load.answered - load.streams, least=0, most=0)
        t.count("rollups that differ", health["verify"]["bad_buckets"], most=0)
        t.speed("requests a second", load.sent / load.took, least=rate)
        t.note(f"the longest wait over a restart was {max(load.waits):.2f} s")
    finally:
        g.close()


without("R6", "finishing what is in flight at a stop", "gateway/main.c",
        "    while (is_busy(p, linger_until) && clock_mono_us() < until) nanosleep(&tick, NULL);", "    (void)linger_until, (void)until, (void)tick, (void)is_busy;")
