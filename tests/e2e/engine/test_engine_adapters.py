"""Adapters by digest: load, serve, self-test, unload; what cannot be served is refused with its reason."""

import json
import shutil

import openai
import pytest

from engine_process import DEMO, adapter_digest

ASK = [{"role": "user", "content": "What is the weather like today?"}]


def answer(client, model, **kw):
    return client.chat.completions.create(model=model, messages=ASK, max_tokens=16, temperature=0, **kw).choices[0].message.content


def load(engine, name, path):
    return engine.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)})


def code(response):
    return response.json()["error"]["code"]


def test_loading_and_unloading_speaks_as_vllm_does(engine, client):
    digest = engine.load("pirate")
    r = load(engine, digest, DEMO / "pirate")
    assert r.status_code == 200 and r.text == f"Success: LoRA adapter '{digest}' added successfully."  # again: harmless
    assert r.headers["X-Weft-Digest"] == digest
    assert digest in [m.id for m in client.models.list()]
    r = engine.http.post("/v1/unload_lora_adapter", json={"lora_name": digest})
    assert r.status_code == 200 and r.text == f"Success: LoRA adapter '{digest}' removed successfully."
    assert digest not in [m.id for m in client.models.list()]
    with pytest.raises(openai.NotFoundError) as why:
        answer(client, digest)
    assert why.value.code == "adapter_not_loaded"
    r = engine.http.post("/v1/unload_lora_adapter", json={"lora_name": digest})
    assert r.status_code == 404 and code(r) == "adapter_not_loaded"


def test_the_models_list_describes_adapters(engine, client, base, adapters):
    for name, digest in adapters.items():
        m = client.models.retrieve(digest)
        assert (m.id, m.root, m.parent) == (digest, digest, base)
        assert m.rank == json.loads((DEMO / name / "adapter_config.json").read_text())["r"]
        assert m.bytes > 0 and m.state in ("resident", "cold")


def test_each_adapter_answers_in_its_own_way(client, base, adapters):
    answers = {answer(client, m) for m in (base, *adapters.values())}
    assert len(answers) == 1 + len(adapters)


def test_the_self_test_finds_the_fused_path_right(engine, adapters):
    for digest in adapters.values():
        r = engine.http.post("/weft/v1/selftest", json={"digest": digest}).json()
        assert r["digest"] == digest and r["modules"] and r["max_error"] == max(r["modules"].values())
        assert r["max_error"] < 0.05
    r = engine.http.post("/weft/v1/selftest", json={"digest": "1" * 64})
    assert r.status_code == 404 and code(r) == "adapter_not_loaded"


@pytest.mark.parametrize("body,param", [({}, "lora_name"), ({"lora_name": "pirate", "lora_path": "/x"}, "lora_name"),
                                        ({"lora_name": "0" * 64}, "lora_path"), ({"lora_name": 5, "lora_path": "/x"}, "lora_name"),
                                        ({"lora_name": "0" * 64, "lora_path": "relative"}, "lora_path")])
def test_a_load_without_digest_or_path_names_the_field(engine, body, param):
    r = engine.http.post("/v1/load_lora_adapter", json=body)
    assert r.status_code == 400 and r.json()["error"]["param"] == param


def test_a_folder_that_is_not_there_or_not_in_the_store(engine, tmp_path):
    r = load(engine, "0" * 64, DEMO / "nobody")
    assert r.status_code == 404 and code(r) == "not_found"
    shutil.copytree(DEMO / "pirate", tmp_path / "pirate")
    for path in (tmp_path / "pirate", DEMO / ".." / ".." / "engine"):
        assert load(engine, "0" * 64, path).status_code == 400


def test_content_that_is_not_what_the_digest_says_is_refused(engine):
    r = load(engine, "0" * 64, DEMO / "sql")
    assert r.status_code == 400 and code(r) == "adapter_invalid"


def cut(folder):
    w = folder / "adapter_model.safetensors"
    w.write_bytes(w.read_bytes()[:-100])


def change_config(**kw):
    def change(folder):
        c = folder / "adapter_config.json"
        c.write_text(json.dumps({**json.loads(c.read_text()), **kw}))
    return change


BROKEN = {"cut": cut, "no weights": lambda f: (f / "adapter_model.safetensors").unlink(), "rank": change_config(r=3),
          "kind": change_config(peft_type="IA3"), "bias": change_config(bias="all"), "dora": change_config(use_dora=True),
          "no json": lambda f: (f / "adapter_config.json").write_text("{")}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_adapter_is_refused_with_a_reason_and_harms_nothing(start, tmp_path, how):
    shutil.copytree(DEMO / "triage", tmp_path / "store" / "x")
    BROKEN[how](tmp_path / "store" / "x")
    e = start(store=tmp_path / "store", unix=True)
    r = load(e, "0" * 64, tmp_path / "store" / "x")
    assert r.status_code in (400, 404) and code(r) in ("adapter_invalid", "not_found"), r.text
    assert len(r.json()["error"]["message"]) > 20
    assert e.http.post("/v1/completions", json={"model": e.base, "prompt": "x", "max_tokens": 2}).status_code == 200
    e.assert_idle()


def test_more_adapters_than_slots_take_turns(start):
    e = start("--max-slots", "1")
    digests = [e.load(n) for n in ("pirate", "sql", "triage")]
    with e.openai() as c:
        first = [answer(c, d) for d in digests]
        assert [answer(c, d) for d in digests] == first and len(set(first)) == 3
    assert e.state()["slots"]["resident"] <= 1
    e.assert_idle()


def test_the_digest_of_the_demo_adapters_is_ours_and_theirs(engine, adapters):
    base = engine.state()["base"]["digest"]
    assert {adapter_digest(DEMO / n, base) for n in adapters} == set(adapters.values())
