"""What tenants say of answers: kept once for each request, replaced, listed, taken back, nobody's business but theirs and the operator's."""

import os
import subprocess
import uuid

import pytest

from gateway_process import BIN, Gateway


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("feedback"), fake=True)
    g.acme, g.other = g.tenant("acme"), g.tenant("other")
    yield g
    g.close()


def ask(tenant):
    r = tenant.ask("tokens=2")
    assert r.status_code == 200, r.text
    tenant.usage(r.headers["x-request-id"])
    return r.headers["x-request-id"]


def say(tenant, request, rating, key=None, **more):
    with tenant.http() as c:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return c.post("/v1/feedback", json={"request_id": request, "rating": rating, **more}, headers=headers)


def get(tenant, path, **query):
    with tenant.http() as c:
        return c.get(path, params=query)


def test_a_rating_is_kept_with_what_answered_and_a_later_one_replaces_it(g):
    request = ask(g.acme)
    r = say(g.acme, request, "down", label="wrong-queue", comment="it is about parcels")
    assert r.status_code == 200, r.text
    said = r.json()
    assert (said["rating"], said["label"], said["comment"], said["request_id"]) == (-1, "wrong-queue", "it is about parcels", request)
    row = g.acme.usage(request)
    assert (said["model"], said["adapter"], said["version"], said["api_key_id"]) == (row["model"], row["adapter"], row["version"], row["api_key_id"])
    again = say(g.acme, request, 0.5).json()
    assert (again["rating"], again["label"], again["comment"]) == (0.5, None, None)
    assert get(g.acme, f"/v1/feedback/{request}").json() == again
    assert [x["rating"] for x in get(g.acme, "/v1/feedback").json()["data"] if x["request_id"] == request] == [0.5]
    assert say(g.acme, request, "up").json()["rating"] == 1


@pytest.mark.parametrize("body,param", [
    ({}, "request_id"), ({"request_id": "x", "rating": "up"}, "request_id"), ({"rating": "up"}, "request_id"),
    ({"rating": "good"}, "rating"), ({"rating": 1.5}, "rating"), ({"rating": -1.001}, "rating"), ({"rating": None}, "rating"),
    ({"rating": True}, "rating"), ({"rating": "up", "label": "x" * 65}, "label"), ({"rating": "up", "comment": "x" * 4001}, "comment"),
    ({"rating": "up", "comment": 1}, "comment"), ({"rating": "up", "stars": 5}, "stars"),
])
def test_what_is_no_feedback_is_refused_by_its_field(g, body, param):
    if "request_id" not in body and param != "request_id":
        body["request_id"] = str(uuid.uuid4())
    with g.acme.http() as c:
        r = c.post("/v1/feedback", json=body)
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text


def test_anothers_request_and_one_that_never_was_are_the_same(g):
    theirs, nobodys = ask(g.other), str(uuid.uuid4())
    answers = [(r.status_code, r.text.replace(theirs, "ID").replace(nobodys, "ID"), r.headers["content-type"])
               for r in (say(g.acme, theirs, "down"), say(g.acme, nobodys, "down"))]
    assert answers[0] == answers[1] and answers[0][0] == 404
    assert say(g.other, theirs, "up").status_code == 200
    for path in (f"/v1/feedback/{theirs}", f"/v1/feedback/{nobodys}", "/v1/feedback/xyz"):
        assert get(g.acme, path).status_code == 404
    with g.acme.http() as c:
        assert c.delete(f"/v1/feedback/{theirs}").status_code == 404
    assert get(g.other, f"/v1/feedback/{theirs}").json()["rating"] == 1
    assert theirs not in get(g.acme, "/v1/feedback", limit=100).text


def test_it_is_said_by_keys_that_may_ask_and_listed_by_those_that_read_usage(g):
    request = ask(g.acme)
    asks, bills = (g.key("acme", [role]) for role in ("inference", "billing"))
    keys = [k if isinstance(k, str) else k["key"] for k in (asks, bills)]
    assert [say(g.acme, request, "up", key=k).status_code for k in keys] == [200, 403]
    with g.acme.http() as c:
        assert [c.get("/v1/feedback", headers={"Authorization": f"Bearer {k}"}).status_code for k in keys] == [403, 200]
    with g.acme.http() as c:
        assert c.post("/v1/feedback", json={"request_id": request, "rating": "up"}, headers={"Authorization": "Bearer none"}).status_code == 401


def test_lists_page_filter_and_show_the_operator_everybodys(g):
    requests = [ask(g.acme) for _ in range(5)]
    for i, request in enumerate(requests):
        assert say(g.acme, request, i / 4).status_code == 200
    first = get(g.acme, "/v1/feedback", limit=2).json()
    assert [x["request_id"] for x in first["data"]] == requests[:2:-1] and first["has_more"]
    second = get(g.acme, "/v1/feedback", limit=2, after=first["last_id"]).json()
    assert [x["request_id"] for x in second["data"]] == requests[2:0:-1]
    back = get(g.acme, "/v1/feedback", limit=2, before=second["first_id"]).json()
    assert back["data"] == first["data"]
    low = get(g.acme, "/v1/feedback", max_rating=0.25, limit=100).json()["data"]
    assert {x["request_id"] for x in low} & set(requests) == set(requests[:2]) and all(x["rating"] <= 0.25 for x in low)
    assert get(g.acme, "/v1/feedback", alias="none").json()["data"] == []
    for query in ({"max_rating": "x"}, {"max_rating": 2}, {"max_rating": "nan"}, {"max_rating": "-inf"}, {"alias": "x" * 65}, {"after": "x"}, {"colour": "red"}):
        assert get(g.acme, "/v1/feedback", **query).status_code == 400, query
    theirs = ask(g.other)
    say(g.other, theirs, "down")
    every = g.admin.get("/admin/v1/feedback", params={"limit": 100}).json()["data"]
    assert {x["tenant"] for x in every} == {"acme", "other"} and [x["request_id"] for x in every] == sorted((x["request_id"] for x in every), reverse=True)
    assert {x["tenant"] for x in g.admin.get("/admin/v1/feedback", params={"tenant": "other"}).json()["data"]} == {"other"}
    assert g.admin.get("/admin/v1/feedback", params={"tenant": "nobody"}).status_code == 404
    assert all("tenant" not in x for x in get(g.acme, "/v1/feedback").json()["data"])


def test_it_is_taken_back(g):
    request = ask(g.acme)
    say(g.acme, request, "down")
    with g.acme.http() as c:
        assert c.delete(f"/v1/feedback/{request}").json() == {"id": request, "object": "feedback", "deleted": True}
        assert c.delete(f"/v1/feedback/{request}").status_code == c.get(f"/v1/feedback/{request}").status_code == 404


def test_an_adjustment_is_no_answer(g):
    request = ask(g.acme)
    r = g.admin.post("/admin/v1/adjustments", json={"reason": "a test", "tenant": "acme", "cost_nano": 5})
    assert say(g.acme, r.json()["id"], "up").status_code == 404 and say(g.acme, request, "up").status_code == 200


def test_the_command_says_lists_and_takes_back(g):
    request = ask(g.acme)

    def weft(*args, code=0):
        env = {**os.environ, "WEFT_URL": g.url, "WEFT_KEY": g.acme.key, "WEFT_CONFIG": "/nonexistent/x"}
        r = subprocess.run([BIN / "weft", *args], env=env, capture_output=True, text=True, timeout=30)
        assert r.returncode == code, r.stderr
        return r.stdout + r.stderr

    assert "wrong-queue" in weft("feedback", "give", request, "-0.5", "--label", "wrong-queue")
    assert request in weft("feedback", "list") and "-0.5" in weft("feedback", "show", request)
    assert '"rating":1' in weft("feedback", "give", request, "up", "--json").replace(" ", "").replace("1.0", "1")
    assert "rating" in weft("feedback", "give", request, "splendid", code=1)
    weft("feedback", "rm", request)
    weft("feedback", "show", request, code=5)
