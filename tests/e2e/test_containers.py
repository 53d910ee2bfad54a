"""The images and the compose files of ops/containers are what Docker Compose takes, hold together, name only what the programs have, and their settings start the programs.

What needs root, packages and minutes, a build in a bare root and a start of it, is `make containers-check` (tests/containers/run)."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/e2e/gateway"), str(TOP / "tests/containers")]

import container  # noqa: E402
import image  # noqa: E402
from gateway_process import BIN, ENGINE, MODEL, PROGRAM, Gateway, until  # noqa: E402

OPS = TOP / "ops/containers"
FILES = {"cpu": ["compose.yaml"], "cuda": ["compose.yaml", "compose.cuda.yaml"]}
VERSION = re.search(r'WEFT_VERSION "(.*)"', (TOP / "base/version.h").read_text()).group(1)
OURS = ("first-admin-key", "gateway", "engine")
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith("WEFT_")}
PAGE = (TOP / "docs/CONTAINERS.md").read_text()


@functools.cache
def project(which):
    return container.project([OPS / f for f in FILES[which]], {})


def services():
    return [(which, name) for which in FILES for name in project(which)["services"]]


def service(which, name):
    return project(which)["services"][name]


@functools.cache
def dockerfile(which):
    return image.steps(OPS / f"Dockerfile.{which}")


def last_stage(which):
    """The steps of the image itself, without the stages that build."""
    steps = dockerfile(which)
    return steps[max(i for i, s in enumerate(steps) if s[1] == "FROM"):]


def value(which, instruction):
    return next(v for _, k, v in last_stage(which) if k == instruction)


def settings(file):
    return dict(re.findall(r"^(\w+) = (.*)$", file.read_text(), re.M))


@functools.cache
def defaults(program):
    return {m[0]: m[1] for m in re.findall(r'^X\((\w+), \w+, "([^"]*)"', (TOP / f"schema/{program}_settings.def").read_text(), re.M)}


def mounted(s):
    return {v["target"]: v for v in s.get("volumes", [])}


# --- the images ---


def test_both_files_have_the_same_steps_but_for_cuda():
    cpu, cuda = ([(k, v) for _, k, v in dockerfile(w)] for w in FILES)
    for step in cpu:
        if "programs" not in step[1] and "ops/containers/" not in step[1] and step[0] not in ("LABEL", "EXPOSE", "HEALTHCHECK", "CMD"):
            assert step in cuda, step
    assert [s for s in cpu if s[0] == "FROM"] == [s for s in cuda if s[0] == "FROM"] and len(dockerfile("cpu")) > 15


def test_the_image_for_gpus_has_the_backend_where_the_install_puts_it():
    taken = [v for _, k, v in last_stage("cuda") if k == "COPY"]
    assert "$(INTO)/lib/weft $(B)/weft-cuda.so" in (TOP / "Makefile").read_text() and "--from=build /out/usr/lib/weft/ /usr/lib/weft/" in taken


@pytest.mark.parametrize("which", FILES)
def test_an_image_runs_what_is_there_as_a_user_without_rights(which):
    assert value(which, "USER") == "10001:10001" and f"ARG VERSION={VERSION}\n" in (OPS / f"Dockerfile.{which}").read_text()
    assert {k for _, k, _ in last_stage(which)[-4:]} == {"USER", "EXPOSE", "HEALTHCHECK", "CMD"}, "the user is the last that the image changes"
    command = json.loads(value(which, "CMD"))
    file = OPS / which / Path(command[-1]).name
    assert command[-2] == "--config" and f"COPY ops/containers/{which}/ /etc/weft/\n" in (OPS / f"Dockerfile.{which}").read_text() and file.exists()
    key = {"weft-gateway": "listen", "weft-engine": "listen"}[command[0]]
    port = settings(file)[key].split(":")[1]
    check = json.loads(value(which, "HEALTHCHECK").split(" CMD ")[1])
    assert check == ["weft-healthcheck", port, "/health"] and port in value(which, "EXPOSE").split()
    assert "COPY ops/containers/healthcheck /usr/bin/weft-healthcheck" in (OPS / f"Dockerfile.{which}").read_text() and os.access(OPS / "healthcheck", os.X_OK)


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="this is not Debian")
def test_an_image_has_the_libraries_that_the_programs_need_and_no_others():
    needed = {lib for program in ("weft", "weft-gateway", "weft-engine")
              for lib in re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", BIN / program], capture_output=True, text=True, check=True).stdout)}
    owners = subprocess.run(["dpkg-query", "-S", *(f"*-linux-gnu/{lib}" for lib in needed)], capture_output=True, text=True, check=True).stdout
    packages = {line.split(":")[0] for line in owners.splitlines() if not line.startswith("diversion")}
    installed = set(re.search(r"--no-install-recommends ([^>&]*)", value("cpu", "RUN")).group(1).split())
    assert len(needed) > 8 and packages - {"libc6"} == installed - {"ca-certificates"}


def test_what_a_file_copies_is_there_and_secrets_are_not_sent_along():
    for which in FILES:
        for _, kind, v in dockerfile(which):
            if kind == "COPY" and "--from" not in v:
                assert all((TOP / p).exists() for p in v.split()[:-1]), v
    ignored = (TOP / ".dockerignore").read_text().split("\n")
    assert {".git", "build", "ops/containers/models", "ops/containers/secrets", "ops/containers/.env"} <= set(ignored)
    assert {"/ops/containers/models/", "/ops/containers/secrets/", "/ops/containers/.env"} <= set((TOP / ".gitignore").read_text().split("\n"))


def test_a_step_that_is_not_known_is_not_passed_over(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM x\nONBUILD RUN true\n")
    (tmp_path / "x").mkdir()
    with pytest.raises(AttributeError):
        image.Builder(tmp_path / "Dockerfile", tmp_path, tmp_path / "x", tmp_path / "stages", say=str).build()


# --- the compose files ---


def test_a_field_with_a_typing_error_is_found(tmp_path):
    (tmp_path / "compose.yaml").write_text((OPS / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_priod"))
    with pytest.raises(ValueError, match="stop_grace_priod"):
        container.project([tmp_path / "compose.yaml"], {})


@pytest.mark.parametrize(("which", "name"), services())
def test_a_service_has_no_more_rights_than_it_needs(which, name):
    s = service(which, name)
    assert (s["read_only"], s["cap_drop"], s["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert int(s["mem_limit"]) >= 256 << 20 and s["pids_limit"] and any(t.startswith("/tmp:size=") for t in s["tmpfs"])
    assert not {"privileged", "cap_add", "pid", "ipc", "devices", "userns_mode"} & set(s) and s.get("network_mode") in (None, "none")
    assert all(p["host_ip"] == "127.0.0.1" for p in s.get("ports", [])), "a port is this machine's alone until somebody says otherwise"
    for v in s["volumes"]:
        assert v["type"] == "volume" or v["read_only"], v
        if v["type"] == "bind" and not v["source"].endswith("/models"):
            assert Path(v["source"]).exists(), v
    assert re.search(r":v?\d+\.\d+\.\d+$", s["image"]), s["image"]
    assert name not in OURS or s["image"] in (f"weft:{VERSION}", f"weft-cuda:{VERSION}")
    if name != "first-admin-key":
        assert s["restart"] == "unless-stopped" and s["healthcheck"]["test"][0] == "CMD"
    if name == "engine":
        assert set(s["networks"]) == {"engine"} and project(which)["networks"]["engine"]["internal"] is True, "no way out"
        assert mounted(s)["/var/lib/weft/data/blobs"]["volume"]["subpath"] == "data/blobs", "adapters, not the pepper"
        assert [v["target"] for v in s["volumes"] if not v.get("read_only")] == ["/var/cache/weft"]


def test_secrets_are_files_that_the_page_says_how_to_make():
    for which in FILES:
        asked = {x["source"]: x["target"] for s in project(which)["services"].values() for x in s.get("secrets", [])}
        assert set(asked) == set(project(which)["secrets"]) and "grafana-password" in asked
        assert all(f"secrets/{name}" in PAGE for name in asked)
        for s in project(which)["services"].values():
            assert not [k for k in s.get("environment", {}) if re.search(r"PASSWORD|TOKEN|KEY", k) and not k.endswith("__FILE")]
    assert service("cpu", "grafana")["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana-password"
    for program, key in (("gateway", "engine_token_file"), ("engine", "token_file")):
        assert settings(OPS / f"cuda/{program}.conf")[key] == "/run/secrets/engine-token" == {x["source"]: x["target"] for x in service("cuda", program)["secrets"]}["engine-token"]


def test_settings_are_rows_of_the_programs_tables_and_the_same_as_on_kubernetes():
    for which, program, kubernetes in (("cpu", "gateway", "cpu/gateway.yaml"), ("cuda", "gateway", "gpu/gateway.yaml"), ("cuda", "engine", "gpu/engine.yaml")):
        own = settings(OPS / which / f"{program}.conf")
        assert set(own) <= set(defaults(program))
        maps = [d for d in yaml.safe_load_all((TOP / "ops/kubernetes" / kubernetes).read_text()) if d["kind"] == "ConfigMap"]
        theirs = dict(re.findall(r"^(\w+) = (.*)$", maps[0]["data"][f"{program}.conf"], re.M))
        differ = {k for k in own.keys() | theirs.keys() if own.get(k) != theirs.get(k)}
        pulls = {"pool_only", "blob_listen", "pull_url", "pull_token_file", "store", "store_mb"}  # there adapters go by digest, here by the disk of one machine
        assert differ <= {"threads", "engine_url", "token_file", "engine_token_file", *(pulls if which == "cuda" else ())}, differ
        s = service(which, program)
        assert Path(mounted(s)["/etc/weft"]["source"]) == OPS / which
    engine = settings(OPS / "cuda/engine.conf")
    assert engine["store"] in mounted(service("cuda", "engine")) and engine["cache"] in mounted(service("cuda", "engine"))
    assert settings(OPS / "cuda/gateway.conf")["engine_url"] == f"http://engine:{engine['listen'].split(':')[1]}"
    assert {str(Path(c["model"]).parent) for c in (engine, settings(OPS / "cpu/gateway.conf"))} == {"/models"}
    assert service("cuda", "engine").get("command") is None is service("cpu", "gateway").get("command"), "the images' own"
    assert json.loads(value("cuda", "CMD"))[:2] == ["weft-engine", "serve"]


def test_the_first_key_is_made_as_on_kubernetes():
    sets = [d for d in yaml.safe_load_all((TOP / "ops/kubernetes/cpu/gateway.yaml").read_text()) if d["kind"] == "StatefulSet"]
    init = next(c for c in sets[0]["spec"]["template"]["spec"]["initContainers"] if c["name"] == "first-admin-key")
    for which in FILES:
        assert service(which, "first-admin-key")["command"] == [*init["command"], *init["args"]]
        assert mounted(service(which, "first-admin-key")).keys() == {"/var/lib/weft"}
        for name in set(OURS) & set(project(which)["services"]) - {"first-admin-key"}:
            assert service(which, name)["depends_on"]["first-admin-key"]["condition"] == "service_completed_successfully"


def routes(file, name):
    table = (TOP / file).read_text().split(name, 1)[1].split("};", 1)[0]
    return set(re.findall(r'(?:"GET", |GET\()"([^"]+)"', table))


def test_health_checks_ask_for_routes_that_are_there_at_ports_that_are_listened_on():
    admin, engine = routes("gateway/api/health.c", "routes_health[]"), routes("engine/api.c", "routes[] =")
    open_ones = set(re.findall(r'GET\("([^"]+)", admit_health', (TOP / "engine/api.c").read_text()))
    port = lambda which, program, key: settings(OPS / which / f"{program}.conf")[key].split(":")[1]
    for which in FILES:
        _, program, asked, path = service(which, "gateway")["healthcheck"]["test"]
        assert program == "weft-healthcheck" and asked == port(which, "gateway", "admin_listen") and path == "/ready" and path in admin
        published = {p["target"] for p in service(which, "gateway")["ports"]}
        assert published == {int(port(which, "gateway", k)) for k in ("listen", "admin_listen")}
    _, program, asked, path = service("cuda", "engine")["healthcheck"]["test"]
    assert program == "weft-healthcheck" and asked == port("cuda", "engine", "listen") and path in open_ones & engine
    assert not service("cuda", "engine").get("ports"), "nobody but the gateway"


@pytest.mark.parametrize("which", FILES)
def test_a_container_is_given_more_time_to_end_than_it_takes(which):
    own = {**defaults("gateway"), **settings(OPS / which / "gateway.conf")}
    assert container.seconds(service(which, "gateway")["stop_grace_period"]) * 1000 >= int(own["drain_ms"]) + int(own["linger_ms"]) + 30000
    if which == "cuda":
        s, own = service(which, "engine"), {**defaults("engine"), **settings(OPS / "cuda/engine.conf")}
        assert container.seconds(s["stop_grace_period"]) * 1000 > int(own["drain_ms"]) + int(own["hang_s"]) * 1000
        assert container.seconds(s["healthcheck"]["interval"]) * s["healthcheck"]["retries"] > int(own["hang_s"]), "it says itself why it ends"
    else:
        assert (int(own["kv_mb"]) + int(own["adapter_mb"]) + 1024) << 20 < int(service(which, "gateway")["mem_limit"])


# --- Prometheus and Grafana ---


def test_prometheus_is_told_the_same_as_elsewhere_by_the_containers_names(tmp_path):
    ours = (OPS / "prometheus.yml").read_text()
    elsewhere = (TOP / "ops/prometheus/prometheus.yml").read_text()
    assert yaml.safe_load(ours.replace("gateway:8081", "127.0.0.1:8081")) == yaml.safe_load(elsewhere) and "127.0.0.1:8081" not in ours
    s = service("cpu", "prometheus")
    assert {"watch"} == set(s["networks"]) <= set(service("cpu", "gateway")["networks"])
    for v in s["volumes"]:
        if v["type"] == "bind":
            assert Path(v["target"]).parent == Path("/etc/prometheus")
            shutil.copy(v["source"], tmp_path / Path(v["target"]).name)
    named = dict(a.removeprefix("--").split("=", 1) for a in s["command"])
    assert named["config.file"] == "/etc/prometheus/prometheus.yml" in mounted(s) and mounted(s)[named["storage.tsdb.path"]]["type"] == "volume"
    assert shutil.which("promtool"), "promtool is not installed (Debian: prometheus)"
    out = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and "SUCCESS: 1 rule files found" in out.stdout, out.stdout + out.stderr
    known = subprocess.run(["prometheus", "--help"], capture_output=True, text=True, timeout=60)
    assert all(f"--{flag}=" in known.stdout + known.stderr for flag in named)
    assert s["healthcheck"]["test"][-1] == f"http://127.0.0.1:{s['ports'][0]['target']}/-/ready"


def test_grafana_finds_its_source_and_the_dashboard():
    s = service("cpu", "grafana")
    read = {t: yaml.safe_load(Path(v["source"]).read_text()) for t, v in mounted(s).items() if "/provisioning/" in t}
    (source,), (provider,) = (next(d[k] for d in read.values() if k in d) for k in ("datasources", "providers"))
    assert {Path(t).parent.name for t in read} == {"datasources", "dashboards"}
    assert source["url"] == "http://prometheus:9090" and source["type"] == "prometheus" and source["isDefault"] is True
    assert source["url"].endswith(f":{service('cpu', 'prometheus')['ports'][0]['target']}")
    assert s["healthcheck"]["test"][-1] == f"http://127.0.0.1:{s['ports'][0]['target']}/api/health"
    at = provider["options"]["path"] + "/weft.json"
    assert Path(mounted(s)[at]["source"]) == TOP / "ops/grafana/weft.json"
    variables = json.loads((TOP / "ops/grafana/weft.json").read_text())["templating"]["list"]
    assert [v["query"] for v in variables if v["type"] == "datasource"] == [source["type"]]
    assert set(s["networks"]) & set(service("cpu", "prometheus")["networks"])


# --- the page ---


def test_the_page_names_what_is_there():
    for name in [p.name for p in OPS.iterdir() if p.is_file()]:
        assert name in PAGE, name
    for word in re.findall(r"\$\{(\w+):-", "".join((OPS / f).read_text() for f in FILES["cuda"])):
        assert f"`{word}`" in PAGE, word
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert link.startswith("http") or (TOP / "docs" / link).exists(), link
    assert not list((TOP / "ops/kubernetes").glob("Containerfile"))


# --- the programs with these settings ---


def first_key(folder, which):
    """What the one-shot service does, word for word but for the volume's path."""
    (folder / "volume").mkdir(mode=0o700)
    command = service(which, "first-admin-key")["command"]
    script = command[-1].replace("/var/lib/weft", str(folder / "volume"))
    done = subprocess.run([*command[:-1], script], env={"PATH": f"{BIN}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "wfa_" not in done.stdout + done.stderr, done
    return (folder / "volume/first-admin-key").read_text().strip()


class Placed(Gateway):
    """A gateway with the compose file's settings, its paths made ours, and the key that its one-shot service leaves."""

    def __init__(self, folder, which, key, **changed):
        self.volume, self.key_made = folder / "volume", key
        self.file = placed(folder, which, "gateway", **changed)
        super().__init__(folder / "g", model="", ready=False)

    def _admin_key(self):
        return self.key_made

    def start(self, ready=True):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([PROGRAM, "--config", self.file], env=PLAIN, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        at = until(lambda: re.search(r"event=listening public=(\S+) admin=(\S+)", self.log.read_text()), 60, "the listeners")
        self.url, self.admin_url = ("http://" + x for x in at.groups())
        self.admin = httpx.Client(base_url=self.admin_url, headers={"Authorization": f"Bearer {self.admin_key}"}, timeout=30)
        until(lambda: healthy(self.admin_url, "/ready") == 0, 60, "readiness")

    def close(self):
        super().close()
        shutil.rmtree(self.volume, ignore_errors=True)


def placed(folder, which, program, **changed):
    text = (OPS / which / f"{program}.conf").read_text()
    for theirs, ours in {"/var/lib/weft": folder / "volume", "/var/cache/weft": folder / "cache", "/models/base.gguf": MODEL, "/run/secrets/engine-token": folder / "token",
                         "0.0.0.0:80": "127.0.0.1:0 #"}.items():
        text = text.replace(theirs, str(ours))
    for key, new in changed.items():
        text, n = re.subn(rf"^{key} = .*$", f"{key} = {new}", text, flags=re.M)
        assert n == 1, key
    (folder / f"{program}.conf").write_text(text)
    return folder / f"{program}.conf"


def healthy(url, path):
    """What the images' health check says of it."""
    return subprocess.run([OPS / "healthcheck", url.rsplit(":", 1)[1], path], capture_output=True, timeout=20).returncode


def test_the_cpus_settings_start_a_gateway_that_its_health_checks_find(tmp_path):
    g = Placed(tmp_path, "cpu", first_key(tmp_path, "cpu"), kv_mb=64, adapter_mb=64)
    try:
        assert (healthy(g.url, "/health"), healthy(g.admin_url, "/ready"), healthy(g.url, "/nothing"), healthy("x:9", "/health")) == (0, 0, 1, 1)
        assert g.tenant("acme").ask("x", max_tokens=2).status_code == 200
        g.stop()
        assert healthy(g.url, "/health") == 1
    finally:
        g.close()


def test_cudas_settings_join_a_gateway_and_an_engine_by_token_and_shared_folder(tmp_path):
    (tmp_path / "token").write_text("a-token-of-32-visible-characters\n")
    key = first_key(tmp_path, "cuda")  # and the folder of adapters, for which the engine waits
    assert (tmp_path / "volume/data/blobs").is_dir()
    log = tmp_path / "engine.log"
    file = placed(tmp_path, "cuda", "engine", device="cpu", adapter_mb=64)
    with open(log, "wb") as out:
        engine = subprocess.Popen([ENGINE, "serve", "--config", file, "--kv-mb", "64", "--threads", "1"], env=PLAIN, stderr=out)
    g = None
    try:
        at = until(lambda: re.search(r"event=listening address=(\S+)", log.read_text()), what="the engine").group(1)
        assert healthy(at, "/health") == 0 and healthy(at, "/ready") == 1, "/ready is for those who have the token"
        g = Placed(tmp_path, "cuda", key, engine_url=f"http://{at}")
        tenant = g.tenant("acme")
        assert tenant.upload("sql").status_code == 201 and tenant.ask("x", "sql", max_tokens=2).status_code == 200
        g.stop()
    finally:
        if g:
            g.close()
        engine.terminate()
        assert engine.wait(60) == 0
