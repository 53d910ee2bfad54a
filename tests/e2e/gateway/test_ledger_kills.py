"""The ledger through kills of gateway and engine under load: the short form of ledger_kills.py, whose checks are the invariants that kills can break. The
whole form, 150 kills: `make kills`."""

import os

import pytest

import ledger_kills

KILLS = int(os.environ.get("WEFT_KILLS", 10))


@pytest.fixture(scope="module")
def run(tmp_path_factory, _model):
    run = ledger_kills.Run(tmp_path_factory.mktemp("kills"), KILLS).finish()
    print(run.summary())
    yield run
    run.g.close()


@pytest.mark.parametrize("check", [name for name in dir(ledger_kills.Run) if name.startswith("check_i")])
def test_after_kills(run, check):
    getattr(run, check)()


def test_the_load_was_one(run):
    assert len(run.rows) > 20 * KILLS and sum(run.killed.values()) == KILLS
