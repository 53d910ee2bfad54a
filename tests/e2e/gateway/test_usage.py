"""Usage over HTTP: what the client was told is what the sums say, by every group and bucket, page by page, one's own alone; the operator's view,
the ledger's own check, and the metrics. On a gateway of this file's own with the fake engine, which counts 11 tokens in and 3 of them cached."""

import json
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway_process import BASE, DEMO, Gateway, events, until

SUMS = ("num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens", "produced_tokens")
WIDTHS = {"1m": 60, "1h": 3600, "1d": 86400}
GROUPS = {"model": "model", "key": "api_key_id", "api_key_id": "api_key_id", "state": "state", "adapter": "adapter", "version": "version"}


def counted(text):
    """The usage of a stream as its reader counts it: the fake engine sends a token a chunk."""
    return {"prompt_tokens": 11, "completion_tokens": len(events(text.splitlines())[0]), "prompt_tokens_details": {"cached_tokens": 3}}


class Told:
    """What the client saw: one row for each request that it made."""

    def __init__(self, g):
        self.g, self.rows = g, []

    def note(self, tenant, key, model, adapter, version, usage, state="completed"):
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        self.rows.append({"tenant": tenant.name, "api_key_id": key.split("_")[1], "model": model, "adapter": adapter, "version": version, "state": state,
                          "num_model_requests": 1, "input_tokens": usage["prompt_tokens"], "input_cached_tokens": cached,
                          "output_tokens": usage["completion_tokens"], "produced_tokens": usage["completion_tokens"]})

    def ask(self, tenant, model, adapter, version, tokens, stream=False, key=None):
        key = key or tenant.key
        body = {"model": model, "messages": [{"role": "user", "content": f"tokens={tokens}"}], "stream": stream}
        r = httpx.post(self.g.url + "/v1/chat/completions", headers={"Authorization": f"Bearer {key}"}, json=body, timeout=20)
        assert r.status_code == 200, r.text
        usage = counted(r.text) if stream else r.json()["usage"]
        assert usage["completion_tokens"] == tokens
        self.note(tenant, key, model, adapter, version, usage)

    def sums(self, members=(), tenant=None):
        """group -> sums"""
        out = {}
        for r in self.rows:
            if tenant in (None, r["tenant"]):
                group = out.setdefault(tuple(r[m] for m in members), dict.fromkeys(SUMS, 0))
                for s in SUMS:
                    group[s] += r[s]
        return out


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("usage"), fake=True)
    yield g
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert (verdict["verify"]["bad_buckets"], verdict["audit"]["first_bad"], verdict["open_admissions"]) == (0, 0, 0)
    g.close()


@pytest.fixture(scope="module")
def told(g):
    """Three tenants and their traffic: models, versions, keys, whole and streamed; all settled."""
    while time.time() % 60 > 50 or time.time() % 86400 > 86370:
        time.sleep(0.5)  # so that all of it falls into one minute
    told = Told(g)
    told.start = int(time.time())
    told.acme, told.other, told.idle = (g.tenant(n) for n in ("acme", "other", "idle"))
    told.second = g.key("acme", ["inference"])
    for t, name in ((told.acme, "sql"), (told.acme, "pirate"), (told.other, "sql")):
        assert t.upload(name).status_code == 201
    assert told.acme.upload("sql", folder=DEMO / "triage").json()["version"] == 2
    for i, stream in enumerate((False, True)):
        told.ask(told.acme, BASE, "", 0, 3 + i, stream)
        told.ask(told.acme, "sql", "sql", 2, 4 + i, stream)
        told.ask(told.acme, "sql@1", "sql", 1, 5 + i, stream)
        told.ask(told.acme, "pirate", "pirate", 1, 6 + i, stream, key=told.second)
        told.ask(told.other, "sql", "sql", 1, 7 + i, stream)
    r = told.acme.ask("status=503 code=queue_full tokens=1")
    assert r.status_code == 503
    told.refused = told.acme.usage(r.headers["x-request-id"])
    told.note(told.acme, told.acme.key, BASE, "", 0, {"prompt_tokens": 0, "completion_tokens": 0}, told.refused["state"])
    until(lambda: len(told.acme.usage_rows()) == 9 and len(told.other.usage_rows()) == 2, what="all rows")
    told.end = int(time.time()) + 1
    return told


def usage(client, path="/v1/usage", **params):
    r = client.get(path, params=params)
    assert r.status_code == 200, r.text
    page = r.json()
    assert page["object"] == "page" and page["has_more"] == (page["next_page"] is not None)
    return page


def results(page, members=()):
    """group -> sums over all buckets. A group comes once in a bucket."""
    out = {}
    for bucket in page["data"]:
        groups = [tuple(r[m] for m in members) for r in bucket["results"]]
        assert len(groups) == len(set(groups))
        for group, r in zip(groups, bucket["results"]):
            one = out.setdefault(group, dict.fromkeys(SUMS, 0))
            for s in SUMS:
                one[s] += r[s]
    return out


def refused(r, status, param):
    assert r.status_code == status and set(r.json()["error"]) == {"message", "type", "param", "code"}, r.text
    assert r.json()["error"]["param"] == param, r.text


# --- sums ---


@pytest.mark.parametrize("width", WIDTHS)
def test_the_sums_are_those_of_the_usage_objects_that_the_client_saw(told, width):
    for t in (told.acme, told.other):
        with t.http() as c:
            assert results(usage(c, bucket_width=width, start_time=told.start, end_time=told.end)) == told.sums(tenant=t.name)
    with told.idle.http() as c:
        assert results(usage(c, bucket_width=width, start_time=told.start, end_time=told.end)) == {}


@pytest.mark.parametrize("group", [*GROUPS, "model,adapter,version", "api_key_id,state,version,adapter,model"])
def test_each_group_splits_the_same_sums(told, group):
    members = tuple(GROUPS[w] for w in group.split(","))
    with told.acme.http() as c:
        page = usage(c, group_by=group, start_time=told.start, end_time=told.end)
        assert results(page, members) == told.sums(members, "acme")  # the base is the adapter "" of version 0
        repeated = c.get("/v1/usage", params=[("group_by[]", w) for w in group.split(",")] + [("start_time", told.start), ("end_time", told.end)])
        assert repeated.json() == page
    for bucket in page["data"]:
        for r in bucket["results"]:
            assert r["object"] == "organization.usage.completions.result"
            assert all(r[m] is None for m in ("tenant", "api_key_id", "model", "adapter", "version", "state") if m not in members)


@pytest.mark.parametrize("width", ["1m", "1h"])
def test_minutes_and_hours_know_states_and_refuse_what_they_do_not_know(told, width):
    with told.acme.http() as c:
        page = usage(c, bucket_width=width, group_by="state", start_time=told.start, end_time=told.end)
        assert results(page, ("state",)) == told.sums(("state",), "acme")
        for group in ("model", "key", "adapter", "version", "state,model"):
            refused(c.get("/v1/usage", params={"bucket_width": width, "group_by": group}), 400, "group_by")


def test_a_bucket_starts_inclusive_and_ends_exclusive(told):
    with told.acme.http() as c:
        for width, seconds in WIDTHS.items():
            start = told.start // seconds * seconds
            page = usage(c, bucket_width=width, start_time=start, end_time=start + seconds)
            assert [(b["object"], b["start_time"], b["end_time"]) for b in page["data"]] == [("bucket", start, start + seconds)]
            assert results(page) == told.sums(tenant="acme")
            for at in (start - seconds, start + seconds):
                assert results(usage(c, bucket_width=width, start_time=at, end_time=at + seconds)) == {}


def test_without_a_start_the_last_buckets_come_and_the_last_is_now(told):
    with told.acme.http() as c:
        for width, default in (("1m", 60), ("1h", 24), ("1d", 7)):
            page = usage(c, bucket_width=width)
            assert len(page["data"]) == default and not page["has_more"]
            assert page["data"][-1]["start_time"] <= time.time() < page["data"][-1]["end_time"] + 2
            assert results(page) == told.sums(tenant="acme")


@pytest.mark.parametrize("limit", [1, 7, 60])
def test_the_buckets_come_page_by_page_without_gap_or_repeat(told, limit):
    start, end = told.start - 7200, told.end
    with told.acme.http() as c:
        whole = usage(c, bucket_width="1m", start_time=start, end_time=end, limit=1440)
        assert not whole["has_more"]
        buckets, page = [], {"has_more": True, "next_page": None}
        while page["has_more"]:
            page = usage(c, bucket_width="1m", start_time=start, end_time=end, limit=limit, **({"page": page["next_page"]} if page["next_page"] else {}))
            assert len(page["data"]) <= limit
            buckets += page["data"]
    assert buckets == whole["data"]
    assert [b["start_time"] for b in buckets] == list(range(start // 60 * 60, end, 60))


@pytest.mark.parametrize("query, param", [
    ("start=1", "start"), ("group_by=nothing", "group_by"), ("group_by=", "group_by"), ("group_by=model,", "group_by"), ("group_by=tenant", "group_by"),
    ("tenant=other", "tenant"), ("bucket_width=1w", "bucket_width"), ("bucket_width=", "bucket_width"), ("limit=0", "limit"), ("limit=32", "limit"),
    ("bucket_width=1h&limit=169", "limit"), ("bucket_width=1m&limit=1441", "limit"), ("start_time=x", "start_time"), ("start_time=-1", "start_time"),
    ("start_time=1.5", "start_time"), ("start_time=2&end_time=1", "start_time"), ("start_time=1&end_time=1", "start_time"), ("page=x", "page"),
    ("page=99999999999&end_time=5&start_time=1", "page"), ("limit=1&limit=1", "limit"), ("start_time=1&start_time=2", "start_time"), ("GROUP_BY=model", "GROUP_BY"),
])
def test_a_bad_question_is_refused_by_name(told, query, param):
    with told.acme.http() as c:
        refused(c.get(f"/v1/usage?{query}"), 400, param)


# --- single requests ---


def keyset(client, path, limit, **params):
    rows, after = [], None
    while True:
        r = client.get(path, params={"limit": limit, **params, **({"after": after} if after else {})})
        assert r.status_code == 200, r.text
        page = r.json()
        assert len(page["data"]) <= limit
        assert (page["first_id"], page["last_id"]) == ((page["data"][0]["id"], page["data"][-1]["id"]) if page["data"] else (None, None))
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = page["last_id"]


@pytest.mark.parametrize("limit", [1, 2, 4, 9, 100])
def test_the_requests_come_newest_first_each_once(told, limit):
    with told.acme.http() as c:
        rows = keyset(c, "/v1/usage/requests", limit)
    ids = [r["id"] for r in rows]
    assert ids == sorted(set(ids), reverse=True) and len(ids) == 9
    want = [r for r in told.rows if r["tenant"] == "acme"][::-1]
    for row, seen in zip(rows, want):
        assert (row["api_key_id"], row["model"], row["adapter"] or "", row["version"] or 0, row["state"]) == tuple(
            seen[m] for m in ("api_key_id", "model", "adapter", "version", "state"))
        assert (row["input_tokens"], row["input_cached_tokens"], row["output_tokens"], row["produced_tokens"]) == tuple(
            seen[m] for m in SUMS[1:])
        assert row["start_us"] <= (row["first_us"] or row["end_us"]) <= row["end_us"] and row["created_at"] == row["start_us"] // 10**6


def test_nobody_sees_another_tenants_rows(told):
    with told.other.http() as c, told.acme.http() as mine:
        rows, others = keyset(c, "/v1/usage/requests", 100), keyset(mine, "/v1/usage/requests", 100)
        assert len(rows) == 2 and not {r["id"] for r in rows} & {r["id"] for r in others}
        # another tenant's id as a cursor is a place in time and shows nothing of its row
        between = c.get("/v1/usage/requests", params={"after": others[0]["id"]}).json()["data"]
        assert {r["id"] for r in between} <= {r["id"] for r in rows}
        for path in ("/v1/usage", "/v1/usage/requests"):
            assert c.get(f"/t/acme{path}").status_code == 401
            assert c.get(f"/t/other{path}").status_code == 200
        assert "acme" not in json.dumps([rows, usage(c, group_by="adapter,key,model")])


@pytest.mark.parametrize("query, param", [("after=x", "after"), ("after=", "after"), ("limit=0", "limit"), ("limit=101", "limit"), ("state=done", "state"), ("colour=red", "colour"),
                                          ("tenant=other", "tenant"), ("after=01a1fdf4-0f44-7000-b73f-571bb3492da7%00", None)])
def test_a_bad_cursor_is_refused(told, query, param):
    with told.acme.http() as c:
        refused(c.get(f"/v1/usage/requests?{query}"), 400, param)


# --- the operator's view ---


@pytest.mark.parametrize("width", WIDTHS)
def test_the_operator_sees_all_tenants_and_each_alone(g, told, width):
    span = {"bucket_width": width, "start_time": told.start, "end_time": told.end}
    assert results(usage(g.admin, "/admin/v1/usage", **span)) == told.sums()
    assert results(usage(g.admin, "/admin/v1/usage", group_by="tenant", **span), ("tenant",)) == told.sums(("tenant",))
    assert results(usage(g.admin, "/admin/v1/usage", group_by="tenant,state", **span), ("tenant", "state")) == told.sums(("tenant", "state"))
    for t in ("acme", "other"):
        assert results(usage(g.admin, "/admin/v1/usage", tenant=t, **span)) == told.sums(tenant=t)
        assert results(usage(g.admin, "/admin/v1/usage", tenant=t, group_by="tenant", **span), ("tenant",)) == told.sums(("tenant",), t)
    assert results(usage(g.admin, "/admin/v1/usage", tenant="idle", **span)) == {}


def test_the_operators_requests_are_everybodys_or_one_tenants(g, told):
    everybody = keyset(g.admin, "/admin/v1/usage/requests", 3)
    assert len(everybody) == 11 and [r["id"] for r in everybody] == sorted((r["id"] for r in everybody), reverse=True)
    assert keyset(g.admin, "/admin/v1/usage/requests", 3, tenant="other") == [r for r in everybody if r["id"] in {x["id"] for x in told.other.usage_rows()}]
    refused(g.admin.get("/admin/v1/usage/requests?tenant=nobody"), 404, None)


def test_the_ledger_verifies_and_is_empty_of_open_admissions(g, told):
    ledger = g.admin.get("/admin/v1/ledger", params={"verify": 1}).json()
    assert (ledger["object"], ledger["open_admissions"], ledger["writable"], ledger["retried"]) == ("ledger", 0, True, 0)
    assert ledger["verify"] == {"rows": len(told.rows), "bad_buckets": 0}
    assert "verify" not in g.admin.get("/admin/v1/ledger").json()
    refused(g.admin.get("/admin/v1/ledger?verify=2"), 400, "verify")


# --- metrics ---


def families(url):
    r = httpx.get(url + "/metrics")
    assert r.status_code == 200 and r.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {f.name: f for f in text_string_to_metric_families(r.text)}, r.text


def test_the_metrics_are_prometheus_text_and_agree_with_the_ledger(g, told):
    found, text = families(g.admin_url)
    for family in found.values():
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        labels = [(s.name, tuple(sorted(s.labels.items()))) for s in family.samples]
        assert len(labels) == len(set(labels)), f"{family.name} has a series twice"
    requests = {(s.labels["tenant"], s.labels["state"]): s.value for s in found["weft_requests"].samples}
    assert requests == {k: float(v["num_model_requests"]) for k, v in told.sums(("tenant", "state")).items()}
    tokens = {(s.labels["tenant"], s.labels["kind"]): s.value for s in found["weft_tokens"].samples}
    for (t,), sums in told.sums(("tenant",)).items():
        for kind, member in (("prompt", "input_tokens"), ("cached", "input_cached_tokens"), ("output", "output_tokens"), ("produced", "produced_tokens")):
            assert tokens[t, kind] == sums[member]
    assert found["weft_open_admissions"].samples[0].value == 0 and found["weft_database_writable"].samples[0].value == 1
    for key in (told.acme.key, told.second, g.admin_key):
        assert key.split("_")[2] not in text


def test_a_histogram_rises_to_its_count(g, told):
    found, _ = families(g.admin_url)
    for name in ("weft_time_to_first_token_seconds", "weft_request_seconds"):
        samples = found[name].samples
        buckets = [s for s in samples if s.name.endswith("_bucket")]
        values, bounds = [s.value for s in buckets], [float(s.labels["le"]) for s in buckets]
        assert values == sorted(values) and bounds == sorted(bounds) and bounds[-1] == float("inf")
        assert values[-1] == next(s.value for s in samples if s.name.endswith("_count")) >= 10
        assert next(s.value for s in samples if s.name.endswith("_sum")) > 0


def test_what_a_client_chooses_makes_no_series_of_its_own(g, told):
    """Strangers' paths, methods and models must not fill the registry."""
    before = families(g.admin_url)[1].count("\n")
    with told.acme.http() as c:
        for i in range(40):
            c.get(f"/nothing/{i}")
            c.get(f"/v1/models/absent-{i}")
            c.get(f"/t/stranger-{i}/v1/models")
            c.post("/v1/chat/completions", json={"model": f"absent-{i}", "messages": []})
    assert families(g.admin_url)[1].count("\n") - before <= 8


def test_every_route_that_answers_is_metered(g):
    """I14: each path of the tag Inference, in both of its forms, leaves one row that names it."""
    paths = [p for p, item in httpx.get(g.url + "/openapi.json").json()["paths"].items() if "Inference" in item.get("post", {}).get("tags", [])]
    assert len(paths) >= 2
    tenant = g.tenant("metered")
    for path in paths:
        for prefix in ("", "/t/metered"):
            body = {"model": BASE, "stream": bool(prefix), "messages": [{"role": "user", "content": "tokens=2"}], "prompt": "tokens=2"}
            body.pop("prompt" if path.endswith("chat/completions") else "messages")
            with tenant.http() as c:
                r = c.post(prefix + path, json=body)
            assert r.status_code == 200, r.text
            row = tenant.usage(r.headers["x-request-id"])
            assert (row["endpoint"], row["output_tokens"], row["state"]) == (path, 2, "completed")
