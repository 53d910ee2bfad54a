#!/usr/bin/env python3
"""A vLLM, or another upstream that speaks OpenAI's API, without a model: its answers are those that a real one gave (vllm_recorded.json, by
tests/vllm/record) with other words in them.

    fake_vllm.py vllm   --listen 127.0.0.1:0 [--key K] [--model NAME]
    fake_vllm.py openai --listen 127.0.0.1:0 [--key K] [--model NAME]      no adapters, no metrics, no usage in each chunk, unknown fields are 400

The port is printed. What it does with a request stands in the request's last text, as in fake_engine.py: tokens=N delay_ms=N first_ms=N
cut_after=N stall_after=N error_after=N status=N code=W message=W. GET /fake/log lists what was asked, POST /fake/forget drops all adapters (as a restart
does), POST /fake/load {"status":N} has loads refused, POST /fake/queue {"running":N,"waiting":N} sets what /metrics says. Standard library only."""

import argparse
import asyncio
import copy
import json
import signal
from pathlib import Path

from fake_engine import generate, read_request, wishes

RECORDED = json.loads(Path(__file__).with_name("vllm_recorded.json").read_text())
WAS = "d" * 64  # the adapter's name when the answers were recorded
TEXT_FIELDS = {"model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed",
               "user", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "response_format", "tools", "tool_choice", "metadata"}
PROMPT = 33


def recorded(name):
    return json.loads(RECORDED[name]["body"])


def chunks(name):
    return [json.loads(line[6:]) for line in RECORDED[name]["body"] if line != "data: [DONE]"]


def word(n):
    return f"tok{n} "


class Upstream:
    def __init__(self, kind, model, key):
        self.kind, self.model, self.key = kind, model, key
        self.loaded, self.log, self.running, self.load_status, self.queue = {}, [], 0, 200, None
        self.ended = self.generated = 0  # counted by what it shares with fake_engine.py

    def error(self, name, **changed):
        body = recorded(name)
        body["error"].update(changed)
        return RECORDED[name]["status"], body

    def models(self):
        plain, loaded = recorded("models_loaded")["data"]
        plain["id"] = self.model
        return {"object": "list", "data": [plain] + [{**loaded, "id": n, "root": p, "parent": self.model} for n, p in self.loaded.items()]}

    def metrics(self):
        q = self.queue or {"running": self.running, "waiting": 0}
        page = RECORDED["metrics"]["body"]
        for name in ("running", "waiting"):
            page = page.replace('vllm:num_requests_%s{engine="0",model_name="smollm2-135m-instruct"} 0.0' % name,
                                'vllm:num_requests_%s{engine="0",model_name="%s"} %.1f' % (name, self.model, q[name]))
        return page

    def load(self, body):
        name, path = body["lora_name"], body["lora_path"]
        if self.load_status != 200:
            return self.error({404: "load_no_folder", 500: "load_rank"}[self.load_status])
        if name in self.loaded:
            return self.error("load_again", message=recorded("load_again")["error"]["message"].replace(WAS, name))
        if not (Path(path) / "adapter_config.json").is_file() or not (Path(path) / "adapter_model.safetensors").is_file():
            return self.error("load_no_folder", message=f"Loading lora {name} failed: No adapter found for {path}")
        self.loaded[name] = path
        return 200, RECORDED["load"]["body"].replace(WAS, name)

    def unload(self, body):
        if self.loaded.pop(body["lora_name"], None):
            return 200, RECORDED["unload"]["body"].replace(WAS, body["lora_name"])
        return self.error("unload_again", message=recorded("unload_again")["error"]["message"].replace(WAS, body["lora_name"]))

    def fake(self, path, body):
        if path == "/fake/log":
            return 200, {"log": self.log, "loaded": sorted(self.loaded), "running": self.running}
        if path == "/fake/forget":
            self.loaded.clear()
        elif path == "/fake/load":
            self.load_status = body["status"]
        elif path == "/fake/queue":
            self.queue = body
        else:
            return None
        return 200, {}

    def simple(self, method, path, headers, body):
        """Routes that answer at once; None: one that generates."""
        if path.startswith("/fake/"):
            return self.fake(path, body)
        if path.endswith("_lora_adapter"):
            self.log.append({"path": path, "headers": headers, "body": body})
        if path.startswith("/v1/") and self.key and headers.get("authorization") != f"Bearer {self.key}":
            return (401, recorded("no_key")) if self.kind == "vllm" else (401, {"error": {
                "message": f"Incorrect API key provided: {headers.get('authorization', 'none')}.", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}})
        if path == "/v1/models":
            return 200, self.models()
        if path in ("/v1/chat/completions", "/v1/completions"):
            return None
        if self.kind == "vllm" and path in ("/health", "/metrics"):
            return 200, self.metrics() if path == "/metrics" else ""
        if self.kind == "vllm" and path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return self.load(body) if path == "/v1/load_lora_adapter" else self.unload(body)
        return RECORDED["no_route"]["status"], recorded("no_route")

    def refusal(self, body, w):
        """None: it is answered."""
        if body["model"] != self.model and body["model"] not in self.loaded:
            return self.error("unknown_model", message=f"The model `{body['model']}` does not exist.")
        if "status" in w:
            e = {"message": w.get("message", "as_asked").replace("MODEL", body["model"]), "type": "BadRequestError", "param": w.get("param"), "code": int(w["status"])}
            return int(w["status"]), {"error": {**e, "code": w.get("code", "x")} if self.kind == "openai" else e}
        if "stream_options" in body and not body.get("stream"):
            return self.error("options_without_stream")
        unknown = sorted(set(body) - TEXT_FIELDS) if self.kind == "openai" else []
        if unknown:
            return 400, {"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}", "type": "invalid_request_error", "param": None, "code": None}}
        return None


class Exchange:
    """One answer, as generate() of fake_engine.py runs it."""

    def __init__(self, up, writer):
        self.up, self.writer = up, writer

    async def reply(self, status, value):
        text = value.encode() if isinstance(value, str) else json.dumps(value, separators=(",", ":")).encode()
        kind = "text/plain" if isinstance(value, str) else "application/json"
        self.writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        await self.writer.drain()

    async def chunk(self, value):
        line = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        data = f"data: {line}\n\n".encode()
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def trouble(self, w, done):
        if done == int(w.get("cut_after", -1)):
            raise ConnectionError
        if done == int(w.get("stall_after", -1)):
            await asyncio.sleep(3600)

    async def answer(self, path, headers, body):
        w = wishes(body)
        refused = self.up.refusal(body, w)
        await asyncio.sleep(int(w.get("first_ms", 0)) / 1000)
        if refused:
            await self.reply(*refused)
        elif body.get("stream"):
            await self.stream("chat" in path, body, w)
        else:
            await self.whole("chat" in path, body, w)

    def usage(self, prompt, output):
        return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}

    async def whole(self, chat, body, w):
        n = int(w.get("tokens", 4))
        await self.trouble(w, 0)
        out = recorded("chat" if chat else "text")
        out["model"] = body["model"]
        one, text = out["choices"][0], "".join(word(i) for i in range(n))
        if chat:
            one["message"]["content"] = text
        else:
            one["text"] = text
        out["choices"] = [{**one, "index": i} for i in range(body.get("n", 1))]
        out["usage"].update(self.usage(PROMPT, n * len(out["choices"])))
        await self.reply(200, out)

    def event(self, shape, body, text, finish, each, count):
        out = copy.deepcopy(shape)
        out["model"], one = body["model"], out["choices"][0]
        out.pop("usage", None)
        if "delta" in one:
            one["delta"]["content"] = text
        else:
            one["text"] = text
        one["finish_reason"] = finish
        if each:
            out["usage"] = self.usage(PROMPT, count)
        elif self.up.kind == "openai" and (body.get("stream_options") or {}).get("include_usage"):
            out["usage"] = None
        return out

    async def stream(self, chat, body, w):
        n, choices, asked = int(w.get("tokens", 4)), body.get("n", 1), body.get("stream_options") or {}
        each = asked.get("include_usage") and asked.get("continuous_usage_stats") and self.up.kind == "vllm"
        shapes = chunks("stream" if chat else "text_stream")
        await self.trouble(w, 0)
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n")
        for c in range(choices if chat else 0):
            role = self.event(shapes[0], body, "", None, each, 0)
            role["choices"][0]["index"] = c
            await self.chunk(role)
        for i in range(n):
            for c in range(choices):
                out = self.event(shapes[1], body, word(i), "length" if i == n - 1 else None, each, i + 1)
                out["choices"][0]["index"] = c
                await self.chunk(out)
            await self.trouble(w, i + 1)
            if i + 1 == int(w.get("error_after", -1)):  # vLLM ends such a stream with its end mark all the same
                await self.chunk({"error": {"message": f"trouble with {body['model']}", "type": "InternalServerError", "param": None, "code": 500}})
                n = None
                break
            await asyncio.sleep(int(w.get("delay_ms", 0)) / 1000)
        if n is not None and asked.get("include_usage"):
            await self.chunk({**shapes[-1], "model": body["model"], "usage": self.usage(PROMPT, n * choices)})
        await self.chunk("[DONE]")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


async def serve_one(up, reader, writer):
    try:
        while True:
            method, path, headers, body = await read_request(reader)
            exchange = Exchange(up, writer)
            at_once = up.simple(method, path, headers, body)
            if at_once:
                await exchange.reply(*at_once)
            else:
                await generate(up, exchange, reader, path, headers, body)
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        pass
    finally:
        writer.transport.abort()


async def main():
    p = argparse.ArgumentParser()
    p.add_argument("kind", choices=("vllm", "openai"))
    p.add_argument("--listen", default="127.0.0.1:0")
    p.add_argument("--model", default="smollm2-135m-instruct")
    p.add_argument("--key")
    args = p.parse_args()
    up = Upstream(args.kind, args.model, args.key)
    stop = asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(s, stop.set)
    host, port = args.listen.rsplit(":", 1)
    server = await asyncio.start_server(lambda r, w: serve_one(up, r, w), host, int(port), limit=1 << 24)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
