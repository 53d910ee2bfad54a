"""Under pressure the gateway gives up uploads, then class batch, then kept connections, then all new requests; and comes back."""
import socket
import time

import httpx
import pytest

from gateway_process import BASE, Gateway, until

LEVELS = ["none", "uploads", "batch", "connections", "all"]


class Pressed:
    """A gateway whose mark of memory is moved while it runs."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "weft.conf"
        self.file.write_text("")
        self.g = Gateway(folder, "--config", self.file, "--disk-reserve", "0", fake=True)
        self.tenant = self.g.tenant("acme")
        self.batch = self.g.tenant("night")
        r = self.g.admin.get("/admin/v1/tenants/night")
        assert self.g.admin.patch("/admin/v1/tenants/night", json={"class": "batch"}, headers={"If-Match": r.headers["etag"]}).status_code == 200

    def resident(self):
        return int(open(f"/proc/{self.g.process.pid}/statm").read().split()[1]) * 4096

    def state(self):
        return self.g.admin.get("/ready").json()["pressure"]

    def press(self, level):
        share = (0.1, 0.82, 0.92, 0.97, 1.5)[level]
        self.file.write_text(f"memory_high = {int(self.resident() / share)}\n")
        assert self.g.admin.post("/admin/v1/reload").status_code == 200
        until(lambda: self.state()["level"] == level, what=f"level {level}")


@pytest.fixture(scope="module")
def pressed(tmp_path_factory, _model):
    p = Pressed(tmp_path_factory.mktemp("pressed"))
    yield p
    p.press(0)
    p.g.close()


def raw(g, head, wait=3.0):
    """Sends a head without its body; what comes back until the end of the answer's head, or of the connection."""
    host, port = g.url.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as s:
        s.sendall(head.encode())
        got = b""
        while b"\r\n\r\n" not in got or b'"code"' not in got:
            piece = s.recv(65536)
            if not piece:
                break
            got += piece
    return got.decode()


def outcome(r):
    return (r.status_code, r.json()["error"]["code"] if r.status_code >= 400 else "")


def served(p):
    """What passes now: uploads, class batch, others; and whether their connection stays."""
    upload = p.tenant.upload("sql", path="/v1/adapters:validate")
    part = httpx.post(p.g.url + "/v1/adapters/x/uploads", json={}, headers={"Authorization": f"Bearer {p.tenant.key}"})
    night, day = p.batch.ask("hello", max_tokens=2), p.tenant.ask("hello", max_tokens=2)
    for r in (upload, part, night, day):
        assert r.status_code < 500 or (outcome(r) == (503, "overloaded") and r.headers["retry-after"] == "1"), r.text
    assert httpx.get(p.g.url + "/health").status_code == 200
    assert p.g.admin.get("/admin/v1/tenants").status_code == 200
    return [upload.status_code != 503, night.status_code == 200, day.headers.get("connection") != "close", day.status_code == 200], part.status_code


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4, 1, 0])
def test_each_level_gives_up_one_thing_more(pressed, level):
    pressed.press(level)
    passes, part = served(pressed)
    assert passes == [level < i for i in (1, 2, 3, 4)], LEVELS[level]
    assert (part == 503) == (level >= 1)
    state = pressed.state()
    assert state["name"] == LEVELS[level] and (state.get("by") == "memory" or level == 0)
    metrics = pressed.g.admin.get("/metrics").text
    assert f"\nweft_pressure_level {level}\n" in metrics and '\nweft_pressure_share{sign="memory"} ' in metrics


def test_refusals_come_before_the_body_is_read(pressed):
    pressed.press(4)
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pressed.tenant.key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 400000\r\nExpect: 100-continue\r\n\r\n")
    got = raw(pressed.g, head)
    assert got.startswith("HTTP/1.1 503") and "overloaded" in got and "retry-after: 1\r\n" in got.lower() and "100 Continue" not in got
    got = raw(pressed.g, "PUT /v1/adapters/x/uploads/y/weights HTTP/1.1\r\nHost: x\r\nContent-Length: 500000000\r\n\r\n")
    assert got.startswith("HTTP/1.1 503") and "connection: close" in got.lower()
    pressed.press(0)


def test_what_is_under_way_goes_on_and_idle_connections_end(pressed):
    pressed.press(0)
    idle = pressed.tenant.http()
    assert idle.get("/v1/models").status_code == 200
    with pressed.tenant.openai().chat.completions.create(model=BASE, messages=[{"role": "user", "content": "count"}], max_tokens=40, stream=True) as stream:
        next(iter(stream))
        pressed.press(4)
        assert any(c.choices and c.choices[0].finish_reason for c in stream)
    host, port = pressed.g.url.split("//")[1].split(":")
    pressed.press(0)
    with socket.create_connection((host, int(port)), timeout=8) as s:
        s.sendall(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pressed.tenant.key}\r\n\r\n".encode())
        assert s.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        pressed.press(3)
        while s.recv(65536):
            pass
        assert time.monotonic() - began > 1
    idle.close()
    pressed.press(0)


def test_changes_are_logged_and_shown(pressed):
    pressed.press(2)
    log = pressed.g.log.read_text()
    assert "event=pressure" in log and "name=batch" in log and "by=memory" in log
    now = pressed.g.admin.get("/admin/v1/now").json()
    assert now["pressure"]["level"] == 2 and now["pressure"]["by"] == "memory" and now["pressure"]["share"]["memory"] > 0.8
    pressed.press(0)
