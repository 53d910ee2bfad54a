"""Two gateways serve most tests: one on the real engine, one on the fake that fails on request. Each test leaves them idle."""

import os

import pytest

from gateway_process import FAKE, MODEL, PROGRAM, Gateway, until
from webhook_process import Inbox

DEMO_NAMES = ("triage", "sql", "pirate")


def _assert_idle(g):
    until(lambda: g.engine_state()["running"] == 0, what="an idle engine")
    assert g.temporary() == [], "left in tmp/"


@pytest.fixture(scope="session")
def _model():
    assert MODEL and os.path.exists(MODEL), "set WEFT_MODEL to a GGUF file"
    assert PROGRAM.exists(), f"{PROGRAM} is not built"
    return MODEL


@pytest.fixture(scope="session")
def _fake(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("fake"), "--keepalive-ms", "300", "--first-byte-ms", "3000", "--idle-ms", "1500", "--max-body", "64k",
                "--max-adapter-bytes", "8m", "--max-adapters", "6", fake=True)
    yield g
    g.close()


@pytest.fixture(scope="session")
def _fake_tenants(_fake):
    tenants = {n: _fake.tenant(n) for n in ("acme", "other")}
    assert tenants["acme"].upload("sql").status_code == 201
    assert tenants["other"].upload("pirate").status_code == 201
    return tenants


@pytest.fixture
def fake(_fake, _fake_tenants):
    yield _fake
    _assert_idle(_fake)


@pytest.fixture
def acme(fake, _fake_tenants):
    """A tenant with the adapter sql, behind the fake engine."""
    return _fake_tenants["acme"]


@pytest.fixture
def other(fake, _fake_tenants):
    """Another one, with the adapter pirate."""
    return _fake_tenants["other"]


@pytest.fixture(scope="session")
def _real(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("real"), "--precision", "exact")
    yield g
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert verdict["verify"]["bad_buckets"] == 0 and verdict["receipts"]["differ"] == 0, verdict
    assert verdict["receipts"]["known"] > 0 or verdict["receipts"]["asked"] == 0, verdict
    g.close()


@pytest.fixture(scope="session")
def _real_tenants(_real):
    tenants = {n: _real.tenant(n) for n in DEMO_NAMES + ("all",)}
    for n in DEMO_NAMES:
        assert tenants[n].upload(n).status_code == 201
        assert tenants["all"].upload(n).status_code == 201
    return tenants


@pytest.fixture
def real(_real, _real_tenants):
    yield _real
    _assert_idle(_real)


@pytest.fixture
def tenants(real, _real_tenants):
    """triage, sql, pirate with the adapter of that name each, and `all` with all three; on the real engine."""
    return _real_tenants


@pytest.fixture
def start(tmp_path, _model):
    """start(*args, **kw) -> a Gateway of one's own, closed at the end."""
    started = []

    def go(*args, **kw):
        started.append(Gateway(tmp_path / f"g{len(started)}", *args, **kw))
        return started[-1]

    yield go
    for g in started:
        g.close()


@pytest.fixture
def inbox(tmp_path):
    """A receiver of webhooks."""
    box = Inbox(tmp_path / "inbox")
    yield box
    box.kill()
