"""The admin API over HTTP: tenants, keys and admin keys, what each may do, where a key's text shows, and the audit trail. On a gateway of this
file's own with the fake engine, so that every entry of the trail is known."""

import concurrent.futures
import hashlib
import itertools
import json
import sqlite3
import time

import httpx
import openai
import pytest

from gateway_process import BASE, Gateway, Tenant

ROLES = {"admin": {"infer", "write", "usage"}, "writer": {"write"}, "inference": {"infer"}, "billing": {"usage"}}
CHAT = {"model": BASE, "messages": [{"role": "user", "content": "tokens=2"}]}
_serial = itertools.count()


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("admin"), fake=True)
    yield g
    g.close()


@pytest.fixture
def name():
    """A tenant's name that no test had before."""
    return f"t{next(_serial):03}"


@pytest.fixture
def tenant(g, name):
    return g.tenant(name)


def bearer(key):
    return {"Authorization": f"Bearer {key}"} if key else {}


def ask(g, key, method="POST", path="/v1/chat/completions", **kw):
    if method == "POST" and not kw:
        kw = {"json": CHAT}
    return httpx.request(method, g.url + path, headers=bearer(key), timeout=20, **kw)


def refused(r, status, code, param=None):
    """The answer is OpenAI's error object with these members; returns its message."""
    assert r.status_code == status, r.text
    assert set(r.json()) == {"error"} and set(r.json()["error"]) == {"message", "type", "param", "code"}
    error = r.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    return error["message"]


def pages(client, path, limit, **params):
    """All rows of a list, page by page; checks each page's own promises."""
    rows, after = [], None
    for _ in range(1000):
        r = client.get(path, params={"limit": limit, **params, **({"after": after} if after else {})})
        assert r.status_code == 200, r.text
        page = r.json()
        assert page["object"] == "list" and len(page["data"]) <= limit
        assert len(page["data"]) == limit or not page["has_more"]
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = page["last_id"]
    raise AssertionError("a list without an end")


# --- tenants ---


def test_a_tenant_is_created_read_and_listed(g, name):
    made = g.admin.post("/admin/v1/tenants", json={"name": name, "weight": 2.5})
    assert made.status_code == 201
    t = made.json()
    assert (t["object"], t["name"], t["weight"], t["disabled"]) == ("tenant", name, 2.5, False)
    assert abs(t["created_at"] - time.time()) < 60
    assert g.admin.get(f"/admin/v1/tenants/{name}").json() == t
    assert t in pages(g.admin, "/admin/v1/tenants", 100)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_the_tenants_come_page_by_page_in_order_and_once(g, limit):
    have = {t["name"] for t in pages(g.admin, "/admin/v1/tenants", 100)}
    for n in {"page-a", "page-b", "page-c", "page-d", "page-e"} - have:
        assert g.admin.post("/admin/v1/tenants", json={"name": n}).status_code == 201
    names = [t["name"] for t in pages(g.admin, "/admin/v1/tenants", limit)]
    assert names == sorted(set(names)) and set(names) >= have | {"page-a", "page-e"}


def test_a_page_of_tenants_says_its_first_and_last(g):
    for n in ("first-a", "first-b"):
        assert g.admin.post("/admin/v1/tenants", json={"name": n}).status_code == 201
    page = g.admin.get("/admin/v1/tenants", params={"limit": 2, "after": "first"}).json()
    assert (page["first_id"], page["last_id"]) == ("first-a", "first-b")
    past = g.admin.get("/admin/v1/tenants", params={"after": "zzzz"}).json()
    assert past == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_name_that_is_taken_is_a_conflict(g, tenant):
    refused(g.admin.post("/admin/v1/tenants", json={"name": tenant.name}), 409, "conflict", "name")


def test_of_many_who_create_the_same_tenant_one_wins(g, name):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: g.admin.post("/admin/v1/tenants", json={"name": name}).status_code, range(8)))
    assert sorted(codes) == [201] + [409] * 7


BAD_TENANTS = [
    ({"name": ""}, "invalid_value", "name"), ({"name": "Upper"}, "invalid_value", "name"), ({"name": "-a"}, "invalid_value", "name"),
    ({"name": "a/b"}, "invalid_value", "name"), ({"name": ".."}, "invalid_value", "name"), ({"name": "a b"}, "invalid_value", "name"),
    ({"name": "a" * 65}, "invalid_value", "name"), ({"name": "a" * 9000}, "invalid_value", "name"), ({"name": "é"}, "invalid_value", "name"),
    ({"name": "a\n"}, "invalid_value", "name"), ({"name": 1}, "invalid_value", "name"), ({"name": ["a"]}, "invalid_value", "name"),
    ({"name": None}, "missing_required_parameter", "name"), ({}, "missing_required_parameter", "name"),
    ({"name": "ok", "weight": 0}, "invalid_value", "weight"), ({"name": "ok", "weight": -1}, "invalid_value", "weight"),
    ({"name": "ok", "weight": 1e300}, "invalid_value", "weight"), ({"name": "ok", "weight": "1"}, "invalid_value", "weight"),
    ({"name": "ok", "weight": True}, "invalid_value", "weight"), ({"name": "ok", "wieght": 1}, "invalid_value", "wieght"),
    ({"name": "ok", "disabled": True}, "invalid_value", "disabled"), ({"name": "ok", "id": "x"}, "invalid_value", "id"),
]


@pytest.mark.parametrize("body, code, param", BAD_TENANTS, ids=lambda x: str(x)[:40])
def test_a_bad_tenant_is_refused_by_the_fields_name(g, body, code, param):
    refused(g.admin.post("/admin/v1/tenants", json=body), 400, code, param)
    assert g.admin.get("/admin/v1/tenants/ok").status_code == 404


@pytest.mark.parametrize("body, code, param", [
    ({}, "missing_required_parameter", None), ({"disabled": "yes"}, "invalid_value", "disabled"), ({"disabled": 1}, "invalid_value", "disabled"),
    ({"weight": 101}, "invalid_value", "weight"), ({"name": "other"}, "invalid_value", "name"),
    ({"disabled": True, "extra": 1}, "invalid_value", "extra"), ({"disabled": None}, "missing_required_parameter", None),
], ids=lambda x: str(x)[:40])
def test_a_bad_change_of_a_tenant_is_refused_and_changes_nothing(g, tenant, body, code, param):
    before = g.admin.get(f"/admin/v1/tenants/{tenant.name}").json()
    refused(g.admin.patch(f"/admin/v1/tenants/{tenant.name}", json=body), 400, code, param)
    assert g.admin.get(f"/admin/v1/tenants/{tenant.name}").json() == before


@pytest.mark.parametrize("path", ["tenants", "tenants/x", "tenants/x/keys", "admin-keys", "audit", "usage", "usage/requests", "ledger"])
def test_query_parameters_that_a_route_does_not_know_are_refused(g, path):
    g.admin.post("/admin/v1/tenants", json={"name": "x"})
    refused(g.admin.get(f"/admin/v1/{path}", params={"limti": "1"}), 400, "invalid_value", "limti")


@pytest.mark.parametrize("query, param", [
    ("limit=0", "limit"), ("limit=101", "limit"), ("limit=-1", "limit"), ("limit=1e1", "limit"), ("limit=", "limit"), ("limit= 1", "limit"),
    ("limit=99999999999999999999", "limit"), ("limit=1&limit=2", "limit"), ("after=a&after=b", "after"), ("=1", None), ("limit=%ff", "limit"),
])
def test_a_bad_page_is_refused(g, query, param):
    for path in ("tenants", "audit", "admin-keys"):
        r = g.admin.get(f"/admin/v1/{path}?{query}")
        assert r.status_code == 400 and r.json()["error"]["param"] == param, (path, r.text)


def test_changes_take_no_query_parameters(g, tenant):
    for method, path, body in (("POST", "tenants", {"name": "no"}), ("PATCH", f"tenants/{tenant.name}", {"weight": 2}),
                               ("POST", f"tenants/{tenant.name}/keys", {"roles": ["billing"]}), ("POST", "admin-keys", {"roles": ["viewer"]})):
        refused(g.admin.request(method, f"/admin/v1/{path}?dry_run=1", json=body), 400, "invalid_value", "dry_run")
    refused(g.admin.delete("/admin/v1/keys/none?dry_run=1"), 400, "invalid_value", "dry_run")
    assert g.admin.get("/admin/v1/tenants/no").status_code == 404


def test_who_is_not_there_is_not_found(g):
    for method, path, body in (("GET", "tenants/nobody", None), ("PATCH", "tenants/nobody", {"weight": 2}), ("GET", "tenants/nobody/keys", None),
                               ("POST", "tenants/nobody/keys", {"roles": ["admin"]}), ("DELETE", "keys/nothing", None)):
        refused(g.admin.request(method, f"/admin/v1/{path}", json=body), 404, "not_found")
    refused(g.admin.get("/admin/v1/usage", params={"tenant": "nobody"}), 404, "not_found")


def test_a_disabled_tenants_keys_refuse_at_once_and_serve_again_when_enabled(g, tenant):
    second = g.key(tenant.name, ["inference"])
    for disabled in (True, False, True, False):
        r = g.admin.patch(f"/admin/v1/tenants/{tenant.name}", json={"disabled": disabled})
        assert r.status_code == 200 and r.json()["disabled"] == disabled
        for key in (tenant.key, second):
            assert ask(g, key).status_code == (401 if disabled else 200)


def test_a_disabled_tenant_cannot_be_told_from_a_wrong_key(g, tenant):
    wrong = tenant.key[:-1] + ("0" if tenant.key[-1] != "0" else "1")
    g.admin.patch(f"/admin/v1/tenants/{tenant.name}", json={"disabled": True})
    answers = {ask(g, k).text for k in (tenant.key, wrong, "nonsense", None, "wft_" + "a" * 63)}
    assert len(answers) == 1, answers


# --- keys ---


def allowed(g, key):
    """Which scopes a key turns out to have."""
    out = set()
    for scope, r in (("infer", ask(g, key)), ("infer", ask(g, key, "GET", "/v1/models")), ("write", ask(g, key, "GET", "/v1/adapters")),
                     ("write", ask(g, key, "DELETE", "/v1/adapters/absent")), ("usage", ask(g, key, "GET", "/v1/usage")),
                     ("usage", ask(g, key, "GET", "/v1/usage/requests"))):
        if r.status_code == 403:
            assert scope not in out
            refused(r, 403, "insufficient_permissions")
        else:
            assert r.status_code in (200, 404), r.text
            out.add(scope)
    return out


@pytest.mark.parametrize("roles", [["admin"], ["writer"], ["inference"], ["billing"], ["writer", "billing"], ["inference", "writer"]], ids="+".join)
def test_a_key_may_what_its_roles_say_and_no_more(g, tenant, roles):
    assert allowed(g, g.key(tenant.name, roles)) == set().union(*(ROLES[r] for r in roles))


def test_the_client_library_sees_a_missing_role_as_permission_denied(g, tenant):
    with pytest.raises(openai.PermissionDeniedError):
        tenant.openai(key=g.key(tenant.name, ["billing"])).chat.completions.create(**CHAT)
    with pytest.raises(openai.PermissionDeniedError):
        tenant.openai(key=g.key(tenant.name, ["writer"])).models.list()
    infer = Tenant(g, tenant.name, g.key(tenant.name, ["inference"]))
    refused(infer.upload("sql"), 403, "insufficient_permissions")
    assert tenant.upload("sql").status_code == 201
    refused(ask(g, infer.key, "DELETE", "/v1/adapters/sql"), 403, "insufficient_permissions")


@pytest.mark.parametrize("body, code, param", [
    ({}, "missing_required_parameter", "roles"), ({"roles": []}, "missing_required_parameter", "roles"), ({"roles": "admin"}, "invalid_value", "roles"),
    ({"roles": ["root"]}, "invalid_value", "roles"), ({"roles": ["viewer"]}, "invalid_value", "roles"), ({"roles": [1]}, "invalid_value", "roles"),
    ({"roles": ["admin"] * 9}, "invalid_value", "roles"), ({"roles": ["admin,billing"]}, "invalid_value", "roles"),
    ({"roles": ["admin"], "expires_at": -1}, "invalid_value", "expires_at"), ({"roles": ["admin"], "expires_at": 0}, "invalid_value", "expires_at"),
    ({"roles": ["admin"], "expires_at": 1.5}, "invalid_value", "expires_at"), ({"roles": ["admin"], "expires_at": 10**15}, "invalid_value", "expires_at"),
    ({"roles": ["admin"], "expires_at": "tomorrow"}, "invalid_value", "expires_at"), ({"roles": ["admin"], "name": "n" * 101}, "invalid_value", "name"),
    ({"roles": ["admin"], "name": 7}, "invalid_value", "name"), ({"roles": ["admin"], "key": "mine"}, "invalid_value", "key"),
], ids=lambda x: str(x)[:50])
def test_a_bad_key_is_refused_by_the_fields_name_and_not_made(g, tenant, body, code, param):
    refused(g.admin.post(f"/admin/v1/tenants/{tenant.name}/keys", json=body), 400, code, param)
    assert len(pages(g.admin, f"/admin/v1/tenants/{tenant.name}/keys", 100)) == 1


def test_a_keys_text_is_shown_once_and_a_list_tells_all_else(g, tenant):
    made = g.admin.post(f"/admin/v1/tenants/{tenant.name}/keys", json={"roles": ["writer", "billing"], "name": "nightly é", "expires_at": 4102444800})
    assert made.status_code == 201 and made.headers["cache-control"] == "no-store"
    key = made.json()
    text = key.pop("key")
    assert text.startswith("wft_" + key["id"] + "_") and key["redacted"] == f"wft_{key['id']}..."
    assert (key["roles"], key["name"], key["expires_at"], key["revoked_at"]) == (["writer", "billing"], "nightly é", 4102444800, None)
    listed = {k["id"]: k for k in pages(g.admin, f"/admin/v1/tenants/{tenant.name}/keys", 1)}
    assert listed[key["id"]] == key and len(listed) == 2
    assert key["created_by"] == g.admin_key.split("_")[1]


def test_keys_are_listed_by_their_own_tenant_alone(g, tenant):
    g.tenant(tenant.name + "-other")
    ids = [k["id"] for k in pages(g.admin, f"/admin/v1/tenants/{tenant.name}/keys", 100)]
    assert ids == [tenant.key.split("_")[1]]


def test_an_expired_key_refuses_from_that_second_on(g, tenant):
    end = int(time.time()) + 2
    r = g.admin.post(f"/admin/v1/tenants/{tenant.name}/keys", json={"roles": ["inference"], "expires_at": end})
    key = r.json()["key"]
    assert ask(g, key).status_code == 200
    time.sleep(max(0, end - time.time()) + 0.01)
    refused(ask(g, key), 401, "invalid_api_key")
    past = g.admin.post(f"/admin/v1/tenants/{tenant.name}/keys", json={"roles": ["inference"], "expires_at": 1}).json()["key"]
    refused(ask(g, past), 401, "invalid_api_key")


def test_a_revoked_key_refuses_as_soon_as_the_revocation_is_answered(g, tenant):
    for _ in range(5):
        key = g.key(tenant.name, ["inference"])
        assert ask(g, key).status_code == 200
        gone = g.admin.delete(f"/admin/v1/keys/{key.split('_')[1]}")
        assert gone.status_code == 200 and "key" not in gone.json()
        refused(ask(g, key), 401, "invalid_api_key")
    first = gone.json()["revoked_at"]
    again = g.admin.delete(f"/admin/v1/keys/{key.split('_')[1]}")
    assert (again.status_code, again.json()["revoked_at"]) == (200, first)
    assert ask(g, tenant.key).status_code == 200


def test_a_revocation_under_load_lets_no_later_request_in(g, tenant):
    key = g.key(tenant.name, ["inference"])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        def hammer(_):
            with httpx.Client(headers=bearer(key), timeout=20) as c:
                return [(time.monotonic(), c.get(g.url + "/v1/models").status_code) for _ in range(60)]
        work = [pool.submit(hammer, i) for i in range(8)]
        time.sleep(0.05)
        g.admin.delete(f"/admin/v1/keys/{key.split('_')[1]}")
        revoked = time.monotonic()
        seen = [x for w in work for x in w.result()]
    assert {s for _, s in seen} <= {200, 401}
    assert [s for t, s in seen if t > revoked and s != 401] == []


def test_a_key_in_another_tenants_path_is_401(g, tenant):
    other = g.tenant(tenant.name + "-other")
    for path in ("/v1/models", "/v1/adapters", "/v1/usage", "/v1/usage/requests"):
        assert ask(g, tenant.key, "GET", f"/t/{tenant.name}{path}").status_code == 200
        refused(ask(g, tenant.key, "GET", f"/t/{other.name}{path}"), 401, "invalid_api_key")
        refused(ask(g, tenant.key, "GET", f"/t/nobody{path}"), 401, "invalid_api_key")
    assert ask(g, tenant.key, path=f"/t/{tenant.name}/v1/chat/completions").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        other.openai(in_path=True, key=tenant.key).chat.completions.create(**CHAT)


# --- admin keys ---


def test_neither_kind_of_key_opens_the_others_listener(g, tenant):
    viewer = g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()["key"]
    for path in ("tenants", "audit", "usage", "ledger", "admin-keys", f"tenants/{tenant.name}/keys"):
        refused(httpx.get(f"{g.admin_url}/admin/v1/{path}", headers=bearer(tenant.key)), 401, "invalid_api_key")
        refused(httpx.get(f"{g.admin_url}/admin/v1/{path}"), 401, "invalid_api_key")
    for key in (g.admin_key, viewer):
        for path in ("/v1/models", "/v1/adapters", "/v1/usage", f"/t/{tenant.name}/v1/models"):
            refused(ask(g, key, "GET", path), 401, "invalid_api_key")
        refused(ask(g, key), 401, "invalid_api_key")
    for path in ("/admin/v1/tenants", "/metrics", "/ready"):
        refused(ask(g, g.admin_key, "GET", path), 404, "not_found")


def test_a_viewer_reads_everything_and_changes_nothing(g, tenant):
    made = g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"], "name": "dashboard"})
    assert made.status_code == 201 and made.json()["key"].startswith("wfa_") and "tenant" not in made.json()
    viewer = httpx.Client(base_url=g.admin_url, headers=bearer(made.json()["key"]))
    for path in ("tenants", f"tenants/{tenant.name}", f"tenants/{tenant.name}/keys", "admin-keys", "audit", "usage", "usage/requests", "ledger?verify=1"):
        assert viewer.get(f"/admin/v1/{path}").status_code == 200
    for method, path, body in (("POST", "tenants", {"name": "by-viewer"}), ("PATCH", f"tenants/{tenant.name}", {"disabled": True}),
                               ("POST", f"tenants/{tenant.name}/keys", {"roles": ["admin"]}), ("POST", "admin-keys", {"roles": ["admin"]}),
                               ("DELETE", f"keys/{tenant.key.split('_')[1]}", None)):
        refused(viewer.request(method, f"/admin/v1/{path}", json=body), 403, "insufficient_permissions")
    assert g.admin.get("/admin/v1/tenants/by-viewer").status_code == 404
    assert ask(g, tenant.key).status_code == 200


def test_an_admin_key_is_revoked_like_any_other(g):
    key = g.admin.post("/admin/v1/admin-keys", json={"roles": ["admin"]}).json()
    second = httpx.Client(base_url=g.admin_url, headers=bearer(key["key"]))
    assert second.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()["created_by"] == key["id"]
    refused(g.admin.delete(f"/admin/v1/keys/{key['id']}"), 404, "not_found")
    assert g.admin.delete(f"/admin/v1/admin-keys/{key['id']}").status_code == 200
    refused(second.get("/admin/v1/tenants"), 401, "invalid_api_key")
    refused(g.admin.post("/admin/v1/admin-keys", json={"roles": ["writer"]}), 400, "invalid_value", "roles")


# --- where secrets may be ---


def everything_written(g):
    files = [p for p in g.data.rglob("*") if p.is_file()] + [g.log]
    return {p: p.read_bytes() for p in files}


def test_no_key_and_no_prompt_is_in_any_file_log_list_or_answer(g, tenant):
    marker = "a prompt with the word zanzibarquokka tokens=2"
    keys = [tenant.key, g.admin_key, g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()["key"],
            g.key(tenant.name, ["inference"]), g.key(tenant.name, ["billing"])]
    answers = [ask(g, k, path=p, json={**CHAT, "messages": [{"role": "user", "content": marker}]})
               for k in keys for p in ("/v1/chat/completions", "/t/nobody/v1/chat/completions")]
    answers += [ask(g, k + "x", "GET", "/v1/models") for k in keys]
    g.admin.delete(f"/admin/v1/keys/{keys[3].split('_')[1]}")
    answers += [ask(g, keys[3])]
    for path in ("tenants", f"tenants/{tenant.name}/keys?limit=100", "admin-keys?limit=100", "audit?limit=100", "usage/requests"):
        answers.append(g.admin.get(f"/admin/v1/{path}"))
    answers.append(httpx.get(g.admin_url + "/metrics"))
    time.sleep(0.3)  # for what is settled and written behind the answers
    texts = {**everything_written(g), **{f"answer {i}": a.content for i, a in enumerate(answers)}}
    assert any(p.name == "weft.db-wal" for p in texts if not isinstance(p, str)) and g.log.stat().st_size > 0
    public = keys[3].split("_")[1].encode()
    assert any(public in t for p, t in texts.items() if not isinstance(p, str)), "the search finds nothing at all"
    for k in keys:
        secret = k.split("_")[2].encode()
        assert [str(p) for p, t in texts.items() if secret in t or hashlib.sha256(secret).digest() in t] == []
    assert [str(p) for p, t in texts.items() if b"zanzibarquokka" in t] == []


def test_the_files_of_the_data_folder_are_the_owners_alone(g):
    for p in [g.data / "weft.db", g.data / "pepper", *g.data.glob("weft.db-*"), *(g.data / "blobs").rglob("*"), *(g.data / "run").glob("*.pid")]:
        assert p.stat().st_mode & 0o077 == 0, p


# --- the audit trail ---


def trail(g):
    return pages(g.admin, "/admin/v1/audit", 100)[::-1]


def test_every_change_leaves_one_entry_that_says_who_what_and_how_it_was(g, name):
    start = len(trail(g))
    made = g.admin.post("/admin/v1/tenants", json={"name": name})
    key = g.admin.post(f"/admin/v1/tenants/{name}/keys", json={"roles": ["admin"]})
    t, key_id = Tenant(g, name, key.json()["key"]), key.json()["id"]
    changed = g.admin.patch(f"/admin/v1/tenants/{name}", json={"weight": 3})
    uploaded = t.upload("sql", description='über "quoted"\n\t\\ €𝄞')
    again = t.upload("sql", description="second")
    newer = t.upload("pirate")
    with t.http() as c:
        one, dropped = c.delete("/v1/adapters/sql/versions/1"), c.delete("/v1/adapters/pirate")
    viewer = g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]})
    revoked = g.admin.delete(f"/admin/v1/keys/{key_id}")
    assert [r.status_code for r in (made, key, changed, uploaded, again, newer, one, dropped, viewer, revoked)] == [201, 201, 200, 201, 200, 201, 200, 200, 201, 200]
    admin = g.admin_key.split("_")[1]
    rows = trail(g)[start:]
    tested = [r for r in rows if r["action"] == "version.state"]
    assert all(r["actor"] == "system" and r["after"]["state"] == "ready" for r in tested)  # the self-test, whenever it came
    rows = [r for r in rows if r not in tested]
    assert [(r["action"], r["target"], r["actor"], r["request_id"]) for r in rows] == [
        ("tenant.create", name, admin, made.headers["x-request-id"]),
        ("key.create", key_id, admin, key.headers["x-request-id"]),
        ("tenant.update", name, admin, changed.headers["x-request-id"]),
        ("adapter.create", f"{name}/sql", key_id, uploaded.headers["x-request-id"]),
        ("version.create", f"{name}/sql@1", key_id, uploaded.headers["x-request-id"]),
        ("adapter.update", f"{name}/sql", key_id, again.headers["x-request-id"]),
        ("adapter.create", f"{name}/pirate", key_id, newer.headers["x-request-id"]),
        ("version.create", f"{name}/pirate@1", key_id, newer.headers["x-request-id"]),
        ("version.remove", f"{name}/sql@1", key_id, one.headers["x-request-id"]),
        ("version.remove", f"{name}/pirate@1", key_id, dropped.headers["x-request-id"]),
        ("adapter.remove", f"{name}/pirate", key_id, dropped.headers["x-request-id"]),
        ("admin_key.create", viewer.json()["id"], admin, viewer.headers["x-request-id"]),
        ("key.revoke", key_id, admin, revoked.headers["x-request-id"]),
    ]
    assert {r["ip"] for r in rows} == {"127.0.0.1"}
    assert (rows[2]["before"]["weight"], rows[2]["after"]["weight"]) == (1, 3) and rows[0]["before"] is None
    assert rows[3]["after"]["description"] == 'über "quoted"\n\t\\ €𝄞' and rows[5]["before"] == rows[3]["after"]
    assert rows[8]["before"] == rows[4]["after"] and rows[4]["after"]["digest"] == uploaded.json()["digest"]


def test_what_was_refused_leaves_no_entry(g, tenant):
    start = len(trail(g))
    g.admin.post("/admin/v1/tenants", json={"name": tenant.name})
    g.admin.patch("/admin/v1/tenants/nobody", json={"weight": 2})
    g.admin.delete("/admin/v1/keys/nothing")
    tenant.upload("sql", config=b"{}")
    with tenant.http() as c:
        c.delete("/v1/adapters/absent")
        c.delete("/v1/adapters/absent/versions/1")
    assert len(trail(g)) == start


def chain(rows):
    """The documented rule: SHA-256 over the hash before and the row as a JSON array, from 32 zero bytes on."""
    last = bytes(32)
    for row in rows:
        text = json.dumps(list(row), ensure_ascii=False, separators=(",", ":"))
        last = hashlib.sha256(last + text.encode()).digest()
        yield last


def test_the_chain_of_hashes_is_what_the_rule_says_and_what_the_api_shows(g, tenant):
    tenant.upload("sql", description='über "quoted" / \\ €𝄞')
    with sqlite3.connect(f"file:{g.data / 'weft.db'}?mode=ro", uri=True) as db:
        rows = list(db.execute("SELECT seq, t, actor, ip, request, action, object, before, after FROM audit ORDER BY seq"))
        stored = [h for (h,) in db.execute("SELECT hash FROM audit ORDER BY seq")]
    assert [r[0] for r in rows] == list(range(1, len(rows) + 1)) and len(rows) > 2
    assert list(chain(rows)) == stored
    assert [r["hash"] for r in trail(g)] == [h.hex() for h in stored]
    shown = {r["seq"]: r for r in trail(g)}
    for seq, t, actor, ip, request, action, target, before, after in rows:
        r = shown[seq]
        assert (r["created_at"], r["actor"], r["ip"], r["request_id"], r["action"], r["target"]) == (t // 10**6, actor, ip, request, action, target)
        assert (r["before"], r["after"]) == (json.loads(before or "null"), json.loads(after or "null"))
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()["audit"]
    assert verdict == {"rows": len(rows), "first_bad": 0}


def test_the_trail_is_read_newest_first_by_cursor(g, tenant):
    all_rows = pages(g.admin, "/admin/v1/audit", 100)
    assert [r["seq"] for r in all_rows] == list(range(len(all_rows), 0, -1))
    assert pages(g.admin, "/admin/v1/audit", 7) == all_rows


def test_a_changed_entry_shows_where_the_chain_breaks(start):
    g = start(fake=True)
    for n in ("a", "b", "c"):
        g.tenant(n)
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as db:
        db.execute("UPDATE audit SET actor = 'somebody' WHERE seq = 4")
    db.close()
    g.start()
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()["audit"]
    assert verdict["first_bad"] == 4
