"""Adapters: what is taken, what is refused and leaves nothing behind, lists, removals, and what a crash leaves for the next start. The validation is
the real one (the fake engine only says what the base looks like)."""

import json
import os
import socket
import struct
import threading
import time

import pytest

from gateway_process import BASE, DEMO, until

CONFIG = {n: (DEMO / n / "adapter_config.json").read_bytes() for n in ("sql", "pirate", "triage")}
WEIGHTS = {n: (DEMO / n / "adapter_model.safetensors").read_bytes() for n in ("sql", "pirate", "triage")}


def split(weights):
    n = struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8 : 8 + n]), weights[8 + n :]


def join(header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def with_config(**change):
    return json.dumps({**json.loads(CONFIG["sql"]), **change}).encode()


def first_tensor(header):
    return sorted(k for k in header if k != "__metadata__")[0]


def without_a_tensor():
    header, data = split(WEIGHTS["sql"])
    header.pop(first_tensor(header))
    return join(header, data)


def renamed(to):
    header, data = split(WEIGHTS["sql"])
    header[to] = header.pop(first_tensor(header))
    return join(header, data)


def with_value(bits):
    """The middle of the data set to a bfloat16 pattern."""
    data = bytearray(WEIGHTS["sql"])
    data[-2000:-1998] = struct.pack("<H", bits)
    return bytes(data)


def with_offsets(shift):
    header, data = split(WEIGHTS["sql"])
    o = header[first_tensor(header)]["data_offsets"]
    header[first_tensor(header)]["data_offsets"] = [o[0], o[1] + shift]
    return join(header, data)


BAD = {
    "truncated weights": dict(weights=WEIGHTS["sql"][:-100]),
    "weights with a tail": dict(weights=WEIGHTS["sql"] + b"PK\x03\x04tail"),
    "weights cut in the header": dict(weights=WEIGHTS["sql"][:200]),
    "empty weights": dict(weights=b""),
    "a header length that lies": dict(weights=b"\xff" * 8 + WEIGHTS["sql"][8:]),
    "a zip": dict(weights=b"PK\x03\x04" + bytes(4000)),
    "a pickle": dict(weights=b"\x80\x04\x95" + bytes(4000)),
    "offsets that overlap": dict(weights=with_offsets(16)),
    "offsets with a hole": dict(weights=with_offsets(-16)),
    "one tensor of a pair missing": dict(weights=without_a_tensor()),
    "a tensor that maps to nothing": dict(weights=renamed("base_model.model.model.layers.0.self_attn.x_proj.lora_A.weight")),
    "a layer that the base does not have": dict(weights=renamed("base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight")),
    "a NaN": dict(weights=with_value(0x7FC0)),
    "an infinity": dict(weights=with_value(0x7F80)),
    "a huge value": dict(weights=with_value(0x7F00)),
    "a config that is no JSON": dict(config=b"{"),
    "a config that is a list": dict(config=b"[]"),
    "another method": dict(config=with_config(peft_type="IA3")),
    "a rank that lies": dict(config=with_config(r=8)),
    "a rank beyond the limit": dict(config=with_config(r=100000)),
    "an alpha beyond reason": dict(config=with_config(lora_alpha=1e9)),
    "a bias": dict(config=with_config(bias="all")),
    "modules to save": dict(config=with_config(modules_to_save=["lm_head"])),
    "another base": dict(config=with_config(base_model_name_or_path="meta-llama/Llama-3.1-8B")),
    "the weights of another adapter": dict(weights=WEIGHTS["triage"]),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_adapter_is_refused_by_name_and_leaves_nothing(fake, acme, what):
    before = fake.blobs()
    r = acme.upload("sql", **BAD[what])
    assert r.status_code == 400, r.text
    error = r.json()["error"]
    assert error["code"] == "adapter_invalid" and len(error["message"]) > 10
    assert fake.blobs() == before
    until(lambda: fake.temporary() == [], what="an empty tmp/")


def test_an_upload_describes_the_version_it_made(fake, acme):
    r = acme.upload("mine", DEMO / "pirate", description="talks like a pirate \u2620")
    assert r.status_code == 201, r.text
    o = r.json()
    assert (o["id"], o["object"], o["name"], o["version"], o["state"], o["base"], o["rank"]) == ("mine", "adapter", "mine", 1, "ready", BASE, 4)
    assert sorted(o["modules"]) == sorted(["q_proj", "v_proj", "up_proj", "down_proj"]) and o["bytes"] == len(WEIGHTS["pirate"])
    assert o["digest"] in fake.blobs() and o["description"] == "talks like a pirate \u2620" and o["created_at"] <= time.time()
    stored = fake.data / "blobs" / o["digest"][:2] / o["digest"]
    assert (stored / "adapter_model.safetensors").read_bytes() == WEIGHTS["pirate"] and (stored / "adapter_config.json").read_bytes() == CONFIG["pirate"]
    until(lambda: o["digest"] in fake.fake_log()["loaded"], what="the prefetch")
    again = acme.upload("mine", DEMO / "pirate")  # says nothing of a description: the one that stands is shown
    assert again.status_code == 200 and again.json()["description"] == "talks like a pirate \u2620"
    with acme.http() as c:
        assert c.delete("/v1/adapters/mine").status_code == 200


def test_the_same_bytes_again_are_the_same_version(fake, acme):
    again = acme.upload("sql")
    assert again.status_code == 200 and again.json()["version"] == 1
    # What does not change the result does not change the version: JSON's order and spaces, and fields of training.
    config = json.dumps(dict(reversed(json.loads(CONFIG["sql"]).items())), indent=7)
    assert acme.upload("sql", config=config).json()["version"] == 1
    assert acme.upload("sql", config=with_config(lora_dropout=0.5)).json()["version"] == 1


def test_changed_bytes_are_the_next_version_and_its_removal_brings_the_first_back(fake, acme):
    r = acme.upload("sql", config=with_config(lora_alpha=16))
    assert r.status_code == 201 and r.json()["version"] == 2
    assert acme.ask("x", model="sql").headers["x-weft-adapter-version"] == "sql@2"
    assert acme.ask("x", model="sql@1").headers["x-weft-adapter-version"] == "sql@1"
    with acme.http() as c:
        assert [v["version"] for v in c.get("/v1/adapters/sql").json()["versions"]] == [2, 1]
        assert c.get("/v1/adapters/sql/versions/2").json()["digest"] == r.json()["digest"]
        assert c.delete("/v1/adapters/sql/versions/2").json() == {"id": "sql@2", "object": "adapter.version", "deleted": True}
        assert c.get("/v1/adapters/sql/versions/2").status_code == 404
    assert r.json()["digest"] not in fake.blobs()
    assert acme.ask("x", model="sql").headers["x-weft-adapter-version"] == "sql@1"
    assert acme.ask("x", model="sql@2").status_code == 404
    until(lambda: r.json()["digest"] not in fake.fake_log()["loaded"], what="the unloading")


def test_bytes_that_two_tenants_share_stay_until_the_last_one_goes(fake, acme, other):
    one, two = acme.upload("shared", DEMO / "triage"), other.upload("shared", DEMO / "triage")
    assert one.status_code == two.status_code == 201 and one.json()["digest"] == two.json()["digest"]
    with acme.http() as a, other.http() as b:
        assert a.delete("/v1/adapters/shared").status_code == 200
        assert one.json()["digest"] in fake.blobs()
        assert other.ask("x", model="shared").status_code == 200 and acme.ask("x", model="shared").status_code == 404
        assert b.delete("/v1/adapters/shared").status_code == 200
    assert one.json()["digest"] not in fake.blobs()


def test_the_parts_may_come_in_any_order_and_in_any_spelling_of_multipart(fake, acme):
    def part(name, data, file=True):
        return f'--b\r\nContent-Disposition: form-data; name={name}{"; filename=x" if file else ""}\r\n\r\n'.encode() + data + b"\r\n"
    body = b"preamble\r\n" + part("weights", WEIGHTS["pirate"]) + part("description", b"d", False) + part("config", CONFIG["pirate"]) + part("name", b"spelled", False) + b"--b--\r\n"
    with acme.http() as c:
        r = c.post("/v1/adapters?wait=ready", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert r.status_code == 201, r.text
        r = c.post("/v1/adapters", content=iter([body[i : i + 70001] for i in range(0, len(body), 70001)]), headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert r.status_code == 200, r.text
        assert c.delete("/v1/adapters/spelled").status_code == 200


def form(**parts):
    return {k: v for k, v in parts.items() if v is not None}


@pytest.mark.parametrize("what,change,status,param", [
    ("no name", dict(name=None), 400, "name"), ("no config", dict(config=None), 400, "config"), ("no weights", dict(weights=None), 400, "weights"),
    ("a bad name", dict(name=b"Up/../per"), 400, "name"), ("an empty name", dict(name=b""), 400, "name"), ("a long name", dict(name=b"a" * 65), 400, "name"),
    ("a name with NUL", dict(name=b"a\0b"), 400, "name"), ("the base's name", dict(name=BASE.encode()), 409, "name"),
    ("an unknown part", dict(extra=b"x"), 400, "extra"), ("a config beyond the limit", dict(config=b" " * 300000), 400, "config"),
    ("a description beyond the limit", dict(description=b"x" * 1025), 400, "description"), ("a description that is no text", dict(description=b"\xff\xfe"), 400, "description"),
    ("weights beyond the limit", dict(weights=bytes((8 << 20) + 1)), 413, "weights"),
])
def test_a_bad_form_is_refused_by_field_and_leaves_nothing(fake, acme, what, change, status, param):
    before = fake.blobs()
    parts = form(**{"name": b"form", "config": CONFIG["pirate"], "weights": WEIGHTS["pirate"], **change})
    with acme.http() as c:
        r = c.post("/v1/adapters", files={k: (None if k in ("name", "description") else "x", v) for k, v in parts.items()})
    assert r.status_code == status, r.text
    assert r.json()["error"]["param"] == param
    assert fake.blobs() == before
    until(lambda: fake.temporary() == [], what="an empty tmp/")


@pytest.mark.parametrize("headers,body,status", [
    ({"Content-Type": "application/json"}, b"{}", 415), ({"Content-Type": "multipart/form-data"}, b"x", 400),
    ({"Content-Type": "multipart/form-data; boundary=b"}, b"no parts at all", 400), ({"Content-Type": "multipart/form-data; boundary=b"}, b"", 400),
    ({"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(1 << 40)}, b"", 413), ({}, b"x", 415),
])
def test_what_is_no_form_is_refused(fake, acme, headers, body, status):
    host, port = fake.url.removeprefix("http://").rsplit(":", 1)
    headers = {"Content-Length": str(len(body)), **headers}
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.sendall(f"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {acme.key}\r\n".encode() +
                  "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode() + b"\r\n" + body)
        assert int(s.recv(65536).split(b" ")[1]) == status


def test_an_upload_that_is_cut_leaves_nothing(fake, acme):
    host, port = fake.url.removeprefix("http://").rsplit(":", 1)
    for cut in (0, 100, 3000, 1000000):
        with socket.create_connection((host, int(port))) as s:
            body = b'--b\r\nContent-Disposition: form-data; name="weights"; filename=x\r\n\r\n' + WEIGHTS["sql"]
            s.sendall(f"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {acme.key}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                      f"Content-Length: {len(body) + 100}\r\n\r\n".encode() + body[:cut])
            if cut:
                until(lambda: len(fake.temporary()) == 1, what="the temporary folder")
        until(lambda: fake.temporary() == [], what="an empty tmp/")


def read_to_end(s):
    said = b""
    while piece := s.recv(65536):
        said += piece
    return said


def begun(tenant, where="/v1/adapters"):
    """The connection of an upload whose body stays away."""
    host, port = tenant.gateway.url.removeprefix("http://").split(":")
    c = socket.create_connection((host, int(port)), 10)
    c.sendall((f"POST {where} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
               "Content-Length: 100000\r\n\r\n--b\r\n").encode())
    return c


def test_one_tenants_uploads_leave_room_for_anothers(fake, acme, other):
    held = [begun(acme) for _ in range(32)]
    try:
        until(lambda: acme.upload("one-more", DEMO / "sql").status_code == 429, what="the tenant's places to be taken")
        r = acme.upload("one-more", DEMO / "sql")
        assert r.status_code == 429 and r.headers["retry-after"] and "32 uploads" in r.json()["error"]["message"], r.text
        assert other.upload("fits", DEMO / "sql").status_code == 201
    finally:
        for c in held:
            c.close()
    until(lambda: acme.upload("one-more", DEMO / "sql").status_code in (200, 201), what="the places to come free")
    for t, name in ((acme, "one-more"), (other, "fits")):
        assert t.http().delete(f"/v1/adapters/{name}").status_code == 200


@pytest.mark.parametrize("sent", [0, 3000, 1000000])
def test_an_upload_that_falls_silent_gets_408_and_leaves_nothing(start, sent):
    g = start("--upload-quiet-s", "1", fake=True)
    t = g.tenant("acme")
    host, port = g.url.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as s:
        body = b'--b\r\nContent-Disposition: form-data; name="weights"; filename=x\r\n\r\n' + WEIGHTS["sql"]
        s.sendall(f"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {t.key}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                  f"Content-Length: {len(body) + 100}\r\n\r\n".encode() + body[:sent])
        head, _, said = read_to_end(s).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and json.loads(said)["error"]["code"] == "request_timeout"
    until(lambda: g.temporary() == [], what="an empty tmp/")
    assert t.upload("sql").status_code == 201


def test_a_part_that_falls_silent_gets_408_and_what_came_counts(start):
    g = start("--upload-quiet-s", "1", fake=True)
    t = g.tenant("acme")
    host, port = g.url.removeprefix("http://").rsplit(":", 1)
    size = len(WEIGHTS["sql"])
    with t.http() as c:
        at = f"/v1/adapters/sql/uploads/{c.post('/v1/adapters/sql/uploads', json={}).json()['id']}"

        def said(sent):
            with socket.create_connection((host, int(port)), timeout=20) as s:
                s.sendall(f"PUT {at}/weights HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {t.key}\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n"
                          f"Content-Length: {size}\r\n\r\n".encode() + WEIGHTS["sql"][:sent])
                answer = read_to_end(s)
            assert b"request_timeout" in answer or b"conflict" in answer, answer  # 409 until the worker has let go of what the watcher answered
            return b"request_timeout" in answer

        for sent, whole in ((0, 0), (4000, 4000)):
            until(lambda: said(sent), what="the watcher's answer")
            until(lambda: c.get(at).json()["files"]["weights"]["received"] == whole, what="the bytes that came")
        rest = WEIGHTS["sql"][4000:]
        put = lambda: c.put(at + "/weights", content=rest, headers={"Content-Range": f"bytes 4000-{size - 1}/{size}"}).status_code == 200
        until(put, what="the rest")  # 409 until the worker has let go of what the watcher answered
        assert c.delete(at).status_code in (200, 204)
    until(lambda: g.temporary() == [], what="an empty tmp/")


def test_a_dry_run_tells_what_would_be_and_keeps_nothing(fake, acme):
    before = fake.blobs()
    r = acme.upload("dry", DEMO / "triage", path="/v1/adapters:validate")
    assert r.status_code == 200 and r.json()["valid"] is True and r.json()["rank"] == 8, r.text
    r = acme.upload("dry", weights=b"x" * 100, config=CONFIG["sql"], path="/t/acme/v1/adapters:validate")
    assert r.status_code == 200 and r.json()["valid"] is False and r.json()["error"]["code"] == "adapter_invalid"
    with acme.http() as c:
        assert c.get("/v1/adapters/dry").status_code == 404
    assert fake.blobs() == before


def test_lists_go_by_cursor_and_show_only_ones_own(fake, acme, other):
    for name in ("b1", "b2", "b3"):
        assert acme.upload(name, DEMO / "pirate").status_code == 201
    with acme.http() as c:
        names, after = [], {}
        while True:
            page = c.get("/v1/adapters", params={"limit": 2, **after}).json()
            assert page["object"] == "list" and len(page["data"]) <= 2
            names += [x["name"] for x in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert names == ["b1", "b2", "b3", "sql"]
        for bad in ("0", "101", "x", "-1", ""):
            assert c.get("/v1/adapters", params={"limit": bad}).status_code == 400
        for path in ("/v1/adapters/pirate", "/v1/adapters/pirate/versions/1", "/v1/adapters/sql/versions/9"):
            assert c.get(path).status_code == 404
        assert c.get("/v1/adapters/sql/versions/x").status_code == 400
        assert c.delete("/v1/adapters/pirate").status_code == 404
        for name in ("b1", "b2", "b3"):
            assert c.delete(f"/v1/adapters/{name}").json() == {"id": name, "object": "adapter", "deleted": True}
    assert other.ask("x", model="pirate").status_code == 200


def test_models_list_the_base_and_ones_own_adapters(fake, acme, other):
    for path in ("/v1/models", "/t/acme/v1/models"):
        with acme.http() as c:
            models = {m["id"]: m for m in c.get(path).json()["data"]}
            assert sorted(models) == sorted([BASE, "sql", "sql@1"])
            assert models["sql"]["parent"] == BASE and models[BASE]["parent"] is None and models["sql"]["object"] == "model"
            for m in models:
                assert c.get(f"{path}/{m}").json()["id"] == m
            assert c.get(f"{path}/pirate").status_code == c.get(f"{path}/nope").status_code == 404


def test_the_number_of_versions_is_limited(fake, acme):
    made = []
    for i in range(9):
        r = acme.upload("many", DEMO / "pirate", config=json.dumps({**json.loads(CONFIG["pirate"]), "lora_alpha": 1 + i}).encode())
        made.append(r.status_code)
    with acme.http() as c:
        assert c.delete("/v1/adapters/many").status_code == 200
    assert made == [201] * 5 + [429] * 4


def test_a_key_needs_the_right_role(fake, acme):
    infer, write = fake.key("acme", ["inference"]), fake.key("acme", ["writer"])
    with acme.http() as c:
        def status(key, method, path, **kw):
            return c.request(method, path, headers={"Authorization": f"Bearer {key}"}, **kw).status_code
        chat = dict(json={"model": BASE, "messages": [{"role": "user", "content": "x"}]})
        assert status(infer, "POST", "/v1/chat/completions", **chat) == 200
        assert status(write, "POST", "/v1/chat/completions", **chat) == 403
        assert status(infer, "GET", "/v1/models") == 200 and status(write, "GET", "/v1/models") == 403
        for method, path in (("POST", "/v1/adapters"), ("DELETE", "/v1/adapters/sql"), ("POST", "/v1/adapters:validate")):
            assert status(infer, method, path) == 403
        assert status(write, "GET", "/v1/adapters") == 200
        for path in ("/v1/models", "/v1/adapters", "/v1/adapters/sql"):
            assert c.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 401
            assert c.get("/t/other" + path).status_code == 401


def test_uploads_and_removals_of_the_same_bytes_at_once_never_lose_them(fake, acme, other):
    stop, bad = time.monotonic() + 4, []

    def churn(tenant, name):
        while time.monotonic() < stop:
            r = tenant.upload(name, DEMO / "pirate")
            if r.status_code not in (200, 201):
                bad.append(r.text)
            if tenant.ask("x", model=name).status_code != 200:
                bad.append("ask")
            with tenant.http() as c:
                if c.delete(f"/v1/adapters/{name}").status_code != 200:
                    bad.append("delete")

    threads = [threading.Thread(target=churn, args=a) for a in ((acme, "c1"), (acme, "c2"), (other, "c1"))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not bad, bad[:3]
    digest = other.upload("pirate").json()["digest"]
    assert digest in fake.blobs() and other.ask("x", model="pirate").status_code == 200


def test_a_start_removes_what_a_crash_left_and_nothing_else(start):
    g = start(fake=True)
    t = g.tenant("acme")
    kept = t.upload("sql").json()["digest"]
    g.kill()
    orphan = "ab" + "0" * 62
    for folder in (g.data / "blobs/ab" / orphan, g.data / "tmp/left"):
        os.makedirs(folder)
        (folder / "adapter_model.safetensors").write_bytes(b"x")
    g.start()
    assert g.blobs() == [kept] and g.temporary() == []
    assert t.ask("tokens=2", model="sql").status_code == 200


def test_a_kill_in_mid_upload_leaves_no_version_and_the_retry_works(start):
    g = start(fake=True)
    t = g.tenant("acme")
    host, port = g.url.removeprefix("http://").rsplit(":", 1)
    body = b'--b\r\nContent-Disposition: form-data; name="weights"; filename=x\r\n\r\n' + WEIGHTS["sql"]
    s = socket.create_connection((host, int(port)))
    s.sendall(f"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {t.key}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
              f"Content-Length: {len(body) + 100}\r\n\r\n".encode() + body)
    until(lambda: len(g.temporary()) == 1)
    g.kill()
    s.close()
    g.start()
    assert g.temporary() == [] and g.blobs() == []
    assert t.upload("sql").status_code == 201
