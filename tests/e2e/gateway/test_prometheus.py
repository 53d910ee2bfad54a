"""Metrics, rules and dashboard hold together: promtool likes them, a real Prometheus reads them, and no name in them is one that nobody tells."""

import json
import re
import shutil
import sqlite3
import subprocess
import time

import httpx
import pytest

from gateway_process import BASE, TOP, Gateway, until

OPS = TOP / "ops/prometheus"
DASHBOARD = json.loads((TOP / "ops/grafana/weft.json").read_text())
RUNBOOK = (TOP / "docs/RUNBOOK.md").read_text()
SERIES = 256  # base/metrics.h
# Names that others chose: routers read vLLM's; and two that were there before promtool looked.
NOT_OURS = re.compile(r"vllm:\w+ metric names should not contain ':'|weft_step_cost_us .*abbreviated units|weft_tenant_counter_spread .*type 'counter'")


def promtool(*args, stdin=None):
    assert shutil.which("promtool"), "promtool is not installed (Debian: prometheus)"
    return subprocess.run(["promtool", *map(str, args)], input=stdin, capture_output=True, text=True, timeout=180)


def defined():
    """Every series name that a program can tell."""
    names = set()
    for program in ("gateway", "engine", "standby"):
        for kind, name in re.findall(r'^X\(\w+, (\w+), "([^"]+)"', (TOP / f"schema/{program}_metrics.def").read_text(), re.M):
            names |= {name + s for s in ("_bucket", "_sum", "_count")} if kind == "HISTOGRAM" else {name}
    return names


def rules():
    text = (OPS / "alerts.yml").read_text()
    return {"alerts": re.findall(r"^      - alert: (\w+)", text, re.M), "records": re.findall(r"^      - record: (\S+)", text, re.M),
            "exprs": [e.replace("''", "'") for e in re.findall(r"^        expr: '(.*)'$", text, re.M)]}


def panel_exprs():
    found = [t["expr"] for p in DASHBOARD["panels"] for t in p.get("targets", [])] + [a["expr"] for a in DASHBOARD["annotations"]["list"]]
    return [e.replace("$instance", ".*").replace("$engine", ".*").replace("$__rate_interval", "5m") for e in found]


def names_in(expr):
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", expr)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right) \([^)]*\)", "", bare)
    return {n for n in re.findall(r"[a-zA-Z_:][\w:]*", bare) if re.match(r"(weft|vllm|process|up$)", n)}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("prometheus"))
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    for model in ("sql", BASE):
        assert t.ask("hello", model, max_tokens=3).status_code == 200
    assert t.ask("hello", "nobody").status_code == 404
    assert g.admin.get("/admin/v1/ledger?verify=1").status_code == 200
    made(g)
    yield g
    g.close()


def made(g):
    """A backup, whatever becomes of it."""
    o = g.admin.post("/admin/v1/backups", json={"verify": False}).json()
    return until(lambda: (lambda x: x if x["state"] in ("complete", "failed") else None)(g.admin.get(f"/admin/v1/backups/{o['id']}").json()), what="a backup")


def read(gateway, path="/metrics"):
    r = httpx.get(gateway.admin_url + path)
    assert r.status_code == 200 and r.headers["content-type"].startswith("text/plain; version=0.0.4"), r.text
    return r.text


# --- the files ---


def test_promtool_takes_the_configuration_and_the_rules():
    for args in (["check", "config", OPS / "prometheus.yml"], ["check", "rules", OPS / "alerts.yml"]):
        out = promtool(*args)
        assert out.returncode == 0, out.stdout + out.stderr


def test_each_alert_goes_off_when_it_should_and_only_then():
    out = promtool("test", "rules", OPS / "alerts_test.yml")
    assert out.returncode == 0, out.stdout + out.stderr
    text = (OPS / "alerts_test.yml").read_text()
    for name in rules()["alerts"]:
        assert f"- name: {name}\n" in text and f"- name: {name} is quiet\n" in text, name


def test_each_alert_has_a_section_in_the_runbook_and_each_section_an_alert():
    sections = re.findall(r"^### (\w+)$", RUNBOOK, re.M)
    assert sorted(sections) == sorted(rules()["alerts"]) and len(set(sections)) == len(sections)
    for name in sections:
        body = RUNBOOK.split(f"### {name}\n", 1)[1].split("\n### ", 1)[0]
        assert "\nLook: " in body and "\nDo: " in body, name
        assert f"runbook: docs/RUNBOOK.md#{name.lower()}\n" in (OPS / "alerts.yml").read_text()


def test_rules_dashboard_and_runbook_name_only_what_is_told():
    known = defined() | set(rules()["records"]) | {"up"}
    for expr in rules()["exprs"] + panel_exprs():
        assert names_in(expr) or "__name__" in expr, expr
        assert names_in(expr) <= known, f"{names_in(expr) - known} in {expr}"
    base = known | {n.rsplit("_", 1)[0] for n in known if n.endswith("_bucket")}
    told = set(re.findall(r"`((?:weft_|vllm:|process_)\w+)", RUNBOOK + (TOP / "docs/OBSERVABILITY.md").read_text()))
    assert told <= base, told - base


def test_the_dashboards_panels_have_places_of_their_own():
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) > 30
    taken = set()
    for p in DASHBOARD["panels"]:
        g = p["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & taken, p["title"]
        taken |= cells


# --- the programs ---


def test_promtool_likes_the_metrics_of_both_programs(gateway):
    assert promtool("check", "metrics", stdin=read(gateway)).stdout + promtool("check", "metrics", stdin=read(gateway)).stderr == ""
    out = promtool("check", "metrics", stdin=read(gateway, "/metrics/engines/local"))
    odd = [line for line in (out.stdout + out.stderr).splitlines() if line and not NOT_OURS.match(line)]
    assert not odd, odd


def test_the_gateway_tells_of_its_process_its_disk_and_its_connections(gateway):
    value = {m[0]: float(m[1]) for m in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", read(gateway), re.M)}
    assert value["process_cpu_seconds_total"] > 0 and 1e6 < value["process_resident_memory_bytes"] < 1e9
    assert 10 < value["process_open_fds"] < value["process_max_fds"] and value["process_threads"] > 5
    stat = open(f"/proc/{gateway.process.pid}/stat").read().rsplit(")", 1)[1].split()
    boot = int(re.search(r"^btime (\d+)", open("/proc/stat").read(), re.M).group(1))
    assert abs(value["process_start_time_seconds"] - boot - int(stat[19]) / 100) < 2
    assert 0 < value["weft_data_free_bytes"] <= value["weft_data_size_bytes"] and value["weft_database_bytes"] > 0
    assert 'weft_http_connections{listener="admin"}' in read(gateway) and 'weft_build_info{version="' in read(gateway)


def told(g, name, labels=""):
    found = re.search(rf"^{name}{re.escape(labels)} (\S+)$", read(g), re.M)
    return float(found.group(1)) if found else None


def test_the_last_verification_is_told_also_after_a_restart(start):
    g = start(fake=True)
    assert told(g, "weft_ledger_verify_age_seconds") is None and told(g, "weft_ledger_verify_bad") is None
    t = g.tenant("acme")
    assert t.ask("hello").status_code == 200
    until(t.usage_rows, what="the usage row")
    g.admin.get("/admin/v1/ledger?verify=1")
    assert 0 <= told(g, "weft_ledger_verify_age_seconds") < 10 and told(g, "weft_ledger_verify_bad") == 0
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as db:
        db.execute("UPDATE rollup_adapter SET n = n + 1")
        db.execute("UPDATE verified SET t = t - 100000000")
    g.start()
    assert 100 <= told(g, "weft_ledger_verify_age_seconds") < 130 and told(g, "weft_ledger_verify_bad") == 0
    bad = g.admin.get("/admin/v1/ledger?verify=1").json()["verify"]["bad_buckets"]
    assert told(g, "weft_ledger_verify_bad") == bad > 0


def test_the_newest_backups_age_is_told_and_whether_the_last_failed(start):
    g = start(fake=True)
    failing = lambda: told(g, "weft_upkeep_failing", '{task="backup"}')
    assert told(g, "weft_backup_age_seconds") is None and failing() == 0 == told(g, "weft_upkeep_failing", '{task="archive"}')
    first = made(g)
    assert first["state"] == "complete" and 0 <= told(g, "weft_backup_age_seconds") < 10
    (g.data / "backup").rename(g.data / "away")
    (g.data / "backup").touch()
    assert made(g)["state"] == "failed" and failing() == 1 and told(g, "weft_backup_age_seconds") is not None
    (g.data / "backup").unlink()
    (g.data / "away").rename(g.data / "backup")
    second = made(g)
    assert second["state"] == "complete" and failing() == 0
    (g.data / "backup" / second["id"] / "weft.db").write_bytes(b"spoilt")
    assert g.admin.post(f"/admin/v1/backups/{second['id']}/verify").status_code == 202
    until(lambda: told(g, "weft_upkeep_failing", '{task="backup_verify"}') == 1, what="a backup that is not good")
    file = g.data / "backup" / first["id"] / "backup.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "created_at": first["created_at"] - 1000}))
    assert g.admin.delete(f"/admin/v1/backups/{second['id']}").status_code == 200
    assert 1000 <= told(g, "weft_backup_age_seconds") < 1030
    assert g.admin.get("/admin/v1/ledger/health").json()["backups"]["last"] == first["created_at"] - 1000
    assert g.admin.delete(f"/admin/v1/backups/{first['id']}").status_code == 200
    assert told(g, "weft_backup_age_seconds") is None


def test_the_scheduled_export_that_is_furthest_behind_is_told(start):
    g = start(fake=True)
    assert told(g, "weft_export_behind_seconds") == 0
    (g.data / "exports").touch()  # where a folder belongs
    day = int(time.time()) // 86400 * 86400
    for name, back in (("late", 3), ("later", 5)):
        assert g.admin.post("/admin/v1/export-schedules", json={"name": name, "format": "csv", "every": "day", "from": day - back * 86400}).status_code == 201
    until(lambda: told(g, "weft_export_behind_seconds") >= 4 * 86400, what="a schedule behind")
    assert told(g, "weft_export_behind_seconds") - 4 * 86400 == pytest.approx(time.time() - day, abs=10)
    (g.data / "exports").unlink()
    for name in ("late", "later"):  # one that failed rests for a minute: another begins at once
        assert g.admin.delete(f"/admin/v1/export-schedules/{name}", headers={"If-Match": "*"}).status_code == 200
    assert g.admin.post("/admin/v1/export-schedules", json={"name": "good", "format": "csv", "every": "day", "from": day - 86400}).status_code == 201
    until(lambda: told(g, "weft_export_behind_seconds") == 0, what="all written")


def test_an_engine_is_read_through_the_gateway(gateway):
    targets = httpx.get(gateway.admin_url + "/metrics/targets").json()
    host = gateway.admin_url.removeprefix("http://")
    assert targets == [{"targets": [host], "labels": {"__metrics_path__": "/metrics/engines/local", "engine": "local", "kind": "weft"}}]
    text = read(gateway, "/metrics/engines/local")
    with gateway.engine() as c:
        own = c.get("/metrics").text
    assert re.findall(r"^# TYPE .*", text, re.M) == re.findall(r"^# TYPE .*", own, re.M) and "weft_steps_total" in text
    for name, status in (("nobody", 404), ("..%2f..%2fhealth", 400), ("x" * 300, 404)):
        assert httpx.get(gateway.admin_url + f"/metrics/engines/{name}").status_code == status


def test_a_prometheus_reads_all_of_it(gateway, tmp_path):
    config = (OPS / "prometheus.yml").read_text().replace("127.0.0.1:8081", gateway.admin_url.removeprefix("http://"))
    config = config.replace("15s", "1s").replace("10s", "1s").replace("30s", "1s").replace("alerts.yml", str(OPS / "alerts.yml"))
    (tmp_path / "prometheus.yml").write_text(config)
    log = open(tmp_path / "log", "wb")
    p = subprocess.Popen(["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data", "--web.listen-address=127.0.0.1:0"],
                         stdout=log, stderr=log)
    try:
        found = until(lambda: re.search(r'"Listening on" address=(\S+)', (tmp_path / "log").read_text()), what="prometheus")
        with httpx.Client(base_url="http://" + found.group(1), timeout=10) as c:
            read_by_prometheus(c)
    finally:
        p.kill()
        p.wait()
        log.close()


def read_by_prometheus(c):
    def up():
        try:
            targets = c.get("/api/v1/targets").json()["data"]["activeTargets"]
        except httpx.HTTPError:
            return None
        return {t["labels"]["job"] for t in targets if t["health"] == "up"} == {"weft-gateway", "weft-engine"}
    until(up, what="both targets up")
    ask = lambda e: c.get("/api/v1/query", params={"query": e}).json()
    for expr in ("weft:requests:rate5m", "rate(weft_step_seconds_count[5m])"):  # two readings of each
        until(lambda: ask(expr)["data"]["result"], what=expr)
    empty = []
    for expr in panel_exprs() + rules()["exprs"]:
        answer = ask(expr)
        assert answer["status"] == "success", (expr, answer)
        if expr in panel_exprs() and not answer["data"]["result"]:
            empty.append(expr)
    # What did not happen yet has no series; what must be there has.
    assert not [e for e in empty if not re.search(r"refused|lost|retries|yields|traces|changes\(|evictions|cold|targets_total|loads_total|load_seconds|ejections|standby|pull|store|blob", e)], empty
    groups = c.get("/api/v1/rules").json()["data"]["groups"]
    assert all(r["health"] == "ok" for g in groups for r in g["rules"]), [r for g in groups for r in g["rules"] if r["health"] != "ok"]
    firing = {a["labels"]["alertname"] for a in c.get("/api/v1/alerts").json()["data"]["alerts"] if a["state"] == "firing"}
    assert not firing, firing


def test_labels_are_bounded_whoever_comes(start):
    g = start(fake=True)
    tenants = [g.tenant(f"tenant-{i:03}") for i in range(SERIES // 3 + 12)]  # three series each: prompt, cached, output
    with httpx.Client(base_url=g.url, timeout=30) as c:
        for t in tenants:
            r = c.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "hi"}]}, headers={"Authorization": f"Bearer {t.key}"})
            assert r.status_code == 200
        for i in range(SERIES + 20):
            c.get(f"/no/such/route/{i}", headers={"Authorization": f"Bearer {i}"})
    until(lambda: sum(map(int, re.findall(r"^weft_requests_total\{.* (\d+)$", read(g), re.M))) == len(tenants), what="all settled")
    text = read(g)
    series = {}
    for name in re.findall(r"^(\w+)\{", text, re.M):
        series[name] = series.get(name, 0) + 1
    assert max(n for name, n in series.items() if not name.endswith("_bucket")) <= SERIES
    assert 'weft_tokens_total{tenant="other",kind="other"}' in text
    tokens = sum(map(int, re.findall(r"^weft_tokens_total\{.* (\d+)$", text, re.M)))
    assert tokens == len(tenants) * (11 + 3 + 4 + 4), "prompt, cached, output, produced: none is lost"
    assert "/no/such" not in text and len(text) < 1 << 20


def test_gauges_of_an_engine_that_was_removed_are_told_no_more(start):
    g = start(fake=True)
    r = g.admin.post("/admin/v1/engines", json={"name": "second", "base": "another", "url": "http://127.0.0.1:9", "secret": "s"})
    assert r.status_code == 201, r.text
    assert 'weft_engine_ready{engine="second"} 0' in read(g)
    r = httpx.get(g.admin_url + "/metrics/engines/second")
    assert r.status_code == 503 and r.json()["error"]["code"] == "service_unavailable"
    assert g.admin.delete("/admin/v1/engines/second", headers={"If-Match": "*"}).status_code in (200, 204)
    until(lambda: 'engine="second"' not in read(g), what="the removed engine gone")
    assert 'weft_engine_ready{engine="local"} 1' in read(g)
