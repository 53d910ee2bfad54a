"""What ops/ ships for vLLM: the scripts against a gateway, and that its three ways to start one say the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/e2e/gateway"))

from gateway_process import BASE, BIN, MODEL, Gateway, until  # noqa: E402
from upstream_process import Upstream  # noqa: E402

SHIPPED = ["ops/vllm/weft-vllm@.service", "ops/kubernetes/vllm/ray/weft_vllm.py", "ops/kubernetes/vllm/vllm.yaml"]


def script(name, *args, **env):
    return subprocess.run([TOP / "ops/vllm" / name, *map(str, args)], env={**os.environ, **env}, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("path", SHIPPED)
def test_each_way_to_start_vllm_says_what_the_gateway_needs(path):
    text = (TOP / path).read_text()
    assert re.search(r"VLLM_ALLOW_RUNTIME_LORA_UPDATING\W+(value: )?\W?1", text)
    for flag in ("--enable-lora", "--max-loras", "--max-cpu-loras", "--max-lora-rank", "--generation-config", "--enable-prompt-tokens-details", "--served-model-name"):
        assert flag in text, flag
        assert flag in (TOP / "docs/VLLM.md").read_text(), flag
    assert "VLLM_API_KEY" in text or "EnvironmentFile" in text


def test_a_described_base_makes_a_row_that_serves_a_tenants_adapter_and_the_row_can_be_changed(tmp_path):
    described = script("describe-base", MODEL, BASE, WEFT_ENGINE=str(BIN / "weft-engine"))
    assert described.returncode == 0, described.stderr
    assert json.loads(described.stdout)["name"] == BASE
    (tmp_path / "base.json").write_text(described.stdout)
    (tmp_path / "key").write_text("a-key-of-an-operator\n")
    gateway, up = Gateway(tmp_path / "g", "--pool-only", "true", model="", ready=False), Upstream("vllm", key="a-key-of-an-operator")
    try:
        env = {"WEFT_ADMIN_URL": gateway.admin_url, "WEFT_ADMIN_KEY": gateway.admin_key, "WEFT_VLLM_KEY_FILE": str(tmp_path / "key")}
        added = script("add-engine", "vllm-0", up.url, BASE, "--base", tmp_path / "base.json", **env)
        assert added.returncode == 0, added.stderr
        until(lambda: up.status(gateway, "vllm-0")["state"] == "ready", what="the engine")
        tenant = gateway.tenant("acme")
        assert tenant.upload("sql").status_code == 201
        assert tenant.ask("x", model="sql").status_code == 200
        again = script("add-engine", "vllm-0", up.url, BASE, "--base", tmp_path / "base.json", "--capacity", 7, **env)
        assert again.returncode == 0, again.stderr
        assert gateway.admin.get("/admin/v1/engines/vllm-0").json()["capacity"] == 7
        wrong = script("add-engine", "vllm-1", "ftp://x", BASE, **env)
        assert wrong.returncode == 1 and "url" in wrong.stderr
    finally:
        gateway.close()
        up.close()


def test_a_file_that_is_no_model_is_described_by_the_engines_reason(tmp_path):
    (tmp_path / "no.gguf").write_text("no")
    r = script("describe-base", tmp_path / "no.gguf", WEFT_ENGINE=str(BIN / "weft-engine"))
    assert r.returncode == 1 and "no.gguf" in r.stderr and not r.stdout
