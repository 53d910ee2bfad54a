"""Keys over HTTP: tenants who manage their own, rotation with grace, revocation under load, revisions, repeated requests, what reaches the engine. On a
gateway of this file's own with the fake engine."""

import contextlib
import http.client
import itertools
import sqlite3
import threading
import time

import httpx
import pytest

from gateway_process import BASE, Gateway, until

CHAT = {"model": BASE, "messages": [{"role": "user", "content": "tokens=1"}]}
_serial = itertools.count()


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("keys"), fake=True)
    yield g
    g.close()


@pytest.fixture
def tenant(g):
    return g.tenant(f"k{next(_serial):03}")


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def public(g, key, prefix=""):
    return httpx.Client(base_url=g.url + prefix, headers=bearer(key), timeout=30)


def id_of(key):
    return key.split("_")[1]


def refused(r, status, code, param=None):
    assert r.status_code == status, r.text
    error = r.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    return error["message"]


def serves(g, key):
    r = httpx.get(g.url + "/v1/models", headers=bearer(key), timeout=20)
    assert r.status_code in (200, 401, 403), r.text
    return r.status_code == 200


# --- tenants manage their own ---


@pytest.mark.parametrize("in_path", [False, True])
def test_a_tenant_makes_lists_rotates_and_revokes_its_keys(g, tenant, in_path):
    with public(g, tenant.key, f"/t/{tenant.name}" if in_path else "") as c:
        made = c.post("/v1/keys", json={"name": "ci", "roles": ["inference"]})
        assert made.status_code == 201 and made.headers["cache-control"] == "no-store" and made.headers["etag"] == '"1"'
        key = made.json()
        assert (key["tenant"], key["created_by"], key["scopes"]) == (tenant.name, id_of(tenant.key), ["inference"])
        assert serves(g, key["key"])
        shown = c.get(f"/v1/keys/{key['id']}").json()
        assert shown == {k: v for k, v in key.items() if k != "key"}
        assert sorted(k["id"] for k in c.get("/v1/keys").json()["data"]) == sorted([key["id"], id_of(tenant.key)])
        new = c.post(f"/v1/keys/{key['id']}/rotate", json={"grace_s": 60}).json()
        assert new["replaces"]["id"] == key["id"] and serves(g, key["key"]) and serves(g, new["key"])
        for k in (key, new):
            assert c.delete(f"/v1/keys/{k['id']}").status_code == 200
            assert not serves(g, k["key"])
    rows = g.admin.get("/admin/v1/audit", params={"limit": 4}).json()["data"]
    assert [(r["action"], r["actor"]) for r in rows] == [(a, id_of(tenant.key)) for a in ("key.revoke", "key.revoke", "key.rotate", "key.create")]


@pytest.mark.parametrize("role", ["writer", "inference", "billing"])
def test_other_roles_have_no_say_over_keys(g, tenant, role):
    with public(g, g.key(tenant.name, [role])) as c:
        for r in (c.get("/v1/keys"), c.post("/v1/keys", json={"roles": [role]}), c.get(f"/v1/keys/{id_of(tenant.key)}"),
                  c.delete(f"/v1/keys/{id_of(tenant.key)}"), c.post(f"/v1/keys/{id_of(tenant.key)}/rotate")):
            refused(r, 403, "insufficient_permissions")
    assert serves(g, tenant.key)


def test_another_tenants_keys_are_not_there(g, tenant):
    other = g.tenant(tenant.name + "-other")
    with public(g, tenant.key) as c:
        for absent in (id_of(other.key), id_of(g.admin_key), "000000000000"):
            answers = [c.get(f"/v1/keys/{absent}"), c.delete(f"/v1/keys/{absent}"), c.post(f"/v1/keys/{absent}/rotate", json={"grace_s": 0})]
            for r in answers:
                assert refused(r, 404, "not_found").replace(absent, "ID") == "There is no key 'ID'."
        assert [k["id"] for k in c.get("/v1/keys").json()["data"]] == [id_of(tenant.key)]
        refused(httpx.get(f"{g.url}/t/{other.name}/v1/keys", headers=bearer(tenant.key)), 401, "invalid_api_key")
    assert serves(g, other.key)


def test_no_key_gives_what_it_lacks(g, tenant):
    end = int(time.time()) + 1000
    r = g.admin.post(f"/admin/v1/tenants/{tenant.name}/keys", json={"scopes": ["keys", "inference"], "expires_at": end})
    with public(g, r.json()["key"]) as c:
        for body in ({"roles": ["admin"], "expires_at": end}, {"scopes": ["usage"], "expires_at": end}, {"roles": ["writer"], "expires_at": end}):
            refused(c.post("/v1/keys", json=body), 403, "insufficient_permissions")
        for late in ({}, {"expires_at": end + 1}):
            refused(c.post("/v1/keys", json={"scopes": ["inference"], **late}), 400, "invalid_value", "expires_at")
        refused(c.post(f"/v1/keys/{id_of(tenant.key)}/rotate"), 403, "insufficient_permissions")
        refused(c.delete(f"/v1/keys/{id_of(tenant.key)}"), 403, "insufficient_permissions")
        own = c.post(f"/v1/keys/{r.json()['id']}/rotate").json()
        assert own["expires_at"] == end
        assert c.post("/v1/keys", json={"scopes": ["inference"], "expires_at": end}).status_code in (201, 401)
    assert serves(g, tenant.key)


def test_limits_of_a_key_bind_the_one_that_replaces_it_at_once(g, tenant):
    key = g.key(tenant.name, ["admin"])
    assert g.admin.put(f"/admin/v1/keys/{id_of(key)}/limits", json={"requests_per_minute": 1}).status_code == 200
    with public(g, key) as c:
        child = c.post("/v1/keys", json={"roles": ["inference"]}).json()["key"]
        renewed = c.post(f"/v1/keys/{id_of(key)}/rotate", json={}).json()["key"]
    for k in (child, renewed):
        asked = [httpx.post(g.url + "/v1/chat/completions", json=CHAT, headers=bearer(k), timeout=20).status_code for _ in range(2)]
        assert asked == [200, 429], k[:16]


# --- rotation ---


def test_both_keys_work_until_the_grace_is_over(g, tenant):
    old = tenant.key
    r = g.admin.post(f"/admin/v1/keys/{id_of(old)}/rotate", json={"grace_s": 2})
    assert r.status_code == 201
    end = r.json()["replaces"]["expires_at"]
    assert serves(g, old) and serves(g, r.json()["key"])
    until(lambda: not serves(g, old), what="the end of the grace")
    assert time.time() >= end
    assert serves(g, r.json()["key"])
    refused(g.admin.post(f"/admin/v1/keys/{id_of(old)}/rotate"), 409, "conflict")


def test_without_a_body_the_grace_is_a_day(g, tenant):
    r = g.admin.post(f"/admin/v1/keys/{id_of(tenant.key)}/rotate")
    assert r.status_code == 201 and abs(r.json()["replaces"]["expires_at"] - time.time() - 86400) < 60


@pytest.mark.parametrize("body, param", [({"grace_s": -1}, "grace_s"), ({"grace_s": 2592001}, "grace_s"), ({"grace_s": 1.5}, "grace_s"), ({"grace_s": "1"}, "grace_s"),
                                         ({"expires_at": 0}, "expires_at"), ({"grace": 5}, "grace")], ids=str)
def test_a_bad_rotation_is_refused_by_the_fields_name(g, tenant, body, param):
    refused(g.admin.post(f"/admin/v1/keys/{id_of(tenant.key)}/rotate", json=body), 400, "invalid_value", param)
    assert g.admin.get(f"/admin/v1/keys/{id_of(tenant.key)}").json()["replaced_by"] is None


def test_a_rotation_that_is_sent_again_makes_one_key_and_shows_the_same_text(g, tenant):
    headers = {"Idempotency-Key": f"rotate {tenant.name}".replace(" ", "-")}
    answers = [g.admin.post(f"/admin/v1/keys/{id_of(tenant.key)}/rotate", json={"grace_s": 60}, headers=headers) for _ in range(3)]
    assert [r.status_code for r in answers] == [201] * 3 and len({r.text for r in answers}) == 1
    assert serves(g, answers[2].json()["key"])
    assert len(g.admin.get(f"/admin/v1/tenants/{tenant.name}/keys").json()["data"]) == 2
    secret = answers[0].json()["key"].split("_")[2].encode()
    files = [p for p in g.data.rglob("*") if p.is_file()] + [g.log]
    assert not [p for p in files if secret in p.read_bytes()]


# --- revocation under load ---


class Hammer(threading.Thread):
    """Asks on one connection until told to stop; notes when each request began and what became of it."""

    def __init__(self, g, key, stop):
        super().__init__(daemon=True)
        self.address, self.headers, self.stop, self.seen = g.url[7:], bearer(key), stop, []

    def run(self):
        c = http.client.HTTPConnection(self.address, timeout=30)
        while not self.stop.is_set():
            began = time.monotonic()
            c.request("GET", "/v1/models", headers=self.headers)
            r = c.getresponse()
            r.read()
            self.seen.append((began, r.status))
        c.close()


def test_after_a_revocation_not_one_of_a_thousand_requests_is_served(g, tenant):
    late = 0
    for way in range(10):
        key = g.key(tenant.name, ["inference"])
        stop = threading.Event()
        hammers = [Hammer(g, key, stop) for _ in range(4)]
        for h in hammers:
            h.start()
        until(lambda: all(len(h.seen) > 3 for h in hammers), what="requests that are served")
        if way % 2:
            assert g.admin.delete(f"/admin/v1/keys/{id_of(key)}").status_code == 200
        else:
            with public(g, tenant.key) as c:
                assert c.post(f"/v1/keys/{id_of(key)}/rotate", json={"grace_s": 0}).status_code == 201
        revoked = time.monotonic()
        until(lambda: sum(t > revoked for h in hammers for t, _ in list(h.seen)) >= 120, what="requests after the revocation")
        stop.set()
        for h in hammers:
            h.join(30)
        seen = [x for h in hammers for x in h.seen]
        assert {s for _, s in seen} == {200, 401}
        assert [s for t, s in seen if t > revoked and s != 401] == []
        late += sum(t > revoked for t, _ in seen)
    assert late >= 1000


# --- changes and revisions ---


def test_a_change_of_a_key_is_in_force_at_once(g, tenant):
    key = g.key(tenant.name, ["inference"])
    assert serves(g, key)
    r = g.admin.patch(f"/admin/v1/keys/{id_of(key)}", json={"scopes": ["usage"], "name": "only usage"})
    assert r.status_code == 200 and (r.json()["roles"], r.json()["scopes"], r.json()["name"]) == ([], ["usage"], "only usage")
    assert not serves(g, key)
    assert httpx.get(g.url + "/v1/usage", headers=bearer(key)).status_code == 200
    assert g.admin.patch(f"/admin/v1/keys/{id_of(key)}", json={"expires_at": 1}).json()["expires_at"] == 1
    refused(httpx.get(g.url + "/v1/usage", headers=bearer(key)), 401, "invalid_api_key")
    assert g.admin.patch(f"/admin/v1/keys/{id_of(key)}", json={"expires_at": None}).json()["expires_at"] is None
    assert httpx.get(g.url + "/v1/usage", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("body, code, param", [
    ({}, "missing_required_parameter", None), ({"roles": []}, "missing_required_parameter", "roles"), ({"scopes": ["infer"]}, "invalid_value", "scopes"),
    ({"roles": ["viewer"]}, "invalid_value", "roles"), ({"expires_at": 0}, "invalid_value", "expires_at"), ({"tenant": "x"}, "invalid_value", "tenant"),
    ({"name": "é" * 101}, "invalid_value", "name")], ids=lambda x: str(x)[:40])
def test_a_bad_change_of_a_key_is_refused_and_changes_nothing(g, tenant, body, code, param):
    before = g.admin.get(f"/admin/v1/keys/{id_of(tenant.key)}").json()
    refused(g.admin.patch(f"/admin/v1/keys/{id_of(tenant.key)}", json=body), 400, code, param)
    assert g.admin.get(f"/admin/v1/keys/{id_of(tenant.key)}").json() == before


def changes(g, tenant):
    key = f"/admin/v1/keys/{id_of(g.key(tenant.name, ['billing']))}"
    own = "/v1/keys/" + id_of(g.key(tenant.name, ["billing"]))
    owner = public(g, tenant.key)
    return [(g.admin, "PATCH", f"/admin/v1/tenants/{tenant.name}", {"weight": 2}), (g.admin, "PATCH", key, {"name": "x"}),
            (g.admin, "POST", key + "/rotate", {"grace_s": 9}), (g.admin, "DELETE", key, None), (owner, "DELETE", own, None)]


def test_a_change_under_another_etag_is_refused(g, tenant):
    for client, method, path, body in changes(g, tenant):
        show = path.removesuffix("/rotate")
        before = client.get(show)
        for tag, status in (('"99"', 412), ('"0"', 412), ("W/\"1\"", 400), ("1", 400), ('"1", "2"', 400)):
            assert client.request(method, path, json=body, headers={"If-Match": tag}).status_code == status, (method, path, tag)
        assert client.request(method, path, json=body, headers={"If-None-Match": "*"}).status_code == 412
        assert client.get(show).json() == before.json()
        assert before.headers["etag"] == '"%d"' % before.json()["revision"]
        done = client.request(method, path, json=body, headers={"If-Match": before.headers["etag"]})
        assert done.status_code in (200, 201), done.text
        assert client.get(show).json()["revision"] == before.json()["revision"] + 1


def test_of_many_changes_from_one_reading_one_is_made(g, tenant):
    path = f"/admin/v1/tenants/{tenant.name}"
    tag = g.admin.get(path).headers["etag"]
    codes, start = [], threading.Barrier(8)

    def change(weight):
        start.wait()
        codes.append(httpx.patch(g.admin_url + path, json={"weight": weight}, headers={**bearer(g.admin_key), "If-Match": tag}, timeout=30).status_code)

    threads = [threading.Thread(target=change, args=(w + 1,)) for w in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(codes) == [200] + [412] * 7


# --- admin keys ---


def test_the_last_admin_key_stays(start):
    g = start(fake=True)
    first = id_of(g.admin_key)
    refused(g.admin.delete(f"/admin/v1/admin-keys/{first}"), 409, "conflict")
    g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]})
    refused(g.admin.delete(f"/admin/v1/admin-keys/{first}"), 409, "conflict")
    second = g.admin.post("/admin/v1/admin-keys", json={"roles": ["admin"]}).json()
    assert g.admin.delete(f"/admin/v1/admin-keys/{first}").status_code == 200
    refused(g.admin.get("/admin/v1/tenants"), 401, "invalid_api_key")
    g.admin.headers = bearer(second["key"])
    refused(g.admin.delete(f"/admin/v1/admin-keys/{second['id']}"), 409, "conflict")


def test_of_two_admins_who_revoke_each_other_one_stays(start):
    g = start(fake=True)
    second = g.admin.post("/admin/v1/admin-keys", json={"roles": ["admin"]}).json()
    for _ in range(10):
        keys = {id_of(g.admin_key): g.admin_key, second["id"]: second["key"]}
        codes, gate = {}, threading.Barrier(2)

        def revoke(mine, other):
            gate.wait()
            codes[mine] = httpx.delete(f"{g.admin_url}/admin/v1/admin-keys/{other}", headers=bearer(keys[mine]), timeout=30).status_code

        a, b = keys
        threads = [threading.Thread(target=revoke, args=pair) for pair in ((a, b), (b, a))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert sorted(codes.values())[0] == 200 and sorted(codes.values())[1] in (401, 409), codes
        g.admin_key = keys[[k for k, v in codes.items() if v == 200][0]]
        g.admin.headers = bearer(g.admin_key)
        second = g.admin.post("/admin/v1/admin-keys", json={"roles": ["admin"]}).json()


def test_an_admin_key_is_no_tenants_key_in_any_route(g, tenant):
    admin = g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()["id"]
    for r in (g.admin.get(f"/admin/v1/keys/{admin}"), g.admin.delete(f"/admin/v1/keys/{admin}"), g.admin.patch(f"/admin/v1/keys/{admin}", json={"name": "x"}),
              g.admin.post(f"/admin/v1/keys/{admin}/rotate"), g.admin.get(f"/admin/v1/admin-keys/{id_of(tenant.key)}"),
              g.admin.delete(f"/admin/v1/admin-keys/{id_of(tenant.key)}")):
        refused(r, 404, "not_found")


# --- tenants' fields ---


def test_a_tenants_fields_are_kept_shown_and_checked(g, tenant):
    path = f"/admin/v1/tenants/{tenant.name}"
    assert {k: g.admin.get(path).json()[k] for k in ("private", "class", "deadline_ms")} == {"private": False, "class": "normal", "deadline_ms": None}
    r = g.admin.patch(path, json={"private": True, "class": "batch", "deadline_ms": 1500})
    assert (r.json()["private"], r.json()["class"], r.json()["deadline_ms"]) == (True, "batch", 1500)
    assert g.admin.patch(path, json={"deadline_ms": None}).json()["deadline_ms"] is None
    for body in ({"class": "fast"}, {"class": ""}, {"deadline_ms": 0}, {"deadline_ms": 86400001}, {"private": 1}, {"deadline_ms": "1"}):
        refused(g.admin.patch(path, json=body), 400, "invalid_value", next(iter(body)))
    made = g.admin.post("/admin/v1/tenants", json={"name": tenant.name + "-b", "class": "interactive", "private": True, "deadline_ms": 9, "weight": 3})
    assert made.headers["etag"] == '"1"' and (made.json()["class"], made.json()["private"], made.json()["deadline_ms"], made.json()["weight"]) == ("interactive", True, 9, 3)


# --- last used ---


def test_when_a_key_was_used_is_known_after_a_restart_and_costs_no_write_each(start):
    g = start(fake=True)
    t = g.tenant("acme")
    unused = id_of(g.key("acme", ["billing"]))
    before = g.admin.get("/admin/v1/audit", params={"limit": 1}).json()
    for _ in range(20):
        assert serves(g, t.key)
    g.stop()
    g.start()
    rows = {k["id"]: k["last_used_at"] for k in g.admin.get("/admin/v1/tenants/acme/keys").json()["data"]}
    assert rows[unused] is None and abs(rows[id_of(t.key)] - time.time()) < 120
    assert g.admin.get("/admin/v1/audit", params={"limit": 1}).json() == before


@pytest.fixture
def crowded(tmp_path, _model):
    """A tenant with as many keys and aliases as one may have; its first key is as old as they are."""
    g = Gateway(tmp_path / "crowded", fake=True)
    try:
        full, g.other = g.tenant("full"), g.tenant("other")
        assert full.http().put("/v1/aliases/first", json={"targets": [{"base": BASE}]}).status_code in (200, 201)
        g.stop()
        with contextlib.closing(sqlite3.connect(g.data / "weft.db")) as db, db:
            numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)"
            db.execute(f"INSERT INTO api_key(id, tenant, name, roles, hash, created, created_by) {numbers} SELECT printf('k%011d', i), tenant, '', roles, hash, created, created_by"
                       " FROM n, api_key WHERE tenant = (SELECT id FROM tenant WHERE name = 'full')")
            db.execute(f"INSERT INTO alias(tenant, name, created, changed) {numbers} SELECT tenant, 'a' || i, created, changed FROM n, alias")
        g.start()
        g.full = full
        yield g
    finally:
        g.close()


def test_no_tenant_fills_what_all_share(crowded):
    g, full = crowded, crowded.full.http()
    r = full.post("/v1/keys", json={"name": "one more", "roles": ["inference"]})
    assert r.status_code == 409 and "10000 keys" in r.json()["error"]["message"], r.text
    assert full.post(f"/v1/keys/{id_of(crowded.full.key)}/rotate", json={"grace_s": 3600}).status_code == 409
    r = full.put("/v1/aliases/one-more", json={"targets": [{"base": BASE}]})
    assert r.status_code == 409 and "10000 aliases" in r.json()["error"]["message"], r.text
    assert full.put("/v1/aliases/first", json={"targets": [{"base": BASE}]}).status_code == 200  # what is there may be changed
    assert full.delete("/v1/aliases/a7").status_code in (200, 204) and full.put("/v1/aliases/one-more", json={"targets": [{"base": BASE}]}).status_code in (200, 201)
    assert full.delete("/v1/keys/k00000000007").status_code in (200, 204) and full.post("/v1/keys", json={"name": "one more", "roles": ["inference"]}).status_code == 201
    with crowded.other.http() as c:
        assert c.post("/v1/keys", json={"name": "mine", "roles": ["inference"]}).status_code == 201 and c.put("/v1/aliases/x", json={"targets": [{"base": BASE}]}).status_code in (200, 201)
    with public(g, crowded.full.key) as c:
        assert c.post("/v1/chat/completions", json=CHAT).status_code == 200
