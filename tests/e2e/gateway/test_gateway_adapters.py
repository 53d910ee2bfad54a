"""The life of an adapter: states and the self-test, uploads in parts, imports, aliases with weights, pins, archive, draining, quotas, and what a crash
leaves. Checks of files are the real ones; the engine is the fake one but where its own tests are meant."""

import base64
import collections
import hashlib
import http.server
import json
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gateway_process import BASE, DEMO, until
from test_gateway_exchange import stream

CONFIG = {n: (DEMO / n / "adapter_config.json").read_bytes() for n in ("sql", "pirate", "triage")}
WEIGHTS = {n: (DEMO / n / "adapter_model.safetensors").read_bytes() for n in ("sql", "pirate", "triage")}


def config(name, **change):
    return json.dumps({**json.loads(CONFIG[name]), **change}).encode()


def digest_of(data):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.fixture
def life(start):
    """A gateway of one's own on the fake engine, and its tenant acme."""
    g = start("--import-hosts", "127.0.0.1", "--max-uploads", "3", fake=True)
    return g, g.tenant("acme")


def events_of(t, kind):
    with t.http() as c:
        return [e for e in c.get("/v1/events", params={"limit": 100}).json()["data"] if e["type"].startswith(kind)]


def get(t, path):
    with t.http() as c:
        r = c.get(path)
        assert r.status_code == 200, r.text
        return r.json()


def put_alias(t, name, targets, headers=None, **more):
    with t.http() as c:
        return c.put(f"/v1/aliases/{name}", json={"targets": targets, **more}, headers=headers or {})


# --- states ---


def test_a_version_is_ready_when_the_engine_has_tested_it(life):
    g, t = life
    g.fake_set("/fake/selftest", status=503)
    r = t.upload("sql", path="/v1/adapters")
    assert r.status_code == 201 and r.json()["state"] == "validating", r.text
    assert t.ask("x", model="sql").status_code == 404
    g.fake_set("/fake/selftest", status=200)
    until(lambda: get(t, "/v1/adapters/sql/versions/1")["state"] == "ready")
    assert get(t, "/v1/adapters/sql/versions/1")["max_error"] == 0.001
    assert t.ask("x", model="sql").status_code == 200
    assert [e["type"] for e in events_of(t, "version.")] == ["version.validating", "version.ready"]


def test_a_version_that_the_engine_computes_wrongly_fails_by_module_and_its_bytes_go(life):
    g, t = life
    g.fake_set("/fake/selftest", max_error=0.7)
    r = t.upload("sql")
    v = r.json()
    assert r.status_code == 201 and v["state"] == "failed", r.text
    assert v["failure"] == {"code": "selftest_failed", "tensor": "q_proj", "detail": v["reason"]} and v["max_error"] == 0.7
    until(lambda: g.blobs() == [], what="an empty store")
    assert t.ask("x", model="sql").status_code == 404
    g.fake_set("/fake/selftest", max_error=0.001)
    again = t.upload("sql")
    assert again.json()["version"] == 1 and again.json()["state"] == "ready"
    assert t.ask("x", model="sql").status_code == 200
    assert [e["type"] for e in events_of(t, "version.")] == ["version.validating", "version.failed", "version.validating", "version.ready"]


def test_an_engine_without_a_self_test_is_enough_where_it_loads(life):
    g, t = life
    g.fake_set("/fake/selftest", status=404)
    v = t.upload("sql").json()
    assert v["state"] == "ready" and v["max_error"] is None


def test_an_engine_that_refuses_to_load_fails_the_version(life):
    g, t = life
    g.fake_set("/fake/load", status=400)
    v = t.upload("sql").json()
    assert v["state"] == "failed" and v["failure"]["code"] == "adapter_invalid"


def test_a_version_that_was_validating_at_a_crash_is_tested_by_the_next_start(life):
    g, t = life
    g.fake_set("/fake/selftest", status=503)
    assert t.upload("sql", path="/v1/adapters").json()["state"] == "validating"
    g.kill()
    g.kill_engine()
    g.start()
    until(lambda: get(t, "/v1/adapters/sql/versions/1")["state"] == "ready")


def test_archived_versions_come_back_and_pins_are_asked_for_again(life):
    g, t = life
    v = t.upload("sql").json()
    with t.http() as c:
        assert c.post("/v1/adapters/sql/versions/1/pin").json()["pinned"] is True
        g.fake_set("/fake/forget")
        until(lambda: v["digest"] in g.fake_log()["loaded"], what="the pinned adapter")
        assert c.post("/v1/adapters/sql/unpin").json()["pinned"] is False
        assert c.post("/v1/adapters/sql/warm").json() == {"object": "adapter.residency", "resident": True, "was_cold": True}
        assert c.post("/v1/adapters/sql/archive").json()["state"] == "archived"
        assert t.ask("x", model="sql").status_code == t.ask("x", model="sql@1").status_code == 404
        assert v["digest"] in g.blobs()
        assert c.post("/v1/adapters/sql/archive").status_code == 404 and c.post("/v1/adapters/sql/versions/1/archive").status_code == 409
        assert c.post("/v1/adapters/sql/versions/1/pin").status_code == c.post("/v1/adapters/sql/versions/1/warm").status_code == 409
        assert c.post("/v1/adapters/sql/restore", params={"wait": "ready"}).json()["state"] == "ready"
    assert t.ask("x", model="sql").status_code == 200


def test_two_faults_quarantine_a_version_until_it_is_restored(life):
    g, t = life
    t.upload("sql")
    assert t.ask("status=422 code=adapter_fault", model="sql").json()["error"]["code"] == "adapter_fault"
    assert t.ask("x", model="sql").status_code == 200
    assert t.ask("status=422 code=adapter_fault", model="sql").status_code == 500
    until(lambda: get(t, "/v1/adapters/sql/versions/1")["state"] == "quarantined")
    assert get(t, "/v1/adapters/sql/versions/1")["failure"]["code"] == "adapter_fault"
    r = t.ask("x", model="sql")
    assert (r.status_code, r.json()["error"]["code"]) == (422, "quarantined")
    assert [e["target"] for e in events_of(t, "version.quarantined")] == ["sql@1"]
    with t.http() as c:
        assert c.post("/v1/adapters/sql/versions/1/restore?wait=ready").json()["state"] == "ready"
    assert t.ask("x", model="sql").status_code == 200


def test_a_dry_run_names_the_tensor_the_memory_and_what_is_odd(life):
    g, t = life
    good = t.upload("x", folder=DEMO / "sql", path="/v1/adapters:validate").json()
    assert good["valid"] and good["unused"] == [] and good["memory"]["disk"] == len(WEIGHTS["sql"]) and good["parameters"] > 0
    odd = t.upload("x", config=config("sql", lora_alpha=600, base_model_name_or_path=""), weights=WEIGHTS["sql"], path="/v1/adapters:validate").json()
    assert odd["valid"] and {f["code"] for f in odd["findings"]} == {"large_scale", "base_unsaid"}, odd
    bad = t.upload("x", config=CONFIG["sql"], weights=WEIGHTS["triage"], path="/v1/adapters:validate").json()
    assert not bad["valid"] and bad["error"]["code"] == "adapter_invalid"
    assert get(t, "/v1/adapters")["data"] == []


# --- deleting ---


def test_requests_in_flight_end_on_a_version_that_is_deleted_and_its_bytes_go_after_the_last(life):
    g, t = life
    digest = t.upload("sql").json()["digest"]
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(t.ask, "tokens=10 delay_ms=150", model="sql") for _ in range(3)]
        until(lambda: g.engine_state()["running"] == 3)
        with t.http() as c:
            assert c.delete("/v1/adapters/sql").json()["deleted"] is True
        assert digest in g.blobs() and t.ask("x", model="sql").status_code == 404
        assert get(t, "/v1/adapters/sql")["versions"][0]["state"] == "deleting"
        assert [f.result().status_code for f in slow] == [200] * 3
        assert all(f.result().headers["x-weft-adapter-version"] == "sql@1" for f in slow)
    until(lambda: g.blobs() == [], what="an empty store")
    with t.http() as c:
        assert until(lambda: c.get("/v1/adapters/sql").status_code == 404)
    assert [e["type"] for e in events_of(t, "version.delet")] == ["version.deleting", "version.deleted"]


def test_what_was_being_deleted_at_a_crash_is_gone_after_the_next_start(life):
    g, t = life
    t.upload("sql")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(t.ask, "tokens=50 delay_ms=200", model="sql")
        until(lambda: g.engine_state()["running"] == 1)
        with t.http() as c:
            c.delete("/v1/adapters/sql/versions/1")
        assert len(g.blobs()) == 1
        g.kill()
    g.start()
    assert g.blobs() == [] and get(t, "/v1/adapters/sql")["versions"] == []


def test_a_wrong_revision_deletes_nothing(life):
    g, t = life
    t.upload("sql")
    with t.http() as c:
        tag = c.get("/v1/adapters/sql").headers["etag"]
        assert c.delete("/v1/adapters/sql", headers={"If-Match": '"999"'}).status_code == 412
        assert c.delete("/v1/adapters/sql", headers={"If-Match": tag}).status_code == 200


# --- uploads in parts ---


def begin(t, name, **body):
    with t.http() as c:
        r = c.post(f"/v1/adapters/{name}/uploads", json=body)
        assert r.status_code == 201, r.text
        return r.json()


def part(t, u, file, data, first=0, total=None, **headers):
    last = first + len(data) - 1
    total = total or last + 1
    with t.http() as c:
        return c.put(f"/v1/adapters/{u['adapter']}/uploads/{u['id']}/{file}", content=data,
                     headers={"Content-Range": f"bytes {first}-{last}/{total}", **headers})


def test_an_upload_in_parts_survives_the_gateway_and_goes_on_where_it_was(life):
    g, t = life
    u = begin(t, "sql", description="in parts")
    assert u["state"] == "open" and u["version"] == 1 and u["files"]["weights"] == {"received": 0, "total": None, "sha256": None}
    assert get(t, "/v1/adapters/sql/versions/1")["state"] == "uploading"
    whole, n = WEIGHTS["sql"], len(WEIGHTS["sql"])
    assert part(t, u, "config", CONFIG["sql"], **{"Repr-Digest": digest_of(CONFIG["sql"])}).status_code == 200
    assert part(t, u, "weights", whole[:100000], 0, n, **{"Content-Digest": digest_of(whole[:100000])}).status_code == 200
    g.kill()
    g.start()
    u = get(t, f"/v1/adapters/sql/uploads/{u['id']}")
    assert u["files"]["weights"]["received"] == 100000 and u["files"]["weights"]["total"] == n
    at = 100000
    while at < n:
        r = part(t, u, "weights", whole[at : at + 300000], at, n, **{"Repr-Digest": digest_of(whole)})
        assert r.status_code == 200, r.text
        at = r.json()["files"]["weights"]["received"]
    with t.http() as c:
        r = c.post(f"/v1/adapters/sql/uploads/{u['id']}/complete?wait=ready")
        assert r.status_code == 201 and r.json()["state"] == "ready" and r.json()["version"] == 1, r.text
        assert r.json()["file_sha256"] == hashlib.sha256(whole).hexdigest()
        assert c.get(f"/v1/adapters/sql/uploads/{u['id']}").json()["state"] == "done"
        again = c.post(f"/v1/adapters/sql/uploads/{u['id']}/complete")
        assert again.status_code == 200 and again.json()["state"] == "done"
    assert t.ask("x", model="sql").status_code == 200 and g.temporary() == []


def test_parts_that_leave_a_hole_lie_or_clash_are_refused_and_nothing_is_lost(life):
    g, t = life
    u, whole, n = begin(t, "sql"), WEIGHTS["sql"], len(WEIGHTS["sql"])
    def received():
        return get(t, f"/v1/adapters/sql/uploads/{u['id']}")["files"]["weights"]["received"]
    assert part(t, u, "weights", whole[:1000], 0, n).status_code == 200
    assert part(t, u, "weights", whole[2000:3000], 2000, n).status_code == 409 and received() == 1000
    r = part(t, u, "weights", whole[1000:2000], 1000, n, **{"Content-Digest": digest_of(b"other")})
    assert r.status_code == 400 and r.json()["error"]["param"] == "Content-Digest" and received() == 1000
    assert part(t, u, "weights", whole[1000:2000], 1000, n + 1).status_code == 400 and received() == 1000
    assert part(t, u, "weights", b"x", 0, 1 << 50).status_code == 413 and received() == 1000
    assert part(t, u, "weights", whole[500:1500], 500, n).status_code == 200 and received() == 1500
    for headers in ({"Content-Range": "bytes 5-1/9"}, {"Content-Range": "nonsense"}, {"Repr-Digest": "sha-512=:AA==:"}, {"Content-Digest": "sha-256=:AA==:"}):
        assert part(t, u, "weights", whole[:10], 0, n, **headers).status_code == 400
    assert part(t, u, "other", b"x").status_code == 404
    with t.http() as c:
        r = c.post(f"/v1/adapters/sql/uploads/{u['id']}/complete")
        assert r.status_code == 409 and r.json()["error"]["param"] == "config"
        assert c.put(f"/v1/adapters/other/uploads/{u['id']}/config", content=b"x").status_code == 404
        assert c.delete(f"/v1/adapters/sql/uploads/{u['id']}").json()["deleted"] is True
        assert c.get(f"/v1/adapters/sql/uploads/{u['id']}").status_code == 404 and c.get("/v1/adapters/sql").status_code == 404
    assert g.temporary() == []


def test_a_whole_file_that_is_not_its_digest_fails_the_version_with_the_reason(life):
    g, t = life
    u, whole, n = begin(t, "sql"), WEIGHTS["sql"], len(WEIGHTS["sql"])
    assert part(t, u, "config", CONFIG["sql"]).status_code == 200
    assert part(t, u, "weights", whole[:1000], 0, n, **{"Repr-Digest": digest_of(b"something else")}).status_code == 200
    assert part(t, u, "weights", whole[1000:], 1000, n).status_code == 200
    with t.http() as c:
        v = c.post(f"/v1/adapters/sql/uploads/{u['id']}/complete?wait=ready").json()
    assert v["state"] == "failed" and "SHA-256" in v["failure"]["detail"]
    assert get(t, f"/v1/adapters/sql/uploads/{u['id']}")["state"] == "failed" and g.temporary() == [] and g.blobs() == []


def test_an_upload_that_breaks_off_keeps_what_came(life):
    g, t = life
    u, whole, n = begin(t, "sql"), WEIGHTS["sql"], len(WEIGHTS["sql"])
    def broken():
        yield whole[:200000]
        raise RuntimeError("the network")
    with t.http() as c, pytest.raises(RuntimeError):
        c.put(f"/v1/adapters/sql/uploads/{u['id']}/weights", content=broken(), headers={"Content-Range": f"bytes 0-{n - 1}/{n}", "Content-Length": str(n)})
    at = until(lambda: get(t, f"/v1/adapters/sql/uploads/{u['id']}")["files"]["weights"]["received"])
    assert until(lambda: part(t, u, "weights", whole[at:], at, n).status_code != 409)
    assert get(t, f"/v1/adapters/sql/uploads/{u['id']}")["files"]["weights"]["received"] == n


def test_the_same_bytes_in_parts_are_the_version_that_exists(life):
    g, t = life
    t.upload("sql")
    u = begin(t, "sql")
    assert u["version"] == 2
    part(t, u, "config", CONFIG["sql"])
    part(t, u, "weights", WEIGHTS["sql"])
    with t.http() as c:
        assert c.post(f"/v1/adapters/sql/uploads/{u['id']}/complete?wait=ready").json()["version"] == 1
    assert [v["version"] for v in get(t, "/v1/adapters/sql")["versions"]] == [1]


def test_uploads_are_bounded_and_expire(start):
    g = start("--upload-ttl-s", "2", "--max-uploads", "2", fake=True)
    t = g.tenant("acme")
    u = begin(t, "a")
    part(t, u, "config", CONFIG["sql"])
    begin(t, "b")
    with t.http() as c:
        assert c.post("/v1/adapters/c/uploads").status_code == 429
        until(lambda: c.get(f"/v1/adapters/a/uploads/{u['id']}").status_code == 404)
        until(lambda: g.temporary() == [])
        assert c.get("/v1/adapters").json()["data"] == []
        assert c.post("/v1/adapters/c/uploads").status_code == 201


# --- imports ---


class Host(http.server.BaseHTTPRequestHandler):
    files, asked = {}, []

    def do_GET(self):
        self.asked.append(self.path)
        what = self.files.get(self.path.split("?")[0])
        if isinstance(what, str):
            self.send_response(302)
            self.send_header("Location", what)
            self.end_headers()
        elif what is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(what)))
            self.end_headers()
            self.wfile.write(what)

    def log_message(self, *args):
        pass


@pytest.fixture
def host():
    Host.files = {"/sql/adapter_config.json": CONFIG["sql"], "/sql/adapter_model.safetensors": WEIGHTS["sql"]}
    Host.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def import_it(t, name, wait="?wait=ready", **body):
    with t.http() as c:
        return c.post(f"/v1/adapters/{name}/import{wait}", json=body)


def test_an_import_fetches_both_files_of_a_folder_and_checks_the_sum(life, host):
    g, t = life
    r = import_it(t, "sql", url=host + "/sql/", sha256=hashlib.sha256(WEIGHTS["sql"]).hexdigest(), description="from there")
    assert r.status_code == 201 and r.json()["state"] == "ready" and r.json()["description"] == "from there", r.text
    assert t.ask("x", model="sql").status_code == 200 and g.temporary() == []
    bad = import_it(t, "bad", url=host + "/sql", sha256="0" * 64).json()
    assert bad["state"] == "failed" and "SHA-256" in bad["failure"]["detail"]
    r = import_it(t, "later", wait="", config_url=host + "/sql/adapter_config.json?token=1", weights_url=host + "/sql/adapter_model.safetensors?token=1")
    assert r.status_code == 202 and r.json()["object"] == "adapter.upload"
    done = until(lambda: [u for u in [get(t, f"/v1/adapters/later/uploads/{r.json()['id']}")] if u["state"] == "done"])
    assert done[0]["version"] == 1 and "token" not in json.dumps(done)
    assert "/sql/adapter_config.json?token=1" in Host.asked


@pytest.mark.parametrize("files,detail", [
    ({}, "status 404"), ({"/x/adapter_config.json": "http://127.0.0.1:1/"}, "connect"), ({"/x/adapter_config.json": "/x/adapter_config.json"}, "redirects"),
    ({"/x/adapter_config.json": "http://localhost:9/secret"}, "https"), ({"/x/adapter_config.json": "http://169.254.169.254/latest/meta-data"}, "https"),
    ({"/x/adapter_config.json": "https://169.254.169.254/latest"}, "not allowed"), ({"/x/adapter_config.json": "https://[::1]/"}, "not allowed"),
    ({"/x/adapter_config.json": "file:///etc/passwd"}, "https"), ({"/x/adapter_config.json": "gopher://127.0.0.1/"}, "https"),
    ({"/x/adapter_config.json": b" " * 300000}, "more than"), ({"/x/adapter_config.json": b"{", "/x/adapter_model.safetensors": b"x"}, "adapter_config.json"),
])
def test_an_import_that_cannot_be_says_why_and_leaves_nothing(life, host, files, detail):
    g, t = life
    Host.files = files
    v = import_it(t, "x", url=host + "/x").json()
    assert v["state"] == "failed" and detail in v["failure"]["detail"], v
    assert g.temporary() == [] and g.blobs() == []


def test_a_redirect_to_a_place_that_is_allowed_is_followed(life, host):
    g, t = life
    Host.files.update({"/a/adapter_config.json": "/sql/adapter_config.json", "/a/adapter_model.safetensors": "../sql/adapter_model.safetensors", "/a/../sql/adapter_model.safetensors": WEIGHTS["sql"]})
    assert import_it(t, "a", url=host + "/a").json()["state"] == "ready"


@pytest.mark.parametrize("url", [
    "http://example.com/x", "ftp://example.com/x", "file:///etc/passwd", "//example.com/x", "https://", "https:///x", "https://user:pass@example.com/x", "https://exam ple.com/",
    "https://example.com/\\x", "javascript:alert(1)", "https://example.com/\nx", "http://localhost/x", "http://169.254.169.254/", "http://[::1]/x", "x" * 3000,
])
def test_a_url_that_is_not_to_be_asked_is_refused_at_once(life, url):
    g, t = life
    r = import_it(t, "x", url=url)
    assert r.status_code == 400 and r.json()["error"]["param"] == "url", r.text
    assert get(t, "/v1/adapters")["data"] == []


PRIVATE = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "10.0.0.1",
    "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "0", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[2002:7f00:1::]", "224.0.0.1",
]


def test_no_spelling_of_a_private_address_is_connected_to(start):
    g = start("--max-uploads", "100", fake=True)
    t = g.tenant("acme")
    for i, where in enumerate(PRIVATE):
        v = import_it(t, f"x{i}", url=f"https://{where}/x").json()
        assert v["state"] == "failed" and "not allowed" in v["failure"]["detail"], (where, v)


def test_an_import_that_a_crash_cut_is_made_by_the_next_start(life, host):
    g, t = life
    gate = threading.Event()
    slow = Host.do_GET
    def wait(self):
        gate.wait(20)
        slow(self)
    Host.do_GET = wait
    try:
        r = import_it(t, "sql", wait="", url=host + "/sql")
        assert r.status_code == 202
        g.kill()
        gate.set()
        g.start()
        until(lambda: get(t, "/v1/adapters/sql/versions/1")["state"] == "ready")
    finally:
        gate.set()
        Host.do_GET = slow
    assert g.temporary() == []

def test_who_has_the_answer_of_a_part_may_go_on_at_once(life):
    g, t = life
    u = begin(t, "sql")
    with t.http() as one, t.http() as two:  # two connections: the next request does not wait for the first one's end
        for i in range(100):
            r = (one, two)[i % 2].put(f"/v1/adapters/sql/uploads/{u['id']}/config", content=CONFIG["sql"])
            assert r.status_code == 200, (i, r.text)
            r = (two, one)[i % 2].put(f"/v1/adapters/sql/uploads/{u['id']}/config", content=b"x", headers={"Content-Range": "bytes 9999-9999/99999"})
            assert r.status_code == 409 and r.json()["error"]["param"] == "Content-Range", (i, r.text)
        one.put(f"/v1/adapters/sql/uploads/{u['id']}/weights", content=WEIGHTS["sql"])
        assert two.post(f"/v1/adapters/sql/uploads/{u['id']}/complete?wait=ready").status_code == 201


def test_the_bound_on_uploads_holds_for_those_that_begin_together(life):
    g, t = life
    def one(i):
        with t.http() as c:
            return c.post(f"/v1/adapters/a{i}/uploads").status_code
    with ThreadPoolExecutor(24) as pool:
        assert collections.Counter(pool.map(one, range(24))) == {201: 3, 429: 21}
    assert len(g.temporary()) == 3 and len(get(t, "/v1/adapters")["data"]) == 3


def test_an_upload_or_import_that_is_asked_for_again_is_the_same_one(life, host):
    g, t = life
    for path, body, status in (("/v1/adapters/sql/uploads", {"description": "once"}, 201), ("/v1/adapters/pirate/import", {"url": host + "/sql"}, 202)):
        with t.http() as c:
            first = c.post(path, json=body, headers={"Idempotency-Key": "k" + path})
            again = c.post(path, json=body, headers={"Idempotency-Key": "k" + path})
            other = c.post(path, json={**body, "description": "else"}, headers={"Idempotency-Key": "k" + path})
        assert first.status_code == again.status_code == status, again.text
        assert first.json() == again.json() and again.headers["idempotent-replayed"] == "true"
        assert other.status_code == 422
        name = path.split("/")[3]
        assert [u["id"] for u in get(t, f"/v1/adapters/{name}/uploads")["data"]] == [first.json()["id"]]
    until(lambda: get(t, "/v1/adapters/pirate")["state"] == "ready")


def test_a_tenant_finds_its_uploads_again(life):
    g, t = life
    ids = [begin(t, "sql", description=str(i))["id"] for i in range(3)]
    with t.http() as c:
        c.put(f"/v1/adapters/sql/uploads/{ids[1]}/config", content=CONFIG["sql"])
        page = c.get("/v1/adapters/sql/uploads", params={"limit": 2}).json()
        assert [u["id"] for u in page["data"]] == ids[:2] and page["has_more"] is True and page["last_id"] == ids[1]
        assert page["data"][1] == c.get(f"/v1/adapters/sql/uploads/{ids[1]}").json() and page["data"][1]["files"]["config"]["received"] > 0
        assert [u["id"] for u in c.get("/v1/adapters/sql/uploads", params={"after": ids[1]}).json()["data"]] == ids[2:]
        assert [u["id"] for u in c.get("/v1/adapters/sql/uploads", params={"before": ids[2], "limit": 1}).json()["data"]] == ids[1:2]
        assert c.get("/v1/adapters/none/uploads").status_code == 404 and c.get("/v1/adapters/sql/uploads?x=1").status_code == 400
    with g.tenant("others").http() as c:
        assert c.get("/v1/adapters/sql/uploads").status_code == 404


def test_an_upload_whose_version_was_removed_ends_and_leaves_its_place(life):
    g, t = life
    for _ in range(4):  # more than are allowed at a time
        u = begin(t, "sql")
        part(t, u, "config", CONFIG["sql"])
        part(t, u, "weights", WEIGHTS["sql"])
        with t.http() as c:
            assert c.delete(f"/v1/adapters/sql/versions/{u['version']}").status_code in (200, 409)
            r = c.post(f"/v1/adapters/sql/uploads/{u['id']}/complete?wait=ready")
            assert r.status_code in (201, 404, 409), r.text
            until(lambda: all(x["state"] not in ("open", "validating") for x in c.get("/v1/adapters/sql/uploads").json().get("data", [])), what="its end")
            c.delete("/v1/adapters/sql")
    until(lambda: g.temporary() == [] and g.blobs() == [])


def test_a_version_says_which_engines_have_it(life):
    g, t = life
    v = t.upload("sql").json()
    assert v["residency"] == [{"engine": "local", "resident": True}]
    assert get(t, "/v1/adapters/sql/versions/1")["residency"] == get(t, "/v1/adapters/sql")["versions"][0]["residency"] == v["residency"]
    with t.http() as c:
        assert c.post("/v1/adapters/sql/archive").status_code == 200
    until(lambda: get(t, "/v1/adapters/sql/versions/1")["residency"] == [])


def test_faults_in_mid_stream_count_towards_quarantine(life):
    g, t = life
    t.upload("sql")
    t.upload("pirate")
    for _ in range(2):
        stream(t, "error_after=1", model="pirate", adapters=[{"name": "sql"}])  # of two, nobody knows which
        r, lines = stream(t, "error_after=2", model="sql")
        assert any("adapter_fault" in l for l in lines) and "data: [DONE]" not in lines
    until(lambda: get(t, "/v1/adapters/sql/versions/1")["state"] == "quarantined")
    assert get(t, "/v1/adapters/pirate/versions/1")["state"] == "ready"

def test_a_start_waits_for_its_engine_before_it_judges_an_upload(life):
    g, t = life
    u = begin(t, "sql")
    part(t, u, "config", CONFIG["sql"])
    part(t, u, "weights", WEIGHTS["sql"])
    g.kill()
    with sqlite3.connect(g.data / "weft.db") as db:  # what a kill right after "complete" leaves
        db.execute("UPDATE upload SET state = 'validating'")
        db.execute("UPDATE version SET state = 'validating'")
    db.close()
    g.start()
    assert until(lambda: (s := get(t, "/v1/adapters/sql/versions/1")["state"]) not in ("uploading", "validating") and s) == "ready"


def test_a_chain_goes_on_where_no_engine_can_load_its_first_target(life):
    g, t = life
    t.upload("sql")
    assert put_alias(t, "chain", [{"adapter": "sql"}, {"base": BASE}], policy="fallback").status_code == 201
    for status in (400, 404, 422, 500, 503):
        g.fake_set("/fake/forget")
        g.fake_set("/fake/load", status=status)
        r = t.ask("tokens=2", model="chain")
        assert r.status_code == 200 and "x-weft-adapter-version" not in r.headers, (status, r.text)
        assert t.ask("tokens=2", model="sql").status_code in (404, 502, 503)
        assert "data: [DONE]" in stream(t, "tokens=2", model="chain")[1]
    g.fake_set("/fake/load", status=200)
    assert t.ask("tokens=2", model="chain").headers["x-weft-adapter-version"] == "sql@1"


# --- aliases ---


def two_versions(t):
    one = t.upload("sql").json()
    two = t.upload("sql", config=config("sql", lora_alpha=20), weights=WEIGHTS["sql"]).json()
    assert (one["version"], two["version"]) == (1, 2)
    return one, two


def split(share):
    return [{"adapter": "sql", "version": 1, "weight": 100 - share}, {"adapter": "sql", "version": 2, "weight": share}]


def test_a_canary_and_its_rollback_under_load_fail_no_request_and_share_as_said(life):
    g, t = life
    two_versions(t)
    assert put_alias(t, "prod", split(0)).status_code == 201
    stop, seen, bad = threading.Event(), collections.Counter(), []
    phase = [0]

    def client():
        with t.http() as c:
            while not stop.is_set():
                now = phase[0]
                r = c.post("/v1/chat/completions", json={"model": "prod", "messages": [{"role": "user", "content": "tokens=1"}]})
                if r.status_code != 200:
                    bad.append(r.text)
                elif phase[0] == now:
                    seen[now, r.headers["x-weft-adapter-version"]] += 1

    def count(share):
        return seen[share, "sql@1"] + seen[share, "sql@2"]

    threads = [threading.Thread(target=client) for _ in range(4)]
    [x.start() for x in threads]
    try:
        for share in (10, 50, 100):
            phase[0] = None  # those in between count nowhere
            tag = get(t, "/v1/aliases/prod")["revision"]
            assert put_alias(t, "prod", split(share), {"If-Match": f'"{tag}"'}).status_code == 200
            time.sleep(0.1)
            phase[0] = share
            until(lambda: count(share) >= (3500 if share < 100 else 300), 60, what=f"requests at {share} %")
        phase[0] = None
        with t.http() as c:
            for _ in range(2):  # one change, however often it is sent
                assert c.post("/v1/aliases/prod/rollback", headers={"Idempotency-Key": "back"}).json()["targets"] == split(50)
            assert c.post("/v1/aliases/prod/rollback").json()["targets"] == split(100)
    finally:
        stop.set()
        [x.join() for x in threads]
    assert not bad, bad[:3]
    for share in (10, 50, 100):
        got = seen[share, "sql@2"] / count(share)
        assert abs(got - share / 100) <= (0.02 if share < 100 else 0), (share, got, count(share))


def test_requests_in_flight_end_on_their_version_when_the_alias_moves(life):
    g, t = life
    two_versions(t)
    put_alias(t, "prod", split(0))
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(t.ask, "tokens=10 delay_ms=100", model="prod") for _ in range(3)]
        until(lambda: g.engine_state()["running"] == 3)
        put_alias(t, "prod", [{"adapter": "sql", "version": 2}])
        with t.http() as c:
            assert c.delete("/v1/adapters/sql/versions/1").status_code == 200
        assert t.ask("x", model="prod").headers["x-weft-adapter-version"] == "sql@2"
        assert [(f.result().status_code, f.result().headers["x-weft-adapter-version"]) for f in slow] == [(200, "sql@1")] * 3


def test_versions_never_share_a_cache_and_the_same_version_does(life):
    g, t = life
    one, two = two_versions(t)
    put_alias(t, "prod", split(50))
    for model in ("prod", "sql@1", "sql@2", "sql", BASE) * 3:
        t.ask("tokens=1", model=model)
    salts = collections.defaultdict(set)
    for x in g.fake_log()["log"]:
        salts[x["body"]["model"]].add(x["body"]["cache_salt"])
    assert set(salts) == {one["digest"], two["digest"], BASE}
    assert all(len(s) == 1 for s in salts.values()) and len(set.union(*salts.values())) == 3


def test_a_users_requests_stay_on_one_version(life):
    g, t = life
    two_versions(t)
    put_alias(t, "prod", split(50), sticky="user")
    first = {}
    for _ in range(3):
        for i in range(20):
            version = t.ask("tokens=1", model="prod", user=f"u{i}").headers["x-weft-adapter-version"]
            assert first.setdefault(i, version) == version
    assert len(set(first.values())) == 2


def test_a_system_prefix_stands_in_front(life):
    g, t = life
    t.upload("sql")
    put_alias(t, "brief", [{"adapter": "sql"}], system_prefix="Be brief.")
    def sent():
        return g.fake_log()["log"][-1]["body"]
    t.ask("hello", model="brief")
    assert sent()["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    with t.http() as c:
        c.post("/v1/chat/completions", json={"model": "brief", "messages": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "x"}]})
        assert sent()["messages"] == [{"role": "system", "content": "Be brief.\n\nMine."}, {"role": "user", "content": "x"}]
        c.post("/v1/completions", json={"model": "brief", "prompt": "x"})
        assert sent()["prompt"] == "Be brief.x"
        c.post("/v1/completions", json={"model": "brief", "prompt": ["x", "y"]})
        assert sent()["prompt"] == ["Be brief.x", "Be brief.y"]
        r = c.post("/v1/completions", json={"model": "brief", "prompt": [1, 2, 3]})
        assert r.status_code == 400 and r.json()["error"]["param"] == "prompt"
    audit = g.admin.get("/admin/v1/audit", params={"limit": 100}).text
    assert "Be brief" not in audit and "Be brief" not in json.dumps(events_of(t, "alias")) and "Be brief" not in g.log.read_text()


def test_aliases_are_listed_guarded_and_stand_among_the_models(life):
    g, t = life
    two_versions(t)
    r = put_alias(t, "prod", split(10), {"If-None-Match": "*"})
    assert r.status_code == 201 and r.headers["etag"] == '"1"'
    assert put_alias(t, "prod", split(20), {"If-None-Match": "*"}).status_code == 412
    assert put_alias(t, "prod", split(20), {"If-Match": '"9"'}).status_code == 412
    assert put_alias(t, "sql", [{"adapter": "sql", "version": 1}]).status_code == 201
    assert [a["name"] for a in get(t, "/v1/aliases")["data"]] == ["prod", "sql"]
    assert [a["name"] for a in get(t, "/v1/aliases?before=sql")["data"]] == ["prod"]
    models = [m["id"] for m in get(t, "/v1/models")["data"]]
    assert sorted(models) == sorted([BASE, "prod", "sql", "sql@1", "sql@2"])
    assert get(t, "/v1/models/prod")["id"] == "prod" and t.ask("x", model="sql").headers["x-weft-adapter-version"] == "sql@1"
    with t.http() as c:
        for path in ("/v1/adapters/sql", "/v1/adapters/sql/versions/1"):
            r = c.delete(path)
            assert r.status_code == 409 and "alias" in r.json()["error"]["message"]
        assert c.post("/v1/adapters/sql/versions/2/archive").status_code == 409
        assert put_alias(t, BASE, split(1)).status_code == 409
        assert t.upload("prod", folder=DEMO / "pirate").status_code == 409
        assert c.delete("/v1/aliases/prod").json() == {"id": "prod", "object": "alias", "deleted": True}
        assert c.delete("/v1/aliases/prod").status_code == c.get("/v1/aliases/prod").status_code == c.post("/v1/aliases/prod/rollback").status_code == 404
    other = g.tenant("other")
    with other.http() as c:
        assert c.get("/v1/aliases/sql").status_code == 404 and c.get("/v1/aliases").json()["data"] == []
        assert put_alias(other, "x", [{"adapter": "sql"}]).status_code == 400


def test_the_operator_sees_the_adapters_of_all_tenants(life):
    g, t = life
    t.upload("sql")
    g.tenant("other").upload("pirate")
    def ids(**query):
        return [a["id"] for a in g.admin.get("/admin/v1/adapters", params=query).json()["data"]]
    assert ids() == ["acme/sql", "other/pirate"] and ids(tenant="other") == ["other/pirate"] and ids(after="acme/sql") == ["other/pirate"]
    assert ids(state="ready") == ids() and ids(state="failed") == [] and ids(before="other/pirate") == ["acme/sql"]
    assert g.admin.get("/admin/v1/adapters", params={"state": "x"}).status_code == 400
    with t.http() as c:
        assert c.get("/admin/v1/adapters").status_code == 404


def test_quotas_bound_count_bytes_rank_and_pins(life):
    g, t = life
    def limit(**limits):
        r = g.admin.put("/admin/v1/tenants/acme/limits", json=limits)
        assert r.status_code in (200, 201), r.text
    limit(adapter_rank=2)
    assert t.upload("sql").json()["error"]["code"] == "adapter_invalid"
    limit(adapter_bytes=len(WEIGHTS["sql"]) + 10, adapters_pinned=0)
    assert t.upload("sql").status_code == 201
    assert t.upload("pirate").json()["error"]["code"] == "insufficient_quota"
    with t.http() as c:
        assert c.post("/v1/adapters/sql/pin").status_code == 429
    limit(adapters=1)
    assert t.upload("pirate").status_code == 429
    with t.http() as c:
        assert c.post("/v1/adapters/pirate/uploads").status_code == 429
    assert len(g.blobs()) == 1


# --- the real engine ---


def test_the_real_engine_tests_what_it_is_given(real, tenants):
    v = get(tenants["sql"], "/v1/adapters/sql/versions/1")
    assert v["state"] == "ready" and 0 < v["max_error"] < 1e-3


def test_a_canary_on_the_real_engine_gives_each_versions_own_words(real, tenants):
    t = tenants["all"]
    assert put_alias(t, "mix", [{"adapter": "pirate", "weight": 1}, {"adapter": "sql", "weight": 1}], sticky="user").status_code == 201
    own = {n: t.ask("Tell me about the sea.", model=n, max_tokens=12, temperature=0).json()["choices"][0]["message"]["content"] for n in ("pirate", "sql")}
    seen = set()
    for i in range(12):
        r = t.ask("Tell me about the sea.", model="mix", user=f"u{i}", max_tokens=12, temperature=0)
        name = r.headers["x-weft-adapter-version"].split("@")[0]
        seen.add(name)
        assert r.json()["choices"][0]["message"]["content"] == own[name]
    assert seen == {"pirate", "sql"}
    with t.http() as c:
        assert c.delete("/v1/aliases/mix").status_code == 200
