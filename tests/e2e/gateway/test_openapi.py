"""The API is what its description says: examples run and answers fit, lists page both ways, ETags hold, repeated POSTs are answered the same."""

import base64
import hashlib
import re
import uuid

import httpx
import pytest
from openapi_spec_validator import validate

from api_world import World
from gateway_process import Gateway, until


@pytest.fixture(scope="module")
def world(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("openapi"), fake=True)
    yield World(g)
    g.close()


def test_both_documents_are_valid_openapi_of_their_own_routes(world):
    public, admin = world.documents
    for d in world.documents:
        validate(d.json)
        assert d.json["openapi"].startswith("3.1")
    assert {o.path for o in public.operations} & {o.path for o in admin.operations} <= {"/health", "/openapi.json", "/docs", "/dashboard", "/dashboard/", "/dashboard/{file}"}
    assert all(o.path.startswith("/admin/") or not o.item["security"] for o in admin.operations)
    assert not any(o.path.startswith("/admin/") for o in public.operations)


def test_no_description_ends_at_a_comma(world):
    """In YAML's short form {description: one, two} the second half is a member of its own, without a value."""
    def without_value(v, at):
        if isinstance(v, dict):
            for name, member in v.items():
                if name not in ("example", "examples", "default"):
                    yield from [f"{at}/{name}"] if member is None else without_value(member, f"{at}/{name}")
        elif isinstance(v, list):
            for i, member in enumerate(v):
                yield from without_value(member, f"{at}/{i}")

    for d in world.documents:
        assert not list(without_value(d.json, ""))


def test_the_document_is_told_once(world):
    for d in world.documents:
        first = httpx.get(d.url + "/openapi.json")
        again = httpx.get(d.url + "/openapi.json", headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304 and again.content == b""


def test_the_page_takes_nothing_from_elsewhere_and_may_run_its_own_script_only(world):
    for d in world.documents:
        r = httpx.get(d.url + "/docs")
        assert r.status_code == 200 and r.headers["content-type"] == "text/html; charset=utf-8"
        policy = r.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        for tag in ("style", "script"):
            text = re.search(f"<{tag}>(.*?)</{tag}>", r.text, re.S).group(1)
            assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
        assert not re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//""", r.text) and "innerHTML" not in r.text
        assert r.text.count("<script") == 1 and " style=" not in r.text and not re.findall(r"<[^>]* on\w+=", r.text)


def problems(op, r, kind):
    """An example with a body does what it shows; what acts on an object as it is may find it in another state; what moved says where."""
    state = kind is None and op.method in ("post", "delete") and r.status_code in (404, 409)
    if not 200 <= r.status_code < 300 and not state and not (r.status_code == 308 and "location" in r.headers):
        return [f"{op}: {r.status_code} {r.text[:200]}"]
    try:
        op.check(r)
    except AssertionError as e:
        return [str(e).split("\nassert")[0]]
    return []


def test_examples_run_and_their_answers_are_as_described(world):
    wrong, waiting = [], world.operations()
    while waiting:
        later = []
        for op in waiting:
            if world.path(op) is None:
                later.append(op)
                continue
            for kind, value in op.examples():
                r = world.send(op, kind, value)
                wrong += problems(op, r, kind)
        assert len(later) < len(waiting), f"nothing gives the ids of {later}"
        waiting = later
    assert not wrong, "\n".join(wrong)


def lists(world):
    return [o for d in world.documents for o in d.operations if o.method == "get" and o.parameter("query", "before")]


def walk(world, op, limit, back_from=None):
    """All items, page by page: from the first on, or those before one, from there back."""
    out, cursor = [], {"before": back_from} if back_from else {}
    while True:
        page = op.check(world.send(op, query={"limit": limit, **cursor}))
        ids = [page["first_id"], page["last_id"]]
        assert (page["data"] == []) == (ids == [None, None]) and len(page["data"]) <= limit
        out = page["data"] + out if back_from else out + page["data"]
        if not page["has_more"]:
            return out
        assert page["data"]
        cursor = {"before": ids[0]} if back_from else {"after": ids[1]}


def names(items):
    """What tells items apart; the rest of some is live."""
    return [x.get("id", x.get("seq", x.get("name"))) for x in items]


def test_lists_page_both_ways(world):
    until(lambda: world.gateway.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, what="the last settlement")
    found = 0
    for op in lists(world):
        if world.path(op) is None:
            continue
        r = world.send(op, query={"limit": 100})
        if r.status_code == 404:  # of something that an example has removed
            continue
        page = r.json()
        assert "data" in page, (op, page)
        first, limit = names(page["data"]), 1 if len(page["data"]) < 12 else 9
        every = names(walk(world, op, 100)) if page["has_more"] else first  # the audit trail is long when all operations were tried before
        assert every[:len(first)] == first and names(walk(world, op, limit)) == every, op
        if len(first) > 1:
            assert names(walk(world, op, limit, back_from=page["last_id"])) == first[:-1], op
            found += 1
    assert found >= 3


def test_lists_refuse_what_they_do_not_know(world):
    for op in lists(world):
        if world.path(op) is None:
            continue
        some = str(uuid.uuid4()) if op.parameter("query", "after")["schema"].get("format") == "uuid" else "1"
        for query, param in (({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"limit": "x"}, "limit"), ({"colour": "red"}, "colour"),
                             ({"after": some, "before": some}, "before")):
            r = world.send(op, query=query)
            assert r.status_code == 400 and r.json()["error"]["param"] == param, f"{op} {query}: {r.text}"
            op.check(r)


def test_a_change_with_the_etag_that_was_read_is_made_and_with_another_refused(world):
    tried = 0
    assert world.tenant.upload("sql").status_code in (200, 201)  # the examples have removed it, and what they made
    for op in world.operations():
        if op.method == "post" and "requestBody" in op.item and world.path(op):
            world.send(op, *op.examples()[0])
    for op in world.operations():
        get = op.document.at(op.path, "get")
        if op.method not in ("patch", "put") or not op.parameter("header", "If-Match") or world.path(op) is None:
            continue
        world.fed[get.id] = world.fed.get(op.id, {})
        kind, value = op.examples()[0]
        read = world.send(get)
        if read.status_code == 404 or "etag" not in read.headers:  # there is none, or none yet
            make = op if op.method == "put" else op.document.at(op.path.rsplit("/", 1)[0], "post")
            for example in make.examples():
                world.send(make, *example)
            read = world.send(get)
            assert read.status_code == 200, f"{get}: {read.text}"
        tag = read.headers["etag"]
        assert re.fullmatch(r'"\d+"', tag) and read.json()["revision"] == int(tag[1:-1]), op
        wrong = world.send(op, kind, value, headers={"If-Match": '"999999"'})
        assert wrong.status_code == 412 and wrong.json()["error"]["code"] == "precondition_failed", f"{op}: {wrong.text}"
        op.check(wrong)
        for bad in ("7", 'W/"7"', '"x"', '"1", "2"'):
            assert world.send(op, kind, value, headers={"If-Match": bad}).status_code == 400, op
        right = world.send(op, kind, value, headers={"If-Match": tag})
        assert right.status_code == 200, f"{op}: {right.text}"
        if right.headers["etag"] != tag:  # else it was so already
            assert world.send(op, kind, value, headers={"If-Match": tag}).status_code == 412
        assert world.send(op, kind, value, headers={"If-Match": "*"}).status_code == 200
        tried += 1
    assert tried or not any(o.parameter("header", "If-Match") for o in world.operations())


def test_every_post_that_takes_a_key_answers_its_repetition_the_same(world):
    for op in world.operations():
        if op.method != "post" or not op.parameter("header", "Idempotency-Key") or world.path(op) is None:
            continue
        kind, value = op.examples()[0]
        if isinstance(value, dict) and "name" in value and not kind.startswith("multipart"):
            value = {**value, "name": "r" + uuid.uuid4().hex[:12]}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        path = world.path(op)
        first = world.send(op, kind, value, headers=key, path=path)
        again = world.send(op, kind, value, headers=key, path=path)
        if first.status_code >= 300:
            assert "idempotent-replayed" not in again.headers
            continue
        assert (again.status_code, again.json()) == (first.status_code, first.json()), op
        assert again.headers.get("idempotent-replayed") == "true", op
        op.check(again)


def test_routes_refuse_other_methods_and_strangers(world):
    for d in world.documents:
        for path in d.json["paths"]:
            ops = [o for o in d.operations if o.path == path]
            filled = re.sub(r"{\w+}", "x", path)
            r = httpx.request("TRACE", d.url + filled)
            assert r.status_code == 405, path
            assert {o.method.upper() for o in ops} <= set(r.headers["allow"].split(", ")), path
            for o in ops:
                if not o.item["security"]:
                    continue
                for headers in ({}, {"Authorization": "Bearer wft_nobody"}):
                    r = httpx.request(o.method, d.url + filled, headers=headers)
                    assert r.status_code == 401 and r.json()["error"]["code"] == "invalid_api_key", o
