"""What an engine that lies answers: the fake engine's word `lie=WORD` (fake_engine.py). Each is a way to break the contract of schema/ENGINE_API.md.

    many, below     counts far above, or below nothing          garbage   lines that are no JSON, then a good end
    headers         headers without an end                      line      a line of `mb` MiB (4) without an end
    other           ids and names of another answer             after     events after [DONE]
    twice           two answers on one connection               short     less than Content-Length says, then the end
    nul             zero bytes in a line                        status    a status line that is none"""
import asyncio
import json

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = 64 << 20  # bytes; nobody should take so many


def chunk(data):
    data = data.encode() if isinstance(data, str) else data
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(i, last=False, model="x", id="x"):
    return "data: " + json.dumps({"id": id, "object": "chat.completion.chunk", "created": 1, "model": model,
                                  "choices": [{"index": 0, "delta": {"content": f"tok{i}   "}, "finish_reason": "length" if last else None}]}) + "\n\n"


def stream(kind):
    """The pieces of a stream of two tokens that lies."""
    mark = {"many": ": weft 11 3 999999999\n\n", "below": ": weft -11 -3 -5\n\n"}.get(kind, ": weft 11 3 1\n\n")
    yield mark + event(0, model="another" if kind == "other" else "x", id="other" if kind == "other" else "x")
    if kind == "garbage":
        yield "data: {\"id\": not json\n\ndata: []\n\ndata: 7\n\nevent: x\nfoo bar\n\n: weft x y z\n\n: weft 1 2\n\n"
    if kind == "nul":
        yield b"data: \0\0\0 {}\n\n"
    yield (mark if kind in ("many", "below") else ": weft 11 3 2\n\n") + event(1, True) + "data: [DONE]\n\n"
    if kind == "after":
        yield ": weft 11 3 50\n\n" + event(2) + event(3, True) + "data: [DONE]\n\n"


async def lie(writer, kind, w, body):
    if kind == "headers":
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for i in range(ENDLESS >> 12):
            writer.write(b"X-Header-%d: %s\r\n" % (i, b"x" * 4096))
            await writer.drain()
    elif kind == "status":
        writer.write(b"HTTP/9.9 99999999999 what\r\n\r\n")
    elif not body.get("stream"):
        await whole(writer, kind)
    else:
        await streamed(writer, kind, int(w.get("mb", 4)))
    await writer.drain()
    if kind in ("short", "headers", "status", "line"):
        await asyncio.sleep(0.05)
        raise ConnectionError


async def whole(writer, kind):
    n = {"many": 999999999999, "below": -5}.get(kind, 2)
    text = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "x", "usage": {"prompt_tokens": 11 if n > 0 else n, "completion_tokens": n,
                       "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 3}},
                       "choices": [{"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "tok0 tok1"}}]})
    if kind in ("garbage", "nul"):
        text = "{\"usage\": {\"completion_tokens\": \0"
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    if kind == "line":
        writer.write((head % ENDLESS).encode())
        for _ in range(ENDLESS >> 16):
            writer.write(b"x" * 65536)
            await writer.drain()
        return
    answer = (head % (len(text) + (50 if kind == "short" else 0)) + text).encode()
    writer.write(answer * (2 if kind == "twice" else 1))


async def streamed(writer, kind, mb):
    writer.write(CHUNKED)
    if kind == "line":
        writer.write(chunk(": weft 11 3 1\n\n" + event(0) + "data: {\"choices\": \""))
        for _ in range(mb * 16):
            writer.write(chunk(b"x" * 65536))
            await writer.drain()
        return
    for piece in stream(kind):
        writer.write(chunk(piece))
    if kind == "short":
        return
    writer.write(b"0\r\n\r\n")
    if kind == "twice":
        writer.write(CHUNKED)
        for piece in stream("many"):
            writer.write(chunk(piece))
        writer.write(b"0\r\n\r\n")
