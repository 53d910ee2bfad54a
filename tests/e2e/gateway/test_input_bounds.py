"""The bounds of docs/RELIABILITY.md, section 3, each by one request that is just beyond it: refused with 4xx, what is wrong named, and nothing kept."""

import json
import struct

import pytest

from gateway_process import BASE, DEMO

CONFIG = json.loads((DEMO / "sql/adapter_config.json").read_text())
WEIGHTS = (DEMO / "sql/adapter_model.safetensors").read_bytes()
HEAD = json.loads(WEIGHTS[8 : 8 + struct.unpack("<Q", WEIGHTS[:8])[0]])
DATA = WEIGHTS[8 + struct.unpack("<Q", WEIGHTS[:8])[0] :]
FIRST = next(k for k in sorted(HEAD) if k.endswith("lora_A.weight"))


def file_of(head, data=DATA):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def with_value(bits):
    """The first tensor's first value is this bf16."""
    at = HEAD[FIRST]["data_offsets"][0]
    return file_of(HEAD, DATA[:at] + struct.pack("<H", bits) + DATA[at + 2 :])


def changed(**fields):
    return {**HEAD, FIRST: {**HEAD[FIRST], **fields}}


def renamed(name):
    return {name if k == FIRST else k: v for k, v in HEAD.items()}


def twice():
    text = json.dumps(HEAD).encode()
    return text[:-1] + b"," + json.dumps({FIRST: HEAD[FIRST]}).encode()[1:]


# what is wrong -> (config's changes, weights, what the refusal says)
FILES = {
    "NaN": ({}, with_value(0x7FC0), FIRST), "infinity": ({}, with_value(0x7F80), FIRST), "minus infinity": ({}, with_value(0xFF80), FIRST), "a value above 1e4": ({}, with_value(0x461D), FIRST),
    "a value below -1e4": ({}, with_value(0xC61D), FIRST), "alpha/r above 64": ({"lora_alpha": 65 * 16}, WEIGHTS, "64"), "alpha that is no number": ({"lora_alpha": "32"}, WEIGHTS, "alpha"),
    "alpha beyond floats": ({"lora_alpha": 1e308}, WEIGHTS, ""), "rank 0": ({"r": 0}, WEIGHTS, "r"), "rank 513": ({"r": 513}, WEIGHTS, "r"), "a rank that the shapes deny": ({"r": 8}, WEIGHTS, ""),
    "a header of 4 MiB and more": ({}, file_of(json.dumps(HEAD).encode() + b" " * (4 << 20)), "header"), "a header that is deep": ({}, file_of({**HEAD, "x": {"a": {"b": {"c": {}}}}}), ""),
    "a name twice": ({}, file_of(twice()), ""), "a name with a slash": ({}, file_of(renamed("../" + FIRST)), ""), "a name of 257 letters": ({}, file_of(renamed("a" * 257)), ""),
    "a name that fits nothing": ({}, file_of(renamed("base_model.model.model.layers.0.self_attn.x_proj.lora_A.weight")), "x_proj"),
    "a tail": ({}, WEIGHTS + b"PK\x05\x06", ""), "a hole": ({}, file_of(changed(data_offsets=[x + 2 for x in HEAD[FIRST]["data_offsets"]])), ""),
    "an overlap": ({}, file_of(changed(data_offsets=[0, HEAD[FIRST]["data_offsets"][1]])) if HEAD[FIRST]["data_offsets"][0] else file_of(changed(data_offsets=[2, HEAD[FIRST]["data_offsets"][1]])), ""),
    "three dimensions": ({}, file_of(changed(shape=[1, *HEAD[FIRST]["shape"]])), ""), "a product that overflows": ({}, file_of(changed(shape=[1 << 62, 8])), ""),
    "a negative dimension": ({}, file_of(changed(shape=[-16, -576])), ""), "another type": ({}, file_of(changed(dtype="I8")), ""), "half a pair": ({}, file_of({k: v for k, v in HEAD.items() if k != FIRST}), ""),
    "a pickle": ({}, b"\x80\x02}q\x00.", ""), "an archive": ({}, b"PK\x03\x04" + bytes(100), ""), "a GGUF file": ({}, b"GGUF" + bytes(100), ""),
}


@pytest.mark.parametrize("what", FILES)
def test_an_adapter_beyond_a_bound_is_refused_by_name_and_leaves_nothing(fake, acme, what):
    change, weights, says = FILES[what]
    blobs = fake.blobs()
    r = acme.upload("beyond", config=json.dumps({**CONFIG, **change}).encode(), weights=weights)
    assert r.status_code in (400, 413) and says in r.json()["error"]["message"], r.text
    assert fake.blobs() == blobs
    with acme.http() as c:
        assert c.get("/v1/adapters/beyond").status_code == 404


def deep(n):
    return b'{"model":"x","messages":' + b"[" * n + b"]" * n + b"}"


BODIES = {
    "nested too deep": (deep(200), "nested deeper"), "too many values": (b'{"model":"x","messages":[' + b"{}," * 300_000 + b"{}]}", ""), "a field twice": (b'{"model":"x","model":"y"}', "duplicate"),
}


@pytest.mark.parametrize("what", BODIES)
def test_json_beyond_a_bound_is_refused_before_it_is_parsed(acme, what):
    body, says = BODIES[what]
    with acme.http() as c:
        r = c.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert r.status_code in (400, 413) and says in r.json()["error"]["message"], r.text


FIELDS = {"n": [0, -1, 129, 1.5, 10**18, "1"], "max_tokens": [-1, 10**18], "temperature": [-0.1, 2.1, 1e300], "top_p": [-0.1, 1.1]}


@pytest.mark.parametrize("field", FIELDS)
def test_a_number_beyond_its_range_is_refused_by_the_real_engine_or_the_gateway(tenants, field):
    for v in FIELDS[field]:
        r = tenants["sql"].ask("x", BASE, **{"max_tokens": 1, field: v})
        assert r.status_code == 400 and r.json()["error"]["param"] == field, (v, r.text)


@pytest.mark.parametrize("stop", [["a"] * 5, ["a" * 256], [""], [1], {"a": 1}], ids=["five", "256 bytes", "none", "a number", "an object"])
def test_a_stop_string_beyond_its_bounds_is_refused(tenants, stop):
    r = tenants["sql"].ask("x", BASE, max_tokens=1, stop=stop)
    assert r.status_code == 400 and r.json()["error"]["param"] == "stop", r.text


def test_the_longest_stop_strings_and_the_most_answers_are_served(tenants):
    r = tenants["sql"].ask("x", BASE, max_tokens=1, n=2, stop=["a" * 255] * 4)
    assert r.status_code == 200 and len(r.json()["choices"]) == 2, r.text


@pytest.mark.parametrize("id", ["a b", "x" * 200, "<script>", "é"])
def test_a_request_id_that_is_none_is_not_echoed(acme, id):
    with acme.http() as c:
        r = c.get("/v1/models", headers={"x-request-id": id.encode()})
    assert r.status_code == 200 and r.headers["x-request-id"] != id
