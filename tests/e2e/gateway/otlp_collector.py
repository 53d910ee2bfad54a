"""A small collector of OTLP/HTTP JSON traces: checks each body against the protocol's rules, keeps the spans, fails on request. Standard library only."""

import http.server
import json
import re
import threading
import time

KINDS = {1, 2, 3, 4, 5}
VALUES = {"stringValue": str, "intValue": str, "boolValue": bool, "doubleValue": (int, float), "arrayValue": dict}
HEX = {"traceId": 32, "spanId": 16}


def check_value(value):
    assert len(value) == 1, value
    (kind, v), = value.items()
    assert isinstance(v, VALUES[kind]), value
    if kind == "intValue":
        assert re.fullmatch(r"-?\d+", v), value
    if kind == "arrayValue":
        for one in v["values"]:
            check_value(one)


def check_attributes(attributes):
    keys = [a["key"] for a in attributes]
    assert len(keys) == len(set(keys)), f"a key twice: {keys}"
    for a in attributes:
        assert set(a) == {"key", "value"} and a["key"], a
        check_value(a["value"])


def check_span(s):
    for key, n in HEX.items():
        assert re.fullmatch(r"[0-9a-f]{%d}" % n, s[key]) and int(s[key], 16), s
    if "parentSpanId" in s:
        assert re.fullmatch(r"[0-9a-f]{16}", s["parentSpanId"]) and s["parentSpanId"] != s["spanId"], s
    assert s["name"] and s["kind"] in KINDS and s["flags"] & 1, s
    start, end = int(s["startTimeUnixNano"]), int(s["endTimeUnixNano"])
    assert isinstance(s["startTimeUnixNano"], str) and start <= end and abs(end / 1e9 - time.time()) < 600, s
    assert s["status"].get("code", 0) in (0, 2), s
    check_attributes(s["attributes"])
    for event in s.get("events", []):
        assert start <= int(event["timeUnixNano"]) <= end and event["name"], s


def check_body(body):
    assert set(body) == {"resourceSpans"}
    for resource in body["resourceSpans"]:
        check_attributes(resource["resource"]["attributes"])
        for scope in resource["scopeSpans"]:
            assert scope["scope"]["name"]
            for s in scope["spans"]:
                check_span(s)
                yield s


def plain(value):
    """An AnyValue as Python has it."""
    (kind, v), = value.items()
    return int(v) if kind == "intValue" else [plain(x) for x in v["values"]] if kind == "arrayValue" else v


class Span:
    def __init__(self, raw):
        self.raw, self.name, self.id, self.trace, self.parent = raw, raw["name"], raw["spanId"], raw["traceId"], raw.get("parentSpanId")
        self.start, self.end = int(raw["startTimeUnixNano"]) / 1e9, int(raw["endTimeUnixNano"]) / 1e9
        self.attributes = {a["key"]: plain(a["value"]) for a in raw["attributes"]}
        self.error = raw["status"].get("code") == 2


class Collector:
    """answer: what comes next, a status or a function of the handler; good ones are kept."""

    def __init__(self):
        self.bodies, self.headers, self.spans, self.bad, self.answers = [], [], [], [], []
        self.hold = threading.Event()
        self.hold.set()
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.take(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 64

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, h):
        raw = h.rfile.read(int(h.headers["content-length"]))
        self.hold.wait()
        with self.lock:
            self.bodies.append(raw)
            self.headers.append(dict(h.headers))
            answer = self.answers.pop(0) if self.answers else 200
        if answer == "close":
            h.close_connection = True
            return h.connection.close()
        status, body, extra = answer if isinstance(answer, tuple) else (answer, b"{}", {})
        if status == 200:
            self.keep(h, raw)
        h.send_response(status)
        for k, v in extra.items():
            h.send_header(k, v)
        h.send_header("Content-Type", "application/json")
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body)

    def keep(self, h, raw):
        try:
            assert h.headers["content-type"] == "application/json" and h.path == "/v1/traces"
            spans = [Span(s) for s in check_body(json.loads(raw))]
        except Exception as e:  # told by the test that asks
            self.bad.append(repr(e))
            return
        with self.lock:
            self.spans += spans

    def of_trace(self, trace):
        assert not self.bad, self.bad
        with self.lock:
            return [s for s in self.spans if s.trace == trace]

    def of_request(self, request_id):
        with self.lock:
            found = [s.trace for s in self.spans if s.attributes.get("weft.request.id") == request_id]
        return self.of_trace(found[0]) if found else []

    def close(self):
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()
