"""The dashboard in a browser: every page in both roles, what people do on it, and what it must never do."""

import re

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from dashboard_pages import OPERATORS, PHONE, TENANTS
from gateway_process import DEMO, Gateway, until
from mock_gateway import HOSTILE, OPERATOR, PAGES, TENANT, policy

MUCH = ("overview", "webhooks", "usage", "errors", "adapter/acme/sql", "adapter/sql", "canary", "engines", "limits", "invoice", "ledger", "events")
FORBIDDEN = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage\.setItem\((?!\"weft\.theme\")")


def walk(browser, pages):
    """Opens each and gives what was wrong with any of them."""
    wrong = []
    for page in pages:
        browser.open(page)
        said = [m.text.replace("\n", ": ") for m in browser.all("main .message.bad")]
        wrong += [(page, w) for w in said + browser.trouble()]
        if not browser.text("#title") or not browser.find("main section, main form, main .message"):
            wrong.append((page, "nothing is there"))
    return wrong


# --- files ---

def test_the_files_are_served_with_a_policy_that_has_no_exceptions(real):
    for base in (real.url, real.admin_url):
        for path, kind in (("/dashboard", "text/html"), ("/dashboard/app.js", "text/javascript"), ("/dashboard/parts.css", "text/css"), ("/dashboard/weft.svg", "image/svg+xml"), ("/dashboard/chart.js", "text/javascript")):
            r = httpx.get(base + path)
            assert r.status_code == 200 and r.headers["content-type"].startswith(kind), path
            assert r.headers["content-security-policy"] == policy() and "unsafe" not in policy() and "default-src 'none'" in policy()
            assert r.headers["x-content-type-options"] == "nosniff" and r.headers["referrer-policy"] == "no-referrer"
            again = httpx.get(base + path, headers={"If-None-Match": r.headers["etag"]})
            assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == r.headers["etag"]
        assert httpx.get(base + "/dashboard/").headers["location"] == "../dashboard"
        for path in ("/dashboard/nothing.js", "/dashboard/%2e%2e", "/dashboard/x/app.js", "/dashboard/APP.JS"):
            assert httpx.get(base + path).status_code in (400, 404), path
        assert httpx.post(base + "/dashboard").status_code == 405


def test_a_gateway_without_it_has_no_pages(tmp_path):
    g = Gateway(tmp_path, "--dashboard", "false", fake=True)
    try:
        assert httpx.get(g.url + "/dashboard").status_code == 404 and httpx.get(g.admin_url + "/dashboard/app.js").status_code == 404
    finally:
        g.close()


def test_modules_are_short_and_make_no_markup_of_text():
    for path in sorted(p for p in PAGES.iterdir() if p.suffix not in (".c", ".h")):
        text = path.read_text()
        assert text.count("\n") < 500, path.name
        assert not FORBIDDEN.search(text), (path.name, FORBIDDEN.search(text))
        assert path.suffix != ".html" or not re.search(r"\sstyle=|<style|<script>|\son\w+=|https?://", text), path.name
        assert path.suffix != ".js" or text.startswith("// " + path.stem.removeprefix("page_").split("_")[0]), f"{path.name} does not open with what it is for"


# --- all pages ---

def test_pages_of_an_operator_with_much_of_everything(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    assert walk(browser, [p for p in OPERATORS if p.split("?")[0] in MUCH]) == []


def test_pages_of_a_tenant_with_much_of_everything(browser, mock):
    browser.login(mock.url, TENANT)
    assert walk(browser, [p for p in TENANTS if p.split("?")[0] in MUCH]) == []
    assert "Tenants" not in browser.text(".nav") and "Ledger" not in browser.text(".nav")


def test_every_page_of_an_operator_on_a_real_gateway(browser, real):
    browser.login(real.admin_url, real.admin_key)
    assert walk(browser, OPERATORS + ["request/" + real.last]) == []


def test_every_page_of_a_tenant_on_a_real_gateway(browser, real):
    browser.login(real.url, real.acme.key)
    assert walk(browser, TENANTS + ["request/" + real.acme.usage_rows()[0]["id"]]) == []


def test_no_page_is_wider_than_a_phone(browser, mock):
    browser.size(*PHONE)
    browser.login(mock.admin_url, OPERATOR)
    wide = {}
    for page in OPERATORS[::3] + ["limits?tenant=acme", "alias/acme/prod"]:
        browser.open(page)
        width = browser.js("return document.documentElement.scrollWidth")
        if width > PHONE[0]:
            wide[page] = (width, browser.js("return [...document.querySelectorAll('main *, .bar *')].filter(e => e.getBoundingClientRect().right > arguments[0] + 1 && !e.closest('.scroll')).slice(0, 3).map(e => e.tagName + '.' + e.className)", PHONE[0]))
    assert wide == {}
    browser.click(".menu")
    browser.seen("Ledger health", ".side.open")
    browser.keys(Keys.ESCAPE)
    browser.gone(".side.open")


@pytest.mark.parametrize("width", [1360, 1024, PHONE[0]])
def test_lists_of_requests_need_no_scrolling_sideways(browser, mock, width):
    for url, key in ((mock.admin_url, OPERATOR), (mock.url, TENANT)):
        browser.login(url, key)
        browser.size(width, 900)
        for page in ("requests", "errors"):
            browser.open(page)
            browser.seen("Began (UTC)", "main section:last-of-type thead")
            assert browser.js("return [...document.querySelectorAll('main .scroll')].filter(e => e.querySelector('td') && e.scrollWidth > e.clientWidth).map(e => e.getAttribute('aria-label') + ' ' + e.scrollWidth + ' of ' + e.clientWidth)") == [], (page, width)
            heads = browser.js("return [...document.querySelectorAll('main section:last-of-type thead th')].filter(e => e.offsetParent).map(e => e.innerText)")
            assert {"Began (UTC)", "Ended", "Took"} <= set(heads) and ("Cost" in heads) == ("Model" in heads) == (width == 1360), heads
        browser.full_size()
    browser.open("requests")
    head = browser.calls("page_requests.js", "return m.requestColumns(true).filter(c => !c.noCsv).map(c => c.label)")
    assert {"Status", "Input", "Output", "Loading", "Cost", "Key", "Request"} <= set(head)  # files have all of it


def test_text_and_marks_can_be_told_from_their_ground(browser, mock):
    measure = """
      const v = n => getComputedStyle(document.documentElement).getPropertyValue(n).trim();
      const light = c => { const [r, g, b] = [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16) / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
      const ratio = (a, b) => { const [x, y] = [light(v(a)), light(v(b))].sort((p, q) => q - p); return (x + .05) / (y + .05); };
      const out = [];
      const need = (a, b, least) => { if (ratio(a, b) < least) out.push(a + ' on ' + b + ' ' + ratio(a, b).toFixed(2)); };
      for (const ground of ['--panel', '--ground']) for (const ink of ['--ink', '--soft', '--faint', '--accent', '--bad', '--good']) need(ink, ground, 4.5);
      for (const word of ['good', 'warn', 'bad', 'info', 'accent']) need('--' + word, '--' + word + '-soft', 4.5);
      need('--soft', '--sunk', 4.5); need('--on-accent', '--accent', 4.5); need('--edge', '--panel', 3);
      for (const c of ['1', '2', '3', '4', '5', '6', '7', '8', '-other']) need('--c' + c, '--panel', 3);
      return out;"""
    browser.login(mock.admin_url, OPERATOR)
    for word in ("dark", "light"):
        browser.scheme(word)
        browser.until(lambda: browser.js("return document.documentElement.dataset.theme") == word, f"the browser's wish, {word}")
        assert browser.js(measure) == [], word
    browser.leave_focus()
    browser.keys("t")
    assert browser.js("return document.documentElement.dataset.theme") == "dark" and browser.js(measure) == []
    browser.driver.refresh()
    assert browser.until(lambda: browser.js("return document.documentElement.dataset.theme"), "a theme") == "dark"


# --- keys and secrets ---

def test_a_key_stays_in_memory_unless_its_owner_asks_and_goes_when_he_leaves(browser, mock):
    browser.driver.get(mock.url + "/dashboard")
    browser.until(lambda: browser.js("return document.activeElement.id") == "key", "the field that has the focus")
    where = "return JSON.stringify(sessionStorage) + JSON.stringify(localStorage) + document.cookie + location.href"
    browser.login(mock.url, TENANT)
    assert TENANT not in browser.js(where)
    browser.driver.refresh()
    browser.until(lambda: browser.find("#key"), "the login")
    browser.login(mock.url, TENANT, keep=True)
    assert TENANT in browser.js("return JSON.stringify(sessionStorage)") and TENANT not in browser.js("return JSON.stringify(localStorage) + document.cookie")
    browser.driver.refresh()
    browser.settle()
    browser.click("#leave")
    assert browser.find("#key") and TENANT not in browser.js(where)


def test_a_wrong_key_is_told_in_words(browser, real):
    browser.driver.get(real.url + "/dashboard")
    for key, words in (("wft_000000000000_" + "x" * 43 + "_000000", "not valid here"), (real.admin_key, "operators' dashboard is on the admin listener"), ("nonsense", "not valid here")):
        browser.put("#key", key)
        browser.click("#open")
        browser.seen(words, "#fault")
    assert [t for t in browser.trouble() if "/whoami" not in t] == []  # the refusals themselves


def test_a_key_that_is_revoked_ends_the_session(browser, real):
    made = real.admin.post("/admin/v1/tenants/acme/keys", json={"roles": ["admin"], "name": "short"}).json()
    browser.login(real.url, made["key"])
    assert real.admin.delete("/admin/v1/keys/" + made["id"]).status_code == 200
    browser.js("location.hash = '#/keys'")
    browser.seen("revoked, or it has expired", "#fault")
    assert all("401" in t for t in browser.trouble())


def test_pages_that_a_key_may_not_ask_for_are_not_offered(browser, real):
    browser.login(real.url, real.key("acme", ["inference"]))
    assert "Try side by side" in browser.text(".nav") and not re.search("Upload|Keys|Usage|Events", browser.text(".nav"))
    browser.open("keys")
    browser.seen("not for this key", "main")


# --- names that strangers chose ---

def test_a_hostile_name_is_text_everywhere(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    for page in ("requests", "usage?by=model&range=30d", "audit"):
        browser.open(page)
        browser.seen(HOSTILE, "main")
        assert browser.js("return document.querySelectorAll('main img, main script').length") == 0
    browser.open("webhooks")
    press(browser, "More", "acme-billing")
    browser.seen(HOSTILE, "dialog")
    assert not browser.find("dialog img")


def test_csv_of_what_is_shown_runs_nothing_in_a_spreadsheet(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    rows = [["=1+2", "'=1+2"], ["+4", "'+4"], ["-x", "'-x"], ["@a", "'@a"], ["\t=1", "'\t=1"], ["\r=1", "'\r=1"], ["a,b", "a,b"], ['say "x"', 'say "x"'], ["plain", "plain"], [-5, "-5"], [1.5, "1.5"], [None, ""]]
    for value, shown in rows:
        cell = browser.calls("csv.js", "return m.cell(a[0])", value)
        assert (cell[1:-1].replace('""', '"') if cell.startswith('"') else cell) == shown, value
    browser.open("usage?by=model&range=30d")
    browser.js("document.querySelector('section[aria-label^=\"Top model\"] [aria-label$=CSV]').click()")
    text = browser.downloaded(".csv")
    assert text.splitlines()[0].startswith("Model,Share,Change,Requests") and "\"'=1+2\"" in text.replace("acme / ", "") or "acme / =1+2" in text


# --- much ---

def test_a_thousand_tenants_are_paged_and_found(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("tenants")
    assert len(browser.all("main tbody tr")) == 50
    browser.click("#next")
    browser.settle()
    second = browser.text("main tbody th")
    assert "after=" in browser.js("return location.hash") and second != "acme"
    browser.click("#previous")
    browser.settle()
    assert browser.text("main tbody th") == "acme"
    browser.put("#q", "zzz")
    browser.seen("No tenant's name begins so", "main")
    browser.put("#q", "wonka-5")
    browser.until(lambda: browser.text("main tbody th").startswith("wonka-5"), "tenants that begin so")
    assert all(x.text.startswith("wonka-5") for x in browser.all("main tbody th")) and browser.js("return document.activeElement.id") == "q"


def test_ten_thousand_adapters_are_paged_sorted_and_filtered_by_the_server(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("adapters?state=quarantined")
    states = {x.text for x in browser.all("main tbody td:nth-of-type(2) .tag")}
    assert states == {"quarantined"} and len(browser.all("main tbody tr")) == 50
    browser.click("#order-requests")
    browser.settle()
    assert "sort=requests" in browser.js("return location.hash")


def test_a_change_is_of_what_is_over_and_says_so(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("usage?range=7d&by=tenant&compare=1")
    sums, top = browser.text("section[aria-label='In this time']"), browser.text("section[aria-label='Top tenants']")
    assert "Change: " in sums and "against as long before" in sums and ", then " in sums  # the hour that is under way is not compared
    assert "the days that are over" in top and "against as many before" in top
    browser.open("usage?range=today&by=tenant")
    assert "no change is told" in browser.text("section[aria-label='Top tenants']")
    browser.open("usage?range=last-month&by=tenant")
    assert ", then " not in browser.text("section[aria-label='In this time']")
    assert browser.trouble() == []


# --- links, keys of the keyboard ---

def test_a_link_shows_what_its_sender_saw(browser, mock):
    browser.login(mock.admin_url, OPERATOR, keep=True)
    browser.driver.get(mock.admin_url + "/dashboard#/usage?by=endpoint&measure=cost_nano&range=30d&compare=1&tenant=acme")
    browser.driver.refresh()
    browser.settle()
    assert browser.js("return ['by', 'measure', 'range', 'tenant'].map(i => document.getElementById(i).value)") == ["endpoint", "cost_nano", "30d", "acme"]
    assert browser.find("#compare").get_attribute("aria-pressed") == "true" and "The time before" in browser.text("main")
    assert "tenant=acme" in browser.js("return [...document.querySelectorAll('.nav a')].find(a => a.textContent === 'Requests').href")
    browser.js("document.getElementById('by').value = 'key'; document.getElementById('by').dispatchEvent(new Event('change'))")
    browser.settle()
    browser.driver.back()
    browser.settle()
    assert browser.js("return document.getElementById('by').value") == "endpoint"


def test_everything_works_by_keyboard(browser, mock):
    browser.login(mock.admin_url, OPERATOR, keep=True)
    browser.driver.refresh()
    browser.settle()
    browser.keys(Keys.TAB)
    assert browser.js("return document.activeElement.id") == "skip" and browser.js("return document.activeElement.getBoundingClientRect().top") >= 0
    browser.keys(Keys.ENTER)
    assert browser.js("return document.activeElement.id") == "main"
    browser.keys("?")
    browser.seen("Light or dark", "dialog")
    browser.keys(Keys.ESCAPE)
    browser.gone("dialog")
    browser.keys("g", "t")
    browser.until(lambda: browser.text("#title") == "Tenants", "the page of tenants")
    browser.settle()
    browser.keys("/")
    assert browser.js("return document.activeElement.id") == "q"
    browser.keys("gu?")  # typing is typing
    assert not browser.find("dialog") and browser.text("#title") == "Tenants"
    browser.keys(Keys.ESCAPE)
    browser.open("usage")
    browser.leave_focus()
    browser.keys("]", "c")
    browser.until(lambda: "compare=1" in browser.js("return location.hash") and "range=7d" in browser.js("return location.hash"), "the other time")
    browser.settle()
    browser.js("document.querySelector('[aria-label^=\"Show\"][aria-pressed]:not([hidden])').focus()")
    browser.keys(Keys.ENTER)
    browser.until(lambda: browser.find("main .panel-body.flush table"), "the chart as a table")


# --- when answers fail ---

def test_each_panel_says_what_is_wrong_and_the_others_stay(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    for status, words in ((404, "Not offered here"), (403, "Your key may not see this"), (503, "The server can't answer this now")):
        mock.fail["/admin/v1/stats/latency"] = status
        browser.open(f"errors?at={status}")
        browser.seen(words, "section[aria-label^='How long']")
        assert browser.find("section[aria-label='Last failures'] tbody tr")
    mock.fail.clear()
    browser.js("document.querySelector('section[aria-label^=\"How long\"] .message button').click()")
    browser.until(lambda: browser.find("canvas.heat"), "the map after another try")
    assert all("stats/latency" in t for t in browser.trouble())


def test_without_a_stream_the_overview_asks_and_without_either_it_says_so(browser, mock):
    mock.fail["/admin/v1/live"] = 404
    browser.login(mock.admin_url, OPERATOR)
    browser.seen("every 5 s", "#live")
    mock.fail["/admin/v1/now"] = 403
    browser.login(mock.admin_url, OPERATOR)
    browser.seen("Your key may not see this", "section[aria-label=Now]")
    assert all("/live" in t or "/now" in t for t in browser.trouble())


# --- what people do ---

def test_what_is_going_on_comes_by_the_stream(browser, real):
    browser.login(real.url, real.acme.key)
    browser.seen("live", "#live")
    before = browser.text("section[aria-label=Today]")
    real.acme.ask("tokens=40", "sql")
    browser.until(lambda: browser.text("section[aria-label=Today]") not in ("", before), "today's sums with the request")


def test_two_files_become_a_version_with_what_the_checks_say(browser, real):
    browser.login(real.url, real.acme.key)
    browser.open("upload")
    browser.js("const d = new DataTransfer(); d.items.add(new File(['x'], 'adapter_model.bin')); document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: d, bubbles: true, cancelable: true}))")
    browser.seen("Pickles and archives are never read", "main")
    browser.find("#files").send_keys("\n".join(str(DEMO / "pirate" / f) for f in ("adapter_config.json", "adapter_model.safetensors")))
    browser.until(lambda: browser.find("#send").is_enabled(), "both files")
    browser.click("#check")
    browser.seen("would be taken", "#outcome")
    browser.put("#name", "corsair")
    browser.click("#send")
    browser.seen("corsair@1", "#outcome")
    browser.seen("ready", "#outcome")
    with real.acme.http() as c:
        assert c.get("/v1/adapters/corsair").json()["versions"][0]["state"] == "ready"
    browser.js("const d = new DataTransfer(); d.items.add(new File(['{\"peft_type\":\"LORA\"}'], 'adapter_config.json')); document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: d, bubbles: true, cancelable: true}))")
    browser.click("#check")
    browser.seen("would be refused", "#outcome")
    assert browser.text("#outcome .fault")


def test_an_alias_is_changed_and_taken_back_and_nobodys_change_is_lost(browser, real):
    for url, key, page, path in ((real.url, real.acme.key, "alias/prod", None), (real.admin_url, real.admin_key, "alias/acme/prod", "/admin/v1/tenants/acme/aliases/prod")):
        with real.acme.http() as c:
            browser.login(url, key)
            browser.open(page)
            first = [t["weight"] for t in c.get("/v1/aliases/prod").json()["targets"]]
            browser.put("#weight-1", "30" if path is None else "45")
            browser.click("#save")
            until(lambda: c.get("/v1/aliases/prod").json()["targets"][1]["weight"] in (30, 45), what="the new weight")
            browser.settle()
            changed = c.get("/v1/aliases/prod").json()
            assert changed["targets"][1]["weight"] == (30 if path is None else 45)
            browser.click("#rollback")
            browser.click("dialog .button.danger")
            until(lambda: [t["weight"] for t in c.get("/v1/aliases/prod").json()["targets"]] == first, what="the weights before")
            browser.gone("dialog")
            browser.settle()
            now = c.get("/v1/aliases/prod").json()
            assert c.put("/v1/aliases/prod", json={"targets": now["targets"], "sticky": "key"}).status_code == 200
            browser.put("#weight-0", "1")
            browser.click("#save")
            browser.seen("Somebody changed it meanwhile", "main")
            assert [t["weight"] for t in c.get("/v1/aliases/prod").json()["targets"]] == first
            assert all("412" in t for t in browser.trouble())
            assert c.put("/v1/aliases/prod", json={"targets": now["targets"]}).status_code == 200


def test_an_aliass_prompt_policy_is_shown_edited_and_taken_away(browser, real):
    with real.acme.http() as c:
        before = c.get("/v1/aliases/prod").json()
        browser.login(real.url, real.acme.key)
        browser.open("alias/prod")
        browser.put("#prompt-policy", '{"truncate": {"max_tokens": 99}}')
        browser.click("#save")
        until(lambda: (c.get("/v1/aliases/prod").json()["prompt_policy"] or {}).get("truncate", {}).get("max_tokens") == 99, what="the policy")
        browser.settle()
        browser.put("#prompt-policy", "{")
        browser.click("#save")
        browser.seen("The prompt policy is not JSON", "main")
        browser.put("#prompt-policy", "")
        browser.put("#routing", "{")
        browser.click("#save")
        browser.seen("The routing is not JSON", "main")
        browser.put("#routing", "")
        browser.click("#save")
        until(lambda: c.get("/v1/aliases/prod").json()["prompt_policy"] is None, what="no policy")
        assert c.get("/v1/aliases/prod").json()["targets"] == before["targets"]
        browser.settle()


def test_an_aliass_evaluation_is_set_on_its_page_and_its_scores_are_there(browser, real):
    with real.acme.http() as c:
        before = c.get("/v1/aliases/prod").json()
        browser.login(real.url, real.acme.key)
        browser.open("alias/prod")
        browser.put("#evaluation", "{")
        browser.click("#save")
        browser.seen("The evaluation is not JSON", "main")
        browser.put("#evaluation", '{"rules": [{"name": "short", "kind": "length", "max": 100000}]}')
        browser.click("#save")
        browser.seen("leads there from now on")  # requests meet it when the change is answered, not when it can be read
        assert c.get("/v1/aliases/prod").json()["evaluation"]["sample"] == 1
        assert c.post("/v1/chat/completions", json={"model": "prod", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}).status_code == 200
        until(lambda: c.get("/v1/evaluations", params={"alias": "prod"}).json()["data"], what="a score")
        browser.open("aliases")
        browser.open("alias/prod")
        browser.seen("short", "main")
        browser.seen("1.000", "main")
        browser.settle()
        assert c.put("/v1/aliases/prod", json={"targets": before["targets"], "policy": before["policy"], "sticky": before["sticky"], "system_prefix": before["system_prefix"]}).json()["evaluation"] is None


def test_an_adapter_and_the_base_answer_side_by_side(browser, real):
    browser.login(real.url, real.acme.key)
    browser.open("try?a=sql&b=smollm2-135m-instruct")
    browser.put("#prompt", "tokens=12 delay_ms=5").send_keys(Keys.CONTROL + Keys.ENTER)
    for side in "ab":
        browser.seen("tok11", f"#answer-{side}")
    browser.seen("answered by sql@1", "main")
    browser.seen("answered by the base", "main")
    browser.until(lambda: not browser.find(".answer.going"), "the ends of both")
    browser.put("#prompt", "tokens=9 delay_ms=400 error_after=2")
    browser.click("#ask")
    browser.seen("not finite", "main")


def test_keys_are_made_shown_once_renewed_and_revoked(browser, real):
    browser.login(real.url, real.acme.key)
    browser.open("keys")
    browser.click("#new-key")
    browser.put("dialog input[placeholder=production]", "from the page")
    browser.click("dialog .button.first")
    text = browser.until(lambda: browser.text("#secret"), "the key's text")
    assert httpx.get(real.url + "/v1/models", headers={"Authorization": "Bearer " + text}).status_code == 200
    browser.keys(Keys.ESCAPE)
    browser.gone("dialog")
    browser.settle()
    assert text not in browser.driver.page_source and "from the page" in browser.text("main")
    browser.js("[...document.querySelectorAll('main tbody tr')].find(r => r.textContent.includes('from the page')).querySelector('.danger').click()")
    browser.click("dialog .button.danger")
    until(lambda: httpx.get(real.url + "/v1/models", headers={"Authorization": "Bearer " + text}).status_code == 401, what="the end of the key")


def press(browser, act, name):
    """A button of one webhook's row, once the list is there as the last act left it."""
    browser.gone("dialog")
    browser.settle()
    browser.click(f"[aria-label='{act}: {name}']")


@pytest.mark.parametrize("role", ["operator", "tenant"])
def test_a_webhook_is_made_tested_paused_fed_again_renewed_and_removed(browser, real, inbox, role):
    api, path = ((real.admin, "/admin/v1/webhooks") if role == "operator" else (real.acme.http(), "/v1/webhooks"))
    browser.login(*((real.admin_url, real.admin_key) if role == "operator" else (real.url, real.acme.key)))
    browser.open("webhooks")
    browser.click("#new-webhook")
    browser.put("dialog input[name=name]", "receiver")
    browser.put("dialog input[name=url]", "http://10.0.0.1/weft")
    browser.put("dialog input[name=events]", "alias.")
    if role == "operator":
        browser.put("dialog input[name=tenant]", "acme")
    browser.click("dialog .button.first")
    browser.until(lambda: browser.text("dialog .fault"), "why that address is refused")
    browser.put("dialog input[name=url]", inbox.url("all"))
    browser.click("dialog .button.first")
    secret = browser.until(lambda: browser.text("#secret"), "the secret")
    inbox.tell(secrets={"all": [secret]})
    browser.keys(Keys.ESCAPE)

    press(browser, "Test", "receiver")
    browser.seen("receiver took the test: 200", ".toasts")
    assert secret not in browser.driver.page_source and [e["type"] for e in inbox.events("all")] == ["weft.webhook.test"]
    ids = [real.acme.ask("tokens=2", "sql").headers["x-request-id"]]
    until(lambda: set(ids) <= set(inbox.usage("all")), what="the first request")

    hook = next(w for w in api.get(path).json()["data"] if w["name"] == "receiver")
    assert hook["tenant"] == "acme" and hook["events"] == ["alias."] and hook["usage"]
    press(browser, "Pause", "receiver")
    browser.seen("paused", "main tbody")
    ids.append(real.acme.ask("tokens=2", "sql").headers["x-request-id"])
    until(lambda: api.get(f"{path}/{hook['id']}").json()["waiting"] == 1, what="a request that waits")
    browser.open("webhooks?again=1")
    browser.seen("1, ", "main tbody")
    press(browser, "Resume", "receiver")
    until(lambda: set(ids) <= set(inbox.usage("all")), what="what waited")

    press(browser, "More", "receiver")
    browser.click("[aria-label='New secret: receiver']")
    browser.click("dialog .button.first")
    new = browser.until(lambda: browser.text("#secret"), "the new secret")
    assert new != secret
    inbox.tell(secrets={"all": [new]})
    browser.keys(Keys.ESCAPE)
    before = len(inbox.batches("all"))
    press(browser, "More", "receiver")
    browser.click("[aria-label='Send again: receiver']")
    browser.click("dialog .button.first")
    until(lambda: len(inbox.batches("all")) > before, what="all of the day once more")
    assert inbox.state()["wrong"] == []

    press(browser, "More", "receiver")
    browser.click("[aria-label='Change: receiver']")
    browser.put("dialog input[name=events]", "*")
    browser.click("dialog .button.first")
    browser.seen("all events", "main tbody")
    press(browser, "More", "receiver")
    browser.click("[aria-label='Remove: receiver']")
    browser.click("dialog .button.danger")
    until(lambda: api.get(f"{path}/{hook['id']}").status_code == 404, what="its end")
    assert all("422" in t or "400" in t for t in browser.trouble())  # the refusal of an address


def test_a_key_that_may_only_read_is_offered_no_changes_of_webhooks(browser, real):
    made = real.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()
    hook = real.admin.post("/admin/v1/webhooks", json={"name": "seen", "url": "http://127.0.0.1:1/weft"}).json()
    browser.login(real.admin_url, made["key"])
    browser.open("webhooks")
    browser.seen("seen", "main tbody")
    assert not browser.find("#new-webhook") and not browser.find("[aria-label='Test: seen']")
    assert real.admin.delete("/admin/v1/webhooks/" + hook["id"]).status_code == 200
    browser.login(real.url, real.key("acme", ["writer"]))
    assert "Webhooks" not in browser.text(".nav")


def test_an_operator_makes_a_tenant_sets_its_limits_and_shuts_it_out(browser, real):
    browser.login(real.admin_url, real.admin_key)
    browser.open("tenants")
    browser.click("#new")
    browser.put("dialog input[name=name]", "fresh")
    browser.put("dialog input[name=weight]", "2")
    browser.click("dialog .button.first")
    browser.until(lambda: browser.text("#title").endswith("fresh"), "the new tenant's page")
    browser.settle()
    browser.open("limits?tenant=fresh")
    browser.click("#edit-limits")
    browser.put("dialog input[name=cost_per_month]", "12.5")
    browser.put("dialog input[name=requests_per_minute]", "60")
    browser.click("dialog .button.first")
    browser.gone("dialog")
    limits = real.admin.get("/admin/v1/tenants/fresh/limits").json()["limits"]
    assert limits["cost_per_month"] == 12_500_000_000 and limits["requests_per_minute"] == 60
    browser.open("tenant/fresh")
    browser.click("#shut")
    browser.click("dialog .button.danger")
    browser.gone("dialog")
    tenant = real.admin.get("/admin/v1/tenants/fresh").json()
    assert tenant["disabled"] and tenant["weight"] == 2


def test_an_engine_is_drained_and_enabled(browser, real):
    browser.login(real.admin_url, real.admin_key)
    browser.open("engines")
    name = real.admin.get("/admin/v1/engines").json()["data"][0]["name"]
    browser.click(f"#drain-{name}")
    browser.click("dialog .button.danger")
    until(lambda: real.admin.get(f"/admin/v1/engines/{name}").json()["state"] == "draining", what="draining")
    browser.gone("dialog")
    browser.click(f"#enable-{name}")
    until(lambda: real.admin.get(f"/admin/v1/engines/{name}").json()["state"] == "enabled", what="an enabled engine")


@pytest.mark.parametrize("format, ending", [("csv", ".csv"), ("jsonl", ".jsonl"), ("focus", ".focus.csv")])
def test_usage_is_exported_to_a_file(browser, real, format, ending):
    browser.login(real.url, real.acme.key)
    browser.open(f"exports?format={format}")
    browser.click("#fresh")
    browser.click("#download")
    text = browser.downloaded(ending)
    billed = [r for r in real.acme.usage_rows() if r["output_tokens"]]
    assert len(billed) >= 6 and all(r["id"] in text for r in billed)
