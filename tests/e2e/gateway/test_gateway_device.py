"""The gateway over an engine on a device that breaks or hangs: streams end with an error, another engine serves what comes then."""

import threading

import pytest

from gateway_process import BIN, TOP, Gateway, events, until

LIBRARY = BIN / "simt/weft-cuda.so"
MODEL = TOP / "tests/golden/families/llama3"
HANG_S = 1
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} is not built")


@pytest.fixture
def served(tmp_path):
    """A gateway, a tenant, and the file that tells the device what to do wrong (tests/simt/fault.h); the next engine finds none."""
    fault = tmp_path / "fault"
    g = Gateway(tmp_path, "--device", "cuda", "--max-running", "4", "--kv-mb", "4", "--adapter-mb", "8", "--max-slots", "4", "--threads", "1",
                model=MODEL, env={"WEFT_DEVICE_LIB": str(LIBRARY), "WEFT_SIMT_FAULT_FILE": str(fault), "WEFT_HANG_S": str(HANG_S)})
    yield g, g.tenant("acme"), fault
    g.close()


def ask(tenant, tokens=4, **more):
    with tenant.http() as c:
        return c.post("/v1/completions", json={"model": base(tenant), "prompt": [5, 9, 17, 33], "max_tokens": tokens, "ignore_eos": True, **more})


def base(tenant):
    with tenant.http() as c:
        return c.get("/v1/models").json()["data"][0]["id"]


def break_it(fault, text):
    new = fault.with_suffix(".new")
    new.write_text(text)
    new.rename(fault)


def test_the_gateway_names_the_device(served):
    g, _, _ = served
    r = g.admin.get("/ready").json()
    assert r["device"] == {"backend": "cuda", "name": "SIMT shim", "ranks": 1, "memory": 1 << 30}
    assert 'device=cuda device_name="SIMT shim" ranks=1' in g.log.read_text()


def comes_back(gateway, tenant, pid, why):
    """The engine ended with 4 for that reason; another one serves, and nobody got anything worse than 502 or 503 meanwhile."""
    until(lambda: "event=engine_down exit=4" in gateway.log.read_text(), what="the end of the engine")
    assert why in gateway.log.read_text() and "why=\"its device" in gateway.log.read_text()
    seen = []
    until(lambda: seen.append(ask(tenant).status_code) or seen[-1] == 200, what="an answer")
    assert set(seen) <= {200, 502, 503}, seen
    assert gateway.engine_pid() not in (None, pid)


@pytest.mark.parametrize("fault, why", [("launch:3", "event=device_failed"), ("launch:3:hang", "event=step_hangs")])
def test_a_stream_ends_with_an_error_and_another_engine_serves(served, fault, why):
    g, acme, file = served
    pid, name, lines, first = g.engine_pid(), base(acme), [], threading.Event()

    def read():
        body = {"model": name, "prompt": [5, 9, 17, 33], "max_tokens": 120, "ignore_eos": True, "stream": True}
        with acme.http() as c, c.stream("POST", "/v1/completions", json=body) as r:
            for line in r.iter_lines():
                lines.append(line)
                first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(20)
    break_it(file, fault)
    reader.join(20)
    data, done = events(lines)
    assert not reader.is_alive() and not done and "choices" in data[0] and data[-1]["error"], lines
    comes_back(g, acme, pid, why)


@pytest.mark.parametrize("fault, why", [("side:1", "event=device_failed"), ("side:1:hang", "event=device_hangs")])
def test_an_adapter_that_breaks_the_device_is_served_by_the_next_engine(served, fault, why):
    g, acme, file = served
    pid = g.engine_pid()
    break_it(file, fault)
    assert acme.upload("mine", MODEL / "adapter").status_code in (201, 502, 503)
    with acme.http() as c:
        r = c.post("/v1/completions", json={"model": "mine", "prompt": [5, 9], "max_tokens": 4})
        assert r.status_code in (200, 404, 502, 503), r.text
    comes_back(g, acme, pid, why)
    until(lambda: acme.upload("again", MODEL / "adapter").status_code == 201, what="an upload")
    with acme.http() as c:
        assert c.post("/v1/completions", json={"model": "again", "prompt": [5, 9], "max_tokens": 4}).status_code == 200
