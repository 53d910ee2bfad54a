"""Limits over HTTP: what is reserved, refused, settled and given back, for tenants, keys and adapters; headers; changes while it runs; prices; events.
On a gateway of this file's own with the fake engine, which counts 11 tokens in, 3 of them cached."""

import itertools
import json
import re
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gateway_process import BASE, Gateway, events, until

CLIENTS = 64
PROMPT = 11
NUMBER = itertools.count()
NAMES = ("limit", "remaining", "reset")


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("limits"), fake=True)
    yield g
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert (verdict["verify"]["bad_buckets"], verdict["audit"]["first_bad"], verdict["open_admissions"]) == (0, 0, 0)
    g.close()


@pytest.fixture
def t(g, request):
    """A tenant of the test's own, with nothing used."""
    words = re.sub(r"[^a-z0-9]", "-", request.node.name.lower().replace("test_", ""))[:50].strip("-")
    return g.tenant(f"{words}-{next(NUMBER)}")


def path(tenant, key=None, adapter=None):
    if key:
        return f"/admin/v1/keys/{key.split('_')[1]}/limits"
    return f"/admin/v1/tenants/{tenant.name}" + (f"/adapters/{adapter}" if adapter else "") + "/limits"


def put(tenant, key=None, adapter=None, headers=None, **limits):
    r = tenant.gateway.admin.put(path(tenant, key, adapter), json=limits, headers=headers or {})
    assert r.status_code == 200, r.text
    return r.json()


def used(tenant, key=None, adapter=None):
    r = tenant.gateway.admin.get(path(tenant, key, adapter))
    assert r.status_code == 200, r.text
    return r.json()["used"]


def error(r):
    e = r.json()["error"]
    assert set(e) == {"message", "type", "param", "code"}
    return e


def settled(tenant):
    """tokens, cost and requests by the usage rows."""
    rows = tenant.usage_rows()
    return sum(r["input_tokens"] + r["output_tokens"] for r in rows), sum(r["cost_nano"] for r in rows), len(rows)


def is_free(tenant, key=None, adapter=None):
    u = used(tenant, key, adapter)
    return u["concurrent_requests"] == 0 and u["reserved"] == {"tokens": 0, "cost": 0}


def until_free(tenant, **of):
    until(lambda: is_free(tenant, **of), what="all that was reserved")


def crowd(tenant, work, n=CLIENTS, rounds=2):
    """n clients at once, each does work(client, number) `rounds` times; all results."""
    start = threading.Barrier(n)

    def one(i):
        with tenant.http() as c:
            start.wait()
            return [work(c, i * rounds + k) for k in range(rounds)]

    with ThreadPoolExecutor(n) as pool:
        return [x for each in pool.map(one, range(n)) for x in each]


def body(text, max_tokens=4, model=BASE, **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, **more}


def ask(c, text, max_tokens=4, **more):
    return c.post("/v1/chat/completions", json=body(text, max_tokens, **more))


# --- headers and words ---


def test_without_limits_there_are_no_headers(t):
    r = t.ask("tokens=2")
    assert r.status_code == 200 and not [h for h in r.headers if h.startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_carry_the_six_headers(t, stream):
    put(t, requests_per_minute=5, tokens_per_minute=100000)
    seen = []
    for _ in range(2):
        r = t.ask("tokens=2", max_tokens=7, stream=stream)
        assert r.status_code == 200
        seen.append({h: r.headers[f"x-ratelimit-{h}"] for kind in ("requests", "tokens") for h in (f"{n}-{kind}" for n in NAMES)})
    assert [s["limit-requests"] for s in seen] == ["5", "5"] and [s["limit-tokens"] for s in seen] == ["100000"] * 2
    assert [s["remaining-requests"] for s in seen] == ["4", "3"]
    assert all(re.fullmatch(r"(\d+h)?(\d+m)?(\d+(ms|s))", s[k]) for s in seen for k in ("reset-requests", "reset-tokens"))
    # the first was settled to what it used before the second asked: no more than two reservations are missing
    assert 100000 - 2000 < int(seen[1]["remaining-tokens"]) < 100000 - PROMPT - 2 - 7
    until_free(t)
    assert used(t)["tokens_per_minute"] == 2 * (PROMPT + 2)


def test_a_refusal_says_which_limit_and_when_to_try_again(t):
    put(t, requests_per_minute=1)
    assert t.ask("tokens=1").status_code == 200
    r = t.ask("tokens=1")
    assert r.status_code == 429 and error(r)["code"] == "rate_limit_exceeded" and error(r)["type"] == "rate_limit_error"
    assert f"tenant `{t.name}` on requests per minute: limit 1, used 1, requested 1" in error(r)["message"]
    assert 55 <= int(r.headers["retry-after"]) <= 61 and "x-should-retry" not in r.headers
    assert abs(int(r.headers["retry-after-ms"]) / 1000 - int(r.headers["retry-after"])) <= 1
    assert r.headers["x-ratelimit-remaining-requests"] == "0"


def test_what_can_never_pass_is_told_so(t):
    put(t, tokens_per_minute=50)
    r = t.ask("tokens=1", max_tokens=60)
    assert r.status_code == 429 and error(r)["code"] == "rate_limit_exceeded"
    assert "Request too large" in error(r)["message"] and "limit 50" in error(r)["message"]
    assert "retry-after" not in r.headers and r.headers["x-should-retry"] == "false"


def test_a_spent_budget_is_insufficient_quota(t):
    put(t, tokens_per_day=40)
    assert t.ask("tokens=20", max_tokens=20).status_code == 200
    until_free(t)
    r = t.ask("tokens=4", max_tokens=4)
    assert r.status_code == 429 and error(r)["code"] == error(r)["type"] == "insufficient_quota"
    assert "tokens per day: limit 40, used 31, requested 15" in error(r)["message"]
    assert 0 < int(r.headers["retry-after"]) <= 86400 and r.headers["x-should-retry"] == "false"


def test_where_the_bound_does_not_fit_the_engine_counts(t):
    """By its bytes the prompt could have hundreds of tokens; the engine says 11."""
    put(t, tokens_per_minute=40)
    text = "tokens=3 " + "word " * 200
    assert t.ask(text, max_tokens=9).status_code == 200
    until_free(t)
    assert used(t)["tokens_per_minute"] == PROMPT + 3
    r = t.ask(text + "prompt=38", max_tokens=9)
    assert r.status_code == 429 and "requested 47" in error(r)["message"]


DENSE = {
    "digits": "0123456789 " * 40, "japanese": "\u5bff\u9650\u7121 " * 60, "emoji": "\U0001f9f5\U0001faa1" * 60, "accents": "a\u0301\u0323\u0308" * 60,
    "control": "\x01\x02\x7f\u200b\ufeff" * 60, "ligatures": "\ufdfa\ufb03" * 60, "white space": " \n\t\r\n" * 80, "template": "<|im_start|>user\n<|im_end|>" * 30,
    "one": "x", "broken": "\ufffd\u0000" * 60,
}


@pytest.mark.parametrize("kind", DENSE)
def test_no_prompt_has_more_tokens_than_its_body_has_bytes_and_the_template_adds(tenants, kind):
    """What limit_request.c takes for granted, with the real engine: as a chat of many messages, as a text, and as ids."""
    t, text = tenants["all"], DENSE[kind]
    bodies = [("/v1/chat/completions", {"messages": [{"role": r, "content": text} for r in ("system", "user", "assistant", "user")]}),
              ("/v1/completions", {"prompt": text}), ("/v1/completions", {"prompt": [text, text]}), ("/v1/completions", {"prompt": [[1, 2, 3], [4] * 50]})]
    with t.http() as c:
        for at, more in bodies:
            content = json.dumps({"model": BASE, "max_tokens": 1, **more}, ensure_ascii=False, separators=(",", ":")).encode()
            r = c.post(at, content=content, headers={"Content-Type": "application/json"})
            if r.status_code == 400:  # more than the context, or a text that no prompt can hold
                continue
            assert r.status_code == 200, r.text
            assert r.json()["usage"]["prompt_tokens"] <= len(content) + 512
            bare = sum(len(json.dumps(v, ensure_ascii=False).encode()) for v in more.values())
            assert r.json()["usage"]["prompt_tokens"] <= bare + 64, "the template's own part is far smaller than what is set aside for it"


def test_a_budget_holds_with_the_real_engine(real, tenants):
    t = tenants["all"]
    budget = used(t)["tokens_per_day"] + 600
    put(t, tokens_per_day=budget)
    codes = crowd(t, lambda c, i: ask(c, f"Say {i}.", 6, stream=i % 2 == 0, model=("sql", BASE)[i % 2]).status_code, n=24)
    until_free(t)
    assert set(codes) == {200, 429} and used(t)["tokens_per_day"] == settled(t)[0] <= budget
    put(t)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_before_the_first_count_has_used_the_prompt_all_the_same(real, tenants, stream):
    """Else a tenant could have prompts read below any budget, as often as it likes. The engine's receipt knows."""
    t = tenants["all"]
    put(t, tokens_per_day=10**9)
    before, rows = used(t)["tokens_per_day"], settled(t)[2]
    host, port = real.url.removeprefix("http://").rsplit(":", 1)
    text = json.dumps(body("one two three " * (400 if stream else 30), 1000, stream=stream, ignore_eos=True)).encode()
    with socket.create_connection((host, int(port))) as s:
        s.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {t.key}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        until(lambda: real.engine_state()["running"] == 1, what="the request's turn")
    until(lambda: settled(t)[2] == rows + 1, what="its row")
    row = t.usage_rows()[0]
    assert row["state"] == "client_abort" and row["input_tokens"] > 30, row
    assert used(t)["tokens_per_day"] == before + row["input_tokens"] + row["output_tokens"]
    put(t)


# --- many at once ---


@pytest.mark.parametrize("stream", [False, True])
def test_many_at_once_never_settle_above_a_token_budget(t, stream):
    budget = 700
    put(t, tokens_per_day=budget)
    codes = crowd(t, lambda c, i: ask(c, f"tokens={i % 8 + 1} delay_ms=1", 8, stream=stream).status_code)
    until_free(t)
    tokens, _, n = settled(t)
    assert set(codes) == {200, 429} and n == codes.count(200)
    assert tokens <= budget and used(t)["tokens_per_day"] == used(t)["tokens_per_month"] == tokens
    while t.ask("tokens=8", max_tokens=8).status_code == 200:
        pass
    until_free(t)
    assert budget - (PROMPT + 8) < settled(t)[0] <= budget


def test_many_at_once_never_settle_above_a_money_budget(g, t):
    price = {"base": BASE, "tenant": t.name, "prompt_nano": 500, "cached_nano": 100, "output_nano": 2000}
    assert g.admin.post("/admin/v1/prices", json=price).status_code == 201
    each = lambda n: 8 * 500 + 3 * 100 + n * 2000
    budget = 30 * each(4)
    put(t, cost_per_month=budget)
    codes = crowd(t, lambda c, i: ask(c, f"tokens={i % 4 + 1} delay_ms=1", 4, n=1 + i % 3).status_code)
    until_free(t)
    tokens, cost, n = settled(t)
    assert set(codes) == {200, 429} and n == codes.count(200)
    assert cost <= budget and used(t)["cost_per_month"] == cost
    assert cost == sum(each(r["output_tokens"]) for r in t.usage_rows())


def test_tokens_per_minute_are_never_above_with_leavers_breaks_and_refusals(t):
    limit = 1500
    put(t, tokens_per_minute=limit)
    words = ("tokens=6 delay_ms=2", "tokens=6 cut_after=3", "status=503 code=queue_full", "tokens=6 error_after=2", "tokens=6 first_ms=20")

    def work(c, i):
        text = words[i % len(words)]
        try:
            if i % 7 == 0:  # leaves in mid-stream
                with c.stream("POST", "/v1/chat/completions", json=body(text, 6, stream=True)) as r:
                    next(r.iter_lines(), None)
                    return r.status_code
            return ask(c, text, 6, stream=i % 2 == 0, n=1 + i % 2).status_code
        except httpx.HTTPError:
            return 0

    codes = crowd(t, work, rounds=3)
    until_free(t)
    tokens, _, n = settled(t)
    assert 429 in codes and 200 in codes and tokens <= limit
    assert used(t)["tokens_per_minute"] == tokens and used(t)["requests_per_minute"] == n


def test_no_more_requests_than_allowed_run_at_once(g, t):
    put(t, concurrent_requests=5)
    before = len(g.fake_log()["log"])
    codes = crowd(t, lambda c, i: ask(c, "tokens=3 delay_ms=10", stream=i % 2 == 0).status_code)
    assert set(codes) <= {200, 429} and codes.count(200) >= 5
    until_free(t)
    asked = g.fake_log()["log"][before:]
    assert len(t.usage_rows()) == codes.count(200) == len(asked)
    assert max(a["open"] for a in asked) == 5, "all places were used, and no more"


def test_one_after_the_other_passes_where_one_at_a_time_is_allowed(t):
    put(t, concurrent_requests=1)
    client = t.openai()
    for i in range(60):
        answer = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "tokens=2"}], max_tokens=2, stream=i % 2 == 0)
        if i % 2 == 0:
            assert list(answer)


def test_refused_requests_write_nothing_and_use_nothing(g, t):
    put(t, requests_per_minute=3)
    for _ in range(3):
        assert t.ask("tokens=1").status_code == 200
    until_free(t)
    before, rows = used(t), settled(t)
    asked = len(g.fake_log()["log"])
    assert set(crowd(t, lambda c, i: ask(c, "tokens=1").status_code)) == {429}
    assert used(t) == before and settled(t) == rows and len(g.fake_log()["log"]) == asked
    refused = g.admin.get("/metrics").text
    assert re.search(rf'weft_limit_refused_total{{tenant="{t.name}",scope="tenant",limit="requests_per_minute"}} {2 * CLIENTS}', refused)


# --- whose ---


def test_keys_and_adapters_have_limits_of_their_own(g, t):
    assert t.upload("sql").status_code == 201
    second = g.key(t.name, ["inference"])
    put(t, key=second, requests_per_minute=2)
    put(t, adapter="sql", requests_per_minute=1)
    as_second = httpx.Client(base_url=g.url, headers={"Authorization": f"Bearer {second}"}, timeout=20)
    assert ask(as_second, "tokens=1", model="sql").status_code == 200
    r = ask(as_second, "tokens=1", model="sql")
    assert r.status_code == 429 and "adapter `sql`" in error(r)["message"]
    assert ask(as_second, "tokens=1").status_code == 200, "what the adapter's limit refused did not count against the key"
    r = ask(as_second, "tokens=1")
    assert r.status_code == 429 and f"key `{second.split('_')[1]}`" in error(r)["message"]
    assert t.ask("tokens=1").status_code == 200
    assert t.ask("tokens=1", model="sql").status_code == 429
    for of, n in ((dict(key=second), 2), (dict(adapter="sql"), 1), ({}, 3)):
        until_free(t, **of)
        assert used(t, **of)["requests_per_minute"] == n
        assert used(t, **of)["tokens_per_day"] == n * (PROMPT + 1)


def test_a_tenant_sees_its_limits_and_its_keys(g, t):
    put(t, tokens_per_day=1000, requests_per_minute=9)
    put(t, key=t.key, concurrent_requests=3)
    with t.http() as c:
        for at in ("/v1/limits", f"/t/{t.name}/v1/limits"):
            o = c.get(at).json()
            assert o["tenant"]["limits"]["tokens_per_day"] == 1000 and o["key"]["limits"]["concurrent_requests"] == 3
    assert httpx.get(g.url + "/v1/limits").status_code == 401


def test_a_key_that_replaces_another_goes_on_with_its_budget_and_the_books_balance(g, t):
    old = g.key(t.name, ["inference"])
    put(t, key=old, tokens_per_day=10**9)
    ask_as = lambda key: httpx.post(g.url + "/v1/chat/completions", headers={"Authorization": f"Bearer {key}"}, timeout=20,
                                    json={"model": BASE, "messages": [{"role": "user", "content": "tokens=4"}]}).status_code
    assert ask_as(old) == 200
    until_free(t, key=old)
    new = g.admin.post(f"/admin/v1/keys/{old.split('_')[1]}/rotate", json={"grace_s": 60}).json()["key"]
    assert used(t, key=new)["tokens_per_day"] == PROMPT + 4
    assert ask_as(new) == 200 and ask_as(old) == 200
    until_free(t, key=new)
    assert used(t, key=new)["tokens_per_day"] == 2 * (PROMPT + 4)
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert verdict["verify"]["bad_buckets"] == 0


def test_there_are_no_limits_of_what_is_not_there(g, t):
    for at in ("/admin/v1/tenants/nobody/limits", "/admin/v1/keys/nokey/limits", path(t, adapter="none"), f"/admin/v1/keys/{g.admin_key.split('_')[1]}/limits"):
        for r in (g.admin.get(at), g.admin.put(at, json={})):
            assert r.status_code == 404 and error(r)["code"] == "not_found", at


# --- changes ---


def test_a_change_is_in_force_when_it_returns(t):
    for limit in (0, None, 0, None):
        put(t, concurrent_requests=limit)
        assert {t.ask("tokens=1").status_code for _ in range(4)} == ({429} if limit == 0 else {200})


def test_a_budget_knows_what_was_used_before_it_was_set(t):
    for _ in range(3):
        assert t.ask("tokens=5").status_code == 200
    until(lambda: settled(t)[2] == 3, what="all rows")
    assert put(t, tokens_per_day=100000)["used"]["tokens_per_day"] == 3 * (PROMPT + 5)
    assert t.ask("tokens=5").status_code == 200
    until_free(t)
    assert used(t)["tokens_per_day"] == used(t)["tokens_per_month"] == 4 * (PROMPT + 5)


def test_a_budget_that_is_set_while_requests_run_counts_each_once(t):
    with ThreadPoolExecutor(40) as pool:
        running = [pool.submit(t.ask, f"tokens=5 first_ms={i * 10}", max_tokens=5) for i in range(40)]
        time.sleep(0.15)
        put(t, tokens_per_day=10**9)
        assert {f.result().status_code for f in running} == {200}
    until_free(t)
    assert used(t)["tokens_per_day"] == settled(t)[0] == 40 * (PROMPT + 5)


def test_changes_are_checked_by_revision_and_noted(g, t):
    at = path(t)
    assert g.admin.get(at).json()["revision"] == 0 and "etag" not in g.admin.get(at).headers
    r = g.admin.put(at, json={"requests_per_minute": 5}, headers={"If-None-Match": "*"})
    assert r.status_code == 200 and r.headers["etag"] == '"1"' and r.json()["revision"] == 1
    assert g.admin.put(at, json={}, headers={"If-None-Match": "*"}).status_code == 412
    r = g.admin.put(at, json={"requests_per_minute": 6, "tokens_per_day": 10, "tokens_per_day_soft": 8}, headers={"If-Match": '"1"'})
    assert r.status_code == 200 and r.headers["etag"] == '"2"' == g.admin.get(at).headers["etag"]
    assert g.admin.put(at, json={}, headers={"If-Match": '"1"'}).status_code == 412
    assert g.admin.get(at).json()["limits"]["requests_per_minute"] == 6
    row = next(a for a in g.admin.get("/admin/v1/audit").json()["data"] if a["action"] == "limits.put")
    assert row["before"]["requests_per_minute"] == 5 and row["after"]["requests_per_minute"] == 6 and row["after"]["tokens_per_day_soft"] == 8


@pytest.mark.parametrize("text", ['{"tokens": 5}', '{"requests_per_minute": -1}', '{"requests_per_minute": 1.5}', '{"tokens_per_day": "9"}',
                                  '{"tokens_per_day": 5, "tokens_per_day_soft": 6}', '{"requests_per_minute": 99999999999999999}', "[]", "", "{"])
def test_wrong_limits_are_refused(g, t, text):
    r = g.admin.put(path(t), content=text)
    assert r.status_code == 400, r.text
    assert g.admin.get(path(t)).json()["revision"] == 0
    assert g.admin.put(path(t) + "?x=1", json={}).status_code == 400


def mint(g, maker, name="made"):
    r = httpx.post(g.url + "/v1/keys", json={"name": name, "roles": ["inference"]}, headers={"Authorization": f"Bearer {maker}"}, timeout=20)
    assert r.status_code == 201, r.text
    return r.json()["key"]


def test_a_key_that_was_made_knows_its_makers_use_though_only_a_soft_budget_came_with_it(g, t):
    put(t, key=t.key, tokens_per_day_soft=10**6)
    for _ in range(3):
        assert t.ask("tokens=5").status_code == 200
    until_free(t, key=t.key)
    made = mint(g, t.key)
    assert put(t, key=made, tokens_per_day=10**6)["used"]["tokens_per_day"] == 3 * (PROMPT + 5)
    assert used(t, key=made)["tokens_per_month"] == 3 * (PROMPT + 5)


# --- events ---


def all_events(client, at):
    out, after = [], 0
    while True:
        page = client.get(at, params={"limit": 3, **({"after": after} if after else {})}).json()
        out += page["data"]
        if not page["has_more"]:
            return out
        after = page["last_id"]


def test_a_soft_budget_is_told_once_and_refuses_nothing(g, t):
    put(t, tokens_per_day_soft=40, tokens_per_month_soft=10**6)
    put(t, key=t.key, tokens_per_day_soft=40)
    assert {c for c in crowd(t, lambda c, i: ask(c, "tokens=4").status_code, n=8)} == {200}
    until_free(t)
    with t.http() as c:
        own = all_events(c, "/v1/events")
    assert sorted(e["target"].split(":")[0] for e in own) == ["key", "tenant"] and {e["type"] for e in own} == {"budget.soft"}
    assert all(e["detail"]["limit"] == "tokens_per_day" and e["detail"]["value"] == 40 and 40 <= e["detail"]["used"] < 40 + PROMPT + 4 + 1 for e in own)
    mine = [e for e in all_events(g.admin, "/admin/v1/events") if e["tenant"] == t.name]
    assert [e["seq"] for e in mine] == [e["seq"] for e in own]


def test_a_hard_budget_is_told_once_at_its_first_refusal(g, t):
    """Nobody's request fits into what is left, so all of it will never be used."""
    put(t, tokens_per_day=40)
    assert t.ask("tokens=20", max_tokens=20).status_code == 200
    until_free(t)
    with t.http() as c:
        assert t.ask("tokens=1", max_tokens=60).status_code == 429 and all_events(c, "/v1/events") == [], "that one never fits"
        assert set(crowd(t, lambda c, i: ask(c, "tokens=4").status_code, n=8)) == {429}
        told = until(lambda: all_events(c, "/v1/events"), what="the event")
        assert [(e["type"], e["target"], e["detail"]["limit"], e["detail"]["value"], e["detail"]["used"]) for e in told] == [
            ("budget.hard", told[0]["target"], "tokens_per_day", 40, PROMPT + 20)]
        put(t, tokens_per_day=55)
        assert t.ask("tokens=9", max_tokens=9).status_code == 200
        until_free(t)
        assert t.ask("tokens=9", max_tokens=9).status_code == 429 and used(t)["tokens_per_day"] == 51
        assert [e["type"] for e in all_events(c, "/v1/events")] == ["budget.hard"], "once in its period"


def test_a_tenant_sees_no_events_of_others(g, t):
    with t.http() as c:
        assert all_events(c, "/v1/events") == []
        assert c.get("/v1/events?limit=0").status_code == 400 and c.get("/v1/events?what=1").status_code == 400
    assert all_events(g.admin, "/admin/v1/events")


# --- prices ---


def test_the_most_specific_price_that_began_counts_and_stays(g, t):
    assert t.upload("sql").status_code == 201
    post = lambda **p: g.admin.post("/admin/v1/prices", json={"base": BASE, "prompt_nano": 0, **p})
    made = [post(tenant=t.name, output_nano=10), post(tenant=t.name, adapter="sql", output_nano=1000),
            post(tenant=t.name, adapter="sql", output_nano=7, valid_from=4000000000)]
    assert [r.status_code for r in made] == [201] * 3
    assert post(tenant=t.name, adapter="sql", output_nano=8, valid_from=4000000000).status_code == 409

    def cost(model):
        r = t.ask("tokens=3", model=model)
        row = t.usage(r.headers["x-request-id"])
        return row["cost_nano"]

    assert (cost(BASE), cost("sql")) == (30, 3000)
    gone = g.admin.delete(f"/admin/v1/prices/{made[1].json()['id']}")
    assert gone.status_code == 200 and gone.json() == {"id": made[1].json()["id"], "object": "price", "deleted": True}
    assert g.admin.delete(f"/admin/v1/prices/{made[1].json()['id']}").status_code == 404
    assert cost("sql") == 30 and settled(t)[1] == 30 + 3000 + 30
    listed = {p["id"]: p for p in g.admin.get("/admin/v1/prices?limit=100").json()["data"]}
    assert listed[made[2].json()["id"]] == made[2].json() and made[1].json()["id"] not in listed


def test_a_chain_bills_the_adapter_and_the_price_that_answered_under_its_own_limits(g, t):
    sql, pirate = (t.upload(name).json() for name in ("sql", "pirate"))
    for price in ({"output_nano": 10}, {"adapter": "sql", "output_nano": 1}, {"adapter": "pirate", "output_nano": 1000}):
        assert g.admin.post("/admin/v1/prices", json={"base": BASE, "tenant": t.name, "prompt_nano": 0, **price}).status_code == 201
    with t.http() as c:
        targets = [{"adapter": "sql"}, {"adapter": "pirate"}, {"base": BASE}]
        assert c.put("/v1/aliases/chain", json={"policy": "fallback", "targets": targets}).status_code in (200, 201)
    assert t.ask("tokens=1", model="pirate").status_code == 200
    put(t, adapter="sql", requests_per_minute=100)
    put(t, adapter="pirate", requests_per_minute=3)
    put(t, cost_per_day=1_000_000)

    def billed():
        r = t.ask("tokens=4", model="chain", max_tokens=4)
        assert r.status_code == 200, r.text
        row = t.usage(r.headers["x-request-id"])
        assert row["model"] == "chain"
        return row["adapter"], row["version"], row["cost_nano"]

    assert billed() == ("sql", 1, 4)
    g.fake_set("/fake/load", status=503)
    try:
        g.fake_set("/fake/forget", digest=sql["digest"])
        assert [billed() for _ in range(2)] == [("pirate", 1, 4000)] * 2
        assert billed()[0] in (None, "")  # pirate's three requests of this minute are used up
        assert billed()[2] == 40
        until_free(t)
        assert [used(t, adapter=a)["requests_per_minute"] for a in ("sql", "pirate")] == [1, 3]
        assert used(t)["cost_per_day"] == 1000 + 4 + 8000 + 80
        put(t, cost_per_day=9084 + 3999)  # pirate's price would not fit, so nothing is tried
        assert t.ask("tokens=4", model="chain", max_tokens=4).status_code == 429
    finally:
        g.fake_set("/fake/load", status=200)


@pytest.mark.parametrize("wrong", [{"base": ""}, {"base": BASE}, {"base": BASE, "prompt_nano": 1, "output_nano": -1}, {"base": BASE, "prompt_nano": 1, "output_nano": 1, "x": 1},
                                   {"base": BASE, "adapter": "sql", "prompt_nano": 1, "output_nano": 1}, {"base": BASE, "prompt_nano": 10**10, "output_nano": 1}])
def test_wrong_prices_are_refused(g, wrong):
    assert g.admin.post("/admin/v1/prices", json=wrong).status_code == 400
    assert g.admin.post("/admin/v1/prices", json={"base": BASE, "tenant": "nobody", "prompt_nano": 1, "output_nano": 1}).status_code == 404


# --- crashes ---


def test_a_budget_knows_what_was_used_before_the_start(start):
    g = start(fake=True)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    for model in (BASE, "sql", "sql"):
        assert t.ask("tokens=5", model=model).status_code == 200
    g.stop()
    g.start()
    assert t.ask("tokens=5", model="sql").status_code == 200
    for of, n in ((dict(), 4), (dict(key=t.key), 4), (dict(adapter="sql"), 3)):
        until(lambda: used(t, **of)["tokens_per_month"] == n * (PROMPT + 5), what="the rows of a subject without limits")
        put(t, tokens_per_day=n * (PROMPT + 5) + PROMPT + 5, **of)
        assert used(t, **of)["tokens_per_day"] == n * (PROMPT + 5)
    assert t.ask("tokens=5", max_tokens=5, model="sql").status_code == 200
    until_free(t)
    r = t.ask("tokens=5", max_tokens=5)
    assert r.status_code == 429 and error(r)["code"] == "insufficient_quota"


def test_after_a_kill_budgets_begin_where_the_ledger_ends(start):
    g = start(fake=True)
    t = g.tenant("acme")
    put(t, tokens_per_day=10**6, tokens_per_day_soft=100)
    for _ in range(3):
        stop = threading.Event()

        def load():
            with t.http() as c:
                while not stop.is_set():
                    try:
                        ask(c, "tokens=20 delay_ms=5", 20, stream=True)
                    except httpx.HTTPError:
                        return

        threads = [threading.Thread(target=load) for _ in range(12)]
        for x in threads:
            x.start()
        time.sleep(0.6)
        g.kill()
        stop.set()
        for x in threads:
            x.join()
        g.start()
        assert is_free(t)
        tokens, _, _ = settled(t)
        assert used(t)["tokens_per_day"] == used(t)["tokens_per_month"] == tokens
    tokens, _, _ = settled(t)
    assert {r["state"] for r in t.usage_rows()} >= {"completed", "gateway_crash"}
    with t.http() as c:
        assert [e["type"] for e in all_events(c, "/v1/events")] == ["budget.soft"]
    put(t, tokens_per_day=tokens + PROMPT + 8)
    codes = crowd(t, lambda c, i: ask(c, "tokens=8", 8).status_code, n=16, rounds=1)
    until_free(t)
    assert codes.count(200) == 1 and settled(t)[0] == used(t)["tokens_per_day"] == tokens + PROMPT + 8
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as db:
        rows = db.execute("SELECT period, tokens FROM budget_use").fetchall()
        assert sorted(rows) == [(0, tokens + PROMPT + 8), (1, tokens + PROMPT + 8)]
        assert db.execute("SELECT count(*) FROM admission").fetchone() == (0,)
