"""`weft now`, `canary`, `adapter idle`, `ledger health`: which side each asks, and how the answers read."""

import json

from cli_fake import fake, weft  # noqa: F401

TIMES = {"n": 60, "p50": 81.5, "p90": 120.0, "p99": 300.0}
SUMS = {"requests": 4000, "errors": 2, "input_tokens": 1000, "cached_tokens": 10, "output_tokens": 500, "cost_nano": 2500000000}
NOW = {"object": "now", "in_flight": 3, "waiting": 1, "tokens_per_s": 41.5, "requests_per_s": 2.0, "errors": 2, "refused": 7, "ttft_ms": TIMES, "tpot_ms": TIMES,
       "duration_ms": TIMES, "today": SUMS, "month": SUMS, "currency": "USD"}
TARGET = {"base": None, "share": 0.5, "completed": 60, "error_rate": 0.5, "abort_rate": 0.0, "ttft_ms": TIMES, "tpot_ms": TIMES, "duration_ms": TIMES,
          "output_tokens_avg": 12.0, "cost_nano_avg": 0.0}
CANARY = {"object": "canary", "alias": "chat", "verdict": "worse", "reason": "sql@2 has more errors than sql@1: 50.00 % against 0.00 %.",
          "targets": [{**TARGET, "adapter": "sql", "version": 2, "weight": 10, "requests": 60},
                      {**TARGET, "adapter": None, "version": 0, "weight": 90, "requests": 600, "base": "smol", "error_rate": 0.0}]}
IDLE = {"tenant": "acme", "adapter": "old", "version": 3, "state": "ready", "bytes": 4000000, "rank": 16, "pinned": False, "last_used": None,
        "created_at": 1763719200, "aliases": ["front"], "resident": []}
HEALTH = {"object": "ledger.health", "writable": True, "open_admissions": 2, "oldest_admission_s": 9, "queue": 0, "settled": 77, "retried": 0,
          "final_before": 1763719200, "database_bytes": 8192, "wal_bytes": 4096, "last_verify": {"t": 1763719200, "rows": 70, "bad": 0, "took_ms": 3.5},
          "months": [{"month": "2026-11", "rows": None, "place": "database"}, {"month": "2026-09", "rows": 1234, "place": "archive"}],
          "webhooks": [{"name": "meter", "tenant": None, "lag": 12, "state": "failing"}], "schedules": [],
          "engines": [{"name": "local", "requests_gateway": 7, "requests_engine": 7, "tokens_gateway": 90, "tokens_engine": 90, "ratio": 1.0}],
          "backups": None}


def test_now_is_everybodys_ones_or_ones_own(fake):
    fake.answers["GET", "/admin/v1/now"] = (200, NOW)
    fake.answers["GET", "/v1/now"] = (200, NOW)
    for args, path, query in (((), "/admin/v1/now", {}), (("--tenant", "acme"), "/admin/v1/now", {"tenant": "acme"}), (("--own",), "/v1/now", {})):
        fake.asked.clear()
        got = weft(fake, "now", *args)
        assert got.returncode == 0, got.stderr
        assert [(a.path, a.query) for a in fake.asked] == [(path, query)]
        assert "81.5" in got.stdout and "2.50" in got.stdout and "41.5" in got.stdout
    assert json.loads(weft(fake, "now", "--json").stdout) == NOW


def test_a_canary_shows_its_targets_and_says_its_verdict(fake):
    fake.answers["GET", "/v1/stats/canary"] = fake.answers["GET", "/admin/v1/stats/canary"] = (200, CANARY)
    got = weft(fake, "canary", "chat")
    assert got.returncode == 0, got.stderr
    assert fake.asked[0].path == "/v1/stats/canary" and fake.asked[0].query == {"alias": "chat"}
    assert "sql@2" in got.stdout and "base:smol" in got.stdout and "50.00 %" in got.stdout
    assert got.stdout.rstrip().endswith("worse: sql@2 has more errors than sql@1: 50.00 % against 0.00 %.")
    weft(fake, "canary", "a&b", "--tenant", "acme")
    assert fake.asked[-1].path == "/admin/v1/stats/canary" and fake.asked[-1].query == {"alias": "a&b", "tenant": "acme"}
    assert json.loads(weft(fake, "canary", "chat", "--json").stdout) == CANARY
    fake.answers["GET", "/v1/stats/canary"] = (404, {"error": {"message": "There is no alias 'x'.", "code": "not_found"}})
    assert weft(fake, "canary", "x").returncode == 5


def test_idle_adapters_come_page_by_page(fake):
    def page(asked):
        last = asked.query.get("after")
        return 200, {"data": [{**IDLE, "version": 2 if last else 3}], "first_id": "x", "last_id": "4000000:acme/old@3", "has_more": not last}

    fake.answers["GET", "/v1/stats/adapters"] = fake.answers["GET", "/admin/v1/stats/adapters"] = page
    got = weft(fake, "adapter", "idle", "--days", "90")
    assert got.returncode == 0, got.stderr
    assert [a.query.get("after") for a in fake.asked] == [None, "4000000:acme/old@3"]
    assert all(a.query["idle_days"] == "90" and a.query["sort"] == "bytes" for a in fake.asked)
    assert got.stdout.count("old") == 2 and "front" in got.stdout
    fake.asked.clear()
    assert len(json.loads(weft(fake, "adapter", "idle", "--all", "--json", "--limit", "1").stdout)["data"]) == 1
    assert fake.asked[0].path == "/admin/v1/stats/adapters" and fake.asked[0].query["idle_days"] == "30"


def test_the_ledgers_health_is_shown_with_what_there_is(fake):
    fake.answers["GET", "/admin/v1/ledger/health"] = (200, HEALTH)
    got = weft(fake, "ledger", "health")
    assert got.returncode == 0, got.stderr
    for word in ("2026-09", "archive", "1234", "meter", "failing", "local", "writable"):
        assert word in got.stdout, word
    assert "EXPORT" not in got.stdout.upper() and json.loads(weft(fake, "ledger", "health", "--json").stdout) == HEALTH
