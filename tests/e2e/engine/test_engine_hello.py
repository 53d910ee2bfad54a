"""An engine over TCP proves that it knows its token before anybody gives it the token."""

import hashlib
import hmac
import secrets

from engine_process import MODEL, TOKEN, Engine


def hello(e, nonce):
    return e.client(token=False).get("/weft/v1/hello", params={"nonce": nonce})


def test_the_proof_is_of_both_nonces_and_the_token_and_needs_no_bearer(tmp_path):
    e = Engine(tmp_path, model=MODEL, ready=False)
    try:
        ours = secrets.token_hex(32)
        said = hello(e, ours).json()
        text = f"weft hello {ours} {said['nonce']}".encode()
        assert said["proof"] == hmac.new(TOKEN.encode(), text, hashlib.sha256).hexdigest()
        again = hello(e, ours).json()
        assert again["nonce"] != said["nonce"] and again["proof"] != said["proof"]
        for bad in ("", "abc", "G" * 64, "A" * 64, "0" * 63, "0" * 65):
            r = hello(e, bad)
            assert r.status_code == 400 and r.json()["error"]["param"] == "nonce"
        assert e.client(token=False).get("/ready").status_code == 401
    finally:
        e.close()


def test_an_engine_without_a_token_has_nothing_to_prove(tmp_path):
    e = Engine(tmp_path, model=MODEL, unix=True, ready=False)
    try:
        assert hello(e, "0" * 64).status_code == 404
    finally:
        e.close()
