"""The units of ops/ are what systemd takes, hand over the sockets under the names that the gateway knows, and name the programs where they are installed."""

import configparser
import re
import shlex
import shutil
import signal
import subprocess
import time
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
    assert {u.name for u in units} == {p.name for p in [*UNITS.glob("*.socket"), *UNITS.glob("*.service"), *UNITS.parent.glob("vllm/*.service")]}
    verified = [str(u) for u in units if "@" not in u.name]  # no environment of a vLLM is here
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", *verified], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# What `systemd-analyze security` says of each at most, in tenths: docs/SECURITY.md has the numbers of the gateway and its engines.
EXPOSURE = {"weft-gateway.service": 15, "weft-standby.service": 12, "weft-engine@.service": 5}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
@pytest.mark.parametrize("name", EXPOSURE)
def test_no_unit_is_less_shut_in_than_it_was(name):
    assert set(EXPOSURE) == {p.name for p in UNITS.glob("*.service")}
    run = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[name]}", UNITS / name], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def with_drop_in(folder, bin):
    """weft-engine@far.service and the drop-in for an engine on another machine, its program where it is here; the unit's path."""
    (folder / "weft-engine@far.service.d").mkdir()
    for name, to in {"weft-engine@.service": "weft-engine@far.service", "weft-engine-pull.conf": "weft-engine@far.service.d/pull.conf"}.items():
        (folder / to).write_text((UNITS / name).read_text().replace("/usr/bin/", f"{bin}/"))
    return folder / "weft-engine@far.service"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_an_engine_elsewhere_gets_a_network_and_loses_nothing_else_of_its_sandbox(installed, tmp_path):
    path = with_drop_in(tmp_path, installed / "bin")
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    run = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=14", path], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout
    refused = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=5", path], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0  # the drop-in was read: without it the unit is at 0.5


def test_the_drop_in_starts_the_units_command_without_the_gateways_folder():
    own, elsewhere = unit("weft-engine@.service")["Service"], (UNITS / "weft-engine-pull.conf").read_text()
    started = re.findall(r"^ExecStart=(.*)$", elsewhere, re.M)
    assert started[0] == "" and started[1:] == [re.sub(r" --(socket|store) \S+", "", own["ExecStart"])]
    guide = (UNITS.parents[1] / "docs/OPERATOR.md").read_text()
    store = re.search(r"^store = /var/cache/(\S+?)/", guide, re.M).group(1)
    assert store.replace("far", "%i") == re.search(r"^CacheDirectory=(.*)$", elsewhere, re.M).group(1)
    settings = {m for m in re.findall(r"^X\((\w+),", (UNITS.parents[1] / "schema/engine_settings.def").read_text(), re.M)}
    named = re.search(r"<<'END'\n(.*?)\nEND\n", guide, re.S).group(1)
    assert {line.split(" = ")[0] for line in named.splitlines()} <= settings


def settings_of_standby(text):
    return dict(re.findall(r"^(WEFT_\w+)=(.*)$", text, re.M))


def test_the_standbys_settings_are_those_that_its_unit_uses_each_with_its_meaning(installed):
    text = (installed / "etc/weft/standby.env").read_text()
    there, started = settings_of_standby(text), unit("weft-standby.service")["Service"]["ExecStart"]
    assert list(there) == re.findall(r"\$\{?(WEFT_\w+)", started)
    for name in there:
        before = text.split(f"\n{name}=")[0].split("\n\n")[-1]
        assert before.startswith("# ") and all(line.startswith("# ") for line in before.splitlines()), name
    put = (installed / "lib/systemd/system/weft-standby.service").read_text()
    assert f"\nEnvironmentFile={installed}/etc/weft/standby.env\n" in put and f"\nLoadCredential=token:{installed}/etc/weft/standby-token\n" in put
    assert f"\nExecStart={installed}/bin/weft-gateway standby " in put
    usage = subprocess.run([installed / "bin/weft-gateway", "standby", "--help"], capture_output=True, text=True, timeout=60).stdout
    flags = set(re.findall(r"^  (--[\w-]+)", usage, re.M))
    assert set(re.findall(r" (--[\w-]+)", started)) == flags - {"--ca-file", "--plain-http"} and all(f in text for f in ("--ca-file", "--plain-http"))


def standby(installed, folder, **settings):
    """The unit's command with its settings file, as systemd would start it; the process."""
    (folder / "token").write_text("wfa_none\n")
    values = {**settings_of_standby((installed / "etc/weft/standby.env").read_text()), **settings}
    put = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    put.optionxform = str
    put.read(installed / "lib/systemd/system/weft-standby.service")
    words = []
    for w in put["Service"]["ExecStart"].replace("%d", str(folder)).replace("/var/lib/weft", str(folder / "data")).split():
        whole = re.fullmatch(r"\$(\w+)", w)
        words += shlex.split(values[whole[1]]) if whole else [re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], w)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={})


def test_the_standbys_unit_starts_what_it_says_and_not_before_it_is_told_whom_to_follow(installed, tmp_path):
    p = standby(installed, tmp_path)
    assert "--from takes" in p.communicate(timeout=60)[1] and str(p.returncode) in unit("weft-standby.service")["Service"]["RestartPreventExitStatus"].split()
    p = standby(installed, tmp_path, WEFT_STANDBY_FROM="http://10.255.255.1:8081")
    assert "--plain-http" in p.communicate(timeout=60)[1] and p.returncode == 2
    p = standby(installed, tmp_path, WEFT_STANDBY_FROM="http://127.0.0.1:1", WEFT_STANDBY_LISTEN="127.0.0.1:0", WEFT_STANDBY_MORE="--plain-http")
    try:
        line, end = "", time.monotonic() + 30
        while "event=standby_failed" not in line and time.monotonic() < end:
            line = p.stderr.readline()
        assert "127.0.0.1" in line
    finally:
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=60)
    assert p.returncode == 0


def test_a_folder_is_a_gateways_or_a_standbys():
    """One folder for both units, and neither starts on the other's."""
    text = (UNITS / "weft-standby.service").read_text()
    assert re.findall(r"^AssertPathExists=(.*)$", text, re.M) == ["|/var/lib/weft/.standby", "|!/var/lib/weft/weft.db"]
    assert unit("weft-gateway.service")["Unit"]["AssertPathExists"] == "!/var/lib/weft/.standby"
    for name in ("weft-gateway.service", "weft-standby.service"):
        own = unit(name)["Service"]
        assert (own["User"], own["StateDirectory"], own["StateDirectoryMode"]) == ("weft", "weft", "0700") and " --data /var/lib/weft" in own["ExecStart"]
    mark = re.search(r'#define STANDBY_MARK "(.*)"', "".join(p.read_text() for p in (UNITS.parents[1] / "gateway").rglob("*.h"))).group(1)
    assert mark == ".standby"


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
