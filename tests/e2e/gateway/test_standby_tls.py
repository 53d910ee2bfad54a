"""A standby over TLS: which certificates it trusts, and that all that travels comes through. A proxy that speaks TLS stands before the primary's admin
address, as it does where a standby is on another machine."""

import pytest

from certificates import Authority
from standby_process import Primary, Restored, Standby, promote
from way import Way


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Primary(tmp_path_factory.mktemp("primary"))
    yield g
    g.close()


@pytest.fixture
def follow(g, tmp_path):
    """A standby of the primary, behind a proxy with this certificate."""
    made = []

    def new(pem, key, *more):
        proxy = Way(g.admin_url, tls=(pem, key))
        s = Standby(tmp_path / f"standby{len(made)}", proxy.url, g.backup_key, more=more)
        made.append((s, proxy))
        return s, proxy
    yield new
    for s, proxy in made:
        s.close()
        proxy.close()


def test_with_an_authority_of_ones_own_all_comes_over_tls_and_is_taken_over(g, ours, follow):
    s, proxy = follow(*ours.sign("good"), "--ca-file", ours.pem)
    s.start().synced()
    r = g.acme.ask("tokens=4", model="sql")
    assert r.status_code == 200
    s.synced()
    assert proxy.connections > 3
    assert "takes connections" in promote(s.data, status=1)  # at the proxy: it is what can be asked
    proxy.close()
    s.stop()
    promote(s.data, "--force")
    again = Restored(s.folder, g.admin_key)
    try:
        rows = type(g.acme)(again, "acme", g.acme.key).usage_rows()
        assert [x["output_tokens"] for x in rows if x["id"] == r.headers["x-request-id"]] == [4]
        assert again.blobs() == g.blobs()
    finally:
        again.close()


def test_a_certificate_that_signs_itself_is_trusted_where_it_is_named(ours, follow, tmp_path):
    alone = Authority(tmp_path / "alone", "alone", names="IP:127.0.0.1")
    s, _ = follow(alone.pem, alone.folder / "alone.key", "--ca-file", alone.pem)
    s.start().synced()


@pytest.mark.parametrize("what, words", [("unnamed", "is signed by no authority that is trusted here"), ("other", "is for another name"), ("old", "is out of date")])
def test_a_certificate_that_is_not_right_is_refused_before_the_key_is_told(ours, follow, what, words):
    pem = ours.sign(what, *{"unnamed": [], "other": ["DNS:elsewhere.test"], "old": ["IP:127.0.0.1", -1]}[what])
    s, proxy = follow(*pem, *(() if what == "unnamed" else ("--ca-file", ours.pem)))
    s.start().failed(words)
    assert proxy.heard == 0
    assert not (s.data / "weft.db").exists() and not (s.data / "pepper").exists()
    assert s.process.poll() is None  # it goes on asking: certificates are renewed


def test_a_file_of_authorities_that_is_none_is_told(ours, follow, tmp_path):
    s, _ = follow(*ours.sign("fine"), "--ca-file", tmp_path / "nothing.pem")
    s.start().failed("the file of authorities can't be read")
