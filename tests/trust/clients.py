"""Many clients in one process: HTTP/1.1 by hand over connections that are kept, since what a row asks for in minutes (100,000 requests, 1,000 a second)
is more than a comfortable client sends. Speaks to the gateway only: answers have a Content-Length or are chunked, streams are events."""

import asyncio
import json
import time
from urllib.parse import urlsplit

READ_MAX = 1 << 20
ANSWER_S = 60


class Answer:
    """What a client was told: status, request id, events of a stream (with the time of each), whether its end was the right one."""

    def __init__(self):
        self.status, self.id, self.close, self.body, self.events, self.times, self.done, self.error = None, None, False, b"", 0, [], False, None
        self.sent = False  # there was a connection to send it on
        self.over = False  # it came to its end as HTTP says it
        self.last = b""    # of a stream whose usage was asked for: the event that has it

    def usage(self):
        """Of an answer that is whole; None: it has none."""
        return json.loads(self.body or self.last or b"{}").get("usage")

    def tokens(self):
        """Of an answer that is whole and no stream."""
        return self.usage()["completion_tokens"]


def request(path, key, body, extra=""):
    data = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n{extra}"
            f"Content-Length: {len(data)}\r\n\r\n").encode() + data


def chat(key, model, text, stream=False, max_tokens=64, usage=False):
    options = {"stream_options": {"include_usage": True}} if stream and usage else {}
    return request("/v1/chat/completions", key, {"model": model, "stream": stream, "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}], **options})


class Connection:
    """One that is opened when it is needed and kept as long as it may be."""

    def __init__(self, url):
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port
        self.reader = self.writer = None

    def close(self):
        if self.writer:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def ask(self, data, answer, leave=None, timed=False):
        """Fills `answer` as far as it comes; OSError or asyncio.IncompleteReadError where it breaks off. leave: after so many events."""
        try:
            async with asyncio.timeout(ANSWER_S):
                if not self.writer:
                    self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=READ_MAX)
                answer.sent = True
                self.writer.write(data)
                await self._head(answer)
                await self._body(answer, leave, timed)
        except BaseException:
            self.close()
            raise
        if answer.close or not answer.over:
            self.close()

    async def _head(self, a):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        a.status = int(lines[0].split(" ")[1])
        head = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:] if ":" in line)}
        a.id, a.close = head.get("x-request-id"), head.get("connection", "").lower() == "close"
        self.length = None if head.get("transfer-encoding") == "chunked" else int(head.get("content-length", 0))

    async def _body(self, a, leave, timed):
        if self.length is not None:
            a.body = await self.reader.readexactly(self.length)
            a.over = True
            a.done = a.status == 200
            return
        rest = b""
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            rest += (await self.reader.readexactly(size + 2))[:-2]
            *lines, rest = rest.split(b"\n")
            for line in lines:
                self._line(a, line, timed)
            if leave and a.events >= leave:
                return
        await self.reader.readexactly(2)
        a.over = True

    @staticmethod
    def _line(a, line, timed):
        if line == b"data: [DONE]":
            a.done = True
        elif line.startswith(b'data: {"error"'):
            a.error = (time.monotonic(), json.loads(line[6:])["error"])
        elif line.startswith(b"data: ") and b'"delta"' in line:
            a.events += 1
            if timed:
                a.times.append(time.monotonic())
        elif line.startswith(b"data: ") and b'"usage"' in line:
            a.last = line[6:]
