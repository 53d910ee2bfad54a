#!/usr/bin/env python3
"""A wire that misbehaves, between a gateway and its engine or a client and the gateway. Nothing is reordered, and but for `flip` nothing changed; what a plan says
happens to answers:

    cut N     the connection ends after N bytes of the answer      reset 1    ... with a reset, not an end
    stall N   nothing more comes after N bytes                     delay_ms N before each piece
    split N   pieces of at most N bytes, each sent by itself       flood N    N bytes of comment lines before the answer's first byte of a body
    flip N    the bits of byte N of the answer are turned over

A plan holds for requests whose head contains `match` ("": all), `times` of them (-1: all). A request whose text holds words like `wire=cut:100`, `wire=reset:0`
or `wire=stall:9` brings its own, so that many can be asked beside each other; `wire=once:100` is a cut of the first try only. In a test's own process:

    with Proxy(("127.0.0.1", port)) as wire:
        wire.plan(cut=100)
        ask(wire.url)

As a program it stands in an engine's place: `proxy.py serve --socket PATH ...` starts fake_engine.py behind PATH.behind with the same arguments and reads
its plan from the file that WEFT_WIRE names, anew for each request. Standard library only."""
import asyncio
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

FAKE = Path(__file__).resolve().parents[2] / "e2e/gateway/fake_engine.py"
STALL_S = 3600
PIECE = 65536


def body_length(data):
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data)
    return int(length.group(1)) if length else 0


class Wire:
    """Connections from here to target, a path or (host, port)."""

    def __init__(self, target, plan):
        self.target, self.plan, self.struck, self.seen = target, plan, 0, set()
        self.last = b""  # the answer that came last, where nothing else goes on

    async def dial(self):
        if isinstance(self.target, tuple):
            return await asyncio.open_connection(*self.target)
        return await asyncio.open_unix_connection(self.target)

    async def serve(self, reader, writer):
        try:
            theirs, ours = await self.dial()
        except OSError:
            return writer.transport.abort()
        state = {"plan": {}, "sent": 0, "flooded": False}
        ways = [asyncio.ensure_future(self.ask(reader, ours, state)), asyncio.ensure_future(self.answer(theirs, writer, state))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for w in ways:
            w.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for w in (ours, writer):
            if not w.transport.is_closing():
                w.close()

    async def ask(self, reader, ours, state):
        while data := await reader.read(PIECE):
            if data[:4] == b"POST":
                data = await self.rest(reader, data)
            plan = self.asked(data) or self.plan()
            if plan and data[:4] in (b"POST", b"GET ") and plan.get("match", "").encode() in data.split(b"\r\n\r\n")[0]:
                state.update(plan=plan, sent=0, flooded=False)
            elif data[:4] in (b"POST", b"GET "):
                state.update(plan={}, sent=0, flooded=False)
            ours.write(data)
            await ours.drain()

    async def rest(self, reader, data):
        """The whole request that begins so."""
        while b"\r\n\r\n" not in data or len(data) < data.index(b"\r\n\r\n") + 4 + body_length(data):
            more = await reader.read(PIECE)
            if not more:
                break
            data += more
        return data

    def asked(self, data):
        """What the request itself wishes; the id tells a second try of it."""
        wish = re.search(rb"wire=(cut|reset|stall|once):(\d+)", data)
        if not wish:
            return None
        kind, at = wish.group(1).decode(), int(wish.group(2))
        id = re.search(rb"(?i)x-weft-request-id: *(\S+)", data)
        again = id and id.group(1) in self.seen
        self.seen.add(id and id.group(1))
        if kind == "once" and again:
            return {}
        return {"stall": at} if kind == "stall" else {"cut": at, "reset": kind == "reset"}

    async def answer(self, theirs, writer, state):
        while data := await theirs.read(PIECE):
            plan = state["plan"]
            if plan.get("flood") and not state["flooded"] and b"\r\n\r\n" in data:
                state["flooded"] = True  # the end of a chunked body looks like that of a head
                head, body = data.split(b"\r\n\r\n", 1)
                writer.write(head + b"\r\n\r\n")
                await self.flood(writer, plan["flood"])
                data = body
            size = plan.get("split", PIECE)
            for at in range(0, len(data), size):
                if not await self.piece(writer, data[at:at + size], plan, state):
                    return

    async def flood(self, writer, n):
        line = b": " + b"x" * 4093 + b"\n"
        for _ in range(n // len(line) + 1):
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()

    async def piece(self, writer, data, plan, state):
        """False: that was the last one."""
        limits = [plan[k] for k in ("cut", "stall") if k in plan]
        if plan.get("delay_ms"):
            await asyncio.sleep(plan["delay_ms"] / 1000)
        left = min(limits) - state["sent"] if limits else len(data) + 1
        if 0 <= (at := plan.get("flip", -1) - state["sent"]) < len(data):
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1:]
        writer.write(data[:max(left, 0)])
        await writer.drain()
        self.last = data if not state["sent"] else self.last + data
        state["sent"] += len(data)
        if left > len(data) or (left == len(data) and not limits):
            return True
        self.struck += 1
        if "stall" in plan and plan["stall"] == min(limits):
            await asyncio.sleep(STALL_S)
        if plan.get("reset"):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False


class Proxy:
    def __init__(self, target):
        self.now, self.wire = {}, Wire(target, self.take)

    def take(self):
        plan = self.now
        if plan.get("times", -1) == 0:
            return {}
        if plan.get("times", -1) > 0:
            self.now = {**plan, "times": plan["times"] - 1}
        return plan

    def plan(self, **plan):
        self.now = plan

    async def main(self):
        self.over = asyncio.Event()
        server = await asyncio.start_server(self.wire.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def run(self):
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.main())

    def __enter__(self):
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(10)
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(10)


async def in_place_of_an_engine():
    path = sys.argv[sys.argv.index("--socket") + 1]
    behind = path + ".behind"
    arguments = [behind if a == path else a for a in sys.argv[1:]]
    engine = subprocess.Popen([sys.executable, str(FAKE), *arguments], env={**os.environ, "FAKE_PID": str(os.getpid())})  # it speaks for this process
    plan = Path(os.environ["WEFT_WIRE"])
    end = time.monotonic() + 20
    while not os.path.exists(behind) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    if os.path.exists(path):
        os.unlink(path)
    await asyncio.start_unix_server(Wire(behind, lambda: json.loads(plan.read_text() or "{}") if plan.exists() else {}).serve, path)
    over = asyncio.Event()
    for s in (15, 2):
        asyncio.get_running_loop().add_signal_handler(s, over.set)
    while not over.is_set() and engine.poll() is None:
        try:
            await asyncio.wait_for(over.wait(), 0.2)
        except asyncio.TimeoutError:
            pass
    engine.kill()
    engine.wait(10)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(in_place_of_an_engine())
