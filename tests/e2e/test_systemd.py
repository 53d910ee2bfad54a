"""The units of ops/ are what systemd takes, hand over the sockets under the names that the gateway knows, and name the programs where they are installed."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "ops/systemd"


def unit(name):
    p = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    p.optionxform = str
    p.read(UNITS / name)
    return p


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What `make install` puts below a prefix."""
    prefix = tmp_path_factory.mktemp("prefix")
    run = subprocess.run(["make", "-s", "-C", UNITS.parents[1], "install", f"PREFIX={prefix}"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return prefix


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_units_as_they_are_installed(installed):
    units = sorted((installed / "lib/systemd/system").iterdir())
    assert {u.name for u in units} == {p.name for p in [*UNITS.glob("weft-*"), *UNITS.parent.glob("vllm/*.service")]}
    verified = [str(u) for u in units if "@" not in u.name]  # no environment of a vLLM is here
    run = subprocess.run(["systemd-analyze", "verify", *verified], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_programs_and_their_completion_are_installed(installed):
    service = (installed / "lib/systemd/system/weft-gateway.service").read_text()
    started = re.search(r"^ExecStart=(\S+)", service, re.M).group(1)
    assert started == str(installed / "bin/weft-gateway")
    for program in ("weft", "weft-gateway", "weft-engine"):
        said = subprocess.run([installed / "bin" / program, "--version"], capture_output=True, text=True, timeout=60)
        assert said.returncode == 0 and said.stdout.startswith(program), said
    said = subprocess.run([installed / "bin/weft-gateway", "--help"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0 and "admin-key --data DIR" in said.stdout
    assert (installed / "lib/sysusers.d/weft.conf").read_text() == (UNITS / "weft.sysusers").read_text()
    for shell, path in {"bash": "bash-completion/completions/weft", "zsh": "zsh/site-functions/_weft", "fish": "fish/vendor_completions.d/weft.fish"}.items():
        script = subprocess.run([installed / "bin/weft", "completion", shell], capture_output=True, text=True, timeout=60).stdout
        assert script and (installed / "share" / path).read_text() == script


def test_the_sockets_have_the_names_that_the_gateway_knows_and_serve_one_service():
    sockets = {unit(p.name)["Socket"]["FileDescriptorName"]: p.name for p in UNITS.glob("*.socket")}
    assert set(sockets) == {"public", "admin"}
    assert {unit(s)["Socket"]["Service"] for s in sockets.values()} == {"weft-gateway.service"}
    assert set(unit("weft-gateway.service")["Service"]["Sockets"].split()) == set(sockets.values())


def test_the_service_is_given_more_time_than_the_gateway_takes():
    rows = dict(re.findall(r'^X\((\w+), INT, "(\d+)"', (UNITS.parents[1] / "schema/gateway_settings.def").read_text(), re.M))
    service = unit("weft-gateway.service")["Service"]
    assert int(service["TimeoutStartSec"]) * 1000 > int(rows["ready_wait_ms"])
    assert int(service["TimeoutStopSec"]) * 1000 > int(rows["drain_ms"]) + int(rows["linger_ms"])
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
