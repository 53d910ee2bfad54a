"""What is in quarantine, as people see and lift it: on the overview, in the list of adapters, on an adapter's page, and requests on the page of errors."""

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from gateway_process import BASE, Gateway, until
from mock_gateway import HOSTILE, OPERATOR

SECRET = "die_after=0 prompt=77 that nobody may read"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    g = Gateway(tmp_path_factory.mktemp("held"), fake=True)
    g.acme = g.tenant("acme")
    yield g
    g.close()


@pytest.fixture
def held(gateway):
    """A gateway with a version and a request of acme's in quarantine."""
    g = gateway
    assert g.acme.upload("sql").status_code in (200, 201)
    if version(g)["state"] != "quarantined":
        for i in range(2):
            g.acme.ask(f"status=422 code=adapter_fault prompt={i + 5}", "sql")
    until(lambda: version(g)["state"] == "quarantined", what="a version in quarantine")
    if not refused(g):
        g.acme.ask(SECRET, BASE)
    until(lambda: refused(g), what="a request in quarantine")
    until(g.engine_pid)
    return g


def version(g):
    with g.acme.http() as c:
        return c.get("/v1/adapters/sql/versions/1").json()


def refused(g):
    return g.admin.get("/admin/v1/quarantine").json()["data"]


def confirm(browser, words):
    """In the dialog, by the keyboard alone."""
    browser.seen(words, "dialog")
    browser.js("document.querySelector('dialog button[type=submit]').focus()")
    browser.keys(Keys.ENTER)
    browser.gone("dialog")


def test_the_operator_comes_from_the_count_to_the_adapter_and_lifts_it(browser, held):
    browser.login(held.admin_url, held.admin_key)
    browser.seen("In quarantine:", "main")
    assert (browser.text("#held-adapters"), browser.text("#held-requests")) == ("1 adapter", "1 request")
    browser.js("document.getElementById('held-adapters').focus()")
    seen = browser.text("[aria-label='Now']")
    browser.until(lambda: browser.text("[aria-label='Now']") != seen or browser.js("return performance.now() - (window.began ??= performance.now()) > 2500"), "the next second")
    assert browser.js("return document.activeElement.id") == "held-adapters"  # the page was drawn anew around it
    browser.keys(Keys.ENTER)
    browser.settle()
    assert "state=quarantined" in browser.js("return location.hash")
    row = browser.text("main tbody tr")
    assert "sql@1" in row and "quarantined" in row and "values that are not finite in 2 answers" in row and browser.find("#lift-sql-1")
    browser.open("adapters")
    assert "not finite" in browser.text("main tbody tr") and "quarantined" in browser.text("main tbody tr .tag")
    browser.click("main tbody th a")
    browser.settle()
    note = browser.text(".verdict.bad")
    assert "@1 is in quarantine since" in note and "values that are not finite in 2 answers" in note and "422" in note
    browser.js("document.getElementById('lift-sql-1').focus()")
    browser.keys(Keys.ENTER)
    browser.seen("Lift the quarantine of acme/sql@1?", "dialog")
    browser.keys(Keys.ESCAPE)
    browser.gone("dialog")
    assert version(held)["state"] == "quarantined"
    browser.click("#lift-sql-1")
    confirm(browser, "tested anew")
    until(lambda: version(held)["state"] == "ready", what="the version's return")
    browser.open("adapters?state=quarantined")
    browser.seen("No adapter fits", "main")
    assert held.acme.ask("tokens=2", "sql").status_code == 200


def test_the_list_of_adapters_lifts_too(browser, held):
    browser.login(held.admin_url, held.admin_key)
    browser.open("adapters?state=quarantined")
    browser.click("#lift-sql-1")
    confirm(browser, "Lift the quarantine of acme/sql@1?")
    until(lambda: version(held)["state"] == "ready", what="the version's return")
    browser.until(lambda: "quarantined" not in browser.text("main tbody"), "its new state")


def test_a_refused_request_is_shown_without_a_word_of_it_and_lifted(browser, held):
    (one,) = refused(held)
    browser.login(held.admin_url, held.admin_key)
    browser.click("#held-requests")
    browser.settle()
    at = "section[aria-label='Requests in quarantine']"
    browser.seen(one["id"], at)
    text = browser.text(at)
    assert "acme" in text and BASE in text and "77" not in text.replace(one["id"], "") and "nobody" not in text
    browser.open("errors?tenant=acme")
    browser.seen(one["id"], at)
    browser.click(f"[id='lift-{one['id']}']")
    confirm(browser, "Let this request be served again?")
    browser.until(lambda: browser.js("return document.querySelector(arguments[0]).hidden", at), "an end of the panel")
    assert refused(held) == []


def test_a_tenant_sees_its_own_and_what_to_do_and_another_nothing(browser, held):
    browser.login(held.url, held.acme.key)
    assert (browser.text("#held-adapters"), browser.text("#held-requests")) == ("1 adapter", "1 request")
    browser.open("adapters?state=quarantined")
    assert "sql@1" in browser.text("main tbody") and not browser.find("#lift-sql-1")
    browser.open("adapter/sql")
    note = browser.text(".verdict.bad")
    assert "Upload a new version" in note and "ask the operator" in note and not browser.find("#lift-sql-1")
    browser.open("errors")
    browser.seen(refused(held)[0]["id"], "main")
    browser.open("adapter/sql")
    browser.click("[aria-label='restore version 1']")
    confirm(browser, "It is in quarantine")
    until(lambda: version(held)["state"] == "ready", what="the version's return")
    other = held.tenant("other")
    browser.login(held.url, other.key)
    browser.settle()
    browser.seen("In flight", "main")
    assert "In quarantine" not in browser.text("main")
    browser.open("errors")
    assert "Requests in quarantine" not in browser.text("main")


def test_who_may_only_look_is_offered_nothing_to_lift(browser, held):
    viewer = held.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()["key"]
    browser.login(held.admin_url, viewer)
    for page, words in (("adapters?state=quarantined", "quarantined"), ("adapter/acme/sql", "@1 is in quarantine"), ("errors", "Requests in quarantine")):
        browser.open(page)
        browser.seen(words, "main")
        assert not browser.find("[id^='lift-']"), page
    r = httpx.post(held.admin_url + "/admin/v1/tenants/acme/adapters/sql/versions/1/restore", headers={"Authorization": f"Bearer {viewer}"})
    assert r.status_code == 403


def test_names_that_clients_chose_are_text_and_the_files_have_what_the_page_has_no_room_for(browser, mock):
    browser.login(mock.admin_url, OPERATOR)
    browser.open("errors")
    at = "section[aria-label='Requests in quarantine']"
    browser.seen(HOSTILE[:20], at)
    assert len(browser.all(at + " tbody tr")) == 7 and not browser.find(at + " img")
    browser.open("adapters?state=quarantined")
    browser.click("[aria-label='Save “Adapters” as CSV']")
    head, first = browser.downloaded(".csv").splitlines()[:2]
    assert "Since (UTC)" in head and "Why" in head and "2 engines were lost with it" in first
