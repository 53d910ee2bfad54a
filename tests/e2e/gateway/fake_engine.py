#!/usr/bin/env python3
"""An engine without a model that speaks schema/ENGINE_API.md and fails on request.

Runs in weft-engine's place (`serve --socket PATH ...`; other arguments are taken and ignored), so that the gateway spawns, watches and kills it
like the real one. What it does with a request stands in the request's last text, as words like `tokens=5 delay_ms=10 die_after=2`:

    tokens N         length of the answer (4)            delay_ms N    between tokens (0)         first_ms N   before the first (0)
    status N code W  refuse                              die_after N   the process ends           cut_after N  the connection ends
    stall_after N    nothing comes any more              no_done 1     the stream ends cleanly without [DONE]
    error_after N    an error event, then the end        burst N       tokens in one flush (1)    bytes N      of a token's text (6)
    blame_after N    the same, naming the adapters by their digests                              prompt N      tokens of the prompt (11)
    times Q,L,P,D,S  microseconds that it says its steps took     lie WORD     breaks the contract (fake_lies.py)
    sure P           tokens say whether the base or an adapter answers, and have log-probabilities of P where they are asked for; dumb 1: asking is refused
    errs_at N        as error_after, in one piece with what comes before it; of the base alone

GET /fake/log lists what was asked (headers, body, whether the caller left); POST /fake/load {"status":N} sets what loads answer, /fake/selftest {"status","max_error","die"} what self-tests answer, or that they end it; POST /fake/forget drops all
digests, or {"digest"}; POST /fake/garbage {"on"}: answers that are not streams are another server's. Standard library only."""

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import secrets
import signal
import sys
import time

import fake_lies

HIDDEN, KV, FFN, LAYERS = 576, 192, 1536, 30
BASE = {
    "name": "smollm2-135m-instruct", "digest": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "also": ["SmolLM2-135M-Instruct"], "layers": LAYERS,
    "modules": {"q_proj": [HIDDEN, HIDDEN], "k_proj": [KV, HIDDEN], "v_proj": [KV, HIDDEN], "o_proj": [HIDDEN, HIDDEN],
                "gate_proj": [FFN, HIDDEN], "up_proj": [FFN, HIDDEN], "down_proj": [HIDDEN, FFN]},
}
WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 422: "Unprocessable", 500: "Oops", 503: "Unavailable"}


class Engine:
    def __init__(self, token="", base=""):
        self.token, self.base = token, {**BASE, **({"name": base, "digest": hashlib.sha256(base.encode()).hexdigest()} if base else {})}
        self.loads, self.unloads = [], {}
        self.loaded, self.log, self.load_status, self.running = {}, [], 200, 0
        self.selftest = {"status": 200, "max_error": 0.001}
        self.garbage = False
        self.ended = self.generated = 0

    def error(self, status, code, message="as asked"):
        return status, {"error": {"message": message, "type": "server_error", "param": None, "code": code}}

    def state(self):
        return {"base": self.base, "precision": "exact", "kernels": "fake", "max_context": 2048, "pid": int(os.environ.get("FAKE_PID", os.getpid())), "running": self.running, "waiting": 0,
                "pages": {"total": 400, "used": 100 if self.running else 0}, "slots": {"max": 8, "resident": len(self.loaded), "loading": 0},
                "steps": {"count": 1 + self.generated, "us_p50": 2500, "us_p99": 9000},
                **({"prompt_policies": ["truncate", "compress", "text"]} if os.environ.get("FAKE_POLICIES") else {})}

    def metrics(self):
        return f'vllm:request_success_total{{finished_reason="length"}} {self.ended}\nvllm:generation_tokens_total {self.generated}\n'

    def load(self, body):
        if self.load_status != 200:
            return self.error(self.load_status, {404: "not_found", 503: "no_slot"}.get(self.load_status, "adapter_invalid"))
        self.loaded[body["lora_name"]] = body["lora_path"]
        self.loads.append(body["lora_name"])
        return 200, {"status": "ok"}

    def test(self, body):
        if body["digest"] not in self.loaded:
            return self.error(404, "adapter_not_loaded")
        if self.selftest.get("die"):
            os._exit(9)
        if self.selftest["status"] != 200:
            return self.error(self.selftest["status"], {404: "not_found", 503: "no_slot"}.get(self.selftest["status"], "adapter_invalid"))
        return 200, {"digest": body["digest"], "modules": {"q_proj": self.selftest["max_error"], "v_proj": 0.0}, "max_error": self.selftest["max_error"]}

    def simple(self, method, path, body):
        """Routes that answer at once; None: not one of them."""
        if path in ("/health", "/ready"):
            return 200, {"status": "ok"}
        if path.startswith("/weft/v1/hello?nonce=") and self.token:
            theirs, ours = path.split("=", 1)[1], secrets.token_hex(32)
            return 200, {"nonce": ours, "proof": hmac.new(self.token.encode(), f"weft hello {theirs} {ours}".encode(), hashlib.sha256).hexdigest()}
        if path == "/weft/v1/state":
            return 200, self.state()
        if path == "/v1/load_lora_adapter":
            return self.load(body)
        if path == "/v1/unload_lora_adapter":
            return (200, {}) if self.loaded.pop(body["lora_name"], None) else self.error(404, "adapter_not_loaded")
        if path == "/metrics":
            return 200, f"# HELP weft_steps_total Forward passes\n# TYPE weft_steps_total counter\nweft_steps_total {len(self.log)}\n"
        if path == "/weft/v1/tokenize":
            return 200, {"prompt_tokens": int(wishes(body).get("prompt", 11)), "max_model_len": 2048}
        if path == "/weft/v1/selftest":
            return self.test(body)
        if path.startswith("/weft/v1/receipts/"):
            return self.error(404, "not_found")
        if path == "/fake/log":
            return 200, {"log": self.log, "loaded": sorted(self.loaded), "loads": self.loads, "running": self.running}
        if path == "/fake/load":
            self.load_status = body["status"]
            return 200, {}
        if path == "/fake/selftest":
            self.selftest = {**self.selftest, **body}
            return 200, {}
        if path == "/fake/garbage":
            self.garbage = body["on"]
            return 200, {}
        if path == "/fake/forget":
            for digest in [body["digest"]] if "digest" in body else list(self.loaded):
                del self.loaded[digest]
            return 200, {}
        return None


def wishes(body):
    text = body["messages"][-1]["content"] if "messages" in body else body.get("prompt", "")
    pairs = (w.split("=", 1) for w in str(text).split() if "=" in w)
    return {k: v for k, v in pairs}


def usage_of(w, n):
    prompt = int(w.get("prompt", 11))
    return {"prompt_tokens": prompt, "completion_tokens": n, "total_tokens": prompt + n, "prompt_tokens_details": {"cached_tokens": int(w.get("cached", 3))}}


def token_of(engine, w, body, i):
    word = "tok" if "sure" not in w else "sml" if body["model"] == engine.base["name"] else "lrg"
    return f"{word}{i:<{int(w.get('bytes', 6)) - 3}}"


def told(w, body, tokens):
    """What a choice has of log-probabilities."""
    if "sure" not in w:
        return {}
    one = {"logprob": float(w["sure"]), "bytes": None}
    top = [{"token": f"t{i}", **one} for i in range(body.get("top_logprobs", 0))]
    return {"logprobs": {"content": [{"token": t, **one, "top_logprobs": top} for t in tokens]} if body.get("logprobs") else None}


def begin(engine, exchange):
    """How many answers are open, this one with them."""
    exchange.open = 1
    engine.open = getattr(engine, "open", 0) + 1
    return engine.open


def end(engine, exchange):
    """Before the last piece is sent: whoever has it knows that this one is over."""
    if getattr(exchange, "open", 0):
        exchange.open = 0
        engine.open -= 1


class Exchange:
    def __init__(self, engine, writer):
        self.engine, self.writer = engine, writer

    async def reply(self, status, value, headers=()):
        end(self.engine, self)
        kind, text = ("text/plain", value.encode()) if isinstance(value, str) else ("application/json", json.dumps(value).encode())
        extra = "".join(f"{k}: {v}\r\n" for k, v in headers)
        self.writer.write(f"HTTP/1.1 {status} {WORDS.get(status, 'X')}\r\nContent-Type: {kind}\r\n{extra}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        await self.writer.drain()

    async def page(self, text):
        self.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        await self.writer.drain()

    async def chunk(self, text):
        data = text.encode()
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def answer(self, path, headers, body):
        try:
            w = wishes(body)
        except (AttributeError, IndexError, KeyError, TypeError):
            return await self.reply(*self.engine.error(400, "invalid_value", "no text to answer"))
        model = headers.get("x-weft-model", body["model"])
        stack = [a["name"] for a in body.get("adapters") or []]
        id = headers.get("x-weft-request-id", "")
        if int(w.get("unloads", 0)) > self.engine.unloads.get(id, 0):  # as if somebody had unloaded it just before it came, so many times
            self.engine.unloads[id] = self.engine.unloads.get(id, 0) + 1
            self.engine.loaded.pop(body["model"], None)
        missing = [n for n in [body["model"]] + stack if n != self.engine.base["name"] and n not in self.engine.loaded]
        if missing:
            await self.reply(*self.engine.error(404, "adapter_not_loaded", f"no adapter {missing[0]}"))
        elif "dumb" in w and body.get("logprobs"):
            await self.reply(*self.engine.error(400, "unsupported", "no log-probabilities"))
        elif "status" in w:
            status = int(w["status"])
            await self.reply(*self.engine.error(status, w.get("code"), f"refused for {body['model']}"), headers=[("Retry-After", w.get("after", "7").replace("_", " "))] if status == 503 or "after" in w else [])
        elif "lie" in w:
            await fake_lies.lie(self.writer, w["lie"], w, body)
        elif body.get("stream"):
            await self.stream(path, model, w, body)
        else:
            await self.whole(model, w, body)

    async def trouble(self, w, done):
        if done == int(w.get("die_after", -1)):
            os._exit(9)
        if done == int(w.get("cut_after", -1)):
            raise ConnectionError
        if done == int(w.get("stall_after", -1)):
            await asyncio.sleep(3600)

    async def whole(self, model, w, body):
        n = int(w.get("tokens", 4))
        if self.engine.garbage:
            return await self.reply(200, {"welcome": "to another server"})
        await asyncio.sleep(int(w.get("first_ms", 0)) / 1000)
        for i in range(n):
            await self.trouble(w, i)
            await asyncio.sleep(int(w.get("delay_ms", 0)) / 1000)
        tokens = [token_of(self.engine, w, body, i) for i in range(n)]
        self.engine.generated += n
        await self.reply(200, {"id": "x", "object": "chat.completion", "created": 1, "model": model, "usage": usage_of(w, n),
                               "choices": [{"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "".join(tokens)}, **told(w, body, tokens)}]},
                         headers=[("X-Weft-Time", w["times"].replace(",", " "))] if "times" in w else ())

    async def stream(self, path, model, w, body):
        n, burst = int(w.get("tokens", 4)), int(w.get("burst", 1))
        await asyncio.sleep(int(w.get("first_ms", 0)) / 1000)
        await self.trouble(w, 0)
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(0, n, burst):
            out = f": weft {w.get('prompt', 11)} {w.get('cached', 3)} {min(i + burst, n)}\n\n"
            for k in range(i, min(i + burst, n)):
                delta = {"content": token_of(self.engine, w, body, k)}
                finish = "length" if k == n - 1 else None
                out += "data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model,
                                              "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **told(w, body, [delta["content"]])}]}) + "\n\n"
            errs = "errs_at" in w and i + burst >= int(w["errs_at"]) and body["model"] == self.engine.base["name"]
            if errs:
                out += 'data: {"error":{"message":"not finite","type":"server_error","param":null,"code":"engine_error"}}\n\n'
            self.engine.generated += min(burst, n - i)
            await self.chunk(out)
            if errs:
                self.writer.write(b"0\r\n\r\n")
                return
            await self.trouble(w, i + burst)
            if i + burst == int(w.get("error_after", -1)):
                await self.chunk('data: {"error":{"message":"not finite","type":"server_error","param":null,"code":"adapter_fault"}}\n\n')
                self.writer.write(b"0\r\n\r\n")
                return
            if i + burst == int(w.get("blame_after", -1)):
                names = " ".join(a["name"] for a in body.get("adapters", [])) or body["model"]
                await self.chunk('data: {"error":{"message":"the adapter %s is not finite","type":"server_error","param":null,"code":"adapter_fault"}}\n\n' % names)
                self.writer.write(b"0\r\n\r\n")
                return
            await asyncio.sleep(int(w.get("delay_ms", 0)) / 1000)
        end(self.engine, self)
        if "times" in w:
            await self.chunk(f": weft-time {w['times'].replace(',', ' ')}\n\n")
        if (body.get("stream_options") or {}).get("include_usage"):
            await self.chunk("data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [], "usage": usage_of(w, n)}) + "\n\n")
        if "no_done" not in w:
            await self.chunk("data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = dict((k.strip().lower(), v.strip()) for k, v in (l.split(":", 1) for l in lines[1:] if ":" in l))
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return method, path, headers, json.loads(raw) if raw else {}


async def generate(engine, exchange, reader, path, headers, body):
    """Runs the answer beside a watch on the connection: a caller that leaves cancels it, as in the real engine."""
    note = {"path": path, "headers": headers, "body": body, "left": False, "t": time.time(), "open": begin(engine, exchange)}
    engine.log.append(note)
    engine.running += 1
    work, left = asyncio.ensure_future(exchange.answer(path, headers, body)), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait([work, left], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            note["left"], note["left_at"] = True, time.time()
            work.cancel()
            raise ConnectionError
        left.cancel()
        try:
            await left
        except asyncio.CancelledError:
            pass
        work.result()
    finally:
        end(engine, exchange)
        engine.ended += 1
        engine.running -= 1


async def serve_one(engine, reader, writer):
    try:
        while True:
            method, path, headers, body = await read_request(reader)
            exchange = Exchange(engine, writer)
            at_once = engine.simple(method, path, body)
            if path == "/metrics":
                await exchange.page(engine.metrics())
            elif at_once:
                await exchange.reply(*at_once)
            elif path in ("/v1/chat/completions", "/v1/completions"):
                await generate(engine, exchange, reader, path, headers, body)
            else:
                await exchange.reply(*engine.error(404, "not_found"))
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        pass
    finally:
        writer.transport.abort()


async def main():
    p = argparse.ArgumentParser()
    p.add_argument("command")
    p.add_argument("--socket")
    p.add_argument("--listen")
    p.add_argument("--model")
    p.add_argument("--token-file")
    p.add_argument("--base", default="")
    args, _ = p.parse_known_args()
    if args.model and os.path.basename(args.model) == "refused.gguf":
        sys.exit(3)
    token = open(args.token_file, encoding="ascii").read().strip() if args.token_file else ""
    engine = Engine(token, args.base)
    stop = asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(s, stop.set)

    def each(r, w):
        return serve_one(engine, r, w)

    if args.socket:
        if os.path.exists(args.socket):
            os.unlink(args.socket)
        await asyncio.start_unix_server(each, args.socket, limit=1 << 24)
    else:
        host, port = args.listen.rsplit(":", 1)
        server = await asyncio.start_server(each, host, int(port), limit=1 << 24)
        print("listening", server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
