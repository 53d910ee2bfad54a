#!/usr/bin/env python3
"""A receiver of webhooks that holds what it is sent against docs/WEBHOOKS.md, and misbehaves on request.

`webhook_receiver.py FOLDER PORT [CERTIFICATE KEY]` (with a certificate by https) keeps FOLDER/journal: a line for each batch that it took, written and flushed before it answers, so that it may be killed at
any moment and started again. Each path is a receiver of its own (/acme, /all); the first part of its name is what the journal has it under.

    POST /control {"secrets": {path: [whsec_...]}, "tokens": {path: Authorization}, "plan": {path: [word, ...]}, "chaos": {path: {word: weight}}, "seed": n}
    GET  /state   {"wrong": [what a batch broke of the rules], "requests": {path: n}}

Words, one for each request to come: ok; a status (500, 429, 410, 302, 413); drop (the connection ends, nothing was taken), lose (it was taken, the connection
ends), cut (it was taken, the answer breaks off), slow (0.3 s), die (the process ends, nothing was taken), long (an answer of a megabyte), endless (one that ends when nobody reads it any more). Standard library only."""

import base64
import hashlib
import hmac
import json
import os
import random
import re
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVENTS_MAX, BYTES_MAX, CLOCK_S = 100, 256 * 1024, 300
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
COUNTS = ("input_tokens", "input_cached_tokens", "output_tokens", "produced_tokens", "cost_nano", "requests")


def sign(secret, name, timestamp, body):
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    return "v1," + base64.b64encode(hmac.new(key, f"{name}.{timestamp}.".encode() + body, hashlib.sha256).digest()).decode()


def wrong_message(headers, body, secrets):
    """What breaks Standard Webhooks."""
    name, stamp, signatures = (headers.get(h) or "" for h in ("webhook-id", "webhook-timestamp", "webhook-signature"))
    if not re.fullmatch(r"msg_[0-9a-f-]{36}", name):
        yield f"webhook-id {name!r}"
    if not stamp.isdigit() or abs(int(stamp) - time.time()) > CLOCK_S:
        yield f"webhook-timestamp {stamp!r}"
    given = signatures.split(" ")
    for secret in secrets:
        if sign(secret, name, stamp, body) not in given:
            yield f"none of {len(given)} signatures is of the secret {secret[:10]}"


def wrong_event(e):
    """What breaks CloudEvents 1.0 or the table of types."""
    for attribute in ("specversion", "id", "source", "type"):
        if not isinstance(e.get(attribute), str) or not e[attribute]:
            yield f"no {attribute}"
    if e.get("specversion") != "1.0":
        yield f"specversion {e.get('specversion')!r}"
    for attribute in e:
        if not re.fullmatch(r"[a-z0-9]{1,20}", attribute):
            yield f"attribute {attribute!r}"
    if "subject" in e and not (isinstance(e["subject"], str) and e["subject"]):
        yield "an empty subject"
    if not TIME.match(e.get("time", "")):
        yield f"time {e.get('time')!r}"
    if e.get("datacontenttype") != "application/json" or not isinstance(e.get("data"), dict):
        yield "data is no JSON object"
    elif e["type"] in ("weft.usage.settled", "weft.usage.adjusted"):
        data = e["data"]
        if not UUID.match(e["id"]):
            yield f"id {e['id']!r}"
        if e.get("subject") != data.get("tenant"):
            yield f"subject {e.get('subject')!r} of the tenant {data.get('tenant')!r}"
        yield from (f"{c} {data.get(c)!r}" for c in COUNTS if not isinstance(data.get(c), int) or isinstance(data.get(c), bool))
    elif not e["type"].startswith("weft.event.") and e["type"] != "weft.webhook.test":
        yield f"type {e['type']!r}"


class Receiver(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, folder, port):
        super().__init__(("127.0.0.1", port), Handler)
        self.lock = threading.Lock()
        self.journal = open(os.path.join(folder, "journal"), "a+b", buffering=0)
        self.secrets, self.tokens, self.plan, self.chaos, self.random = {}, {}, {}, {}, random.Random(1)
        self.wrong, self.requests, self.bodies, self.flying = [], {}, {}, {}

    def word(self, path):
        with self.lock:
            self.requests.setdefault(path, []).append(time.time())
            if self.plan.get(path):
                return self.plan[path].pop(0)
            weights = self.chaos.get(path)
            return self.random.choices(list(weights), list(weights.values()))[0] if weights else "ok"

    def look(self, path, headers, body):
        """Parsed events; what is wrong is noted."""
        wrong = list(wrong_message(headers, body, self.secrets.get(path, [])))
        if headers.get("authorization") != self.tokens.get(path):
            wrong.append(f"authorization {headers.get('authorization')!r}")
        if headers.get("content-type") != "application/cloudevents-batch+json":
            wrong.append(f"content-type {headers.get('content-type')!r}")
        events = json.loads(body)
        if not isinstance(events, list) or not 1 <= len(events) <= EVENTS_MAX or len(body) > BYTES_MAX:
            wrong.append(f"{len(events)} events in {len(body)} bytes")
        for e in events:
            wrong += wrong_event(e)
        name = headers.get("webhook-id")
        if self.bodies.setdefault((path, name), body) != body:
            wrong.append(f"{name} stands for two bodies")
        with self.lock:
            self.wrong += [f"{path}: {w}" for w in wrong]
        return events

    def take(self, path, headers, events):
        line = json.dumps({"path": path, "msg": headers.get("webhook-id"), "t": time.time(), "signatures": len(headers.get("webhook-signature", "").split(" ")),
                           "events": events})
        with self.lock:
            self.journal.write(line.encode() + b"\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        pass

    def answer(self, status, value=b"{}", more=()):
        self.send_response(status)
        for name, text in more:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(value)))
        self.end_headers()
        self.wfile.write(value)

    def do_GET(self):
        s = self.server
        with s.lock:
            self.answer(200, json.dumps({"wrong": s.wrong, "requests": s.requests}).encode())

    def do_POST(self):
        s, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0].strip("/")
        if path == "control":
            with s.lock:
                for name, value in json.loads(body).items():
                    if name == "seed":
                        s.random = random.Random(value)
                    else:
                        getattr(s, name).update(value)
            return self.answer(200)
        with s.lock:
            if path in s.flying:
                s.wrong.append(f"{path}: two batches at once")
            s.flying[path] = self
        try:
            self.receive(path, body)
        finally:
            self.leave(path)

    def leave(self, path):
        """Before the last byte of an answer: the next batch may follow it at once."""
        with self.server.lock:
            if self.server.flying.get(path) is self:
                del self.server.flying[path]

    def receive(self, path, body):
        s, word = self.server, self.server.word(path)
        if word == "die":
            os._exit(9)
        events = s.look(path, self.headers, body)
        if word == "slow":
            time.sleep(0.3)
        if word == "drop" or word.isdigit():
            if word == "drop":
                self.leave(path)
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            if word != "413" or len(events) > 10:
                self.leave(path)
                return self.answer(int(word), more={"429": [("Retry-After", "2")], "302": [("Location", "/elsewhere")]}.get(word, ()))
        s.take(path, self.headers, events)
        self.leave(path)
        if word in ("lose", "cut"):
            if word == "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if word == "endless":
            return self.go_on()
        self.answer(200, b"x" * (1 << 20) if word == "long" else b"{}")

    def go_on(self):
        self.close_connection = True
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            while True:
                self.wfile.write(b"x" * 4096)
        except OSError:
            return


if __name__ == "__main__":
    receiver = Receiver(sys.argv[1], int(sys.argv[2]))
    if len(sys.argv) > 3:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[3], sys.argv[4])
        receiver.socket = tls.wrap_socket(receiver.socket, server_side=True)
    print(receiver.server_address[1], flush=True)
    receiver.serve_forever()
