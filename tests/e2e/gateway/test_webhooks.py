"""Webhooks: what a receiver gets is what the ledger has, each once by its id, signed, in order, whatever dies or misbehaves on the way."""

import subprocess
import time

import httpx
import pytest

from gateway_process import BASE, until
from webhook_process import act, arrived, ask, ledger_ids, look, make, outbox, remove, start
from webhook_receiver import sign


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = start(tmp_path_factory.mktemp("hooks"))
    g.acme, g.other = g.tenant("acme"), g.tenant("other")
    yield g
    g.close()


@pytest.fixture(autouse=True)
def _none_left(request):
    yield
    if "g" in request.fixturenames:
        g = request.getfixturevalue("g")
        remove(g, *g.admin.get("/admin/v1/webhooks", params={"limit": 100}).json()["data"])


# --- what is sent ---

def test_a_settled_request_comes_as_a_cloud_event_with_its_counts(g, inbox):
    hook = make(g, inbox, "counts")
    (id,) = ask(g.acme, text="tokens=3 prompt=7")
    arrived(inbox, "counts", [id])
    (event,) = inbox.events("counts")
    row = g.acme.usage(id)
    assert event["type"] == "weft.usage.settled" and event["subject"] == "acme" and event["id"] == id
    assert event["source"].startswith("urn:weft:")
    for field in ("input_tokens", "input_cached_tokens", "output_tokens", "produced_tokens", "cost_nano", "state", "api_key_id", "model", "base", "adapter", "version",
                  "endpoint", "stream", "http_status", "finish_reason", "count_source", "attempt", "cold", "engine", "start_us", "first_us", "end_us"):
        assert event["data"][field] == row[field], field
    assert event["data"]["currency"] == "USD" and event["data"]["requests"] == 1
    seen = look(g, hook)
    assert seen["delivered"] == 1 and seen["last_status"] == 200 and seen["waiting"] == 0 and seen["last_error"] is None
    assert inbox.state()["wrong"] == []


def test_a_webhook_gets_its_tenants_requests_and_those_that_come_after_it_only(g, inbox):
    before = ask(g.acme, 2)
    every, own = make(g, inbox, "every"), make(g, inbox, "own", tenant="acme")
    mine, theirs = ask(g.acme, 3), ask(g.other, 3)
    arrived(inbox, "every", mine + theirs)
    arrived(inbox, "own", mine)
    assert inbox.usage("every") == mine + theirs and inbox.usage("own") == mine
    assert not set(before) & set(inbox.usage("every"))
    until(lambda: outbox(g) == 0, what="an empty outbox")
    assert inbox.state()["wrong"] == []


def test_a_correction_comes_as_one_and_names_what_it_corrects(g, inbox):
    make(g, inbox, "fixed")
    (id,) = ask(g.acme)
    one = g.admin.post("/admin/v1/adjustments", json={"request": id, "output_tokens": -1, "reason": "a token too many"})
    two = g.admin.post("/admin/v1/adjustments", json={"tenant": "acme", "cost_nano": -1000, "reason": "sorry"})
    assert one.status_code == two.status_code == 201, one.text + two.text
    until(lambda: len(inbox.events("fixed")) == 3, what="request, correction, credit")
    _, first, second = inbox.events("fixed")
    assert first["type"] == second["type"] == "weft.usage.adjusted" and first["id"] == one.json()["id"]
    assert (first["data"]["adjusts"], first["data"]["output_tokens"], first["data"]["cost_nano"], first["data"]["requests"]) == (id, -1, 0, 0)
    assert (second["data"]["adjusts"], second["data"]["cost_nano"], second["subject"]) == (None, -1000, "acme")
    assert inbox.state()["wrong"] == []


def test_events_come_by_the_beginning_of_their_type(g, inbox):
    all_of, some, theirs = (make(g, inbox, "all", usage=False, events=["*"]), make(g, inbox, "some", tenant="acme", usage=False, events=["alias.", "webhook."]),
                            make(g, inbox, "theirs", tenant="other", usage=False, events=["*"]))
    assert g.acme.upload("sql").status_code == 201
    with g.acme.http() as c:
        assert c.put("/v1/aliases/chat", json={"targets": [{"adapter": "sql"}]}).status_code in (200, 201)
    until(lambda: inbox.events("some"), what="the alias's event")
    until(lambda: any(e["type"] == "weft.event.alias.changed" for e in inbox.events("all")), what="the same at the operator's")
    assert [e["type"] for e in inbox.events("some")] == ["weft.event.alias.changed"]
    assert inbox.events("some")[0]["data"]["target"] == "chat" and inbox.events("some")[0]["subject"] == "acme"
    assert "weft.event.version.ready" in [e["type"] for e in inbox.events("all")] and inbox.events("theirs") == []
    g.acme.http().delete("/v1/aliases/chat")
    assert inbox.state()["wrong"] == []


def test_a_redelivery_by_time_sends_what_was_before_the_webhook(g, inbox):
    since = int(time.time()) - 3600
    ask(g.acme, 120)
    old = ledger_ids(g, "acme")
    hook = make(g, inbox, "again", tenant="acme")
    act(g, hook, "redeliver", start_time=since)
    arrived(inbox, "again", old)
    until(lambda: look(g, hook)["redelivery"] is None, what="the end of the redelivery")
    assert inbox.usage("again") == sorted(old), "raw rows come in the order of their ids"
    first = inbox.events("again")[10]["data"]["start_us"] // 1000000
    assert g.admin.post(f"/admin/v1/webhooks/{hook['id']}/redeliver", json={"start_time": first, "after_event": 1}).status_code == 400
    assert g.admin.post(f"/admin/v1/webhooks/{hook['id']}/redeliver", json={"start_time": int(time.time()) + 1000}).status_code == 400
    assert g.admin.post(f"/admin/v1/webhooks/{hook['id']}/redeliver", json={}).status_code == 400
    new = ask(g.acme, 2)
    arrived(inbox, "again", new)
    assert inbox.state()["wrong"] == []


def test_old_events_come_again_after_a_number_or_a_time(g, inbox):
    hook = make(g, inbox, "past", usage=False, events=["*"])
    act(g, hook, "redeliver", after_event=0)
    known = [e["seq"] for e in g.admin.get("/admin/v1/events", params={"limit": 100}).json()["data"]]
    until(lambda: len(inbox.events("past")) >= len(known), what="all events")
    assert [e["data"]["seq"] for e in inbox.events("past")][:len(known)] == known
    n = len(inbox.batches("past"))
    act(g, hook, "redeliver", start_time=int(time.time()) - 3600)
    until(lambda: len(inbox.batches("past")) > n, what="them once more")
    assert inbox.state()["wrong"] == []


# --- how it is signed ---

def test_a_rotation_signs_with_both_secrets_until_the_grace_is_over(g, inbox):
    hook = make(g, inbox, "turn")
    new = act(g, hook, "rotate", grace_s=3600)["secret"]
    assert new != hook["secret"]
    inbox.tell(secrets={"turn": [hook["secret"], new]})
    arrived(inbox, "turn", ask(g.acme))
    last = act(g, hook, "rotate", grace_s=0)["secret"]
    inbox.tell(secrets={"turn": [last]})
    arrived(inbox, "turn", ask(g.acme))
    assert [b["signatures"] for b in inbox.batches("turn")] == [2, 1]
    assert inbox.state()["wrong"] == []


def test_the_receiver_signs_as_the_specification_does():
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of the specification
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}') == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_shown_once_and_stands_nowhere(g, inbox):
    hook = make(g, inbox, "hidden")
    rotated = act(g, hook, "rotate")
    arrived(inbox, "hidden", ask(g.acme))
    assert "secret" not in look(g, hook) and "secret" not in g.admin.get("/admin/v1/webhooks").json()["data"][0]
    for secret in (hook["secret"], rotated["secret"]):
        bare = secret.removeprefix("whsec_")
        found = subprocess.run(["grep", "-rlF", bare, str(g.data)], capture_output=True, text=True).stdout
        assert not found and bare not in g.log.read_text()
        assert bare not in g.admin.get("/admin/v1/audit", params={"limit": 100}).text


def test_a_receiver_sees_its_authorization_until_the_url_changes(g, inbox):
    token = "Bearer om_1234567890"
    hook = make(g, inbox, "token", authorization=token)
    inbox.tell(tokens={"token": token})
    arrived(inbox, "token", ask(g.acme))
    assert act(g, hook, "test")["delivered"] and inbox.state()["wrong"] == []
    act(g, hook, "rotate", grace_s=0)
    inbox.tell(secrets={"token": []})
    arrived(inbox, "token", ask(g.acme))
    change = lambda **body: g.admin.patch(f"/admin/v1/webhooks/{hook['id']}", json=body)
    assert token not in change(name="token2", url=inbox.url("token")).text and act(g, hook, "test")["delivered"]
    assert inbox.state()["wrong"] == []
    assert change(url=inbox.url("token") + "?x").status_code == 200
    inbox.tell(tokens={"token": None})
    assert act(g, hook, "test")["delivered"] and inbox.state()["wrong"] == []
    assert change(authorization="a\r\nX-Evil: 1").status_code == 400 and change(authorization=token).status_code == 200
    assert change(authorization=None).status_code == 200 and act(g, hook, "test")["delivered"]
    assert inbox.state()["wrong"] == []
    assert not subprocess.run(["grep", "-rlF", token, str(g.data), str(g.log)], capture_output=True, text=True).stdout


def test_the_audit_trail_has_every_change_and_no_query_of_a_url(g, inbox):
    hook = make(g, inbox, "noted?token=geheim".replace("?token=geheim", "noted"))
    g.admin.patch(f"/admin/v1/webhooks/{hook['id']}", json={"url": inbox.url("noted") + "?token=geheim"})
    for verb in ("pause", "resume", "rotate"):
        act(g, hook, verb)
    remove(g, hook)
    rows = [r for r in g.admin.get("/admin/v1/audit", params={"limit": 100}).json()["data"] if r["target"] == hook["id"]]
    assert [r["action"] for r in rows] == [f"webhook.{a}" for a in ("remove", "rotate", "resume", "pause", "update", "create")]
    assert "geheim" not in str(rows)


# --- what may be asked for ---

def test_a_webhook_goes_to_public_addresses_and_listed_hosts_only(g):
    post = lambda url: g.admin.post("/admin/v1/webhooks", json={"name": "guard", "url": url})
    for url in ("http://example.com/", "http://127.0.0.2/", "ftp://127.0.0.1/", "https://user:pw@example.com/", "https:///x", "https://exa mple.com/", "http://127.0.0.1.example/"):
        r = post(url)
        assert r.status_code == 400 and r.json()["error"]["param"] == "url", f"{url}: {r.text}"
    for url in ("https://127.0.0.2:9/", "https://[::1]:9/", "https://localhost:9/", "https://169.254.169.254/latest/meta-data", "https://0x7f000001:9/"):
        hook = post(url).json()
        said = act(g, hook, "test")
        assert not said["delivered"] and said["status"] is None, said
        assert "not allowed" in said["error"] or "cannot connect" in said["error"] or "broke off" in said["error"], said
        remove(g, hook)
    

def test_a_redirect_is_not_followed(g, inbox):
    hook = make(g, inbox, "moved")
    inbox.tell(plan={"moved": ["302"] * 2})
    arrived(inbox, "moved", ask(g.acme))
    assert "elsewhere" not in inbox.state()["requests"] and len(inbox.state()["requests"]["moved"]) == 3


def test_a_test_event_says_how_it_went(g, inbox):
    hook = make(g, inbox, "tried")
    assert act(g, hook, "test") | {"duration_ms": 0} == {"object": "webhook.test", "id": hook["id"], "delivered": True, "status": 200, "error": None, "duration_ms": 0}
    assert [e["type"] for e in inbox.events("tried")] == ["weft.webhook.test"]
    inbox.tell(plan={"tried": ["500", "endless"]})
    said = act(g, hook, "test")
    assert not said["delivered"] and said["status"] == 500
    said = act(g, hook, "test")  # cut where a batch's answer would be
    assert said["delivered"] and said["status"] == 200 and said["error"] is None
    assert look(g, hook)["failures"] == 0 and inbox.state()["wrong"] == []


def test_a_tenant_has_its_own_webhooks_and_no_others(g, inbox):
    with g.acme.http() as acme, g.other.http() as other:
        r = acme.post("/v1/webhooks", json={"name": "mine", "url": inbox.url("mine")})
        assert r.status_code == 201 and r.json()["tenant"] == "acme" and r.headers["cache-control"] == "no-store"
        hook = r.json()
        assert acme.post("/v1/webhooks", json={"name": "mine", "url": inbox.url("mine")}).status_code == 409
        assert acme.post("/v1/webhooks", json={"name": "his", "url": inbox.url("x"), "tenant": "other"}).status_code == 400
        at = f"/v1/webhooks/{hook['id']}"
        for r in (other.get(at), other.patch(at, json={"usage": False}), other.delete(at), *(other.post(f"{at}/{v}") for v in ("pause", "resume", "rotate", "test")),
                  other.post(f"{at}/redeliver", json={"start_time": 0})):
            assert r.status_code == 404, r.text
        assert other.get("/v1/webhooks").json()["data"] == [] and len(acme.get("/v1/webhooks").json()["data"]) == 1
        assert acme.get(f"/t/acme{at}").status_code == 200 and other.get(f"/t/acme{at}").status_code == 401
        for role in ("billing", "writer", "inference"):
            r = httpx.get(g.url + "/v1/webhooks", headers={"Authorization": f"Bearer {g.key('acme', [role])}"})
            assert r.status_code == 403, role
        mine = g.admin.get("/admin/v1/webhooks", params={"tenant": "acme"}).json()["data"]
        assert [h["id"] for h in mine] == [hook["id"]] and g.admin.get("/admin/v1/webhooks", params={"tenant": "nobody"}).status_code == 404
        made = [acme.post("/v1/webhooks", json={"name": f"more-{i}", "url": inbox.url("x")}).status_code for i in range(16)]
        assert made == [201] * 15 + [409]
        for h in acme.get("/v1/webhooks", params={"limit": 100}).json()["data"]:
            assert acme.delete(f"/v1/webhooks/{h['id']}").status_code == 200


# --- receivers that misbehave ---

def test_what_fails_comes_again_with_the_same_bytes_and_in_order(g, inbox):
    hook = make(g, inbox, "bad")
    inbox.tell(plan={"bad": ["500", "drop", "lose", "cut", "long", "slow", "ok"]})
    ids = ask(g.acme, 3)
    arrived(inbox, "bad", ids)
    more = ask(g.acme, 3)
    arrived(inbox, "bad", more)
    assert inbox.usage("bad") == ids + more and inbox.state()["wrong"] == []
    until(lambda: look(g, hook)["failures"] == 0, what="peace")
    assert look(g, hook)["failing_since"] is None


def test_a_receiver_that_is_gone_pauses_its_webhook_until_it_is_resumed(g, inbox):
    hook, watch = make(g, inbox, "gone"), make(g, inbox, "watch", usage=False, events=["webhook."])
    inbox.tell(plan={"gone": ["410"]})
    ids = ask(g.acme, 2)
    until(lambda: look(g, hook)["state"] == "paused", what="the pause")
    assert look(g, hook)["last_status"] == 410 and look(g, hook)["waiting"] >= 1
    until(lambda: [e["type"] for e in inbox.events("watch")] == ["weft.event.webhook.paused"], what="the event of it")
    ids += ask(g.acme, 2)
    assert inbox.usage("gone") == [] and len(inbox.state()["requests"]["gone"]) == 1
    act(g, hook, "resume")
    arrived(inbox, "gone", ids)
    assert inbox.usage("gone") == ids and inbox.state()["wrong"] == []


def test_retry_after_is_kept_to(g, inbox):
    hook = make(g, inbox, "busy")
    inbox.tell(plan={"busy": ["429"]})
    arrived(inbox, "busy", ask(g.acme))
    first, second = inbox.state()["requests"]["busy"]
    assert second - first >= 1.9, "Retry-After: 2, while webhook_retry_s is 1"


def test_a_batch_that_is_too_large_for_the_receiver_is_halved(g, inbox):
    hook = make(g, inbox, "small")
    act(g, hook, "pause")
    ids = ask(g.acme, 60)
    inbox.tell(plan={"small": ["413"] * 50})
    act(g, hook, "resume")
    arrived(inbox, "small", ids)
    assert max(len(b["events"]) for b in inbox.batches("small")) <= 10 and inbox.usage("small") == ids
    assert inbox.state()["wrong"] == []


def test_a_webhook_too_far_behind_fails_and_misses_nothing_once_it_is_resumed(tmp_path, _model, inbox):
    g = start(tmp_path / "behind", "--webhook-lag-rows", "100")
    try:
        acme = g.tenant("acme")
        hook, watch = make(g, inbox, "late"), make(g, inbox, "watch", usage=False, events=["webhook."])
        ids = ask(acme, 3)
        arrived(inbox, "late", ids)
        inbox.tell(chaos={"late": {"500": 1}})
        ids += ask(acme, 130)
        until(lambda: look(g, hook)["state"] == "failing", what="the end of patience")
        seen = look(g, hook)
        assert "webhook_lag_rows" in seen["last_error"] and seen["redelivery"]["end_time"] is None
        until(lambda: "weft.event.webhook.failing" in [e["type"] for e in inbox.events("watch")], what="the event of it")
        until(lambda: outbox(g) == 0, what="an outbox that nobody waits for")
        ids += ask(acme, 20)
        inbox.tell(chaos={"late": {"ok": 1}})
        act(g, hook, "resume")
        ids += ask(acme, 20)
        arrived(inbox, "late", ids)
        until(lambda: look(g, hook)["redelivery"] is None, what="the end of the redelivery")
        assert set(inbox.usage("late")) == set(ids) and inbox.state()["wrong"] == []
    finally:
        g.close()


def test_a_webhook_that_nothing_waits_for_is_not_stopped_for_what_waits_for_others(tmp_path, _model, inbox):
    g = start(tmp_path / "full", "--webhook-lag-rows", "100")  # 400 for all together
    try:
        tenants = [g.tenant(f"t{i}") for i in range(5)]
        idle = make(g, inbox, "idle", tenant=g.tenant("idle").name)
        act(g, idle, "pause")
        make(g, inbox, "first", tenant="t0")
        arrived(inbox, "first", ask(tenants[0], 5))
        hooks = [make(g, inbox, f"late{i}", tenant=t.name) for i, t in enumerate(tenants)]
        for h in hooks:
            act(g, h, "pause")
        for t in tenants:
            ask(t, 95)
        until(lambda: "failing" in [look(g, h)["state"] for h in [idle, *hooks]], what="the end of patience with one")
        until(lambda: outbox(g) <= 400, what="an outbox within its bound")
        time.sleep(4)  # further looks
        assert look(g, idle)["state"] == "paused"
        stopped = [h for h in (look(g, h) for h in hooks) if h["state"] == "failing"]
        assert len(stopped) == 1 and "all webhooks together" in stopped[0]["last_error"]
    finally:
        g.close()


def test_a_webhook_that_fails_over_an_event_misses_no_request_that_comes_meanwhile(tmp_path, _model, inbox):
    g = start(tmp_path / "quiet", "--webhook-lag-s", "1")
    try:
        acme = g.tenant("acme")
        both, turned = make(g, inbox, "both", events=["tenant."]), make(g, inbox, "turned", usage=False, events=["tenant."])
        inbox.tell(chaos={"both": {"500": 1}, "turned": {"500": 1}})
        with acme.http() as c:
            assert c.put("/v1/aliases/chat", json={"targets": [{"base": BASE}]}).status_code in (200, 201)
        for hook in (both, turned):
            assert g.admin.patch(f"/admin/v1/webhooks/{hook['id']}", json={"events": ["*"]}).status_code == 200
        with acme.http() as c:
            assert c.delete("/v1/aliases/chat").status_code in (200, 204)
        until(lambda: {look(g, h)["state"] for h in (both, turned)} == {"failing"}, what="the end of patience")
        assert g.admin.patch(f"/admin/v1/webhooks/{turned['id']}", json={"usage": True}).status_code == 200
        ids = ask(acme, 5)
        until(lambda: outbox(g) == 0, what="an outbox that nobody waits for")
        inbox.tell(chaos={"both": {"ok": 1}, "turned": {"ok": 1}})
        for hook in (both, turned):
            act(g, hook, "resume")
        ids += ask(acme, 2)
        for path in ("both", "turned"):
            arrived(inbox, path, ids, what=path)
        until(lambda: look(g, both)["redelivery"] is None, what="the end of the redelivery")
        assert inbox.state()["wrong"] == []
    finally:
        g.close()
