"""schemathesis over the API's description, with links, on both listeners: no 500, no status that is not described, no answer that is not as
described. A short run every day; WEFT_FUZZ_S=600 (seconds for each listener) and WEFT_FUZZ_SEED=N ask for more."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway_process import Gateway

CONFIG = Path(__file__).with_name("schemathesis.toml")
SECONDS = os.environ.get("WEFT_FUZZ_S", "20")
SEED = os.environ.get("WEFT_FUZZ_SEED", "1")
# Some rules stand between fields (a start before its end, after or before but not both): a schema can't say them, the answer is 400.
# What is revoked stays to be looked at, for usage and audit name it.
LEFT_OUT = "positive_data_acceptance,use_after_free"


def optional_fields(spec, schema, seen):
    """(where, schema) of each field of a request that may be left out."""
    ref = schema.get("$ref", "")
    if ref in seen:
        return
    if ref:
        seen.add(ref)
        schema = resolve(spec, schema)
    for part in schema.get("allOf", []) + schema.get("oneOf", []) + schema.get("anyOf", []):
        yield from optional_fields(spec, part, seen)
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", []):
            yield name, field
        yield from optional_fields(spec, field, seen)
    yield from optional_fields(spec, schema["items"], seen) if "items" in schema else ()


def resolve(spec, schema):
    while "$ref" in schema:
        at = spec
        for step in schema["$ref"].split("/")[1:]:
            at = at[step]
        schema = at
    return schema


def may_be_null(spec, field):
    field = resolve(spec, field)
    return "null" in field.get("type", "") or any(may_be_null(spec, x) for x in field.get("oneOf", []) + field.get("anyOf", []))


@pytest.mark.parametrize("listener", ["public", "admin"])
def test_what_may_be_left_out_may_be_null(tmp_path, _model, listener):
    """The program takes null as left out everywhere, as clients send it for an option that is not set; the description says so."""
    g = Gateway(tmp_path / "g", fake=True)
    try:
        spec = httpx.get((g.url if listener == "public" else g.admin_url) + "/openapi.json").json()
        fields = [(path, *f) for path, ops in spec["paths"].items() for op in ops.values() if isinstance(op, dict) and "requestBody" in op
                  for kind, body in resolve(spec, op["requestBody"])["content"].items() if kind == "application/json"
                  for f in optional_fields(spec, body.get("schema", {}), set())]
        assert len(fields) > 20
        assert [(path, name) for path, name, field in fields if not may_be_null(spec, field)] == []
    finally:
        g.close()


# What may take away the key that the run itself uses runs on its own, so that the rest is not refused from then on.
OF_KEYS = "^(revoke|rotate|update)(Own|Admin)?Key$"


@pytest.mark.parametrize("part", ["--exclude-operation-id-regex", "--include-operation-id-regex"], ids=["routes", "keys"])
@pytest.mark.parametrize("listener", ["public", "admin"])
def test_no_request_gets_an_answer_that_is_not_described(tmp_path, _model, listener, part):
    g = Gateway(tmp_path / "g", "--max-adapters", "100", fake=True)
    try:
        tenant = g.tenant("acme")
        assert tenant.upload("sql").status_code == 201
        tenant.ask("hello", "sql")
        url, key = (g.url, tenant.key) if listener == "public" else (g.admin_url, g.admin_key)
        seconds = SECONDS if "exclude" in part else str(max(5, int(SECONDS) // 4))
        run = subprocess.run([Path(sys.executable).with_name("st"), "--config-file", CONFIG, "run", url + "/openapi.json", "--url", url, "--header",
                              f"Authorization: Bearer {key}", part, OF_KEYS, "--exclude-checks", LEFT_OUT, "--max-time", seconds, "--seed", SEED, "--no-color"],
                             cwd=tmp_path, capture_output=True, text=True, timeout=int(seconds) + 120)
        assert run.returncode == 0, run.stdout[-12000:] + run.stderr[-2000:] + g.tail()
        assert g.process.poll() is None, g.tail()
        books = g.admin.get("/admin/v1/ledger", params={"verify": 1})
        if books.status_code == 200:  # the run's key may be gone
            assert books.json()["verify"]["bad_buckets"] == 0 and books.json()["audit"]["first_bad"] == 0
    finally:
        g.close()
