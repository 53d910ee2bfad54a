"""What no client of good will sends, to both listeners: a JSON error in OpenAI's shape or a closed connection, never a 500, never a hang, and
the gateway serves on. Raw sockets, so that nothing on our side repairs the message."""

import json
import os
import re
import socket
import time
from pathlib import Path

import httpx
import pytest

from gateway_process import Gateway, until

WAIT_S = 8
DEEP = 100_000


@pytest.fixture(scope="module")
def _room(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("hostile"), fake=True)
    g.acme = g.tenant("acme")
    assert g.acme.upload("sql").status_code == 201
    g.pid = g.engine_pid()
    g.sockets = sockets_of(g.process.pid)
    yield g
    assert "AddressSanitizer" not in g.tail()
    g.close()


@pytest.fixture
def g(_room):
    """The gateway; after the test it still serves, by the same processes, and nothing is left open."""
    yield _room
    assert _room.process.poll() is None, _room.tail()
    assert _room.acme.ask("tokens=1").status_code == 200
    assert httpx.get(_room.admin_url + "/ready").status_code == 200
    assert _room.engine_pid() == _room.pid
    assert _room.temporary() == []


LISTENERS = ("public", "admin")


def door(g, listener):
    """(host, port), Authorization's value"""
    url, key = (g.url, g.acme.key) if listener == "public" else (g.admin_url, g.admin_key)
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return (host, int(port)), f"Bearer {key}"


def talk(address, message, shut=False):
    """All that comes back until the connection ends."""
    start, out = time.monotonic(), b""
    with socket.create_connection(address, timeout=WAIT_S) as s:
        try:
            for i in range(0, len(message), 1 << 16):
                s.sendall(message[i : i + (1 << 16)])
            if shut:
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough
        try:
            while piece := s.recv(1 << 16):
                out += piece
                assert time.monotonic() - start < WAIT_S, f"still open after {out[:200]}"
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise AssertionError(f"no end after {WAIT_S} s: {out[:300]}") from None
    return out


def is_the_librarys_own(head, rest):
    """What cannot even be read as a request, libmicrohttpd refuses before it asks us: in HTML, with its head twice, and it closes."""
    return b"content-type" not in head.lower() and rest.count(b"<html>") == 1 and rest.count(b"HTTP/1.1 ") < 2 and b"Connection: close" in head


def statuses(raw, a_request=True):
    """The status of each answer in what came back; every one is checked on the way. a_request: at least its first line is one."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        m = re.fullmatch(r"HTTP/1\.[01] (\d\d\d) [^\r]*", head.split(b"\r\n")[0].decode("latin-1"))
        assert m, raw[:300]
        status = int(m.group(1))
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if status == 100:
            raw = rest
            continue
        assert length, head
        if not a_request and is_the_librarys_own(head, rest):
            return [*found, status]
        body, raw = rest[: int(length.group(1))], rest[int(length.group(1)) :]
        found.append(status)
        assert status < 500, raw[:300]
        if status >= 400:
            assert re.search(rb"(?i)\r\ncontent-type: application/json", head), head
            error = json.loads(body.decode())["error"]
            assert set(error) == {"message", "type", "param", "code"} and error["message"], error
    return found


def request(method, target, headers=(), body=b"", length=True):
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if length and body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


# --- bodies ---

NOT_JSON = {
    "nothing": b"", "a brace": b"{", "an array": b"[]", "null": b"null", "a string": b'"x"', "a number": b"1", "words": b"name=acme&x=1",
    "a field without a value": b'{"name":}', "a comma too many": b'{"name":"x",}', "two objects": b'{"name":"x"}{}', "a comment": b'{/**/"name":"x"}',
    "the same field twice": b'{"name":"x","name":"y"}', "bytes that are not UTF-8": b'{"name":"\xff\xfe"}', "overlong UTF-8": b'{"name":"\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"name":"\xed\xa0\x80"}', "half a pair": b'{"name":"\\ud800"}', "an escaped NUL": b'{"name":"a\\u0000b"}',
    "a raw NUL": b'{"name":"a\x00b"}', "a NUL behind it": b'{"name":"x"}\x00', "NULs alone": bytes(100), "a byte-order mark": b'\xef\xbb\xbf{"name":"x"}',
    "UTF-16": '{"name":"x"}'.encode("utf-16"), "a raw newline in a string": b'{"name":"a\nb"}', "NaN": b'{"name":NaN}', "Infinity": b'{"weight":-Infinity}',
    "a number beyond double": b'{"name":1e999}', "a number beyond integers": b'{"name":' + b"9" * 400 + b"}", "a plus sign": b'{"name":+1}',
    "a hex number": b'{"name":0x10}', "deep arrays": b'{"name":' + b"[" * (DEEP // 4) + b"]" * (DEEP // 4) + b"}",
    "deep objects": b'{"name":' * (DEEP // 16) + b"1" + b"}" * (DEEP // 16), "open arrays": b"[" * (DEEP // 2), "open strings": b'{"' * (DEEP // 4),
    "many values": b'{"name":[' + b"0," * 30_000 + b"0]}", "gzip": bytes.fromhex("1f8b0800000000000003ab560100"),
}

ROUTES = [
    ("admin", "POST", "/admin/v1/tenants"), ("admin", "PATCH", "/admin/v1/tenants/acme"), ("admin", "POST", "/admin/v1/tenants/acme/keys"),
    ("admin", "POST", "/admin/v1/admin-keys"), ("public", "POST", "/v1/chat/completions"), ("public", "POST", "/v1/completions"),
    ("public", "POST", "/t/acme/v1/chat/completions"), ("public", "POST", "/v1/adapters"), ("public", "POST", "/v1/adapters:validate"),
]


@pytest.mark.parametrize("what", NOT_JSON)
def test_a_body_that_is_no_json_object_of_ours_is_refused(g, what):
    for listener, method, path in ROUTES:
        address, key = door(g, listener)
        got = statuses(talk(address, request(method, path, [f"Authorization: {key}", "Content-Type: application/json"], NOT_JSON[what])))
        assert len(got) == 1 and 400 <= got[0] < 500, (path, got)


def values():
    """One of each kind of JSON, and a few large ones."""
    return [None, True, 0, -1, 1.5, 2**53, -(2**63), 2**63 - 1, 1e300, "", "x" * 5000, "\u202e\ufffe", [], [[]], [None], ["admin", None], {}, {"a": {}}]


@pytest.mark.parametrize("field", ["name", "weight", "disabled", "roles", "expires_at", "model", "messages", "stream", "max_tokens", "n", "prompt"])
def test_a_field_of_any_type_is_taken_or_refused_by_name(g, field):
    whole = {"tenants": {"name": "acme"}, "keys": {"roles": ["billing"]}, "chat": {"model": "absent", "messages": []}, "old": {"model": "absent", "prompt": "x"}}
    with httpx.Client(timeout=WAIT_S) as c:
        for v in values():
            for base, path, key, body in ((g.admin_url, "/admin/v1/tenants", g.admin_key, whole["tenants"]),
                                          (g.admin_url, "/admin/v1/tenants/nobody/keys", g.admin_key, whole["keys"]),
                                          (g.url, "/v1/chat/completions", g.acme.key, whole["chat"]), (g.url, "/v1/completions", g.acme.key, whole["old"])):
                r = c.post(base + path, headers={"Authorization": f"Bearer {key}"}, json={**body, field: v})
                assert 400 <= r.status_code < 500 and set(r.json()["error"]) == {"message", "type", "param", "code"}, (path, v, r.text)


@pytest.mark.parametrize("size", [65_537, (1 << 20) + 1, 3 << 20])
@pytest.mark.parametrize("how", ["length", "chunked", "expect"])
def test_a_body_that_is_too_long_is_refused(g, size, how):
    body = b'{"name":"' + b"a" * (size - 11) + b'"}'
    for listener, method, path in ROUTES:
        address, key = door(g, listener)
        headers = [f"Authorization: {key}", "Content-Type: application/json"]
        if how == "chunked":
            message = request(method, path, headers + ["Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), length=False)
        else:
            message = request(method, path, headers + (["Expect: 100-continue"] if how == "expect" else []), body)
        got = statuses(talk(address, message))
        assert got in ([], [400], [413], [415]) or (listener == "public" and size < 1 << 20 and got == [400]), (path, got)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=", "x",
                                  "multipart/form-data; boundary=" + "b" * 500, "application/json; charset=utf-16", "", ";;;", "é/ÿ"])
def test_a_content_type_that_does_not_fit_never_hurts(g, kind):
    for listener, method, path in ROUTES:
        address, key = door(g, listener)
        got = statuses(talk(address, request(method, path, [f"Authorization: {key}", f"Content-Type: {kind}"], b"--\r\nname=x&\r\n----\r\n")))
        assert len(got) == 1 and 400 <= got[0] < 500, (path, got)


@pytest.mark.parametrize("listener, path", [("public", "/v1/models"), ("public", "/v1/usage"), ("public", "/v1/adapters/sql"), ("public", "/health"),
                                            ("admin", "/admin/v1/tenants"), ("admin", "/metrics"), ("admin", "/admin/v1/audit")])
def test_a_get_with_a_body_is_answered_and_the_body_is_no_request(g, listener, path):
    address, key = door(g, listener)
    inner = request("DELETE", "/v1/adapters/sql", [f"Authorization: {door(g, 'public')[1]}"])
    assert statuses(talk(address, request("GET", path, [f"Authorization: {key}"], inner))) == [200]
    chunked = request("GET", path, [f"Authorization: {key}", "Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner), length=False)
    assert statuses(talk(address, chunked)) in ([200], [400])
    assert statuses(talk(address, request("GET", path, [f"Authorization: {key}"], bytes(2 << 20)))) in ([413], [])
    with g.acme.http() as c:
        assert c.get("/v1/adapters/sql").status_code == 200


# --- targets and methods ---

TARGETS = {
    "/v1/../admin/v1/tenants": 400, "/v1/%2e%2e/admin/v1/tenants": 400, "/v1/%2E%2E/%2e%2e/admin/v1/tenants": 400, "/v1/.%2e/admin/v1/tenants": 400,
    "//v1/models": 400, "/v1//models": 400, "//admin/v1/tenants": 400, "/v1/./models": 400, "/v1/models/..": 400, "/v1/models%2f..": 400,
    "/v1/models%00": 400, "/v1/models%0d%0aX:1": 400, "/v1%5c..%5cadmin": 400, "/v1\\..\\admin": 400, "/v1/models%": 400, "/v1/models%zz": 400,
    "/v1/models%ff": 400, "/v1/models%c0%af": 400, "/v1/models#x": 400, "/v1/mod\tels": 400, "http://x/v1/models": 400, "v1/models": 400,
    "/t//v1/models": 400, "/t/../v1/models": 400, "*": 400, "/": 404, "/V1/models": 404, "/v1/models/": 404, "/v1/models;x=1": 404,
    "/%76%31/nothing": 404, "/v1/%252e%252e/admin": 404, "/" + "a" * 4000: 404, "/" + "a/" * 2000: 404, "/?" + "a&" * 300: 404,
    "/admin": 404, "/admin/v1": 404, "/v1": 404, "/metrics/..": 400, "/favicon.ico": 404, "/%E2%80%AE": 404,
}


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t[:40])
def test_a_trick_with_the_path_opens_nothing(g, listener, target):
    address, key = door(g, listener)
    for headers in ([f"Authorization: {key}"], []):
        assert statuses(talk(address, request("GET", target, headers))) == [TARGETS[target]]


def test_neither_listener_serves_the_others_routes(g):
    for listener, paths in (("public", ["/admin/v1/tenants", "/metrics", "/ready", "/%61dmin/v1/tenants"]), ("admin", ["/v1/models", "/v1/chat/completions", "/v1/usage"])):
        address, _ = door(g, listener)
        for path in paths:
            for key in (door(g, "public")[1], door(g, "admin")[1]):
                assert statuses(talk(address, request("GET", path, [f"Authorization: {key}"]))) == [404]


METHODS = ["PUT", "TRACE", "OPTIONS", "CONNECT", "PROPFIND", "get", "FOO", "X" * 200, "GE;T", "G(T", "DELETE"]


@pytest.mark.parametrize("listener, path", [("public", "/v1/models"), ("public", "/v1/chat/completions"), ("admin", "/admin/v1/tenants"), ("admin", "/metrics")])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m[:10])
def test_a_method_that_a_route_does_not_have_is_refused(g, listener, path, method):
    address, key = door(g, listener)
    assert statuses(talk(address, request(method, path, [f"Authorization: {key}"]))) in ([405], [400], [])


@pytest.mark.parametrize("query", ["limit=%00", "limit=%", "limit=%zz", "after=%ff%fe", "after=" + "a" * 7000, "&".join(f"a{i}=1" for i in range(300)),
                                   "=", "&&&", "limit=1%26limit=2", "group_by=" + "model," * 500, "group_by[]=nothing", "start_time=-1", "start_time=1e9",
                                   "end_time=99999999999999999999", "page=x", "bucket_width=1s", "tenant=%ff", "tenant=" + "a" * 3000])
def test_a_query_never_hurts(g, query):
    for listener, paths in (("public", ["/v1/usage", "/v1/usage/requests", "/v1/adapters", "/v1/models"]),
                            ("admin", ["/admin/v1/usage", "/admin/v1/usage/requests", "/admin/v1/tenants", "/admin/v1/audit", "/admin/v1/ledger"])):
        address, key = door(g, listener)
        for path in paths:
            got = statuses(talk(address, request("GET", f"{path}?{query}", [f"Authorization: {key}"])))
            assert got in ([200], [400], [404]), (path, got)


# --- heads ---

def heads(key):
    """name -> raw message. Each is wrong, or readable in two ways."""
    ok = f"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {key}\r\n".encode()
    post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + key.encode() + b"\r\n"
    return {
       "HTTP/0.9": b"GET /health\r\n\r\n", "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/1.2": b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n","noise": bytes(range(256)) * 40,
        "no Host": b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", "two Hosts": ok + b"Host: y\r\n\r\n", "a bad Host": b"GET /health HTTP/1.1\r\nHost: a b/c@d\r\n\r\n",
        "two keys": ok + b"Authorization: Bearer x\r\n\r\n", "a NUL in a header": ok + b"X: a\x00b\r\n\r\n", "a folded header": ok + b"X: a\r\n b\r\n\r\n",
        "a space before the colon": ok + b"X : a\r\n\r\n", "a header without a colon": ok + b"nonsense\r\n\r\n", "a nameless header": ok + b": a\r\n\r\n",
        "bare LF": ok.replace(b"\r\n", b"\n") + b"\n","a header of 64 KiB": ok + b"X: " + b"a" * 65536 + b"\r\n\r\n",
        "a header of 1 MiB": ok + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n", "a name of 64 KiB": ok + b"a" * 65536 + b": x\r\n\r\n", "1000 headers": ok + b"X: a\r\n" * 1000 + b"\r\n",
        "100 headers": ok + b"".join(b"X%d: a\r\n" % i for i in range(100)) + b"\r\n", "a target of 64 KiB": b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "a method of 64 KiB": b"G" * 65536 + b" / HTTP/1.1\r\nHost: x\r\n\r\n", "spaces": b"GET  /health  HTTP/1.1\r\nHost: x\r\n\r\n",
        "a negative length": post + b"Content-Length: -1\r\n\r\n", "a length with a plus": post + b"Content-Length: +2\r\n\r\n{}", "a length in hex": post + b"Content-Length: 0x2\r\n\r\n{}",
        "a length beyond 64 bits": post + b"Content-Length: 99999999999999999999999\r\n\r\n", "a length near 2^63": post + b"Content-Length: 9223372036854775807\r\n\r\n",
        "two lengths": post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "lengths in one": post + b"Content-Length: 2, 2\r\n\r\n{}", "an empty length": post + b"Content-Length: \r\n\r\n{}",
        "a length and chunks": post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "gzip, chunked": post + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "an unknown encoding": post + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "two encodings": post + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a chunk that is no number": post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", "a chunk of 2^64": post + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{}\r\n0\r\n\r\n",
        "a negative chunk": post + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", "a chunk without its end": post + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
        "a key of 60 KiB": b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"w" * 60000 + b"\r\n\r\n",
    }


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("what", heads("Bearer x"))
def test_a_head_with_two_readings_or_none_is_refused_or_the_connection_ends(g, listener, what):
    address, key = door(g, listener)
    got = statuses(talk(address, heads(key)[what], shut=True), a_request=False)
    assert all(400 <= s < 500 or s == 505 for s in got) and len(got) <= 1, got


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("status, first", [(414, b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\nHost: x\r\n\r\n"), (431, b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 65536 + b"\r\n\r\n"),
                                           (505, b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n"), (400, b"GET /health HTTP/1.1\r\n\r\n")])
def test_what_is_no_request_is_answered_as_the_reference_says(g, listener, status, first):
    head, _, page = talk(door(g, listener)[0], first).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and is_the_librarys_own(head, page) and b"x-request-id" not in head


UNFINISHED = {
    "nothing": b"", "empty lines": b"\r\n\r\n\r\n", "half a head": b"GET /health HTTP/1.1\r\nHo", "bare CR": b"GET /health HTTP/1.1\rHost: x\r\r", "NULs": bytes(5000),
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200), "half a body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    "half a chunk": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{",
}


def sockets_of(pid):
    n = 0
    for p in Path(f"/proc/{pid}/fd").iterdir():
        try:
            n += os.readlink(p).startswith("socket:")
        except FileNotFoundError:
            pass  # closed meanwhile
    return n


@pytest.mark.parametrize("what", UNFINISHED)
def test_a_message_that_never_ends_frees_its_place_when_its_client_leaves(g, what):
    for listener in LISTENERS:
        address, _ = door(g, listener)
        until(lambda: sockets_of(g.process.pid) <= g.sockets + 2, what="a quiet gateway")
        for _ in range(4):
            with socket.create_connection(address, timeout=WAIT_S) as s:
                s.sendall(UNFINISHED[what])
                time.sleep(0.02)  # apart from its end: see the test below
        until(lambda: sockets_of(g.process.pid) <= g.sockets + 2, what="places given back")


def test_half_a_head_and_the_end_at_once_free_the_place_as_well(start):
    g = start(fake=True)
    before = sockets_of(g.process.pid)
    address, _ = door(g, "admin")
    for _ in range(20):
        with socket.create_connection(address, timeout=WAIT_S) as s:
            s.sendall(UNFINISHED["half a head"])
    until(lambda: sockets_of(g.process.pid) <= before + 2, what="places given back")


def test_a_head_without_its_body_and_the_end_at_once_free_the_place_and_delay_no_stop(start):
    g = start(fake=True)
    g.acme = g.tenant("acme")
    before = sockets_of(g.process.pid)
    address, key = door(g, "public")
    for _ in range(100):
        with socket.create_connection(address, timeout=WAIT_S) as s:
            s.sendall(request("POST", "/v1/chat/completions", [f"Authorization: {key}", "Content-Length: 900"]))
    until(lambda: sockets_of(g.process.pid) <= before + 2, what="places given back")
    started = time.monotonic()
    g.stop()
    assert time.monotonic() - started < 8, "the stop waited for requests that nobody sends any more"  # the drain takes 10 s


def test_a_query_of_very_many_arguments_gets_an_answer(start):
    g = start("--drain-ms", "100", fake=True)
    g.acme = g.tenant("acme")
    address, key = door(g, "public")
    with socket.create_connection(address, timeout=1.5) as s:
        s.sendall(request("GET", "/v1/models?" + "a&" * 2000, [f"Authorization: {key}"]))
        assert statuses(s.recv(1 << 16)) == [200]


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer ", "bearer  x", "Basic YTpi", "Bearer wft_", "Bearer " + "wft_" + "a" * 5000, "Bearer é", "Bearer a b", "Bearer wft_%00",
                                 "Bearer wfa_000000000000_0000000000000000000000000000000000000000000_000000"])
def test_a_key_that_is_none_gets_the_same_401_everywhere(g, key):
    for listener, method, path in [*ROUTES, ("public", "GET", "/v1/models"), ("public", "GET", "/v1/usage"), ("admin", "GET", "/admin/v1/audit")]:
        address, _ = door(g, listener)
        assert statuses(talk(address, request(method, path, [f"Authorization: {key}"], b"{}" if method != "GET" else b""))) == [401]


def test_many_half_open_connections_keep_nobody_out(g):
    for listener in LISTENERS:
        address, key = door(g, listener)
        held = [socket.create_connection(address, timeout=WAIT_S) for _ in range(200)]  # the admin listener takes 256
        for i, s in enumerate(held):
            s.sendall(b"GET /health HTTP/1.1\r\nHo" if i % 2 else b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert statuses(talk(address, request("GET", "/health"))) == [200]
        for s in held:
            s.close()


def test_a_pipeline_behind_a_refused_message_is_not_read(g):
    address, key = door(g, "public")
    delete = request("DELETE", "/v1/adapters/sql", [f"Authorization: {key}"])
    for first in (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"GET //x HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert statuses(talk(address, first + delete)) == [400]
    with g.acme.http() as c:
        assert c.get("/v1/adapters/sql").status_code == 200


def test_nothing_of_this_was_metered_or_noted(g):
    """The file's own successes are one upload and the asks of the fixture; all else was refused and left no trace."""
    before = len(g.acme.usage_rows())
    actions = [r["action"] for r in g.admin.get("/admin/v1/audit?limit=100").json()["data"]]
    assert sorted(actions) == ["adapter.create", "admin_key.create", "key.create", "tenant.create", "version.create", "version.state"]
    assert {r["state"] for r in g.acme.usage_rows()} == {"completed"} and before == len(g.acme.usage_rows())
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert (verdict["verify"]["bad_buckets"], verdict["open_admissions"]) == (0, 0)
