"""Long lists in a browser, from a real gateway: 1,000 tenants, 10,000 versions, events and schedules by the hundred. Every row is told once, in order, on whatever page."""

import sqlite3
import time

import pytest

from gateway_process import BASE, Gateway

DAY, PAGE, US = 86400, 50, 1000000
TODAY = int(time.time()) // DAY * DAY
TENANTS = [f"{word}-{i:03d}" for word in ("acme", "globex", "initech", "wonka") for i in range(250)]
QUIET, MANY = TENANTS[0], TENANTS[777]  # one with few events, older than all others'; one with an adapter of many versions
VERSIONS = 120
TASKS = ("chat", "sql", "summary", "triage", "tone")
# (tenant, adapter, version); each tenant has five adapters of two versions, but one has `sql` with 120 beside names that hold it
ROWS = sorted([(t, a, v) for t in TENANTS if t != MANY for a in TASKS for v in (1, 2)][: 10000 - VERSIONS - 110] + [(MANY, f"a-sql-{i:03d}", 1) for i in range(110)] + [(MANY, "sql", v) for v in range(1, VERSIONS + 1)])
STATES = {i: "quarantined" if i % 83 == 0 else "archived" if i % 7 == 0 else "ready" for i in range(len(ROWS))}
USES = {i: i * 7919 % 10007 for i in range(0, len(ROWS), 2)}  # a prime's multiples: no two alike, in no order of names
SCHEDULES = [f"plan-{i:03d}" for i in range(120)]


def fill(db):
    ids = {t: f"01900000-0000-7000-8000-{i:012x}" for i, t in enumerate(TENANTS)}
    adapters = {k: i for i, k in enumerate(sorted({(t, a) for t, a, _ in ROWS}), 1)}
    db.executemany("INSERT INTO tenant(id, name, weight, created) VALUES(?, ?, 1, ?)", ((i, t, TODAY * US) for t, i in ids.items()))
    db.executemany("INSERT INTO adapter(row, tenant, name, next_version, created) VALUES(?, ?, ?, 200, ?)", ((row, ids[t], a, TODAY * US) for (t, a), row in adapters.items()))
    db.executemany("INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created) VALUES(?, ?, ?, ?, '', ?, 16, 60, 2, ?, ?)",
                   ((adapters[t, a], v, STATES[i], f"{i:064x}", BASE, 4000000 + i, TODAY * US) for i, (t, a, v) in enumerate(ROWS)))
    db.executemany("INSERT INTO rollup_adapter(tenant, adapter, version, t, n, prompt, cached, output, produced, cost, cold, last_used) VALUES(?, ?, ?, ?, ?, 10, 0, 10, 10, 100, 0, ?)",
                   ((ids[ROWS[i][0]], ROWS[i][1], ROWS[i][2], TODAY, n, TODAY * US) for i, n in USES.items()))
    db.executemany("INSERT INTO event(t, tenant, type, object, detail) VALUES(?, ?, 'version.ready', ?, '{}')",
                   ((TODAY * US, ids[QUIET if i < 70 else TENANTS[1 + i % 900]], f"thing-{i}") for i in range(400)))
    db.executemany("INSERT INTO export_schedule(id, name, format, every, state, done_until, created) VALUES(?, ?, 'csv', 'month', 'paused', ?, ?)",
                   ((f"01900000-0000-7000-9000-{i:012x}", s, TODAY, TODAY * US) for i, s in enumerate(SCHEDULES)))


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    g = Gateway(tmp_path_factory.mktemp("many"), fake=True)
    g.stop()
    db = sqlite3.connect(g.data / "weft.db")
    fill(db)
    db.commit()
    db.close()
    g.start()
    yield g
    g.close()


@pytest.fixture
def page(browser, g):
    browser.login(g.admin_url, g.admin_key)
    return browser


def shown(browser, cell="th", panel="main"):
    return browser.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", f"{panel} tbody tr {cell}")


def turn(browser, button="#next"):
    browser.until(lambda: browser.find(button), button)
    browser.js("window.old = document.querySelector('main').firstElementChild; document.querySelector(arguments[0]).click()", button)
    browser.until(lambda: browser.js("return !old.isConnected"), "another page")
    browser.settle()


def all_pages(browser, cell="th", panel="main", most=40, next="#next"):
    rows = shown(browser, cell, panel)
    for _ in range(most - 1):
        if not browser.js("const b = document.querySelector(arguments[0]); return !!b && !b.disabled", next):
            break
        turn(browser, next)
        rows += shown(browser, cell, panel)
    return rows


def label(row):
    return f"{row[1]}@{row[2]}"


def of_tenants(browser):
    """Whose and what, row by row."""
    return list(zip(shown(browser, "td:nth-of-type(1)"), shown(browser)))


def test_a_thousand_real_tenants_are_told_page_by_page_each_once_and_found(page):
    page.open("tenants")
    assert all_pages(page) == TENANTS
    turn(page, "#previous")
    assert shown(page) == TENANTS[-2 * PAGE:-PAGE]
    page.put("#q", "wonka-1")
    page.until(lambda: shown(page)[:1] == ["wonka-100"], "tenants that begin so")
    page.settle()
    assert all_pages(page) == [t for t in TENANTS if t.startswith("wonka-1")]
    turn(page, "#previous")
    assert shown(page) == [f"wonka-1{i:02d}" for i in range(PAGE)] and not page.find("#previous:not(:disabled)")
    page.put("#q", "a")
    page.until(lambda: shown(page)[:1] == [TENANTS[0]], "the first of all")
    page.put("#q", "zz")
    page.seen("No tenant's name begins so", "main")


def test_ten_thousand_real_versions_are_paged_ordered_and_filtered(page):
    page.open("adapters")
    assert of_tenants(page) == [(t, label((t, a, v))) for t, a, v in ROWS[:PAGE]]
    page.click("#order-requests")
    page.settle()
    by_use = sorted(range(len(ROWS)), key=lambda i: (-USES.get(i, 0), ROWS[i]))
    told = []
    for n in range(6):
        told += of_tenants(page)
        if n < 5:
            turn(page)
    assert told == [(ROWS[i][0], label(ROWS[i])) for i in by_use[:6 * PAGE]]
    page.js("const s = document.getElementById('f-state'); s.value = 'quarantined'; s.dispatchEvent(new Event('change'))")
    page.settle()
    assert "after=" not in page.js("return location.hash")
    rows = all_pages(page, "td:nth-of-type(1)")
    assert rows == [ROWS[i][0] for i in by_use if STATES[i] == "quarantined"] and len(rows) > 2 * PAGE
    page.open("adapters?q=wonka-10&sort=bytes")
    big = [ROWS[i] for i in reversed(range(len(ROWS))) if "wonka-10" in ROWS[i][0]]
    assert all_pages(page) == [label(r) for r in big] and len(big) == 100
    page.open(f"tenant/{MANY}?view=adapters")
    assert all_pages(page, panel="section[aria-label=Adapters]") == [label(r) for r in ROWS if r[0] == MANY]


def test_an_adapters_page_has_all_its_versions_whatever_others_are_called(page):
    page.open(f"adapter/{MANY}/sql")
    assert shown(page, panel="section[aria-label='Use and cold loads']") == [f"sql@{v}" for v in range(1, VERSIONS + 1)]
    assert sorted(shown(page, panel="section[aria-label='sql']")) == sorted(f"@{v}" for v in range(1, VERSIONS + 1))


def test_a_tenants_events_are_its_own_page_by_page_however_many_the_others_have(page):
    page.open(f"events?tenant={QUIET}")
    assert all_pages(page, "td:nth-of-type(3)") == [f"thing-{i}" for i in reversed(range(70))]
    assert set(shown(page, "td:nth-of-type(2)")) == {QUIET}
    turn(page, "#previous")
    assert shown(page, "td:nth-of-type(3)") == [f"thing-{i}" for i in range(69, 19, -1)]
    page.open(f"overview?tenant={QUIET}")
    page.seen("thing-69", "section[aria-label='Latest events']")
    assert "thing-399" not in page.text("main")


def test_schedules_of_exports_are_paged(page):
    page.open("exports")
    assert all_pages(page, panel="section[aria-label=Schedules]", next="#nexts") == SCHEDULES


def test_another_question_begins_all_lists_of_a_page_anew(page):
    page.open("limits?afterb=x&afterk=y&before=z&tenant=acme-000")
    page.calls("route.js", "m.set({tenant: 'acme-001'}); return true")
    page.settle()
    assert page.js("return location.hash") == "#/limits?tenant=acme-001"
    assert all("stats/budgets" in t for t in page.trouble())  # the nonsense that was asked first
