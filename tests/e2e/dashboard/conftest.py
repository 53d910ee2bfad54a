"""One browser looks at two servers: a mock with much of everything, and a real gateway on the fake engine."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gateway"))

from browser import Browser  # noqa: E402
from gateway_process import Gateway  # noqa: E402
from mock_gateway import Mock  # noqa: E402
from webhook_process import Inbox  # noqa: E402

PRICE = {"base": "smollm2-135m-instruct", "prompt_nano": 150, "cached_nano": 75, "output_nano": 600, "valid_from": 1}


@pytest.fixture(scope="session")
def _browser(tmp_path_factory):
    b = Browser(tmp_path_factory.mktemp("downloads"))
    yield b
    b.close()


@pytest.fixture
def browser(_browser):
    """The browser; whatever a test did, nothing may have gone wrong in the page."""
    _browser.full_size()
    _browser.scheme("light")
    _browser.trouble()
    yield _browser
    assert _browser.trouble() == []


@pytest.fixture(scope="session")
def _mock():
    m = Mock()
    yield m
    m.close()


@pytest.fixture
def mock(_mock):
    yield _mock
    _mock.fail.clear()


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """A gateway with two tenants, adapters, an alias, requests of several endings, limits and a budget that is nearly spent."""
    g = Gateway(tmp_path_factory.mktemp("dash"), "--keepalive-ms", "300", "--webhook-hosts", "127.0.0.1", "--webhook-retry-s", "1", fake=True)
    assert g.admin.post("/admin/v1/prices", json=PRICE).status_code == 201
    g.acme, g.other = g.tenant("acme"), g.tenant("other")
    for name in ("sql", "triage"):
        assert g.acme.upload(name).status_code == 201
    assert g.other.upload("pirate").status_code == 201
    with g.acme.http() as c:
        assert c.put("/v1/aliases/prod", json={"targets": [{"adapter": "sql", "version": 1, "weight": 90}, {"adapter": "triage", "version": 1, "weight": 10}]}).status_code == 201
    for i in range(6):
        assert g.acme.ask(f"tokens={4 + i}", "prod" if i % 2 else "sql", stream=bool(i % 3)).status_code == 200
    g.acme.ask("status=422 code=adapter_fault", "triage")
    g.last = g.other.ask("tokens=8", "pirate").headers["x-request-id"]
    assert g.admin.put("/admin/v1/tenants/acme/limits", json={"requests_per_minute": 600, "tokens_per_day": 100000, "tokens_per_day_soft": 100}).status_code == 200
    g.other.usage(g.last)
    yield g
    g.close()


@pytest.fixture
def inbox(tmp_path):
    """A receiver of webhooks."""
    box = Inbox(tmp_path / "inbox")
    yield box
    box.kill()
