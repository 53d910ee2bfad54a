"""Restarts that lose nothing, and what a service manager is told: sockets that outlive the process, notify messages, the watchdog."""

import http.client
import json
import os
import signal
import sqlite3
import threading
import time

import httpx
import pytest

from gateway_process import BASE, until
from service_manager import Held, standing, wait_line


@pytest.fixture
def hold(tmp_path, _model):
    """hold(*args, **kw) -> a Held gateway with the fake engine, closed at the end."""
    held = []

    def go(*args, **kw):
        held.append(Held(tmp_path / f"h{len(held)}", *args, fake=True, **kw))
        return held[-1]

    yield go
    for g in held:
        g.close()


class Client(threading.Thread):
    """Asks again and again, and never twice for the same: what isn't answered is lost."""

    def __init__(self, g, tenant, text, stream=False, fresh=False, think=0):
        super().__init__(daemon=True)
        self.address = g.sockets[0].getsockname()
        self.headers = {"Authorization": f"Bearer {tenant.key}", "Content-Type": "application/json"}
        self.body = json.dumps({"model": BASE, "messages": [{"role": "user", "content": text}], "stream": stream})
        self.stream, self.fresh, self.think, self.stop = stream, fresh, think, threading.Event()
        self.answered, self.lost = 0, []

    def connect(self):
        return http.client.HTTPConnection(*self.address, timeout=60)

    def run(self):
        c = self.connect()
        while not self.stop.is_set():
            try:
                c.request("POST", "/v1/chat/completions", self.body, self.headers)
                r = c.getresponse()
                text = r.read()
                ok = r.status == 200 and (not self.stream or text.rstrip().endswith(b"data: [DONE]"))
                self.answered += ok
                if not ok:
                    self.lost.append((r.status, text[-300:]))
            except (OSError, http.client.HTTPException) as e:
                self.lost.append(repr(e))
                c.close()
                c = self.connect()
            if self.fresh:
                c.close()
                c = self.connect()
            time.sleep(self.think)
        c.close()


def test_restarts_under_load_lose_no_request_of_a_client_that_never_tries_again(hold):
    g = hold("--linger-ms", "2000", "--drain-ms", "20000")
    t = g.tenant("acme")
    clients = [Client(g, t, "tokens=2 first_ms=10"), Client(g, t, "tokens=2", fresh=True), Client(g, t, "tokens=1 first_ms=300"),
               Client(g, t, "tokens=1", think=0.1), Client(g, t, "tokens=2", stream=True, think=0.3), Client(g, t, "tokens=10 delay_ms=20", stream=True), Client(g, t, "tokens=3 delay_ms=50", stream=True, fresh=True)]
    for c in clients:
        c.start()
    for _ in range(4):
        before = [c.answered for c in clients]
        until(lambda: all(c.answered > b + 2 or c.lost for c, b in zip(clients, before)), 60, "answers to every client")
        first = g.process.pid
        g.restart()
        assert g.process.pid != first
    for c in clients:
        c.stop.set()
    for c in clients:
        c.join(60)
        assert not c.is_alive()
    assert [c.lost for c in clients] == [[] for _ in clients]
    answered = sum(c.answered for c in clients)
    assert answered > 40
    g.restart()  # all that was answered is settled, once
    rows = t.usage_rows()
    assert len(rows) == answered and len({r["id"] for r in rows}) == answered
    assert g.admin.get("/admin/v1/ledger?verify=1").json()["open_admissions"] == 0


def test_a_connection_that_comes_while_no_process_runs_waits_and_is_served(hold):
    g = hold()
    t = g.tenant("acme")
    g.stop()
    c = http.client.HTTPConnection(*g.sockets[0].getsockname(), timeout=60)
    c.request("GET", "/v1/models", headers={"Authorization": f"Bearer {t.key}"})
    g.start()
    assert c.getresponse().status == 200


def test_a_stop_with_its_own_socket_refuses_new_connections_and_cuts_none_that_it_had(start):
    g = start(fake=True)
    t = g.tenant("acme")
    body, headers = {"model": BASE, "messages": [{"role": "user", "content": "tokens=2"}]}, {"Authorization": f"Bearer {t.key}"}
    answered, lost = [], []

    def client(url, stop, fresh):
        c = httpx.Client(timeout=30, headers=headers)
        while not stop.is_set():
            try:
                r = c.post(url + "/v1/chat/completions", json=body)
                (answered if r.status_code == 200 else lost).append(r.text)
            except httpx.ConnectError:
                time.sleep(0.01)
            except httpx.HTTPError as e:
                lost.append(repr(e))
            if fresh:
                c.close()
                c = httpx.Client(timeout=30, headers=headers)
        c.close()

    for _ in range(10):
        stop = threading.Event()
        clients = [threading.Thread(target=client, args=(g.url, stop, i % 2)) for i in range(8)]
        [c.start() for c in clients]
        before = len(answered)
        until(lambda: len(answered) > before + 20)
        g.stop()  # exit 0
        stop.set()
        [c.join() for c in clients]
        g.start()
    assert lost == [] and len(t.usage_rows()) == len(answered)


def test_an_idle_connection_may_bring_one_more_request_while_the_gateway_leaves(hold):
    g = hold("--linger-ms", "20000", "--drain-ms", "20000")
    t = g.tenant("acme")
    c = http.client.HTTPConnection(*g.sockets[0].getsockname(), timeout=60)
    headers = {"Authorization": f"Bearer {t.key}"}
    c.request("GET", "/v1/models", headers=headers)
    assert c.getresponse().read()
    g.process.send_signal(signal.SIGTERM)
    wait_line(g, ["event=stopping"])
    c.request("GET", "/v1/models", headers=headers)
    r = c.getresponse()
    assert (r.status, r.headers["Connection"]) == (200, "close")
    r.read()
    assert g.process.wait(30) == 0  # nothing is left to wait for


def health(g):
    try:
        return httpx.get("http://%s:%d/health" % g.sockets[1].getsockname(), timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_while_no_engine_is_there_connections_wait_first_and_then_hear_why(hold):
    g = hold("--engine", "/bin/false", "--ready-wait-ms", "3000", "--first-byte-ms", "200", wait=False)
    until(lambda: health(g), what="the admin listener")
    assert not g.notify.has("READY")
    c = http.client.HTTPConnection(*g.sockets[0].getsockname(), timeout=60)
    c.request("GET", "/health")
    assert c.getresponse().status == 200
    until(lambda: g.notify.has("READY"), what="the message")
    assert not (g.folder / "ports.env").exists()


def test_ready_reloading_and_stopping_are_told(hold, tmp_path):
    conf = tmp_path / "weft.conf"
    conf.write_text("drain_ms = 5000\n")
    g = hold("--config", conf)
    assert len(g.notify.has("READY")) == 1 and not g.notify.has("RELOADING")
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    g.process.send_signal(signal.SIGHUP)
    until(lambda: len(g.notify.has("READY")) == 2, what="the end of the reload")
    told = g.notify.has("RELOADING")
    assert len(told) == 1
    until(lambda: g.url[7:] in [m["STATUS"] for m in g.notify.read() if "STATUS" in m][-1], what="the status of before")
    assert before - 1 <= int(told[0]["MONOTONIC_USEC"]) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)
    assert not g.notify.has("STOPPING")
    g.stop()
    assert g.notify.has("STOPPING")
    assert [m for m in g.notify.read() if g.url[7:] in m.get("STATUS", "")], "no status says where it serves"


def test_a_reload_before_the_start_is_over_does_not_say_that_it_is(hold):
    g = hold("--engine", "/bin/false", "--ready-wait-ms", "3600000", wait=False)
    until(lambda: health(g), what="the admin listener")
    g.process.send_signal(signal.SIGHUP)
    wait_line(g, ["event=settings_read"])
    g.process.send_signal(signal.SIGTERM)
    assert g.process.wait(30) == 0
    assert g.notify.has("STOPPING") and not g.notify.has("READY") and not g.notify.has("RELOADING")


def test_the_engine_is_not_taken_for_the_service(hold):
    g = hold(env={"WATCHDOG_USEC": "2000000"})
    environ = open(f"/proc/{g._pid_file()}/environ", "rb").read().split(b"\0")
    names = {e.split(b"=")[0] for e in environ}
    assert not names & {b"LISTEN_FDS", b"LISTEN_PID", b"LISTEN_FDNAMES", b"NOTIFY_SOCKET", b"WATCHDOG_USEC"}
    inodes = {os.stat(f"/proc/self/fd/{s.fileno()}").st_ino for s in g.sockets}
    held = {os.stat(f"/proc/{g._pid_file()}/fd/{f}").st_ino for f in os.listdir(f"/proc/{g._pid_file()}/fd")}
    assert not inodes & held


def test_signs_of_life_are_given_while_all_parts_answer(hold):
    g = hold(env={"WATCHDOG_USEC": "2000000"})
    until(lambda: len(g.notify.has("WATCHDOG")) >= 3, what="three signs of life")


def signs(g):
    return len(g.notify.has("WATCHDOG"))


def test_threads_that_hang_keep_the_sign_of_life_back_until_they_go_on(hold):
    g = hold(env={"WATCHDOG_USEC": "2000000"})
    until(lambda: signs(g), what="a sign of life")
    with standing(g.process.pid):
        for part in ("writer", "readers", "http"):
            wait_line(g, ["event=hangs", f"part={part}"])
        before = signs(g)
        time.sleep(3)  # longer than a watchdog waits
        assert signs(g) == before
    until(lambda: signs(g) > before + 1, what="signs of life")


def test_a_writer_alone_that_hangs_is_named(hold):
    g = hold(env={"WATCHDOG_USEC": "2000000"})
    other = sqlite3.connect(g.data / "weft.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    wait_line(g, ["event=hangs", "part=writer"])
    other.execute("ROLLBACK")
    other.close()
    before = signs(g)
    until(lambda: signs(g) > before + 1, what="signs of life")
    assert not [x for x in g.log.read_text().splitlines() if "event=hangs" in x and "part=writer" not in x]


def test_an_engine_that_hangs_is_no_reason_to_restart_the_gateway(hold):
    g = hold(env={"WATCHDOG_USEC": "2000000"})
    os.kill(g._pid_file(), signal.SIGSTOP)
    before = signs(g)
    until(lambda: signs(g) > before + 4, what="signs of life")
    assert "event=hangs" not in g.log.read_text()
    os.kill(g._pid_file(), signal.SIGCONT)


def test_no_sign_of_life_is_given_when_no_watchdog_asks(hold):
    g = hold()
    time.sleep(1.5)
    assert not g.notify.has("WATCHDOG")


def test_sockets_meant_for_another_process_are_left_alone(hold):
    g = hold(env={"PID_OFF": "1"})
    assert g.url.rsplit(":", 1)[1] != str(g.sockets[0].getsockname()[1])


def test_sockets_go_by_their_names(hold):
    g = hold(names="admin:public")
    assert g.admin_url.endswith(":%d" % g.sockets[0].getsockname()[1])
    assert g.url.endswith(":%d" % g.sockets[1].getsockname()[1])


def test_without_names_the_first_is_public(hold):
    g = hold(names="")
    assert g.url.endswith(":%d" % g.sockets[0].getsockname()[1])
    assert g.admin_url.endswith(":%d" % g.sockets[1].getsockname()[1])


@pytest.mark.parametrize("names, why", [("public:public", "two sockets are called public"), ("public:metrics", "metrics"), ("public:admin:more", "3 sockets")])
def test_sockets_that_make_no_sense_are_refused_by_name(hold, names, why):
    g = hold(names=names, ready=False)
    assert g.process.poll() == 2 and why in g.tail()


# --- settings that are read again ---


@pytest.fixture
def configured(start, tmp_path):
    """A gateway with a settings file; write(text) replaces it."""
    path = tmp_path / "weft.conf"
    path.write_text("strict = false\nidle_ms = 7000\n")
    g = start("--config", path, "--max-rank", "64", fake=True)
    g.conf = path
    return g


def setting(g, name):
    r = g.admin.get("/admin/v1/settings")
    assert r.status_code == 200
    return {row["name"]: row for row in r.json()["data"]}[name]


def hup(g):
    seen = g.log.read_text().count("event=settings_")
    g.process.send_signal(signal.SIGHUP)
    until(lambda: g.log.read_text().count("event=settings_") > seen, what="the end of the reload")


def unknown_field(g, tenant):
    return tenant.ask("tokens=1", no_such_field=1).status_code


@pytest.mark.parametrize("way", ["signal", "route"])
def test_what_can_change_changes_for_the_next_request(configured, way):
    g, t = configured, configured.tenant("acme")
    assert unknown_field(g, t) == 200
    g.conf.write_text("strict = true\nidle_ms = 7000\n")
    if way == "signal":
        hup(g)
    else:
        r = g.admin.post("/admin/v1/reload")
        assert r.status_code == 200, r.text
        assert r.json() == {"object": "reload", "changed": [{"name": "strict", "before": False, "after": True}], "restart_needed": []}
    assert unknown_field(g, t) == 400
    row = g.admin.get("/admin/v1/audit", params={"limit": 1}).json()["data"][0]
    assert (row["action"], row["before"], row["after"]) == ("settings.reload", {"strict": False}, {"strict": True})
    assert row["actor"] == ("system" if way == "signal" else g.admin_key.split("_")[1])


def test_what_needs_a_restart_is_named_and_stays(configured):
    g = configured
    g.conf.write_text("strict = true\nhttp_workers = 9\nmodel = /elsewhere\n")
    r = g.admin.post("/admin/v1/reload").json()
    assert r["restart_needed"] == ["http_workers"]  # model stands on the command line, which goes before the file
    assert {c["name"] for c in r["changed"]} == {"strict", "idle_ms"}
    assert setting(g, "http_workers")["value"] == 4 and setting(g, "http_workers")["source"] == "default"
    assert wait_line(g, ["event=setting_kept", "http_workers"])


@pytest.mark.parametrize("broken, why", [
    ("strict = true\nno_such = 1\n", "weft.conf:2"), ("strict = true\nidle_ms = soon\n", "weft.conf:2"), ("strict = true\nidle_ms = 1\n", "weft.conf:2"),
    ("strict = true\nlog_level = loud\n", "log_level"), ("strict = true\nstrict = true\n", "weft.conf:2"), (None, "cannot open")], ids=str)
def test_a_file_that_is_wrong_anywhere_is_refused_whole(configured, broken, why):
    g, t = configured, configured.tenant("acme")
    entries = g.admin.get("/admin/v1/audit", params={"limit": 1}).json()["data"][0]["seq"]
    g.conf.unlink()
    if broken:
        g.conf.write_text(broken)
    r = g.admin.post("/admin/v1/reload")
    assert r.status_code == 400 and why in r.json()["error"]["message"], r.text
    hup(g)
    assert wait_line(g, ["event=settings_refused"])
    assert unknown_field(g, t) == 200 and setting(g, "strict")["value"] is False and setting(g, "idle_ms")["value"] == 7000
    assert g.admin.get("/admin/v1/audit", params={"limit": 1}).json()["data"][0]["seq"] == entries


def test_the_settings_say_where_each_value_came_from(start, tmp_path):
    path = tmp_path / "weft.conf"
    path.write_text("idle_ms = 7000\nmax_rank = 16\nlog_level = info\n")
    g = start("--config", path, "--max-rank", "64", fake=True, env={"WEFT_LOG_LEVEL": "debug"})
    body = g.admin.get("/admin/v1/settings").json()
    assert body["object"] == "settings" and body["file"] == str(path)
    rows = {r["name"]: (r["value"], r["source"], r["live"]) for r in body["data"]}
    assert rows["idle_ms"] == (7000, "file", True)
    assert rows["max_rank"] == (64, "command_line", True)
    assert rows["log_level"] == ("debug", "environment", True)
    assert rows["total_ms"] == (1800000, "default", True)
    assert rows["http_workers"] == (4, "default", False)


def test_a_password_in_an_address_is_shown_to_nobody(start, tmp_path):
    path = tmp_path / "weft.conf"
    path.write_text("chat_template = http://user:pa55w0rd@host/x\n")
    g = start("--config", path, fake=True)
    text = g.admin.get("/admin/v1/settings").text
    assert "pa55w0rd" not in text and "http://***@host/x" in text


def test_a_viewer_sees_the_settings_and_cannot_reload_them(start):
    g = start(fake=True)
    key = g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()["key"]
    viewer = httpx.Client(base_url=g.admin_url, headers={"Authorization": f"Bearer {key}"})
    assert viewer.get("/admin/v1/settings").status_code == 200
    assert viewer.post("/admin/v1/reload").status_code == 403
    assert g.admin.post("/admin/v1/reload").json()["changed"] == []


def test_a_level_of_the_log_is_raised_and_lowered_while_it_runs(configured):
    g = configured
    g.conf.write_text("log_level = error\nidle_ms = 7000\n")
    g.admin.post("/admin/v1/reload")
    size = len(g.log.read_text())
    g.admin.post("/admin/v1/reload")  # would say settings_read at info
    assert len(g.log.read_text()) == size
