"""Adjustments: what was billed is corrected by rows of their own. Sums, budgets and the ledger's own check follow; never more is given back than was
billed; each tenant reads its own. On a gateway of this file's own with the fake engine: 11 tokens in, 3 of them cached."""

import concurrent.futures
import time

import pytest

from gateway_process import BASE, Gateway, until

PRICE = {"prompt_nano": 100, "cached_nano": 10, "output_nano": 1000}
COST = 8 * 100 + 3 * 10 + 5 * 1000


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("adjust"), fake=True)
    assert g.admin.post("/admin/v1/prices", json={"base": BASE, "valid_from": 0, **PRICE}).status_code == 201
    g.acme, g.other = g.tenant("acme"), g.tenant("other")
    yield g
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert (verdict["verify"]["bad_buckets"], verdict["audit"]["first_bad"], verdict["open_admissions"]) == (0, 0, 0)
    g.close()


def ask(tenant):
    """A request of 5 tokens; its id."""
    r = tenant.ask("tokens=5")
    assert r.status_code == 200, r.text
    tenant.usage(r.headers["x-request-id"])
    return r.headers["x-request-id"]


def adjust(g, headers=None, **body):
    return g.admin.post("/admin/v1/adjustments", json={"reason": "a test", **body}, headers=headers or {})


def sums(tenant):
    with tenant.http() as c:
        buckets = c.get("/v1/usage", params={"start_time": int(time.time()) - 86400}).json()["data"]
    rows = [r for b in buckets for r in b["results"]]
    return {k: sum(r[k] for r in rows) for k in ("num_model_requests", "input_tokens", "output_tokens", "cost_nano")}


def test_tokens_that_are_given_back_are_credited_at_the_price_of_then(g):
    request, before = ask(g.acme), sums(g.acme)
    r = adjust(g, request=request, output_tokens=-2, input_tokens=-1)
    assert r.status_code == 201, r.text
    a = r.json()
    assert (a["request"], a["tenant"], a["cost_nano"], a["output_tokens"], a["input_tokens"]) == (request, "acme", -2100, -2, -1)
    after = sums(g.acme)
    assert {k: after[k] - before[k] for k in after} == {"num_model_requests": 0, "input_tokens": -1, "output_tokens": -2, "cost_nano": -2100}
    assert g.acme.usage(request)["cost_nano"] == COST  # its row is as it was


def test_a_credit_without_a_request_is_money_alone(g):
    before = sums(g.acme)
    a = adjust(g, tenant="acme", cost_nano=-12345, reason="outage").json()
    assert (a["request"], a["cost_nano"], a["reason"]) == (None, -12345, "outage")
    assert sums(g.acme)["cost_nano"] - before["cost_nano"] == -12345
    assert adjust(g, tenant="acme", output_tokens=-1).json()["error"]["param"] == "request"
    assert adjust(g, cost_nano=-1).json()["error"]["param"] == "tenant"


def test_never_more_is_given_back_than_was_billed(g):
    request = ask(g.acme)
    for field, value in (("output_tokens", -6), ("input_tokens", -12), ("input_cached_tokens", -4), ("cost_nano", -COST - 1)):
        r = adjust(g, request=request, **{field: value})
        assert (r.status_code, r.json()["error"]["param"]) == (400, field), r.text
    assert adjust(g, request=request, cost_nano=-COST).status_code == 201
    assert adjust(g, request=request, cost_nano=-1).status_code == 400
    assert adjust(g, request=request, cost_nano=10).status_code == 201  # and back again
    assert adjust(g, request=request, cost_nano=-11).status_code == 400
    assert adjust(g, request=request, cost_nano=-10).status_code == 201


def test_many_at_once_never_give_back_more_than_was_billed(g):
    request = ask(g.acme)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [r.status_code for r in pool.map(lambda _: adjust(g, request=request, output_tokens=-1, cost_nano=0), range(12))]
    made = answers.count(201)
    assert made <= 5 and set(answers) <= {201, 400, 409}
    page = g.admin.get("/admin/v1/adjustments", params={"request": request, "limit": 100}).json()["data"]
    assert sum(a["output_tokens"] for a in page) == -made


def test_sent_again_with_its_key_it_is_made_once(g):
    headers, before = {"Idempotency-Key": f"adjust-{time.time()}"}, sums(g.acme)["cost_nano"]
    first = adjust(g, headers, tenant="acme", cost_nano=-7)
    again = adjust(g, headers, tenant="acme", cost_nano=-7)
    assert first.json() == again.json() and again.headers["idempotent-replayed"] == "true"
    assert sums(g.acme)["cost_nano"] == before - 7


@pytest.mark.parametrize("body, status, param", [
    ({"request": "00000000-0000-7000-8000-000000000000", "cost_nano": -1}, 404, "request"),
    ({"request": "no id", "cost_nano": -1}, 400, "request"),
    ({"tenant": "nobody", "cost_nano": -1}, 404, None),
    ({"tenant": "acme"}, 400, "cost_nano"),
    ({"tenant": "acme", "cost_nano": -1, "reason": ""}, 400, "reason"),
    ({"tenant": "acme", "cost_nano": -1, "reason": "x" * 501}, 400, "reason"),
    ({"tenant": "acme", "cost_nano": 10**15}, 400, "cost_nano"),
    ({"tenant": "acme", "cost_nano": -1, "more": 1}, 400, "more"),
])
def test_what_makes_no_sense_is_refused_by_name(g, body, status, param):
    r = adjust(g, **body)
    assert r.status_code == status, r.text
    if param:
        assert r.json()["error"]["param"] == param


def test_a_request_of_another_tenant_and_an_adjustment_cannot_be_adjusted(g):
    request = ask(g.acme)
    assert adjust(g, tenant="other", request=request, cost_nano=-1).status_code == 404
    a = adjust(g, tenant="acme", request=request, cost_nano=-1).json()
    r = adjust(g, request=a["id"], cost_nano=-1)
    assert (r.status_code, r.json()["error"]["param"]) == (400, "request")


def test_a_tenant_reads_its_own_and_the_operator_all(g):
    request = ask(g.other)
    a = adjust(g, request=request, output_tokens=-1, reason="for the other").json()
    with g.other.http() as c:
        page = c.get("/v1/adjustments").json()
        assert [x["id"] for x in page["data"]] == [a["id"]] and "actor" not in page["data"][0]
        assert c.get("/v1/adjustments", params={"request": request}).json()["data"] == page["data"]
        assert c.get("/v1/adjustments", params={"tenant": "acme"}).status_code == 400
        assert a["id"] not in [x["id"] for x in c.get("/v1/usage/requests").json()["data"]]  # it is no request
        events = c.get("/v1/events", params={"limit": 100}).json()["data"]
        assert [(e["target"], e["detail"]["request"]) for e in events if e["type"] == "usage.adjusted"] == [(a["id"], request)]
    with g.acme.http() as c:
        assert a["id"] not in [x["id"] for x in c.get("/v1/adjustments", params={"limit": 100}).json()["data"]]
    assert g.admin.get(f"/admin/v1/adjustments/{a['id']}").json() == a and a["actor"]
    assert g.admin.get("/admin/v1/adjustments", params={"tenant": "other"}).json()["data"] == [a]
    every, after = [], None
    while True:
        page = g.admin.get("/admin/v1/adjustments", params={"limit": 3, **({"after": after} if after else {})}).json()
        every += [x["id"] for x in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert every == sorted(set(every), reverse=True) and a["id"] in every
    audit = g.admin.get("/admin/v1/audit", params={"limit": 100}).json()["data"]
    assert a["id"] in [x["object"] if isinstance(x["object"], str) else None for x in audit] or any(a["id"] in str(x) for x in audit)


def test_a_budget_follows_in_memory_and_after_a_restart(g):
    path = "/admin/v1/tenants/acme/limits"
    request = ask(g.acme)
    assert g.admin.put(path, json={"cost_per_day": 10**12}).status_code == 200
    used = lambda: {k: g.admin.get(path).json()["used"][k] for k in ("tokens_per_day", "cost_per_day", "cost_per_month")}  # noqa: E731
    before = used()
    assert adjust(g, request=request, output_tokens=-3).status_code == 201
    after = used()
    assert {k: after[k] - before[k] for k in after} == {"tokens_per_day": -3, "cost_per_day": -3000, "cost_per_month": -3000}
    ask(g.acme)
    after = used()
    g.stop()
    g.start()
    assert used() == after
    until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0)
