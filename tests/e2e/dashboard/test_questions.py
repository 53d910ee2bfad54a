"""What an operator asks of the dashboard, and what it must not say falsely: which days a list is of, what is not kept, whether a month is final, whether figures are live."""

import signal
import time

from gateway_process import BASE, DEMO
from mock_gateway import OPERATOR, TENANT

DAY = 86400


def csv_of(browser, title):
    browser.js("document.querySelector(`section[aria-label^='${arguments[0]}'] [aria-label$=CSV]`).click()", title)
    return browser.downloaded(".csv")


def test_a_month_that_is_over_is_final_and_has_a_sum(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("invoice")
    browser.seen("running", "main .stats")
    before = time.strftime("%Y-%m", time.gmtime(time.time() - 32 * DAY))
    browser.open("invoice?month=" + before)
    browser.seen("final", "main .stats")
    assert "100 tenants" in browser.text("main .stats") and browser.text("main tfoot th") == "Total"
    assert browser.find("main tfoot a") is None
    assert csv_of(browser, "All tenants").splitlines()[0].endswith('"Total, nano"')  # money in files says its unit


def test_a_real_invoice_is_running_this_month_and_equals_its_api(browser, real):
    browser.login(real.admin_url, real.admin_key)
    browser.open("invoice")
    browser.seen("running", "main .stats")
    said = real.admin.get("/admin/v1/invoice", params={"month": time.strftime("%Y-%m", time.gmtime())}).json()
    rows = [line.split(",") for line in csv_of(browser, "All tenants").splitlines()[1:]]
    assert {r[0]: int(r[-1]) for r in rows} == {r["tenant"]: r["total_nano"] for r in said["data"]} and sum(int(r[-1]) for r in rows) == said["total_nano"]


def test_yesterday_is_a_day_and_lists_of_whole_days_say_so(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("usage?range=yesterday")
    asked = browser.js("return performance.getEntriesByType('resource').map(e => e.name).filter(n => n.includes('stats/top')).pop()")
    midnight = int(time.time()) // DAY * DAY
    assert f"start_time={midnight - DAY}&end_time={midnight}" in asked and "whole days" not in browser.text("main")
    browser.open("overview?range=24h")
    assert browser.text("main").count("whole days, UTC: ") == 2


def test_requests_and_failures_are_those_of_the_chosen_time(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    midnight = int(time.time()) // DAY * DAY
    for page, path, title in (("errors", "stats/errors", "Last failures"), ("requests", "usage/requests", "Requests")):
        browser.open(page + "?range=yesterday")
        browser.find(f"section[aria-label='{title}'] tbody tr")
        asked = browser.js("return performance.getEntriesByType('resource').map(e => e.name).filter(n => n.includes(arguments[0])).pop()", path)
        assert f"start_time={midnight - DAY}" in asked and f"end_time={midnight}" in asked, asked
        assert "of any time" not in browser.text("main")


def test_an_hour_of_last_month_is_asked_for_in_buckets_that_are_kept(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    for days, word in ((1, "1m"), (6, "1m"), (7, "1h"), (40, "1h"), (500, "1d")):
        got = browser.calls("route.js", "const now = Date.now() / 1000; return m.interval({start: now - a[0] * 86400, end: now - a[0] * 86400 + 3600}).word", days)
        assert got == word, days


def test_a_canarys_time_is_its_own(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("canary?alias=prod&tenant=acme&range=90d")  # more than can be compared, from the page before
    asked = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => n.includes('stats/canary')).pop()"
    assert "start_time" not in browser.js(asked) and browser.js("return document.getElementById('span').selectedOptions[0].textContent") == "Since its last change"
    browser.open("canary?alias=prod&tenant=acme&span=14d")
    assert "start_time" in browser.js(asked)


def test_a_difference_says_whose_and_requests_without_an_adapter_have_no_page(browser, mock, real):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("canary?alias=prod&tenant=acme")
    assert browser.text("section[aria-label=Differences] tbody th") == "B against A" and "+1.50 %" in browser.text("section[aria-label=Differences] tbody tr")
    real.acme.usage(real.acme.ask("tokens=3").headers["x-request-id"])
    browser.login(real.url, real.acme.key)
    browser.open("usage?by=adapter")
    table = "section[aria-label='Top adapters'] tbody"
    linked = [a.text for a in browser.all(table + " th a")]
    assert "sql" in linked and "(base)" not in linked and "(base)" in browser.text(table)


def test_an_adapters_page_charts_its_own_use(browser, real):
    browser.login(real.admin_url, real.admin_key)
    browser.open("adapter/acme/sql?range=today")
    said = real.admin.get("/admin/v1/stats/series", params={"tenant": "acme", "adapter": "sql"}).json()
    rows = [line.split(",") for line in csv_of(browser, "Requests").splitlines()[1:]]
    assert said["total"] >= 5 and sum(int(r[-1]) for r in rows) == said["total"]
    asked = browser.js("return performance.getEntriesByType('resource').map(e => e.name).filter(n => n.includes('stats/series'))")
    assert len(asked) >= 4 and all("adapter=sql" in a and "interval=1d" in a and "tenant=acme" in a for a in asked[-4:])
    assert "sql@1" in csv_of(browser, "Tokens by version").splitlines()[0]


def test_a_page_that_can_not_be_fetched_is_told_in_words(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.cdp("Network.enable")
    browser.cdp("Network.setBlockedURLs", urls=["*page_audit.js"])
    browser.open("audit")
    browser.seen("its dashboard was taken away", "main")
    browser.cdp("Network.setBlockedURLs", urls=[])
    browser.cdp("Network.disable")
    assert all("page_audit.js" in t or "taken away" in t for t in browser.trouble())


def test_links_with_words_of_the_language_are_links_with_nonsense(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    for page in ("usage?measure=__proto__&range=constructor&by=toString&sort=valueOf", "errors?kind=__proto__", "canary?alias=prod&tenant=acme&span=constructor"):
        browser.open(page)
        assert browser.find("main section") and not browser.find("main .message.bad"), page
    browser.login(mock.url, TENANT)
    browser.open("usage?tenant=other&by=key")  # an operator's link
    assert browser.js("return location.hash") == "#/usage?by=key" and not browser.find("main .message.bad")


def test_a_time_that_was_not_chosen_is_not_shown(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("usage?range=7d")
    browser.js("const r = document.getElementById('range'); r.value = 'own'; r.dispatchEvent(new Event('change'))")
    browser.click("dialog .button:not(.first)")
    browser.gone("dialog")
    browser.until(lambda: browser.js("return document.getElementById('range').value") == "7d", "the time as before")


def test_a_server_that_hangs_is_not_called_live(browser, real):
    browser.login(real.url, real.acme.key)
    browser.seen("live", "#live")
    real.process.send_signal(signal.SIGSTOP)
    try:
        browser.seen("connecting", "#live")
    finally:
        real.process.send_signal(signal.SIGCONT)
    browser.seen("live", "#live")


def test_latest_events_are_told_once_also_those_that_happened_while_nobody_looked(browser, real):
    t, panel = real.tenant("quiet"), "section[aria-label='Latest events']"
    said = lambda: browser.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", panel + " li > :last-child")
    browser.login(real.url, t.key)
    browser.seen("Nothing has happened yet", panel)
    browser.seen("live", "#live")
    with t.http() as c:
        for n in (1, 2):
            assert c.put(f"/v1/aliases/a{n}", json={"targets": [{"base": BASE}]}).status_code == 201
            browser.until(lambda: said() == ["a2", "a1"][2 - n:], "what happened")
        browser.leave_focus()
        browser.keys("r")
        browser.settle()
        assert said() == ["a2", "a1"]
        look = "Object.defineProperty(document, 'hidden', {configurable: true, value: arguments[0]}); document.dispatchEvent(new Event('visibilitychange'))"
        browser.js(look, True)
        time.sleep(0.5)
        assert c.put("/v1/aliases/a3", json={"targets": [{"base": BASE}]}).status_code == 201
        time.sleep(1.5)  # the server's stream would have told it
        assert said() == ["a2", "a1"]
        browser.js(look, False)
        browser.until(lambda: said() == ["a3", "a2", "a1"], "what happened meanwhile")


def test_an_upload_goes_on_when_the_gateway_was_away(browser, real):
    browser.login(real.url, real.acme.key)
    browser.open("upload")
    browser.js("const d = new DataTransfer(); d.items.add(new File([], 'adapter_config.json')); document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: d, bubbles: true, cancelable: true}))")
    browser.seen("is empty", "main")
    browser.find("#files").send_keys("\n".join(str(DEMO / "triage" / f) for f in ("adapter_config.json", "adapter_model.safetensors")))
    browser.until(lambda: browser.find("#send").is_enabled(), "both files")
    browser.put("#name", "patient")
    browser.js("""
      const send = XMLHttpRequest.prototype.send, ask = window.fetch;
      window.away = 3, window.deaf = 1;  // what is sent breaks, then questions do, until the gateway is there again
      XMLHttpRequest.prototype.send = function (body) { if (body.size > 10000 && away > 0) { away--; setTimeout(() => this.onerror(), 10); } else send.call(this, body); };
      window.fetch = (u, o) => String(u).includes('/complete') && deaf-- > 0 ? Promise.reject(new TypeError('away')) : String(u).includes('/uploads/') && o.method === 'GET' && away > 0 ? (away--, Promise.reject(new TypeError('away'))) : ask(u, o);""")
    browser.click("#send")
    browser.seen("patient@1", "#outcome")
    assert browser.js("return away + Math.max(deaf, 0)") == 0
