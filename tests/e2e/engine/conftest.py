"""One engine serves most tests of this folder; each test leaves it idle."""

import os

import pytest

from engine_process import MODEL, PROGRAM, Engine

DEMO_NAMES = ("pirate", "sql", "triage")


@pytest.fixture(scope="session")
def _shared(tmp_path_factory):
    assert MODEL and os.path.exists(MODEL), "set WEFT_MODEL to a GGUF file"
    assert os.path.exists(PROGRAM), f"{PROGRAM} is not built"
    e = Engine(tmp_path_factory.mktemp("engine"), "--orphan-s", "0")
    yield e
    e.close()


@pytest.fixture
def engine(_shared):
    yield _shared
    _shared.assert_idle()


@pytest.fixture
def client(engine):
    with engine.openai() as c:
        yield c


@pytest.fixture
def base(engine):
    return engine.base


@pytest.fixture
def adapters(engine):
    """Digests of the three demo adapters, loaded."""
    return {name: engine.load(name) for name in DEMO_NAMES}


@pytest.fixture
def start(tmp_path):
    """start(*args, **kw) -> an Engine of one's own, closed at the end."""
    started = []

    def go(*args, **kw):
        started.append(Engine(tmp_path / f"e{len(started)}", *args, **kw))
        return started[-1]

    yield go
    for e in started:
        e.close()
