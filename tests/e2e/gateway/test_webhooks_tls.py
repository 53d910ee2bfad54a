"""Webhooks over TLS: who is trusted, who is not and what the webhook says of it. Certificates are this file's own."""

import subprocess

import pytest

from certificates import Authority
from gateway_process import BIN, until
from webhook_process import Inbox, act, arrived, ask, look, make, start

TRUSTED = ("is signed by no authority that is trusted here", "is out of date", "is for another name")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model, ours):
    g = start(tmp_path_factory.mktemp("tls"), "--webhook-ca-file", str(ours.pem))
    g.acme = g.tenant("acme")
    yield g
    g.close()


@pytest.fixture
def receiver(tmp_path):
    made = []

    def new(*tls):
        made.append(Inbox(tmp_path / f"inbox{len(made)}", *tls))
        return made[-1]
    yield new
    for box in made:
        box.kill()


def test_a_receiver_whose_authority_is_named_gets_its_batches(g, ours, receiver):
    inbox = receiver(*ours.sign("good"))
    hook = make(g, inbox, "good", events=["webhook."])
    ids = ask(g.acme, 3)
    arrived(inbox, "good", ids)
    tried = act(g, hook, "test")
    assert (tried["delivered"], tried["status"], tried["error"]) == (True, 200, None)
    seen = look(g, hook)
    assert inbox.url("good").startswith("https://") and seen["last_status"] == 200 and seen["last_error"] is None and inbox.state()["wrong"] == []


def test_a_certificate_that_is_not_right_is_refused_in_words_and_nothing_is_lost(g, ours, receiver, tmp_path):
    stranger = Authority(tmp_path / "ca", "stranger")
    wrong = {"stranger": (stranger.sign("server"), TRUSTED[0]), "old": (ours.sign("old", days=-1), TRUSTED[1]), "other": (ours.sign("other", "DNS:other.example,IP:127.0.0.2"), TRUSTED[2])}
    boxes = {name: receiver(*tls) for name, (tls, _) in wrong.items()}
    hooks = {name: make(g, box, name) for name, box in boxes.items()}
    ids = ask(g.acme, 2)
    for name, (_, words) in wrong.items():
        said = until(lambda: look(g, hooks[name])["last_error"], what=f"the first failure of {name}")
        assert said == f"cannot connect to {boxes[name].url(name)}: its certificate {words}", name
        assert look(g, hooks[name])["state"] == "enabled" and look(g, hooks[name])["last_status"] is None
        tried = act(g, hooks[name], "test")
        assert (tried["delivered"], tried["status"]) == (False, None) and tried["error"].endswith(words)
        assert boxes[name].batches(name) == [] and boxes[name].state()["requests"] == {}
    good, port = ours.sign("mended"), boxes["old"].port
    boxes["old"].kill()
    mended = receiver(*good)  # of the same address: what waited comes
    assert g.admin.patch(f"/admin/v1/webhooks/{hooks['old']['id']}", json={"url": mended.url("old")}).status_code == 200 and port
    mended.tell(secrets=boxes["old"].control["secrets"])
    arrived(mended, "old", ids)
    assert mended.state()["wrong"] == []
    boxes["old"].start()


def test_a_receiver_that_speaks_no_tls_and_one_without_the_setting(g, receiver, ours, tmp_path):
    plain = receiver()
    r = g.admin.post("/admin/v1/webhooks", json={"name": "plain", "url": plain.url("plain").replace("http:", "https:")})
    assert r.status_code == 201 and act(g, r.json(), "test")["error"].endswith("no TLS could be agreed on")
    without = start(tmp_path / "without")
    try:
        inbox = receiver(*ours.sign("without"))
        assert act(without, make(without, inbox, "without"), "test")["error"].endswith(TRUSTED[0])
    finally:
        without.close()


def test_a_file_that_holds_no_authority_is_told_at_the_start(tmp_path, _model):
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    for path, words in ((empty, "holds no certificate"), (tmp_path / "none.pem", "cannot open webhook_ca_file")):
        r = subprocess.run([BIN / "weft-gateway", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--webhook-ca-file", str(path)],
                           capture_output=True, text=True, timeout=30)
        assert r.returncode != 0 and words in r.stdout + r.stderr, r.stderr
