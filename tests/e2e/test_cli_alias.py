"""`weft alias set`: shares and chains in one line."""

import pytest

from cli_fake import fake, weft  # noqa: F401

ALIAS = {"object": "alias", "name": "chat", "policy": "weighted", "sticky": "user", "system_prefix": "Be brief.", "revision": 7,
         "targets": [{"adapter": "sql", "version": 1, "weight": 100}]}
PATH = "/v1/aliases/chat"


def target(adapter, version=None, weight=None, base=None):
    o = {"base": base} if base else {"adapter": adapter}
    return o | ({"version": version} if version else {}) | ({"weight": weight} if weight is not None else {})


@pytest.mark.parametrize("words,targets", [
    (["sql"], [target("sql", None, 1)]),
    (["sql@2"], [target("sql", 2, 1)]),
    (["sql@2=10%,sql@1"], [target("sql", 2, 10), target("sql", 1, 90)]),
    (["sql@2=10%,", "sql@1=90%"], [target("sql", 2, 10), target("sql", 1, 90)]),
    (["sql@2=0.5%,sql@1"], [target("sql", 2, 50), target("sql", 1, 9950)]),
    (["sql@2=33.33%,sql@1=33.33%,sql@3"], [target("sql", 2, 3333), target("sql", 1, 3333), target("sql", 3, 3334)]),
    (["sql@2=3,sql@1=1"], [target("sql", 2, 3), target("sql", 1, 1)]),
    (["sql@2=100%,sql@1"], [target("sql", 2, 100), target("sql", 1, 0)]),
    (["base:smol=50%,sql"], [target(None, None, 50, "smol"), target("sql", None, 50)]),
])
def test_shares_become_whole_weights(fake, words, targets):
    fake.answers["PUT", PATH] = (200, ALIAS)
    fake.answers["GET", PATH] = (404, {"error": {"message": "none"}})
    got = weft(fake, "alias", "set", "chat", *words)
    assert got.returncode == 0, got.stderr
    assert fake.asked[1].json == {"targets": targets} and "If-Match" not in fake.asked[1].headers


def test_a_change_keeps_what_it_does_not_name_and_goes_under_the_revision(fake):
    fake.answers["GET", PATH] = fake.answers["PUT", PATH] = (200, ALIAS)
    fake.headers["GET", PATH] = {"ETag": '"7"'}
    got = weft(fake, "alias", "set", "chat", "sql@2=10%,sql@1", "--sticky", "key")
    assert got.returncode == 0
    put = fake.asked[1]
    assert put.headers["If-Match"] == '"7"'
    assert {k: put.json[k] for k in ("policy", "sticky", "system_prefix")} == {"policy": "weighted", "sticky": "key", "system_prefix": "Be brief."}
    assert weft(fake, "alias", "set", "chat", "sql", "--if-match", "5").returncode == 0
    assert fake.asked[3].headers["If-Match"] == '"5"'


def test_create_makes_no_other_alias_over(fake):
    fake.answers["PUT", PATH] = (412, {"error": {"message": "It exists."}})
    assert weft(fake, "alias", "set", "chat", "sql", "--create").returncode == 6
    [asked] = fake.asked
    assert asked.headers["If-None-Match"] == "*"


def test_a_chain_has_an_order_and_no_shares(fake):
    fake.answers["GET", PATH] = (404, {"error": {}})
    fake.answers["PUT", PATH] = (200, dict(ALIAS, policy="fallback", targets=[target("sql", 2), target("sql", 1), target(None, base="smol")]))
    got = weft(fake, "alias", "set", "chat", "sql@2,sql@1,base:smol", "--policy", "fallback")
    assert fake.asked[1].json == {"policy": "fallback", "targets": [target("sql", 2), target("sql", 1), target(None, base="smol")]}
    assert "sql@2 > sql@1 > base:smol" in got.stdout
    assert weft(fake, "alias", "set", "chat", "sql=10%,x", "--policy", "fallback").returncode == 2


@pytest.mark.parametrize("words", ["a,b", "a=10%,b,c", "a=60%,b=60%", "a=10%,b=80%", "a=10%,b=5", "a=5,b", "a=x,b", "a=-5%,b", "a=101%,b", "a@x=10%,b", "=10%,b", ",",
                                   "a@,b=1%", "a=33.333%,b"])
def test_shares_that_make_no_sense_change_nothing(fake, words):
    fake.answers["GET", PATH] = (404, {"error": {}})
    got = weft(fake, "alias", "set", "chat", words)
    assert got.returncode == 2 and got.stderr and all(a.method == "GET" for a in fake.asked)


def test_an_alias_that_can_not_be_looked_at_is_not_changed(fake):
    fake.answers["GET", PATH] = (403, {"error": {"message": "not yours"}})
    got = weft(fake, "alias", "set", "chat", "sql")
    assert got.returncode == 4 and got.stderr.count("not yours") == 1 and len(fake.asked) == 1
