"""Engines that share no folder with the gateway: they fetch adapters by digest, over TCP, into empty stores of their own. Real engines, a wire that misbehaves."""

import concurrent.futures
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from certificates import Authority
from gateway_process import BASE, BIN, DEMO, TOP, Gateway, until
from way import Way

sys.path[:0] = [str(TOP / "tests/trust"), str(TOP / "tests/e2e/engine")]
from engine_process import TOKEN, Engine  # noqa: E402
from faults.proxy import Proxy  # noqa: E402
from inside import Inside  # noqa: E402

LOAD = "/v1/load_lora_adapter"
GREEDY = {"temperature": 0, "max_tokens": 12}
FILES = ("adapter_config.json", "adapter_model.safetensors")
SMALL = ("--max-context", "512", "--kv-mb", "64", "--orphan-s", "0", "--threads", "1")


class Puller(Engine):
    """A weft-engine with a store of its own and a row in the gateway; `wire` is between the two for adapters."""

    def __init__(self, folder, gateway, name, *args, local=True, store=None, base=BASE, url=None):
        self.gateway, self.name = gateway, name
        self.store = Path(store or folder / "store")
        folder.mkdir(parents=True, exist_ok=True)
        self.token_file = folder / "secret/blob-token"  # the puller reads the folder that it lies in
        self.token_file.parent.mkdir(exist_ok=True)
        self.token_file.write_text("wfe_none")
        self.wire = Proxy(("127.0.0.1", int(gateway.blob_url.rsplit(":", 1)[1]))).__enter__()
        self.extra = ("--pull-url", url or self.wire.url, "--pull-token-file", str(self.token_file), *SMALL, *args)
        super().__init__(folder, *self.extra, store=self.store)
        r = gateway.admin.post("/admin/v1/engines", json={"name": name, "base": base, "url": self.url, "secret": TOKEN, "local": local})
        assert r.status_code == 201, r.text
        self.new_token()
        self.wait("ready")

    def new_token(self, **how):
        r = self.gateway.admin.post(f"/admin/v1/engines/{self.name}/token", json=how)
        assert r.status_code == 201, r.text
        self.blob_token = r.json()["token"]
        self.token_file.write_text(self.blob_token)
        return r.json()

    def row(self):
        return self.gateway.admin.get(f"/admin/v1/engines/{self.name}").json()

    def wait(self, state):
        until(lambda: self.row()["status"]["state"] == state, 60, f"{self.name} {state}")

    def set(self, what):
        assert self.gateway.admin.post(f"/admin/v1/engines/{self.name}/{what}").status_code == 200

    def blobs(self):
        return sorted(p.name for p in self.store.glob("??/*"))

    def left(self):
        return sorted(p.name for p in (self.store / "tmp").iterdir())

    def pulls(self, outcome="ok"):
        m = re.search(rf'weft_adapter_pulls_total{{outcome="{outcome}"}} (\d+)', self.http.get("/metrics").text)
        return int(m.group(1)) if m else 0

    def puller(self):
        """The pid of the process that fetches for it."""
        return int(re.findall(r"event=puller .*?pid=(\d+)", self.log.read_text())[-1])

    def fetch(self, digest):
        return self.http.post(LOAD, json={"lora_name": digest})

    def forget(self, digest):
        """Out of the engine, and of its store: its name first, its bytes after that."""
        assert self.http.post("/v1/unload_lora_adapter", json={"lora_name": digest}).status_code in (200, 404)
        until(lambda: digest not in self.blobs(), what="an empty place in the store")
        until(lambda: not self.left(), what="the room of what left")

    def blob(self, path, token=None, method="GET", **headers):
        return httpx.request(method, f"{self.gateway.blob_url}/weft/v1/blobs/{path}",
                             headers={"Authorization": f"Bearer {token or self.blob_token}", **headers}, timeout=30)

    def restart(self):
        """The program anew, on the same store, at another port."""
        Engine.__init__(self, self.folder, *self.extra, store=self.store)
        r = self.gateway.admin.patch(f"/admin/v1/engines/{self.name}", json={"url": self.url}, headers={"If-Match": "*"})
        assert r.status_code == 200, r.text
        self.wait("ready")

    def close(self):
        super().close()
        self.wire.__exit__()


class World:
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A gateway without an engine of its own, two engines that pull, and the three demo adapters of a tenant."""
    w = World()
    top = tmp_path_factory.mktemp("pull")
    w.gateway = g = Gateway(top / "g", "--pool-only", "true", "--blob-listen", "127.0.0.1:0", model="", ready=False)
    g.blob_url = re.search(r"WEFT_BLOB_URL='(.*)'", (g.folder / "ports.env").read_text()).group(1)
    w.one, w.two = Puller(top / "one", g, "one"), Puller(top / "two", g, "two")
    w.tenant = g.tenant("acme")
    w.digest = {}
    for name in ("pirate", "sql", "triage"):
        r = w.tenant.upload(name)
        assert r.status_code == 201, r.text
        with w.tenant.http() as c:
            w.digest[name] = c.get(f"/v1/adapters/{name}/versions/1").json()["digest"]
    yield w
    for e in (w.one, w.two):
        e.close()
    g.close()


@pytest.fixture
def pull(world):
    """The world with nothing in the first engine's store, a good wire and all engines enabled."""
    for e in (world.one, world.two):
        e.wire.plan()
        e.set("enable")
    for d in world.digest.values():
        world.one.forget(d)
    yield world
    world.one.wire.plan()
    until(lambda: world.one.left() == world.two.left() == [], what="the end of what was called off")


def reference(name, text):
    """What an engine with the adapter in its own store answers."""
    with_store = Engine(Path(os.environ.get("TMPDIR", "/tmp")) / f"weft-ref-{os.getpid()}", *SMALL, unix=True)
    try:
        digest = with_store.load(name)
        r = with_store.http.post("/v1/chat/completions", json={"model": digest, "messages": [{"role": "user", "content": text}], **GREEDY})
        return r.json()["choices"][0]["message"]["content"]
    finally:
        with_store.close()
        shutil.rmtree(with_store.folder, ignore_errors=True)


def test_more_pulls_at_once_than_there_are_processes(pull):
    """Each that ends makes place for the next, though it says that it is done before it has ended."""
    config, weights = ((DEMO / "pirate" / name).read_bytes() for name in FILES)
    names = [f"many-{i}" for i in range(12)]
    for i, name in enumerate(names):
        other = weights[:-4] + bytes([weights[-4] ^ (i + 1)]) + weights[-3:]
        assert pull.tenant.upload(name, config=config, weights=other).status_code == 201
    with pull.tenant.http() as c:
        digests = [c.get(f"/v1/adapters/{name}/versions/1").json()["digest"] for name in names]
        for _ in range(2):
            for d in digests:
                pull.one.forget(d)
            with concurrent.futures.ThreadPoolExecutor(len(digests)) as pool:
                said = list(pool.map(pull.one.fetch, digests))
            assert [r.status_code for r in said] == [200] * len(digests), [r.text for r in said]
        for name in names:
            assert c.delete(f"/v1/adapters/{name}").status_code == 200
    for d in digests:
        pull.one.forget(d)


def test_engines_with_empty_stores_answer_as_one_that_has_the_folder(pull):
    want = reference("sql", "List all users.")
    for e, other in ((pull.one, pull.two), (pull.two, pull.one)):
        other.set("disable")
        r = pull.tenant.ask("List all users.", model="sql", **GREEDY)
        assert r.status_code == 200, r.text
        assert r.json()["choices"][0]["message"]["content"] == want
        other.set("enable")
        assert pull.digest["sql"] in e.blobs()
        for f in FILES:
            assert (e.store / pull.digest["sql"][:2] / pull.digest["sql"] / f).read_bytes() == (DEMO / "sql" / f).read_bytes()


def test_warm_and_pins_bring_adapters_to_engines_that_pull(pull):
    pull.two.set("disable")
    with pull.tenant.http() as c:
        assert c.post("/v1/adapters/pirate/warm").status_code == 200
        until(lambda: pull.digest["pirate"] in pull.one.blobs(), what="a warm adapter")
        pull.one.forget(pull.digest["pirate"])
        assert c.post("/v1/adapters/pirate/pin").status_code == 200
        until(lambda: pull.digest["pirate"] in pull.one.blobs(), 15, "a pinned adapter")
        assert c.post("/v1/adapters/pirate/unpin").status_code == 200


def test_two_loads_at_once_are_one_pull(pull):
    pull.one.wire.plan(delay_ms=20)
    before = pull.one.pulls()
    with concurrent.futures.ThreadPoolExecutor(6) as many:
        answers = list(many.map(lambda _: pull.one.fetch(pull.digest["sql"]).status_code, range(6)))
    assert answers == [200] * 6 and pull.one.pulls() == before + 1


@pytest.mark.parametrize("at", [0, 40, 300, 1000, 100_000, 3_700_000])
def test_a_cut_is_taken_up_where_it_was(pull, at):
    def sent():
        m = re.search(r'weft_blob_bytes_total{engine="one"} (\d+)', httpx.get(f"{pull.gateway.admin_url}/metrics", timeout=30).text)
        return int(m.group(1)) if m else 0
    before = sent()
    pull.one.wire.plan(cut=at, times=3, match="safetensors")
    r = pull.one.fetch(pull.digest["sql"])
    assert r.status_code == 200, r.text
    size = sum((DEMO / "sql" / f).stat().st_size for f in FILES)
    asked = sent() - before  # each try is counted with all that it asks for
    assert size < asked <= 4 * size
    if at == 3_700_000:
        assert asked < 1.1 * size


def test_bytes_that_changed_on_the_way_are_refused_and_never_loaded(pull):
    d = pull.digest["sql"]
    for match, at in (("safetensors", 300), ("safetensors", 5_000), ("safetensors", 3_000_000), ("config.json", 400)):
        pull.one.wire.plan(flip=at, match=match)
        r = pull.one.fetch(d)
        assert r.status_code == 503 and r.json()["error"]["code"] == "adapter_fetch_failed", (match, at, r.text)
        assert pull.one.blobs() == [] and pull.one.left() == []
        assert d not in [m["id"] for m in pull.one.http.get("/v1/models").json()["data"]]
    pull.one.wire.plan(flip=5_000, match="safetensors", times=1)
    assert pull.one.fetch(d).status_code == 200  # once is an accident


def test_a_wrong_token_is_told_to_the_operator_and_not_a_tenants_riddle(pull):
    pull.two.set("disable")
    pull.one.token_file.write_text("wfe_000000000000_" + "0" * 43 + "_000000")
    r = pull.tenant.ask("hi", model="sql", **GREEDY)
    assert r.status_code == 503 and r.json()["error"]["code"] == "adapter_fetch_failed" and "token" in r.json()["error"]["message"], r.text
    assert r.headers["retry-after"]
    assert "token" in pull.one.row()["status"]["why"]
    assert pull.one.pulls("refused") >= 1 and "outcome=refused" in pull.one.log.read_text()
    pull.one.token_file.write_text(pull.one.blob_token)  # read anew: no restart
    assert pull.tenant.ask("hi", model="sql", **GREEDY).status_code == 200
    assert pull.one.row()["status"]["why"] == ""


def test_tokens_are_replaced_with_a_grace_and_revoked_at_once(pull):
    e, d = pull.two, pull.digest["sql"]
    first = e.blob_token
    second = e.new_token()["token"]
    assert [e.blob(d, t).status_code for t in (first, second)] == [200, 200]
    shown = pull.gateway.admin.get("/admin/v1/engines/two/token").json()
    assert [bool(t["expires_at"]) for t in shown["tokens"]] == [False, True] and first not in str(shown) and second not in str(shown)
    third = e.new_token(grace_s=0)["token"]
    assert [e.blob(d, t).status_code for t in (first, second, third)] == [401, 401, 200]
    assert pull.gateway.admin.delete("/admin/v1/engines/two/token").status_code == 200
    assert e.blob(d, third).status_code == 401
    kept = b"".join(p.read_bytes() for p in pull.gateway.data.glob("weft.db*"))  # what is new stands in the log beside it
    assert b"engine_token" in kept and all(t.encode()[17:60] not in kept for t in (first, second, third))
    e.new_token()
    actions = [a["action"] for a in pull.gateway.admin.get("/admin/v1/audit?limit=20").json()["data"]]
    assert "engine.token" in actions and "engine.token.revoke" in actions


def test_weft_makes_lists_and_revokes_an_engines_tokens(pull):
    e, d = pull.two, pull.digest["triage"]
    env = {**os.environ, "WEFT_ADMIN_URL": pull.gateway.admin_url, "WEFT_ADMIN_KEY": pull.gateway.admin_key, "WEFT_CONFIG": "/dev/null"}

    def weft(*args, status=0):
        done = subprocess.run([BIN / "weft", "engine-token", *args], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout

    before, new = e.blob_token, weft("create", "two", "--grace", "1h").rstrip("\n")
    e.token_file.write_text(new)
    assert [e.blob(d, t).status_code for t in (before, new)] == [200, 200]
    e.forget(d)
    assert e.fetch(d).status_code == 200
    head, first, second = weft("list", "two").splitlines()
    assert "LAST USED" in head and first.startswith(new.split("_")[1]) and second.startswith(before.split("_")[1]) and new not in first + second
    assert weft("create", "none", status=5) == ""
    assert weft("revoke", "two") == "" and weft("list", "two").splitlines() == ["ID  CREATED  ENDS  LAST USED"]
    assert [e.blob(d, t).status_code for t in (before, new)] == [401, 401]
    e.new_token()


def test_what_a_token_opens(pull):
    e, d = pull.one, pull.digest["sql"]
    listed = e.blob(d).json()
    assert listed["digest"] == d and sorted(f["name"] for f in listed["files"]) == sorted(FILES)
    assert e.blob("").status_code == 404 and e.blob("0" * 64).status_code == 404 and e.blob("x").status_code == 404
    assert e.blob(f"{d}/lock").status_code == 404
    assert e.blob(d, pull.tenant.key).status_code == 401 and e.blob(d, pull.gateway.admin_key).status_code == 401
    for url in (pull.gateway.admin_url + "/admin/v1/engines", pull.gateway.url + "/v1/adapters", pull.gateway.url + "/v1/models"):
        assert httpx.get(url, headers={"Authorization": f"Bearer {e.blob_token}"}, timeout=10).status_code == 401
    assert httpx.get(f"{pull.gateway.blob_url}/weft/v1/blobs/{d}", timeout=10).status_code == 401
    assert httpx.get(f"{pull.gateway.blob_url}/admin/v1/engines", timeout=10).status_code == 404
    # An engine of another base, and one that is not local where the tenant is private.
    for name, base in (("elsewhere", "another-base"), ("far", BASE)):
        r = pull.gateway.admin.post("/admin/v1/engines", json={"name": name, "base": base, "url": "http://127.0.0.1:9", "local": False})
        assert r.status_code == 201, r.text
    token = {n: pull.gateway.admin.post(f"/admin/v1/engines/{n}/token").json()["token"] for n in ("elsewhere", "far")}
    assert e.blob(d, token["elsewhere"]).status_code == 404 and e.blob(d, token["far"]).status_code == 200
    r = pull.gateway.admin.patch("/admin/v1/tenants/acme", json={"private": True}, headers={"If-Match": "*"})
    assert r.status_code == 200, r.text
    assert e.blob(d, token["far"]).status_code == 404 and e.blob(d).status_code == 200
    assert pull.gateway.admin.patch("/admin/v1/tenants/acme", json={"private": False}, headers={"If-Match": "*"}).status_code == 200
    for name in token:
        assert pull.gateway.admin.delete(f"/admin/v1/engines/{name}").status_code == 200
        assert e.blob(d, token[name]).status_code == 401


def test_parts_of_a_file(pull):
    e, path = pull.one, f"{pull.digest['sql']}/adapter_model.safetensors"
    whole = (DEMO / "sql/adapter_model.safetensors").read_bytes()
    n = len(whole)
    assert e.blob(path).content == whole
    head = e.blob(path, method="HEAD")
    assert head.status_code == 200 and int(head.headers["content-length"]) == n and head.headers["accept-ranges"] == "bytes"
    for said, first, last in (("bytes=0-", 0, n), (f"bytes={n - 1}-", n - 1, n), ("bytes=5-9", 5, 10), (f"bytes=7-{10 * n}", 7, n)):
        r = e.blob(path, Range=said)
        assert r.status_code == 206 and r.content == whole[first:last] and r.headers["content-range"] == f"bytes {first}-{last - 1}/{n}"
    assert e.blob(path, Range=f"bytes={n}-").status_code == 416
    for odd in ("bytes=-5", "bytes=9-5", "bytes=1-2,4-5", "items=0-", "bytes=1-x"):
        assert e.blob(path, Range=odd).status_code == 200


def test_an_adapter_that_is_deleted_meanwhile_is_not_there(pull):
    pull.two.set("disable")
    weights = (DEMO / "pirate/adapter_model.safetensors").read_bytes()
    changed = weights[:-2] + bytes([weights[-2] ^ 1]) + weights[-1:]
    r = pull.tenant.upload("brief", folder=DEMO / "pirate", weights=changed)
    assert r.status_code == 201, r.text
    with pull.tenant.http() as c:
        digest = c.get("/v1/adapters/brief/versions/1").json()["digest"]
        pull.one.forget(digest)
        pull.one.wire.plan(cut=100_000, match="safetensors", delay_ms=30)
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            load = beside.submit(pull.one.fetch, digest)
            until(lambda: pull.one.left(), what="a pull under way")
            assert c.delete("/v1/adapters/brief").status_code == 200
            r = load.result()
        assert r.status_code == 404 and digest not in pull.one.blobs(), r.text


def test_bytes_that_another_tenant_has_too_are_tested_where_the_engine_let_them_go(pull):
    """The gateway believes that the engine has them; that is put right."""
    pull.two.set("disable")
    t = pull.gateway.tenant("beside")
    r = t.upload("same", folder=DEMO / "pirate")
    assert r.status_code == 201 and pull.digest["pirate"] in pull.one.blobs(), r.text
    with t.http() as c:
        assert c.delete("/v1/adapters/same").status_code == 200


def test_a_deleted_adapter_leaves_the_engines_store(pull):
    weights = (DEMO / "pirate/adapter_model.safetensors").read_bytes()
    changed = weights[:-2] + bytes([weights[-2] ^ 2]) + weights[-1:]
    pull.two.set("disable")
    assert pull.tenant.upload("leaver", folder=DEMO / "pirate", weights=changed).status_code == 201
    with pull.tenant.http() as c:
        digest = c.get("/v1/adapters/leaver/versions/1").json()["digest"]
        assert digest in pull.one.blobs()
        assert c.delete("/v1/adapters/leaver").status_code == 200
    until(lambda: digest not in pull.one.blobs(), what="its leaving")


def test_an_engine_that_is_killed_in_mid_pull_begins_clean(pull):
    e, d = pull.one, pull.digest["sql"]
    e.wire.plan(stall=1_000_000, match="safetensors")
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        load = beside.submit(lambda: httpx.post(e.url + LOAD, json={"lora_name": d}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60))
        until(lambda: list((e.store / "tmp").glob("*/adapter_model.safetensors")), what="a half-fetched file")
        puller = e.puller()
        e.process.send_signal(signal.SIGKILL)
        e.process.wait(30)
        assert load.exception() is not None
    until(lambda: not alive(puller), 5, "the puller's end")
    (e.store / "tmp/abcdef").mkdir(exist_ok=True)  # what a power cut leaves
    (e.store / "tmp/abcdef/adapter_model.safetensors").write_bytes(b"half")
    e.wire.plan()
    e.restart()
    assert e.left() == [] and d not in e.blobs()
    assert e.fetch(d).status_code == 200 and d in e.blobs()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_the_process_of_a_pull_may_die_alone(pull):
    e, d = pull.one, pull.digest["sql"]
    e.wire.plan(stall=1_000_000, match="safetensors")
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        load = beside.submit(e.fetch, d)
        until(lambda: list((e.store / "tmp").glob("*/adapter_model.safetensors")), what="a half-fetched file")
        for pid in Path(f"/proc/{e.puller()}/task/{e.puller()}/children").read_text().split():
            os.kill(int(pid), signal.SIGSEGV)
        assert load.result().status_code == 503
    assert e.left() == [] and e.state()["pull"]["bytes"] == 0
    e.wire.plan()
    assert e.fetch(d).status_code == 200


def test_an_engine_whose_puller_ends_ends_too(pull):
    e = pull.one
    os.kill(e.puller(), signal.SIGKILL)
    assert e.process.wait(30) == 5
    e.restart()


def test_a_damaged_file_in_the_store_is_found_and_fetched_again(pull):
    e, d = pull.one, pull.digest["sql"]
    assert e.fetch(d).status_code == 200
    e.terminate()
    path = e.store / d[:2] / d / "adapter_model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:50_000] + bytes([good[50_000] ^ 1]) + good[50_001:])
    e.restart()
    assert e.fetch(d).status_code == 200 and path.read_bytes() == good
    assert "blob_damaged" in e.log.read_text()
    shutil.rmtree(path.parent)  # and one that somebody took away
    e.terminate()
    e.restart()
    assert e.fetch(d).status_code == 200 and path.read_bytes() == good


def test_what_is_not_in_use_makes_room_and_what_is_stays(pull, tmp_path):
    sizes = {n: sum((DEMO / n / f).stat().st_size for f in FILES) for n in pull.digest}
    assert sizes["pirate"] + sizes["sql"] < sizes["pirate"] + sizes["triage"] < 7 << 20 < sizes["sql"] + sizes["triage"]
    e = Puller(tmp_path / "small", pull.gateway, "small", "--store-mb", "7", "--max-slots", "1")

    def holds(*names):
        return e.blobs() == sorted(pull.digest[n] for n in names) and e.state()["pull"]["bytes"] == sum(sizes[n] for n in names)
    try:
        assert e.fetch(pull.digest["pirate"]).status_code == 200
        assert e.fetch(pull.digest["sql"]).status_code == 200  # in the slot; the first one is only remembered
        assert holds("pirate", "sql")
        assert e.fetch(pull.digest["triage"]).status_code == 503  # too much beside what is in use
        assert holds("pirate", "sql") and "no_room" in e.log.read_text()  # so nothing went for it
        assert e.fetch(pull.digest["pirate"]).status_code == 200  # takes the slot
        assert e.fetch(pull.digest["triage"]).status_code == 200
        assert holds("pirate", "triage") and e.left() == []
        # What went for room is unknown, not broken.
        r = e.http.post("/v1/completions", json={"model": pull.digest["sql"], "prompt": "a", "max_tokens": 1})
        assert r.status_code == 404, r.text
    finally:
        assert pull.gateway.admin.delete("/admin/v1/engines/small").status_code == 200
        e.close()


def test_a_full_disk_is_said_and_leaves_no_part(pull, tmp_path):
    """The disk is a file-size limit: a write beyond it fails like one on a full disk does."""
    e = pull.one
    puller = e.puller()
    before = resource.prlimit(puller, resource.RLIMIT_FSIZE)
    resource.prlimit(puller, resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        r = e.fetch(pull.digest["sql"])
        assert r.status_code == 503 and "store" in r.json()["error"]["message"], r.text
        assert e.left() == [] and e.blobs() == [] and e.state()["pull"]["bytes"] == 0
    finally:
        resource.prlimit(puller, resource.RLIMIT_FSIZE, before)
    assert e.fetch(pull.digest["sql"]).status_code == 200


def test_over_tls_the_gateways_certificate_is_verified(pull, tmp_path):
    ours = Authority(tmp_path / "ca", "ours")
    way = Way(pull.gateway.blob_url, tls=ours.sign("gateway"))
    e = Puller(tmp_path / "tls", pull.gateway, "tls", "--pull-ca-file", str(ours.pem), url=way.url)
    try:
        assert e.fetch(pull.digest["sql"]).status_code == 200
        e.forget(pull.digest["sql"])
        e.terminate()
        e.extra = tuple(x for x in e.extra if x not in ("--pull-ca-file", str(ours.pem)))
        e.restart()
        r = e.fetch(pull.digest["sql"])
        assert r.status_code == 503 and "certificate" in r.json()["error"]["message"] and e.blobs() == [], r.text
    finally:
        assert pull.gateway.admin.delete("/admin/v1/engines/tls").status_code == 200
        e.close()
        way.close()


def test_two_engines_do_not_share_a_store(pull, tmp_path):
    with pytest.raises(AssertionError, match="another engine's"):
        Engine(tmp_path / "same", *pull.one.extra, store=pull.one.store)


INET, STREAM, REFUSED, DENIED, NO_SUCH = 2, 1, -errno.EPERM, -errno.EACCES, -errno.ENOENT


def children(pid):
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Midway:
    """A pull that stands still in the middle of its weights; .keeper and .fetcher are its processes, .said what the one who asked hears."""

    def __init__(self, engine, digest):
        self.engine = engine
        engine.wire.plan(stall=1_000_000, match="safetensors")
        before, others = set(engine.left()), set(children(engine.puller()))
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.load = self.pool.submit(engine.fetch, digest)
        until(lambda: [p for p in (engine.store / "tmp").glob("*/adapter_model.safetensors") if p.parent.name not in before], what="a half-fetched file")
        self.folder = next(engine.store / "tmp" / name for name in engine.left() if name not in before)
        self.keeper = (set(children(engine.puller())) - others).pop()
        self.fetcher = children(self.keeper)[0]

    def said(self):
        answer = self.load.result()
        self.pool.shutdown()
        self.engine.wire.plan()
        return answer


def test_the_engine_itself_has_no_network_and_no_processes(pull):
    e = pull.one
    with Inside(e.process.pid) as engine:
        assert engine.call("socket", INET, STREAM, 0) == engine.call("socket", 1, STREAM, 0) == REFUSED
        assert engine.call("fork") == engine.call("execve", "/bin/true", 0, 0) == engine.call("kill", 1, 0) == REFUSED
        assert engine.call("open", pull.gateway.data / "weft.db", 0, 0) == DENIED
        assert engine.call("open", e.store / "tmp" / "new", os.O_RDWR | os.O_CREAT, 0o600) == DENIED
        assert engine.call("open", e.token_file, 0, 0) == DENIED
    assert e.fetch(pull.digest["sql"]).status_code == 200  # it goes on as it was


def test_the_puller_starts_no_program_and_nobody_connects_to_it(pull):
    e = pull.one
    assert "puller_not_confined" not in e.log.read_text()
    with Inside(e.puller()) as puller:
        fd = puller.call("socket", INET, STREAM, 0)
        assert fd > 2 and puller.call("socket", 1, STREAM, 0) == REFUSED
        assert puller.call("bind", fd, b"\2\0" + bytes(14), 16) == puller.call("listen", fd, 1) == REFUSED
        assert puller.call("execve", "/bin/true", 0, 0) == puller.call("kill", 1, 0) == puller.call("ptrace", 16, 1, 0, 0) == REFUSED
        assert puller.call("open", pull.gateway.data / "weft.db", 0, 0) == puller.call("open", "/etc/passwd", 0, 0) == DENIED
    assert e.fetch(pull.digest["sql"]).status_code == 200


def test_who_takes_over_a_fetcher_has_its_own_folder_and_nothing_else_of_the_store(pull):
    e = pull.one
    assert e.fetch(pull.digest["pirate"]).status_code == 200
    other = e.store / pull.digest["pirate"][:2] / pull.digest["pirate"] / "adapter_model.safetensors"
    half = Midway(e, pull.digest["sql"])
    with Inside(half.fetcher) as fetcher:
        assert fetcher.call("open", half.folder / "new", os.O_RDWR | os.O_CREAT, 0o600) > 2  # this much it may
        assert fetcher.call("open", other, os.O_RDWR, 0) == fetcher.call("open", other, 0, 0) == fetcher.call("open", e.store, 0, 0) == DENIED
        assert fetcher.call("unlink", other) == fetcher.call("mkdir", half.folder / "folder", 0o700) == DENIED
        assert fetcher.call("symlink", other, half.folder / "link") == REFUSED
        assert fetcher.call("rename", half.folder / "new", other) < 0 and fetcher.call("rename", half.folder, e.store / "ab") < 0
        assert fetcher.call("fork") == fetcher.call("vfork") == fetcher.call("clone", 17, 0, 0, 0, 0) == REFUSED
        assert fetcher.call("execve", "/bin/true", 0, 0) == fetcher.call("kill", e.puller(), 0) == REFUSED
        assert fetcher.call("tgkill", e.puller(), e.puller(), 0) == fetcher.call("tgkill", half.fetcher, half.fetcher, 0) == REFUSED
        assert fetcher.call("prctl", 1, 0) == REFUSED  # its end with its keeper's
    assert sorted(p.name for p in half.folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "new"]
    lines = [os.readlink(f) for f in Path(f"/proc/{half.fetcher}/fd").iterdir()]
    assert [x for x in lines if not x.startswith(("socket:", "/dev/null", str(half.folder)))] == []
    e.wire.plan()
    r = half.said()
    assert r.status_code == 503 and "not the files that were asked for" in r.json()["error"]["message"], r.text  # for what it made beside them
    assert pull.digest["sql"] not in e.blobs() and e.state()["pull"]["bytes"] == sum(f.stat().st_size for f in other.parent.iterdir())
    assert e.fetch(pull.digest["sql"]).status_code == 200


def test_a_fetcher_that_hangs_is_ended_and_what_it_fetched_removed(pull, tmp_path):
    e = Puller(tmp_path / "hang", pull.gateway, "hang", "--pull-s", "2", "--pull-stall-s", "1")
    try:
        half = Midway(e, pull.digest["sql"])
        os.kill(half.fetcher, signal.SIGSTOP)
        begun = time.monotonic()
        r = half.said()
        assert r.status_code == 503 and r.json()["error"]["code"] == "adapter_fetch_failed" and time.monotonic() - begun < 12, r.text
        assert e.left() == [] and not alive(half.fetcher) and not alive(half.keeper)
        assert e.fetch(pull.digest["sql"]).status_code == 200
    finally:
        assert pull.gateway.admin.delete("/admin/v1/engines/hang").status_code == 200
        e.close()


def test_keepers_that_cannot_be_ended_give_their_places_to_others(pull, tmp_path):
    """Stopped, they heed no alarm: as processes do that a disk holds."""
    e = Puller(tmp_path / "held", pull.gateway, "held", "--pull-s", "4", "--pull-stall-s", "2")
    names = [f"held-{i}" for i in range(4)]
    digests, stopped = [], []
    try:
        weights = (DEMO / "sql/adapter_model.safetensors").read_bytes()
        for i, name in enumerate(names):
            other = weights[:-4] + bytes([weights[-4] ^ (i + 1)]) + weights[-3:]
            assert pull.tenant.upload(name, config=(DEMO / "sql/adapter_config.json").read_bytes(), weights=other).status_code == 201
        with pull.tenant.http() as c:
            digests = [c.get(f"/v1/adapters/{name}/versions/1").json()["digest"] for name in names]
        for d in digests:
            e.forget(d)
        halves = []
        for d in digests:
            halves.append(Midway(e, d))
            stopped.append(halves[-1].keeper)
            os.kill(stopped[-1], signal.SIGSTOP)
        assert [h.said().status_code for h in halves] == [503] * 4
        assert "pull_process_hangs" in e.log.read_text() and all(alive(pid) for pid in stopped)
        assert e.state()["pull"]["pulling"] == 0
        assert e.fetch(pull.digest["sql"]).status_code == 200
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        until(lambda: children(e.puller()) == [] and e.left() == [], 15, "the end of those that hung")
        stopped = []
        assert e.fetch(digests[0]).status_code == 200
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert pull.gateway.admin.delete("/admin/v1/engines/held").status_code == 200
        with pull.tenant.http() as c:
            for name in names:
                c.delete(f"/v1/adapters/{name}")
        e.close()


def test_an_adapter_that_is_unloaded_while_it_is_fetched_does_not_come(pull):
    half = Midway(pull.one, pull.digest["sql"])
    begun = time.monotonic()
    r = pull.one.http.post("/v1/unload_lora_adapter", json={"lora_name": pull.digest["sql"]})
    assert r.status_code == 200 and time.monotonic() - begun < 8, r.text
    r = half.said()
    assert r.status_code == 404 and r.json()["error"]["code"] == "adapter_not_loaded", r.text
    assert pull.one.left() == [] and pull.one.blobs() == [] and pull.one.state()["pull"]["bytes"] == 0
    assert pull.one.fetch(pull.digest["sql"]).status_code == 200


@pytest.fixture
def disk(tmp_path):
    """mount(folder, bytes) puts a small disk there; skipped where this may not be done."""
    mounted = []

    def mount(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode:
            pytest.skip("no right to mount")
        mounted.append(folder)
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_what_is_not_in_use_goes(pull, tmp_path, disk):
    size = {n: sum((DEMO / n / f).stat().st_size for f in FILES) for n in pull.digest}
    first, second, third = sorted(pull.digest, key=size.get)
    disk(tmp_path / "full/store", sum(size.values()) - size[first] // 2)
    e = Puller(tmp_path / "full", pull.gateway, "full", "--max-slots", "1")
    try:
        for n in (first, second):
            assert e.fetch(pull.digest[n]).status_code == 200
        assert len(e.blobs()) == 2
        r = e.fetch(pull.digest[third])
        assert r.status_code == 200, r.text
        assert e.blobs() == sorted((pull.digest[second], pull.digest[third])) and e.left() == []
        e.forget(pull.digest[second])
        free = os.statvfs(e.store)
        (e.store / "others").write_bytes(bytes(free.f_bavail * free.f_bsize - size[second] // 2))  # of somebody else: nothing of ours can make that room
        r = e.fetch(pull.digest[second])
        assert r.status_code == 503 and "disk" in r.json()["error"]["message"], r.text
        assert e.left() == [] and e.state()["pull"]["bytes"] == size[third]
    finally:
        assert pull.gateway.admin.delete("/admin/v1/engines/full").status_code == 200
        e.close()


def test_a_folder_that_cannot_be_removed_is_put_aside(pull):
    """It is deeper than what is ever removed: the adapter is fetched all the same, and the next start does not stumble over what is left."""
    e, d = pull.one, pull.digest["sql"]
    place = e.store / d[:2] / d
    (place / "/".join("abcdefghijkl")).mkdir(parents=True)
    assert e.fetch(d).status_code == 200 and sorted(p.name for p in place.iterdir()) == sorted(FILES)
    aside = [n for n in e.left() if n.startswith("aside-")]
    assert len(aside) == 1 and re.search(rf"event=blob_stays .*{aside[0]}", e.log.read_text())
    e.terminate()
    e.restart()
    assert aside == e.left() and e.fetch(d).status_code == 200 and "store_tmp_stays" in e.log.read_text()
    shutil.rmtree(e.store / "tmp" / aside[0])


def test_a_folder_that_cannot_even_be_moved_is_named_and_costs_no_wire(pull, disk):
    e, d = pull.one, pull.digest["sql"]
    disk(e.store / d[:2] / d, 65536)
    e.wire.plan(cut=0)
    r = e.fetch(d)
    assert r.status_code == 503 and d in r.json()["error"]["message"] and "can't be moved" in r.json()["error"]["message"], r.text
    assert e.left() == []
