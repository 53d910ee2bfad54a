"""Imports from hosts that are slow: one tenant's hold neither another's uploads and imports nor a quarantine, and are given up; a stop does not wait for
them, and the next start goes on."""

import http.server
import threading
import time

import pytest

from gateway_process import DEMO, until

FILES = {n: (DEMO / "sql" / n).read_bytes() for n in ("adapter_config.json", "adapter_model.safetensors")}
THREADS, SLOW_S = 4, 20


class Drip(http.server.BaseHTTPRequestHandler):
    """Below /slow a byte comes twice a second, as long as `dripping` is set."""
    dripping, lock, now = threading.Event(), threading.Lock(), 0

    def do_GET(self):
        what = FILES[self.path.rsplit("/", 1)[1]]
        slow = self.path.startswith("/slow") and self.dripping.is_set()
        self.send_response(200)
        self.send_header("Content-Length", str(len(what)))
        self.end_headers()
        if not slow:
            self.wfile.write(what)
            return
        with self.lock:
            Drip.now += 1
        try:
            for b in what:
                if not self.dripping.is_set():
                    break
                self.wfile.write(bytes([b]))
                self.wfile.flush()
                time.sleep(0.5)
        except OSError:
            pass
        with self.lock:
            Drip.now -= 1

    def log_message(self, *args):
        pass


@pytest.fixture
def drip():
    Drip.now = 0
    Drip.dripping.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Drip.dripping.clear()
    server.shutdown()
    thread.join()
    server.server_close()


def import_it(t, name, url, wait=""):
    with t.http() as c:
        return c.post(f"/v1/adapters/{name}/import{wait}", json={"url": url})


def version(t, name):
    with t.http() as c:
        return c.get(f"/v1/adapters/{name}/versions/1").json()


def test_slow_imports_of_one_tenant_hold_nobody_elses_work_and_are_given_up(start, drip):
    g = start("--import-hosts", "127.0.0.1", "--import-slow-s", SLOW_S, "--upload-jobs", 1, fake=True)
    slow, other = g.tenant("slow"), g.tenant("other")
    assert slow.upload("sql").status_code == 201
    began = time.monotonic()
    for i in range(THREADS + 2):
        assert import_it(slow, f"x{i}", drip + "/slow").status_code == 202
    until(lambda: Drip.now == THREADS // 2, what="imports that drip")
    assert other.upload("pirate").status_code == 201
    r = import_it(other, "sql", drip + "/fast", "?wait=ready")
    assert r.status_code == 201 and r.json()["state"] == "ready", r.text
    for _ in range(2):
        assert slow.ask("status=422 code=adapter_fault", model="sql").status_code == 500
    until(lambda: version(slow, "sql")["state"] == "quarantined")
    assert time.monotonic() - began < SLOW_S and Drip.now == THREADS // 2, "all that while the slow ones ran, on half of the threads"
    v = until(lambda: (v := version(slow, "x0")) and v["state"] == "failed" and v, 3 * SLOW_S, "the end of the slow one")
    assert v["failure"]["code"] == "upstream_timeout" and "too slow: less than 16 KiB a second" in v["failure"]["detail"], v
    Drip.dripping.clear()
    until(lambda: version(slow, f"x{THREADS + 1}")["state"] in ("ready", "failed"), what="the end of the last one")
    until(lambda: g.temporary() == [], what="an empty tmp/")


def test_a_stop_does_not_wait_for_imports_and_the_next_start_goes_on(start, drip):
    g = start("--import-hosts", "127.0.0.1", "--drain-ms", 500, "--linger-ms", 0, fake=True)
    t = g.tenant("acme")
    for i in range(3):  # the third one waits
        assert import_it(t, f"x{i}", drip + "/slow").status_code == 202
    until(lambda: Drip.now == 2, what="imports that drip")
    began = time.monotonic()
    g.stop()
    assert time.monotonic() - began < 15
    Drip.dripping.clear()
    g.start()
    for i in range(3):
        until(lambda: version(t, f"x{i}")["state"] == "ready", what="the import that was cut")
    assert g.temporary() == []
