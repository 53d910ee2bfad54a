"""Idempotency-Key: one effect and one answer, however often and whenever a POST is sent again."""

import random
import sqlite3
import threading
import uuid

import httpx

from gateway_process import DEMO, until

DAY_US = 86400 * 1000000


def post(g, path, body, key, bearer=None):
    headers = {"Authorization": f"Bearer {bearer or g.admin_key}", "Idempotency-Key": key}
    return httpx.post(g.admin_url + path, json=body, headers=headers, timeout=30)


def names(g):
    """All labels of admin keys that are in force, page by page."""
    found, after = [], {}
    while True:
        page = g.admin.get("/admin/v1/admin-keys", params={"limit": 100, **after}).json()
        found += [k["name"] for k in page["data"] if k["name"]]
        if not page["has_more"]:
            return found
        after = {"after": page["last_id"]}


def test_a_repeated_post_has_one_effect_and_the_same_answer(start):
    g = start(fake=True)
    first = post(g, "/admin/v1/tenants", {"name": "once"}, "k1")
    again = post(g, "/admin/v1/tenants", {"name": "once"}, "k1")
    assert (first.status_code, again.status_code) == (201, 201), again.text
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert post(g, "/admin/v1/tenants", {"name": "once"}, "k2").status_code == 409  # another key: tried, and refused
    rows = g.admin.get("/admin/v1/audit", params={"limit": 100}).json()["data"]
    assert len([r for r in rows if r["action"] == "tenant.create" and r["target"] == "once"]) == 1


def test_a_secret_is_shown_again_to_its_maker_and_lies_nowhere_in_the_open(start):
    g = start(fake=True)
    first = post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": "shown"}, "secret-1")
    again = post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": "shown"}, "secret-1")
    assert first.json()["key"] == again.json()["key"] and again.headers["cache-control"] == "no-store"
    key = first.json()["key"]
    assert httpx.get(g.admin_url + "/admin/v1/tenants", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert names(g).count("shown") == 1
    g.stop()
    secret = key.split("_")[2].encode()
    for path in g.data.glob("weft.db*"):
        data = path.read_bytes()
        assert secret not in data and secret.hex().encode() not in data, path
    assert secret not in g.log.read_bytes()


def act(g, t, path, key, **query):
    return httpx.post(f"{g.url}/v1/adapters/{path}", params=query, headers={"Authorization": f"Bearer {t.key}", "Idempotency-Key": key}, timeout=30)


def test_what_is_done_with_an_adapter_is_done_once(start):
    """Without a version it is the newest that fits: archived a second time that would be another."""
    g = start(fake=True)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201 and t.upload("sql", DEMO / "pirate").status_code == 201
    states = lambda: {v["version"]: (v["state"], v["pinned"]) for v in t.http().get("/v1/adapters/sql").json()["versions"]}
    until(lambda: states() == {1: ("ready", False), 2: ("ready", False)}, what="both")
    for what, key, after in (("sql/versions/1/pin", "k-pin", {1: ("ready", True), 2: ("ready", False)}), ("sql/versions/1/pin", "k-pin-again", {1: ("ready", True), 2: ("ready", False)}),
                             ("sql/versions/1/unpin", "k-unpin", {1: ("ready", False), 2: ("ready", False)}), ("sql/archive", "k-archive", {1: ("ready", False), 2: ("archived", False)})):
        first, again = act(g, t, what, key), act(g, t, what, key)
        assert (first.status_code, again.status_code) == (200, 200), again.text
        assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true", what
        assert again.json() == first.json() and first.json()["object"] == "adapter" and isinstance(first.json()["residency"], list)
        assert states() == after, what
    assert act(g, t, "sql/versions/1/archive", "k-archive").status_code == 422  # another request
    first, again = act(g, t, "sql/restore", "k-restore", wait="ready"), act(g, t, "sql/restore", "k-restore", wait="ready")
    assert (first.json()["state"], again.json()["state"], again.json()["version"]) == ("ready", "validating", 2) and again.headers["idempotent-replayed"] == "true"
    assert act(g, t, "sql/restore", "k-restore-2").status_code == 404 and states() == {1: ("ready", False), 2: ("ready", False)}
    assert act(g, t, "gone/pin", "k-gone").status_code == 404 and act(g, t, "gone/pin", "k-gone").headers.get("idempotent-replayed") is None


def test_an_upload_is_completed_once(start):
    g = start(fake=True)
    t = g.tenant("acme")
    with t.http() as c:
        up = c.post("/v1/adapters/sql/uploads", json={}).json()
        for name, file in (("config", "adapter_config.json"), ("weights", "adapter_model.safetensors")):
            data = (DEMO / "sql" / file).read_bytes()
            assert c.put(f"/v1/adapters/sql/uploads/{up['id']}/{name}", content=data, headers={"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}).status_code == 200
        until(lambda: c.get(f"/v1/adapters/sql/uploads/{up['id']}").json()["files"]["weights"]["received"] == len(data), what="all bytes")
        first, again = (act(g, t, f"sql/uploads/{up['id']}/complete", "k") for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 202) and again.headers["idempotent-replayed"] == "true", again.text
        assert again.json() == first.json() and first.json()["state"] == "validating" and again.json()["files"]["weights"]["received"] == len(data)
        until(lambda: c.get("/v1/adapters/sql/versions/1").json()["state"] == "ready", what="the version")
        assert act(g, t, f"sql/uploads/{up['id']}/complete", "k").json() == again.json()
        told, again = (act(g, t, f"sql/uploads/{up['id']}/complete", "other") for _ in range(2))  # said again it says how things stand
        assert (told.status_code, told.json()["state"], again.json()) == (200, "done", told.json()) and again.headers["idempotent-replayed"] == "true"


def test_the_same_key_for_another_request_is_refused(start):
    g = start(fake=True)
    assert post(g, "/admin/v1/tenants", {"name": "a"}, "same").status_code == 201
    for path, body in (("/admin/v1/tenants", {"name": "b"}), ("/admin/v1/admin-keys", {"name": "a"}), ("/admin/v1/tenants?x=1", {"name": "a"})):
        r = post(g, path, body, "same")
        assert r.status_code == 422 and r.json()["error"]["code"] == "idempotency_key_reused", r.text
    assert g.admin.get("/admin/v1/tenants/b").status_code == 404


def test_keys_are_each_actors_own(start):
    g = start(fake=True)
    other = g.admin.post("/admin/v1/admin-keys", json={"roles": ["admin"]}).json()["key"]
    assert post(g, "/admin/v1/tenants", {"name": "mine"}, "k").status_code == 201
    r = post(g, "/admin/v1/tenants", {"name": "theirs"}, "k", bearer=other)
    assert r.status_code == 201 and "idempotent-replayed" not in r.headers


def test_a_refusal_is_not_kept(start):
    g = start(fake=True)
    assert post(g, "/admin/v1/tenants/late/keys", {"roles": ["billing"]}, "k").status_code == 404
    assert g.admin.post("/admin/v1/tenants", json={"name": "late"}).status_code == 201
    r = post(g, "/admin/v1/tenants/late/keys", {"roles": ["billing"]}, "k")
    assert r.status_code == 201 and "idempotent-replayed" not in r.headers, r.text


def test_keys_that_are_no_keys_are_refused(start):
    g = start(fake=True)
    for key in ("", "two words", "x" * 256, "\u00e9".encode("latin-1")):
        r = post(g, "/admin/v1/tenants", {"name": "never"}, key)
        assert r.status_code == 400 and r.json()["error"]["param"] == "Idempotency-Key", r.text
    assert post(g, "/admin/v1/tenants", {"name": "ever"}, "x" * 255).status_code == 201


def test_of_many_at_once_one_has_the_effect(start):
    g = start(fake=True)
    for i in range(8):
        answers, gate = [], threading.Barrier(12)

        def ask():
            gate.wait()
            answers.append(post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": f"race{i}"}, f"race-{i}"))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert {r.status_code for r in answers} <= {201, 409}, [r.text for r in answers]
        good = [r for r in answers if r.status_code == 201]
        assert len({r.json()["key"] for r in good}) == 1
        assert len([r for r in good if "idempotent-replayed" not in r.headers]) == 1
    found = names(g)
    assert sorted(n for n in found if n.startswith("race")) == [f"race{i}" for i in range(8)]


def test_an_answer_is_forgotten_after_a_day_and_its_row_removed(start):
    g = start(fake=True)
    assert post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": "old"}, "day").status_code == 201
    assert post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": "young"}, "hours").status_code == 201
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as c:
        assert c.execute("UPDATE idempotency SET t = t - ? WHERE key = 'day'", (DAY_US,)).rowcount == 1
        c.execute("UPDATE idempotency SET t = t - ? WHERE key = 'hours'", (DAY_US - 600 * 1000000,))
    g.start()
    assert "idempotent-replayed" in post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": "young"}, "hours").headers
    fresh = post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": "old"}, "day")
    assert fresh.status_code == 201 and "idempotent-replayed" not in fresh.headers
    assert names(g).count("old") == 2
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as c:
        c.execute("UPDATE idempotency SET t = t - ?", (DAY_US,))
    g.start()
    post(g, "/admin/v1/tenants", {"name": "sweeper"}, "sweep")
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as c:
        assert [k for k, in c.execute("SELECT key FROM idempotency")] == ["sweep"]


def test_after_a_kill_a_repeated_post_still_has_one_effect(start):
    """What was answered before the kill is answered the same; what was not has its effect once, before the kill or after."""
    g = start(fake=True)
    want, answered, lock = [], {}, threading.Lock()
    for _ in range(4):
        over = threading.Event()

        def ask(g=g, over=over):
            with httpx.Client(base_url=g.admin_url, headers={"Authorization": f"Bearer {g.admin_key}"}, timeout=5) as c:
                while not over.is_set():
                    name = str(uuid.uuid4())
                    with lock:
                        want.append(name)
                    try:
                        r = c.post("/admin/v1/admin-keys", json={"roles": ["viewer"], "name": name}, headers={"Idempotency-Key": name})
                    except httpx.HTTPError:
                        return
                    with lock:
                        answered[name] = r.json()["key"]

        threads = [threading.Thread(target=ask) for _ in range(8)]
        [t.start() for t in threads]
        goal = len(answered) + random.randint(5, 40)
        until(lambda: len(answered) >= goal, what="enough answers")
        g.kill()
        over.set()
        [t.join() for t in threads]
        g.start()
    assert answered and len(answered) < len(want), (len(answered), len(want))
    for name in want:
        r = post(g, "/admin/v1/admin-keys", {"roles": ["viewer"], "name": name}, name)
        assert r.status_code == 201, r.text
        assert answered.setdefault(name, r.json()["key"]) == r.json()["key"]
    assert sorted(names(g)) == sorted(want + ["made on the command line"])
    assert g.admin.get("/admin/v1/audit/verify").json()["valid"]
