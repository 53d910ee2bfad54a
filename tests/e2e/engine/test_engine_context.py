"""Contexts beyond the model's own: a scaling that is asked for, and a window that bounds what a sequence holds."""

import pytest

from engine_process import MODEL, run_program

LONG = 600  # tokens
SMALL = ("--kv-mb", "6", "--step-tokens", "32", "--max-running", "4")  # pages for fewer
WORDS = "the harbour was quiet and the boats lay still while rain came over the hills from the west "


def ask(e, tokens, **more):
    body = {"model": e.base, "prompt": list(prompt_of(e, tokens)), "max_tokens": 4, "temperature": 0, "ignore_eos": True, **more}
    return e.http.post("/v1/completions", json=body, timeout=90)


def prompt_of(e, tokens):
    ids = e.http.post("/weft/v1/tokenize", json={"model": e.base, "prompt": WORDS, "return_token_ids": True}).json()["token_ids"][0]
    return (ids * (tokens // len(ids) + 1))[:tokens]


def test_a_scaling_takes_the_context_to_131072(start):
    e = start("--rope-scaling", "yarn", "--rope-factor", "16", "--kv-mb", "64")
    assert "max_context=131072" in e.log.read_text()
    assert ask(e, 40).status_code == 200


def test_a_window_takes_a_prompt_that_its_pages_could_not_hold(start):
    e = start("--kv-window", "128", "--max-context", "131072", *SMALL)
    assert e.state()["pages"]["total"] * 16 < LONG
    assert e.http.get("/v1/models").json()["data"][0]["max_model_len"] == 131072
    r = ask(e, LONG)
    assert r.status_code == 200 and r.json()["usage"]["completion_tokens"] == 4, r.text
    e.assert_idle()


@pytest.mark.parametrize("more", [[], ["--kv-window", "128", "--kv-evict", "off"]], ids=["no window", "all pages kept"])
def test_otherwise_it_is_refused(start, more):
    e = start(*SMALL, *more)
    r = ask(e, LONG)
    assert r.status_code == 400 and r.json()["error"]["code"] == "context_length_exceeded", r.text


@pytest.mark.parametrize("args, says", [
    (["--rope-factor", "4"], "rope_scaling"),
    (["--rope-scaling", "ntk", "--rope-factor", "4"], "none, linear or yarn"),
    (["--rope-scaling", "yarn"], "rope_factor"),
    (["--rope-scaling", "yarn", "--rope-factor", "many"], "rope_factor"),
    (["--max-context", "131072"], "8192"),
    (["--kv-window", "8190", "--kv-sinks", "4", "--max-context", "131072"], "8192"),
    (["--kv-evict", "perhaps"], "auto, on or off"),
    (["--kv-evict", "on"], "kv_window"),
    (["--kv-window", "64", "--device", "cuda"], "--device cpu"),
], ids=lambda a: " ".join(a) if isinstance(a, list) else "")
def test_what_would_be_passed_over_is_refused(tmp_path, args, says):
    r = run_program("serve", "--model", MODEL, "--socket", str(tmp_path / "e.sock"), *args)
    assert r.returncode in (2, 3) and says in r.stderr, r
