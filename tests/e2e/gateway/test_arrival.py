"""Bodies that are on their way: one tenant's, whatever they go to, leave connections and memory to the others; and all counts go back to nothing."""

import re
import socket

import pytest

from gateway_process import until

CONNECTIONS, SHARE = 64, 16
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def arrival(tmp_path_factory, _model):
    from gateway_process import Gateway
    g = Gateway(tmp_path_factory.mktemp("arrival"), "--max-connections", CONNECTIONS, fake=True)
    g.slow, g.other = g.tenant("slow"), g.tenant("other")
    yield g
    g.close()


def gauge(g, name):
    return float(re.search(rf"^{name}(?:{{.*}})? (\S+)$", g.admin.get("/metrics").text, re.M).group(1))


def begin(g, t, method="POST", path=CHAT, length=1000000, more="", sent=b"{"):
    """Begins a request whose body does not come; None: the connection was refused."""
    host, port = g.url.removeprefix("http://").rsplit(":", 1)
    s = socket.create_connection((host, int(port)), timeout=20)
    size = f"Content-Length: {length}\r\n" if length else "Transfer-Encoding: chunked\r\n"
    s.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {t.key}\r\nContent-Type: application/json\r\n{size}{more}\r\n".encode() + sent)
    return s


def answer(s):
    """What came, if the other side closed; "" if nothing did."""
    s.setblocking(False)
    said = b""
    try:
        while piece := s.recv(65536):
            said += piece
    except BlockingIOError:
        assert not said, "answered, but not closed"
    except ConnectionResetError:
        pass
    return said.decode()


def test_a_tenants_bodies_that_do_not_come_leave_connections_to_others(arrival):
    g, held, refused = arrival, [], []
    for i in range(CONNECTIONS + 36):
        s = begin(g, g.slow)
        if i < SHARE:
            until(lambda: gauge(g, "weft_http_bodies_arriving") == i + 1, what="the request in the count")
            held.append(s)
        else:
            refused.append(until(lambda: answer(s), what="the refusal"))
            s.close()
    for r in refused:
        head = r.lower()
        assert r.startswith("HTTP/1.1 429 ") and "rate_limit_exceeded" in r and "retry-after: 1\r\n" in head and "connection: close" in head, r
    assert gauge(g, "weft_http_bodies_arriving") == SHARE and gauge(g, "weft_http_bodies_arriving_bytes") == SHARE * 1000000
    for _ in range(5):
        assert g.other.ask("tokens=2").status_code == 200
    assert g.slow.ask("tokens=2").status_code == 429
    with g.slow.http() as c:
        assert c.get("/v1/models").status_code == 200  # no body
    assert not any(answer(s) for s in held)
    for s in held:
        s.close()
    until(lambda: gauge(g, "weft_http_bodies_arriving") == 0 and gauge(g, "weft_http_bodies_arriving_bytes") == 0, what="nothing on its way")
    assert g.slow.ask("tokens=2").status_code == 200
    assert gauge(g, "weft_http_bodies_refused_total") == len(refused) + 1


@pytest.mark.parametrize("method,path,length", [("POST", CHAT, 0), ("GET", "/v1/models", 1000), ("POST", "/v1/keys", 1000), ("POST", "/v1/adapters/x/uploads", 1000)])
def test_all_bodies_of_a_tenant_count_whatever_they_go_to(arrival, method, path, length):
    g = arrival
    held = [begin(g, g.slow, method, path, length, sent=b"" if not length else b"{") for _ in range(SHARE)]
    until(lambda: gauge(g, "weft_http_bodies_arriving") == SHARE, what="the requests in the count")
    assert g.slow.ask("tokens=2").status_code == 429
    assert g.other.ask("tokens=2").status_code == 200
    for s in held:
        s.close()
    until(lambda: gauge(g, "weft_http_bodies_arriving") == 0, what="nothing on its way")


def test_a_tenants_bodies_leave_memory_to_others(start):
    g = start("--max-body", "64m", "--memory-high", "1g", fake=True)  # 256 MB for all, 64 MB for a tenant
    slow, other = g.tenant("slow"), g.tenant("other")
    held = [begin(g, slow, length=30 << 20) for _ in range(2)]
    until(lambda: gauge(g, "weft_http_bodies_arriving_bytes") == 60 << 20, what="the bytes in the count")
    s = begin(g, slow, length=30 << 20)
    assert until(lambda: answer(s), what="the refusal").startswith("HTTP/1.1 429 ")
    assert other.ask("tokens=2").status_code == 200
    held += [begin(g, g.tenant(f"t{i}"), length=63 << 20) for i in range(3)]
    until(lambda: gauge(g, "weft_http_bodies_arriving_bytes") == 249 << 20, what="the bytes in the count")
    s = begin(g, other, length=10 << 20)
    said = until(lambda: answer(s), what="the refusal")
    assert said.startswith("HTTP/1.1 503 ") and "overloaded" in said and "retry-after: 1\r\n" in said.lower(), said
    assert other.ask("tokens=2").status_code == 200
    for s in held:
        s.close()
    until(lambda: gauge(g, "weft_http_bodies_arriving_bytes") == 0, what="nothing on its way")


def test_a_body_without_a_length_has_no_more_than_inference_takes(start):
    g = start("--max-body", "64k", fake=True)
    t = g.tenant("acme")
    s = begin(g, t, length=0, sent=b"")
    piece = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    try:
        for _ in range(40):
            s.sendall(piece)
    except OSError:
        pass
    s.sendall(b"0\r\n\r\n")
    assert until(lambda: answer(s), what="the refusal").startswith("HTTP/1.1 413 ")
    assert gauge(g, "weft_http_bodies_arriving") == 0
