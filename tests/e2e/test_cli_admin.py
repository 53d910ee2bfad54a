"""`weft` for operators: what each command asks of the admin API, and how its answers read."""

import json
import time

import pytest

from cli_fake import fake, weft  # noqa: F401

KEY = {"object": "key", "id": "k1", "name": "ci", "tenant": "acme", "roles": ["inference"], "scopes": ["inference"], "created_at": 1763719200,
       "expires_at": None, "revoked_at": None, "replaced_by": None, "revision": 3}
TENANT = {"object": "tenant", "name": "acme", "id": "0198", "weight": 2.0, "disabled": False, "private": True, "class": "batch", "deadline_ms": None,
          "created_at": 1763719200, "revision": 4}
ENGINE = {"object": "engine", "name": "b", "kind": "vllm", "base": "smol", "url": "http://h:1", "state": "draining", "local": False, "capacity": 64,
          "has_secret": True, "revision": 2, "status": {"state": "ejected", "why": "no answer", "in_flight": 3, "waiting": 1, "adapters": 2}}


@pytest.mark.parametrize("args,method,path,body", [
    ("tenant create acme --weight 2 --class batch --private yes --deadline-ms 2k", "POST", "/admin/v1/tenants",
     {"name": "acme", "weight": 2.0, "class": "batch", "private": True, "deadline_ms": 2000}),
    ("tenant set acme --deadline-ms none --private no", "PATCH", "/admin/v1/tenants/acme", {"deadline_ms": None, "private": False}),
    ("key show k1", "GET", "/admin/v1/keys/k1", None),
    ("key set k1 --name x --expires never", "PATCH", "/admin/v1/keys/k1", {"name": "x", "expires_at": None}),
    ("key show k1 --own", "GET", "/v1/keys/k1", None),
    ("key revoke k1 --own", "DELETE", "/v1/keys/k1", None),
    ("admin-key revoke k1", "DELETE", "/admin/v1/admin-keys/k1", None),
    ("price add --base smol --prompt 0.15 --cached 0.02 --output 1 --tenant acme --adapter sql --from 2027-01-01", "POST", "/admin/v1/prices",
     {"base": "smol", "prompt_nano": 150, "cached_nano": 20, "output_nano": 1000, "tenant": "acme", "adapter": "sql", "valid_from": 1798761600}),
    ("price rm 7", "DELETE", "/admin/v1/prices/7", None),
    ("engine add b http://h:1 --kind vllm --base smol --local yes --capacity 9", "POST", "/admin/v1/engines",
     {"name": "b", "url": "http://h:1", "kind": "vllm", "base": "smol", "local": True, "capacity": 9}),
    ("engine add s --base smol --model m.gguf --setting threads=4 --setting speculate=false --setting kernels=avx2", "POST", "/admin/v1/engines",
     {"name": "s", "base": "smol", "kind": "weft", "model": "m.gguf", "settings": {"threads": 4, "speculate": False, "kernels": "avx2"}}),
    ("engine set b --capacity 5", "PATCH", "/admin/v1/engines/b", {"capacity": 5}),
    ("engine drain b", "POST", "/admin/v1/engines/b/drain", None),
    ("engine enable b", "POST", "/admin/v1/engines/b/enable", None),
    ("engine disable b", "POST", "/admin/v1/engines/b/disable", None),
    ("engine rm b", "DELETE", "/admin/v1/engines/b", None),
    ("engine-token revoke b", "DELETE", "/admin/v1/engines/b/token", None),
    ("adapter rm sql@2", "DELETE", "/v1/adapters/sql/versions/2", None),
    ("adapter pin sql", "POST", "/v1/adapters/sql/pin", None),
    ("adapter unpin sql@3", "POST", "/v1/adapters/sql/versions/3/unpin", None),
    ("adapter warm sql", "POST", "/v1/adapters/sql/warm", None),
    ("adapter archive sql@1", "POST", "/v1/adapters/sql/versions/1/archive", None),
    ("adapter restore sql@1", "POST", "/v1/adapters/sql/versions/1/restore", None),
    ("alias rollback chat", "POST", "/v1/aliases/chat/rollback", None),
    ("alias rm chat", "DELETE", "/v1/aliases/chat", None),
    ("model show sql@1", "GET", "/v1/models/sql@1", None),
    ("webhook show w1", "GET", "/admin/v1/webhooks/w1", None),
    ("webhook pause w1 --own", "POST", "/v1/webhooks/w1/pause", None),
    ("webhook resume w1", "POST", "/admin/v1/webhooks/w1/resume", None),
    ("webhook test w1", "POST", "/admin/v1/webhooks/w1/test", None),
    ("webhook rm w1 --own", "DELETE", "/v1/webhooks/w1", None),
    ("webhook set w1 url=https://b.example/x?a=b usage=no events=none authorization=none", "PATCH", "/admin/v1/webhooks/w1",
     {"url": "https://b.example/x?a=b", "usage": False, "events": [], "authorization": None}),
    ("webhook redeliver w1 from=2027-01-31 until=1801440000", "POST", "/admin/v1/webhooks/w1/redeliver", {"start_time": 1801353600, "end_time": 1801440000}),
    ("webhook redeliver w1 after_event=120 --own", "POST", "/v1/webhooks/w1/redeliver", {"after_event": 120}),
])
def test_a_command_is_the_request_of_its_route(fake, args, method, path, body):
    fake.answers[method, path] = (200, {"object": "thing", "name": "it"})
    got = weft(fake, *args.split())
    assert got.returncode == 0, got.stderr
    [asked] = fake.asked
    assert asked.headers["Authorization"] == ("Bearer wfa_admin" if path.startswith("/admin") else "Bearer wft_tenant")
    assert (json.loads(asked.body) if asked.body else None) == body


@pytest.mark.parametrize("command,path", [
    ("tenant", "/admin/v1/tenants"), ("admin-key", "/admin/v1/admin-keys"), ("price", "/admin/v1/prices"), ("event", "/admin/v1/events"),
    ("engine", "/admin/v1/engines"), ("audit", "/admin/v1/audit"), ("adapter", "/v1/adapters"), ("alias", "/v1/aliases"),
    ("request", "/v1/usage/requests")])
def test_every_list_is_one_json_document_over_all_its_pages(fake, command, path):
    def page(asked):
        n = int(asked.query.get("after", 0))
        rows = [{"id": str(n + i), "seq": n + i, "name": str(n + i)} for i in (1, 2)]
        return 200, {"object": "list", "data": rows, "first_id": str(n + 1), "last_id": str(n + 2), "has_more": n < 4}

    fake.answers["GET", path] = page
    got = weft(fake, command, "list", "--json")
    assert got.returncode == 0
    o = json.loads(got.stdout)
    assert [r["id"] for r in o["data"]] == list("123456") and o["has_more"] is False and o["object"] == "list"
    assert str(o["first_id"]) == "1" and str(o["last_id"]) == "6"


def test_a_limit_ends_a_list_and_says_that_there_is_more(fake):
    rows = [{"id": str(i), "name": str(i)} for i in range(5)]
    fake.answers["GET", "/admin/v1/tenants"] = (200, {"data": rows, "last_id": "4", "has_more": True})
    o = json.loads(weft(fake, "tenant", "list", "--limit", "3", "--after", "x", "--json").stdout)
    assert len(o["data"]) == 3 and o["has_more"] is True
    assert fake.asked[0].query["after"] == "x"


def test_a_plural_alone_lists(fake):
    fake.answers["GET", "/admin/v1/engines"] = (200, {"data": [ENGINE], "has_more": False})
    got = weft(fake, "engines")
    assert got.returncode == 0
    row = got.stdout.splitlines()[1].split()
    assert row[:5] == ["b", "vllm", "smol", "draining", "ejected"] and "http://h:1" in row


def test_all_adapters_are_asked_of_the_admin_with_the_filters(fake):
    fake.answers["GET", "/admin/v1/adapters"] = (200, {"data": [{"tenant": "acme", "name": "sql", "state": "failed"}], "has_more": False})
    got = weft(fake, "adapter", "list", "--tenant", "acme", "--state", "failed")
    assert "acme" in got.stdout and fake.asked[0].query == {"tenant": "acme", "state": "failed", "limit": "100"}
    assert fake.asked[0].headers["Authorization"] == "Bearer wfa_admin"
    assert weft(fake, "adapter", "list", "--all").returncode == 0


def test_a_column_that_no_row_has_is_left_out(fake):
    fake.answers["GET", "/admin/v1/tenants"] = (200, {"data": [{"name": "a", "class": "batch"}], "has_more": False})
    head = weft(fake, "tenant", "list").stdout.splitlines()[0]
    assert "CLASS" in head and "DEADLINE" not in head


# --- keys ---


def test_a_key_gets_role_scopes_and_expiry(fake):
    fake.answers["POST", "/admin/v1/tenants/acme/keys"] = (201, dict(KEY, key="wft_k1_secret_x"))
    before = int(time.time())
    got = weft(fake, "key", "create", "--tenant", "acme", "--scope", "inference", "--scope=usage", "--expires", "30d", "--idempotency-key", "once")
    assert got.stdout == "wft_k1_secret_x\n"
    body = fake.asked[0].json
    assert body["scopes"] == ["inference", "usage"] and "roles" not in body
    assert before + 30 * 86400 <= body["expires_at"] <= before + 30 * 86400 + 60
    assert fake.asked[0].headers["Idempotency-Key"] == "once"


def test_a_key_without_a_role_infers_and_an_admin_key_looks(fake):
    fake.answers["POST", "/v1/keys"] = fake.answers["POST", "/admin/v1/admin-keys"] = (201, dict(KEY, key="wft_k1_secret_x"))
    assert weft(fake, "key", "create", "--own").returncode == 0
    assert weft(fake, "admin-key", "create").returncode == 0
    assert [a.json["roles"] for a in fake.asked] == [["inference"], ["viewer"]]


def test_a_rotated_key_is_alone_on_stdout(fake):
    fake.answers["POST", "/admin/v1/keys/k1/rotate"] = (201, dict(KEY, id="k2", key="wft_k2_secret_x"))
    got = weft(fake, "key", "rotate", "k1", "--grace", "24h")
    assert got.stdout == "wft_k2_secret_x\n" and "k2" in got.stderr and fake.asked[0].json == {"grace_s": 86400}


def test_an_engines_token_is_alone_on_stdout_and_its_list_has_no_pages(fake):
    fake.answers["POST", "/admin/v1/engines/b/token"] = (201, {"object": "engine_token", "engine": "b", "id": "t1", "token": "wfe_t1_x", "created_at": 1})
    got = weft(fake, *"engine-token create b --grace 1h --idempotency-key once".split())
    assert got.stdout == "wfe_t1_x\n" and "token t1" in got.stderr and fake.asked[0].json == {"grace_s": 3600}
    assert fake.asked[0].headers["Idempotency-Key"] == "once"
    o = {"object": "engine_tokens", "engine": "b", "tokens": [{"id": "t1", "created_at": 1763719200, "expires_at": None, "last_used_at": 1763719260}]}
    fake.answers["GET", "/admin/v1/engines/b/token"] = (200, o)
    assert weft(fake, "engine-token", "list", "b").stdout.splitlines() == ["ID  CREATED           LAST USED", "t1  2025-11-21 10:00  2025-11-21 10:01"]
    assert json.loads(weft(fake, "engine-tokens", "list", "b", "--json").stdout) == o


def test_a_webhooks_secret_is_alone_on_stdout(fake):
    fake.answers["POST", "/admin/v1/webhooks"] = (201, {"object": "webhook", "id": "w1", "secret": "whsec_x"})
    fake.answers["POST", "/v1/webhooks/w1/rotate"] = (201, {"object": "webhook", "id": "w1", "secret": "whsec_y"})
    got = weft(fake, *"webhook create billing https://b.example --tenant acme events=budget.,version.failed usage=yes".split())
    assert got.stdout == "whsec_x\n" and "w1" in got.stderr
    assert fake.asked[0].json == {"name": "billing", "url": "https://b.example", "tenant": "acme", "events": ["budget.", "version.failed"], "usage": True}
    assert weft(fake, *"webhook rotate w1 --own --grace 1h".split()).stdout == "whsec_y\n" and fake.asked[1].json == {"grace_s": 3600}


def test_a_receivers_token_comes_from_stdin_and_times_ago_are_times(fake):
    fake.answers["PATCH", "/admin/v1/webhooks/w1"] = (200, {"object": "webhook", "id": "w1"})
    fake.answers["POST", "/admin/v1/webhooks/w1/redeliver"] = (202, {"object": "webhook", "id": "w1"})
    assert weft(fake, "webhook", "set", "w1", "authorization=-", stdin="Bearer t0ken\n").returncode == 0
    assert fake.asked[0].json == {"authorization": "Bearer t0ken"}
    assert weft(fake, "webhook", "redeliver", "w1", "from=3d").returncode == 0
    assert abs(fake.asked[1].json["start_time"] - (time.time() - 3 * 86400)) < 60
    for wrong in ("colour=red", "from", "usage=maybe"):
        assert weft(fake, "webhook", "set", "w1", wrong).returncode == 2
    assert len(fake.asked) == 2


def test_webhooks_are_listed_with_what_waits(fake):
    row = {"object": "webhook", "id": "w1", "name": "billing", "tenant": "acme", "url": "https://b.example", "usage": True, "events": [], "state": "failing",
           "waiting": 120, "waiting_s": 40, "failures": 3, "delivered": 7}
    fake.answers["GET", "/admin/v1/webhooks"] = (200, {"object": "list", "data": [row], "has_more": False})
    got = weft(fake, "webhook", "list", "--tenant", "acme")
    assert got.returncode == 0 and "failing" in got.stdout and "120" in got.stdout and fake.asked[0].path == "/admin/v1/webhooks"


@pytest.mark.parametrize("args", [["key", "list"], ["key", "create"]])
def test_whose_key_it_is_must_be_said(fake, args):
    got = weft(fake, *args)
    assert got.returncode == 2 and "--tenant NAME is missing (or --own)" in got.stderr
    got = weft(fake, *args, "--own", "--tenant", "acme")
    assert got.returncode == 2 and "exclude each other" in got.stderr and not fake.asked


def test_if_match_goes_along_and_a_change_meanwhile_is_a_conflict(fake):
    fake.answers["PATCH", "/admin/v1/tenants/acme"] = (412, {"error": {"message": "It has revision 5 now.", "code": "precondition_failed"}})
    got = weft(fake, "tenant", "set", "acme", "--weight", "3", "--if-match", "4")
    assert got.returncode == 6 and "revision 5" in got.stderr and "code precondition_failed; request req-1" in got.stderr
    assert fake.asked[0].headers["If-Match"] == '"4"'


def test_a_change_without_anything_to_change_asks_nothing(fake):
    got = weft(fake, "tenant", "set", "acme")
    assert got.returncode == 2 and "nothing to change" in got.stderr and not fake.asked


# --- limits ---

LIMITS = {"object": "limits", "revision": 3, "limits": {"requests_per_minute": 600, "tokens_per_day": None, "cost_per_month": 250 * 10**9,
                                                        "cost_per_month_soft": 200 * 10**9, "adapter_bytes": None},
          "used": {"requests_per_minute": 60, "tokens_per_day": 12345, "cost_per_month": 125 * 10**9, "reserved": {"tokens": 0}}}


@pytest.mark.parametrize("args,path", [
    ([], "/v1/limits"), (["--tenant", "acme"], "/admin/v1/tenants/acme/limits"), (["k1"], "/admin/v1/keys/k1/limits"),
    (["--tenant", "acme", "--adapter", "sql"], "/admin/v1/tenants/acme/adapters/sql/limits")])
def test_limits_stand_beside_what_is_used(fake, args, path):
    fake.answers["GET", path] = (200, LIMITS if args else {"object": "own_limits", "tenant": LIMITS, "key": dict(LIMITS, limits={"requests_per_minute": 5})})
    got = weft(fake, "limit", "show", *args)
    assert got.returncode == 0, got.stderr
    rows = {line.split()[0]: line.split()[1:] for line in got.stdout.splitlines() if line}
    if args:
        assert rows["requests_per_minute"] == ["600", "-", "60", "10", "%"]
        assert rows["cost_per_month"] == ["250.00", "200.00", "125.00", "50", "%"] and rows["tokens_per_day"] == ["-", "-", "12345", "-"]
        assert not any("soft" in line for line in got.stdout.splitlines())
    else:
        assert "tenant" in rows and "key" in rows


def test_set_limits_leave_the_others_and_go_under_the_revision(fake):
    path = "/admin/v1/tenants/acme/limits"
    fake.answers["GET", path] = fake.answers["PUT", path] = (200, LIMITS)
    fake.headers["GET", path] = {"ETag": '"3"'}
    got = weft(fake, "limit", "set", "--tenant", "acme", "requests_per_minute=none", "tokens-per-minute=100k", "tokens_per_day=1.5M",
               "cost_per_day=12.5", "adapter_bytes=2GiB")
    assert got.returncode == 0, got.stderr
    put = fake.asked[1]
    assert put.headers["If-Match"] == '"3"'
    assert put.json == {"requests_per_minute": None, "tokens_per_minute": 100000, "tokens_per_day": 1500000, "cost_per_day": 12500000000,
                        "adapter_bytes": 2 << 30, "cost_per_month": 250 * 10**9, "cost_per_month_soft": 200 * 10**9}
    assert weft(fake, "limit", "set", "--tenant", "acme", "--replace", "tokens_per_day=5").returncode == 0
    assert fake.asked[3].json == {"tokens_per_day": 5}
    assert weft(fake, "limit", "clear", "--tenant", "acme").returncode == 0
    assert fake.asked[4].method == "PUT" and fake.asked[4].json == {}


@pytest.mark.parametrize("word", ["requests_per_minute=", "requests_per_minute=-1", "requests_per_minute=1.5", "tokens_per_day=10x", "tokens_per_day=1e3",
                                  "cost_per_day=0.0000000001", "cost_per_day=abc", "adapter_bytes=1.0001k", "tokens_per_day=9999999999999999999",
                                  "tokens_per_day=9999999999999G", "=5"])
def test_a_value_that_is_none_sets_nothing(fake, word):
    fake.answers["GET", "/admin/v1/tenants/acme/limits"] = (200, LIMITS)
    got = weft(fake, "limit", "set", "--tenant", "acme", word)
    assert got.returncode == 2 and got.stderr and all(a.method == "GET" for a in fake.asked)


@pytest.mark.parametrize("args", [["requests_per_minute=5"], ["k1"], ["k1", "--tenant", "a", "tokens_per_day=5"], ["--adapter", "x", "k=5"]])
def test_limits_of_nobody_are_not_set(fake, args):
    assert weft(fake, "limit", "set", *args).returncode == 2 and not fake.asked


@pytest.mark.parametrize("when", ["tomorrow", "2027-13-01", "-5d", "1y", ""])
def test_an_expiry_that_is_no_time_makes_no_key(fake, when):
    got = weft(fake, "key", "create", "--own", "--expires", when)
    assert got.returncode == 2 and "not a time like" in got.stderr and not fake.asked


# --- events, audit, settings ---


def test_following_events_prints_each_once_and_survives_a_restart(fake):
    seen = []

    def page(asked):
        after = int(asked.query.get("after", 0))
        seen.append(after)
        if len(seen) == 3:
            return 503, {"error": {"message": "restarting"}}
        if len(seen) > 5:
            return 403, {"error": {"message": "enough"}}
        last = 12 if len(seen) < 2 else 14
        rows = [{"seq": n, "type": "version.ready", "target": f"a@{n}", "created_at": 1763719200, "detail": {}} for n in range(after + 1, last + 1)]
        return 200, {"data": rows, "last_id": last, "has_more": False}

    fake.answers["GET", "/admin/v1/events"] = page
    got = weft(fake, "event", "list", "--follow", "--interval", "1", "--json")
    assert got.returncode == 4
    assert [json.loads(line)["seq"] for line in got.stdout.splitlines()] == list(range(3, 15))
    assert seen == [0, 12, 14, 14, 14, 14]


def test_a_tenants_events_are_asked_for_by_its_name(fake):
    rows = [{"seq": 1, "type": "version.ready", "target": "a@1", "tenant": "acme", "created_at": 1763719200, "detail": {}}]
    fake.answers["GET", "/admin/v1/events"] = lambda asked: (200, {"data": rows, "has_more": False}) if len(fake.asked) < 3 else (403, {"error": {"message": "enough"}})
    assert len(json.loads(weft(fake, "event", "list", "--tenant", "acme", "--json").stdout)["data"]) == 1
    got = weft(fake, "event", "list", "--tenant", "acme", "--follow", "--interval", "1", "--json")
    assert got.returncode == 4 and [json.loads(line)["seq"] for line in got.stdout.splitlines()] == [1]
    assert [asked.query.get("tenant") for asked in fake.asked] == ["acme"] * 3
    assert weft(fake, "event", "list", "--tenant", "acme", "--own").returncode == 2 and len(fake.asked) == 3


@pytest.mark.parametrize("answer,status", [({"valid": True, "rows": 9, "first_bad": None, "hash": "ab" * 32}, 0), ({"valid": False, "rows": 9, "first_bad": 4}, 1)])
def test_a_broken_chain_is_an_exit_status(fake, answer, status):
    fake.answers["GET", "/admin/v1/audit/verify"] = (200, answer)
    got = weft(fake, "audit", "verify")
    assert got.returncode == status and ("9 rows is whole" in got.stdout if not status else "broken at row 4" in got.stderr)
    assert json.loads(weft(fake, "audit", "verify", "--json").stdout) == answer


def test_settings_and_a_reload_read_as_tables(fake):
    fake.answers["GET", "/admin/v1/settings"] = (200, {"object": "settings", "file": "/etc/weft.conf", "data": [
        {"name": "listen", "value": "0.0.0.0:80", "default": "127.0.0.1:8080", "source": "file", "live": False, "help": "address"}]})
    fake.answers["POST", "/admin/v1/reload"] = (200, {"object": "reload", "changed": [{"name": "log_level", "before": "info", "after": "debug"}],
                                                      "restart_needed": ["listen"]})
    assert weft(fake, "settings").stdout.splitlines()[1].split()[:3] == ["listen", "0.0.0.0:80", "file"]
    got = weft(fake, "reload")
    assert got.stdout.splitlines()[1].split() == ["log_level", "info", "debug"] and "listen takes a restart" in got.stderr


def test_long_details_are_cut_between_characters_and_nulls_left_out(fake):
    fake.answers["GET", "/admin/v1/audit"] = (200, {"data": [{"seq": 1, "action": "x", "after": {"a": None, "b": "ü" * 200}}], "has_more": False})
    line = weft(fake, "audit", "list").stdout.splitlines()[1]
    assert line.endswith("...") and "�" not in line and "null" not in line and len(line) < 120


def test_models_are_listed_without_pages(fake):
    fake.answers["GET", "/v1/models"] = (200, {"object": "list", "data": [{"id": "sql", "parent": "smol", "owned_by": "acme", "created": 1763719200}]})
    assert weft(fake, "models").stdout.splitlines()[1].split()[:3] == ["sql", "smol", "acme"]


def test_the_secret_of_an_engine_comes_from_a_file_and_never_from_the_command_line(fake, tmp_path):
    fake.answers["POST", "/admin/v1/engines"] = (201, ENGINE)
    (tmp_path / "key").write_text("s3cret\nrest\n")
    got = weft(fake, "engine", "add", "b", "http://h", "--kind", "openai")
    assert got.returncode == 2 and "--base" in got.stderr and not fake.asked
    got = weft(fake, "engine", "add", "b", "http://h", "--kind", "openai", "--base", "x", "--secret-file", str(tmp_path / "key"))
    assert got.returncode == 0 and fake.asked[0].json["secret"] == "s3cret" and "s3cret" not in got.stdout + got.stderr
    assert weft(fake, "engine", "add", "b", "--base", "x", "--secret-file", "-", stdin="other\n").returncode == 0
    assert fake.asked[1].json["secret"] == "other"
    assert weft(fake, "engine", "add", "b", "--base", "x", "--secret-file", str(tmp_path / "none")).returncode == 2


def test_usage_of_all_is_asked_of_the_admin_and_costs_show_when_there_are_any(fake):
    result = {"tenant": "acme", "model": "sql", "num_model_requests": 1, "input_tokens": 2, "input_cached_tokens": 0, "output_tokens": 3, "cost_nano": 1500000000}
    fake.answers["GET", "/admin/v1/usage"] = (200, {"object": "page", "data": [{"start_time": 1763683200, "results": [result]}], "has_more": False})
    got = weft(fake, "usage", "--all")
    assert got.stdout.splitlines()[-1].split() == ["total", "-", "-", "1", "2", "0", "3", "1.50"]
    assert fake.asked[0].query["group_by"] == "tenant,model"
    assert json.loads(weft(fake, "usage", "--tenant", "acme", "--json").stdout)["data"][0]["results"] == [result]
    assert fake.asked[1].query["tenant"] == "acme"
