"""The manifests of ops/kubernetes are what Kubernetes takes, hold together, name only what the programs have, and their settings start the programs."""

import copy
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/e2e/gateway"))

from gateway_process import BIN, ENGINE, MODEL, PROGRAM, Gateway, until  # noqa: E402
from kubernetes_kinds import KINDS  # noqa: E402
from upstream_process import Upstream  # noqa: E402

OPS = TOP / "ops/kubernetes"
VERSIONS = ["1.29", "1.33", "1.37"]
VALUES = {"adapter.yaml", "kustomization.yaml", "serve.yaml"}  # for other programs than the API server
USER = 10001


@functools.cache
def documents(path):
    return [d for d in yaml.load_all(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if d]


def manifests(folder):
    return sorted(p for p in folder.rglob("*.yaml") if p.name not in VALUES)


ALL = manifests(OPS)
# What stands in a cluster together. Ray and the scalers come instead of, or beside, what is in their folder's parent.
SHARED = [OPS / "models.yaml", OPS / "data-a.yaml", OPS / "data-b.yaml", *manifests(OPS / "standby"), *manifests(OPS / "monitoring")]
PROFILES = {name: [*manifests(OPS / name), *SHARED] for name in ("cpu", "gpu", "vllm")}
README = {name: "\n".join(p.read_text() for p in [*(OPS / name).rglob("README.md"), OPS / "standby/README.md", TOP / "docs/KUBERNETES.md"]) for name in PROFILES}


def of(profile, *kinds):
    return [d for p in PROFILES[profile] for d in documents(p) if not kinds or d["kind"] in kinds]


def found(profile, kind, name):
    return next(d for d in of(profile, kind) if d["metadata"]["name"] == name)


def templates(d):
    """(what it is called, pod template) of all pods that a resource makes."""
    if d["kind"] == "Pod":
        yield d["metadata"]["name"], d
    elif d["kind"] in ("Deployment", "StatefulSet"):
        yield d["metadata"]["name"], d["spec"]["template"]
    elif d["kind"] == "RayService":
        cluster = d["spec"]["rayClusterConfig"]
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            yield f"{d['metadata']['name']} {group.get('groupName', 'head')}", group["template"]


def pods(profile):
    return [(name, t) for d in of(profile) for name, t in templates(d)]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


EVERY_POD = [(profile, name) for profile in PROFILES for name, _ in pods(profile)]


def pod(profile, name):
    return next(t for n, t in pods(profile) if n == name)


# --- what Kubernetes says of them ---


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(OPS)))
def test_kubernetes_knows_each_field_that_a_manifest_has(path):
    read = documents(path)
    assert read
    for d in read:
        own = KINDS.get((d["apiVersion"], d["kind"]))
        if own:
            jsonschema.validate(d, own)
        # A pod template inside of a custom resource is Kubernetes' own, so it is held against that.
        for one in [{"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "of-another"}, "template": t} for _, t in templates(d)] if own else [d]:
            for version in VERSIONS:
                kubernetes_validate.validate(one, version, strict=True)


def test_a_field_with_a_typing_error_is_found():
    sts = copy.deepcopy(found("cpu", "StatefulSet", "weft-gateway"))
    sts["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(sts, VERSIONS[-1], strict=True)
    monitor = copy.deepcopy(found("cpu", "ServiceMonitor", "weft-gateway"))
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(monitor, KINDS[monitor["apiVersion"], monitor["kind"]])


def test_every_resource_has_the_one_namespace_and_a_name_of_its_own():
    for profile in PROFILES:
        names = [(d["kind"], d["metadata"]["name"]) for d in of(profile)]
        assert len(set(names)) == len(names), names
        for d in of(profile):
            assert d["kind"] == "Namespace" or d["metadata"]["namespace"] == "weft", d["metadata"]
        assert found(profile, "Namespace", "weft")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len({(OPS / p / "00-namespace.yaml").read_text() for p in PROFILES}) == 1


# --- that they hold together ---


def selects(selector, labels):
    return selector.get("matchLabels", {}).items() <= labels.items() and not selector.get("matchExpressions")


@pytest.mark.parametrize("profile", PROFILES)
def test_selectors_find_pods_and_services_find_ports(profile):
    labels = [t["metadata"]["labels"] for _, t in pods(profile)]
    ports = {port["name"]: port["containerPort"] for _, t in pods(profile) for c in containers(t) for port in c.get("ports", [])}
    for d in of(profile, "StatefulSet", "Deployment"):
        assert selects(d["spec"]["selector"], d["spec"]["template"]["metadata"]["labels"])
    for d in of(profile, "PodDisruptionBudget", "NetworkPolicy"):
        selector = d["spec"].get("selector", d["spec"].get("podSelector"))
        assert any(selects(selector, one) for one in labels), d["metadata"]["name"]
    for d in of(profile, "Service"):
        named = {port["name"] for _, t in pods(profile) if selects({"matchLabels": d["spec"]["selector"]}, t["metadata"]["labels"]) for c in containers(t) for port in c.get("ports", [])}
        assert {port["targetPort"] for port in d["spec"]["ports"]} <= named and named, d["metadata"]["name"]
    for d in of(profile, "ServiceMonitor"):
        meant = [s for s in of(profile, "Service") if selects(d["spec"]["selector"], s["metadata"]["labels"])]
        assert [s["metadata"]["name"] for s in meant] == [{"weft-gateway": "weft-gateway-admin"}.get(d["metadata"]["name"], d["metadata"]["name"])]
        assert {e["port"] for e in d["spec"]["endpoints"]} == {port["name"] for port in meant[0]["spec"]["ports"]}
    for name, t in pods(profile):
        for term in t["spec"].get("affinity", {}).get("podAntiAffinity", {}).get("preferredDuringSchedulingIgnoredDuringExecution", []):
            assert any(selects(term["podAffinityTerm"]["labelSelector"], one) for one in labels), name
        for term in t["spec"].get("topologySpreadConstraints", []):
            assert selects(term["labelSelector"], t["metadata"]["labels"]), name
        for c in containers(t):
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in c:
                    assert c[probe]["httpGet"]["port"] in {port["name"] for port in c["ports"]}, (name, probe)
    for d in of(profile, "HorizontalPodAutoscaler", "ScaledObject"):
        ref = d["spec"]["scaleTargetRef"]
        assert found(profile, ref["kind"], ref["name"])["apiVersion"] == ref["apiVersion"]
    assert ports["public"] == 8080 and ports["admin"] == 8081


def secrets_of(profile):
    """{name: its key} of those that the READMEs say how to make."""
    return dict(re.findall(r"create secret generic ([\w-]+) --from-(?:literal|file)=([\w-]+)=", README[profile]))


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_is_made_that_nobody_uses(profile):
    volumes = [v for _, t in pods(profile) for v in t["spec"]["volumes"]]
    used = {(kind, v[field][key]) for v in volumes for kind, field, key in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName"), ("Claim", "persistentVolumeClaim", "claimName")) if field in v}
    used |= {("Secret", e["valueFrom"]["secretKeyRef"]["name"]) for _, t in pods(profile) for c in containers(t) for e in c.get("env", []) if "valueFrom" in e}
    made = {("ConfigMap", d["metadata"]["name"]) for d in of(profile, "ConfigMap")} | {("Claim", d["metadata"]["name"]) for d in of(profile, "PersistentVolumeClaim")}
    assert made | {("Secret", name) for name in secrets_of(profile)} <= used
    named = " ".join(d["data"][f] for d in of(profile, "ConfigMap") for f in d["data"]) + " ".join(w for _, t in pods(profile) for c in containers(t) for w in c.get("command", []))
    services = {d["metadata"]["name"]: {p["port"] for p in d["spec"]["ports"]} for d in of(profile, "Service")}
    for name, port in re.findall(r"http://(weft-[\w-]+):(\d+)", named):
        assert int(port) in services[name], (name, port)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_policys_ports_are_those_of_the_pods_it_leads_to(profile):
    def ports(labels):
        return {x for _, t in pods(profile) if selects(labels, t["metadata"]["labels"]) for c in containers(t) for p in c.get("ports", []) for x in (p["name"], p["containerPort"])}

    for d in of(profile, "NetworkPolicy"):
        here = ports(d["spec"]["podSelector"])
        for rule in d["spec"].get("ingress", []):
            assert {p["port"] for p in rule.get("ports", [])} <= here | {8265}, d["metadata"]["name"]  # Ray's own
        for rule in d["spec"].get("egress", []):
            for peer in rule["to"]:
                there = ports(peer["podSelector"]) if set(peer) == {"podSelector"} else {53, 443}
                assert not there or {p["port"] for p in rule.get("ports", [])} <= there, d["metadata"]["name"]


@pytest.mark.parametrize(("profile", "name"), EVERY_POD)
def test_what_a_pod_mounts_is_there(profile, name):
    t = pod(profile, name)
    claims = {d["metadata"]["name"] for d in of(profile, "PersistentVolumeClaim")}
    maps = {d["metadata"]["name"]: set(d["data"]) for d in of(profile, "ConfigMap")}
    maps |= {g["name"]: set(g["files"]) for k in (OPS / profile).rglob("kustomization.yaml") for d in documents(k) for g in d["configMapGenerator"]}
    secrets = secrets_of(profile)
    here = {v["name"]: v for v in t["spec"]["volumes"]}
    for v in here.values():
        if "persistentVolumeClaim" in v:
            assert v["persistentVolumeClaim"]["claimName"] in claims, v
        if "configMap" in v:
            assert v["configMap"]["name"] in maps, v
        if "secret" in v:
            assert v["secret"]["secretName"] in secrets, v
            assert {i["key"] for i in v["secret"].get("items", [])} <= {secrets[v["secret"]["secretName"]]}
    used = {m["name"] for c in containers(t) for m in c["volumeMounts"]}
    assert used == set(here)
    for c in containers(t):
        assert len({m["mountPath"] for m in c["volumeMounts"]}) == len(c["volumeMounts"])
        for e in c.get("env", []):
            ref = e.get("valueFrom", {}).get("secretKeyRef")
            assert not ref or e["name"] == "VLLM_API_KEY" and secrets[ref["name"]] == ref["key"], "a secret is a file, where the program reads one"


def test_no_secret_stands_in_a_file():
    assert not [d for p in ALL for d in documents(p) if d["kind"] == "Secret"]


def test_images_of_ours_have_the_programs_version_and_the_same_user():
    version = re.search(r'WEFT_VERSION "(.*)"', (TOP / "base/version.h").read_text()).group(1)
    files = {f: (TOP / f"ops/containers/Dockerfile.{f}").read_text() for f in ("cpu", "cuda")}
    images = {c["image"] for p in ALL for d in documents(p) for _, t in templates(d) for c in containers(t)} | set(re.findall(r"-t (\S+/weft\S*)", README["cpu"]))
    assert {i for i in images if "/weft" in i} == {f"registry.example/weft:{version}", f"registry.example/weft-cuda:{version}"}
    assert all(re.search(r":v?\d", i) for i in images), images
    for text in files.values():
        assert re.findall(r"^USER (.*)$", text, re.M) == [f"{USER}:{USER}"] and f"ARG VERSION={version}\n" in text


# --- what a pod may, who talks to whom, how it ends ---


@pytest.mark.parametrize(("profile", "name"), EVERY_POD)
def test_a_pod_has_no_more_rights_than_it_needs(profile, name):
    spec = pod(profile, name)["spec"]
    context = spec["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"], context["seccompProfile"]) == (True, USER, USER, {"type": "RuntimeDefault"})
    assert spec["automountServiceAccountToken"] is False and not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert name == "models" or spec["enableServiceLinks"] is False
    # What a group could write would not be the store's owner's any more: only the volume's first user has an fsGroup.
    assert ("fsGroup" in context) == (name in ("weft-gateway", "weft-standby", "models"))
    for c in containers(pod(profile, name)):
        own = c["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}
        assert own.get("readOnlyRootFilesystem") is True or c["name"] == "ray"
        assert {"cpu", "memory"} <= set(c["resources"]["requests"]) and "memory" in c["resources"]["limits"]
        for m in c["volumeMounts"]:
            writable = {"/tmp", "/cache", "/dev/shm", "/var/cache/weft", "/var/cache/weft-adapters", *(["/var/lib/weft"] if name in ("weft-gateway", "weft-standby") else ["/models"] if name == "models" else [])}
            assert m.get("readOnly") or m["mountPath"] in writable, (c["name"], m)
            if not m.get("readOnly") or m["name"] != "gateway" or c["name"] == "wait-for-store":
                continue
            assert m["subPath"] == "data/blobs", "beside an engine lie adapters, not the pepper"
    for v in spec["volumes"]:
        assert "emptyDir" not in v or v["emptyDir"]["sizeLimit"], v
        if "secret" in v:
            assert v["secret"]["defaultMode"] == (0o440 if "fsGroup" in context else 0o444)


def asks(policy):
    """{((label, value), port)} of the pods that a policy lets its own go to; beside those, name servers at most."""
    out = set()
    for r in policy["egress"]:
        for peer in r["to"]:
            if peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}:
                assert {x["port"] for x in r["ports"]} == {53}
            else:
                out |= {(pair, x["port"]) for pair in peer["podSelector"]["matchLabels"].items() for x in r["ports"]}
    return out


def lets(policy, template, port):
    """Whether a policy lets a pod of this template come to that port."""
    return any(selects(peer.get("podSelector", {"matchLabels": {"": ""}}), template["metadata"]["labels"]) for r in policy["ingress"] for peer in r["from"] if port in {x["port"] for x in r["ports"]})


@pytest.mark.parametrize("profile", PROFILES)
def test_nobody_talks_to_anybody_but_as_the_policies_say(profile):
    policies = {d["metadata"]["name"]: d["spec"] for d in of(profile, "NetworkPolicy")}
    assert policies.pop("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    gateway = {"app.kubernetes.io/name": "weft-gateway"}
    for name, t in pods(profile):
        mine = [p for p in policies.values() if selects(p["podSelector"], t["metadata"]["labels"])]
        if name == "models":
            assert not mine
            continue
        assert len(mine) == 1 and mine[0]["policyTypes"] == ["Ingress", "Egress"], name
        for rule in mine[0]["ingress"]:
            assert rule["from"], "an empty list is everybody"
            for peer in rule["from"]:
                assert peer.get("podSelector") or peer.get("namespaceSelector")
        if name == "weft-gateway":
            blobs = [r for r in mine[0]["ingress"] if {x["port"] for x in r["ports"]} == {"blobs"}]
            assert [{x["port"] for x in r["ports"]} for r in mine[0]["ingress"]] == [{"public"}, {"admin"}, *([{"blobs"}] if profile == "gpu" else [])]
            assert [r["from"] for r in blobs] == [[{"podSelector": {"matchLabels": {"weft/engine": "weft"}}}]] * (profile == "gpu"), "adapters are for engines alone"
        elif name == "weft-standby":
            assert [{x["port"] for x in r["ports"]} for r in mine[0]["ingress"]] == [{"status"}]
            assert asks(mine[0]) == {(("app.kubernetes.io/name", "weft-gateway"), "admin")} and lets(policies["weft-gateway"], t, "admin")
            continue  # it asks the gateway, and the gateway nothing of it
        elif name == "weft-engine":
            assert [r["from"] for r in mine[0]["ingress"]] == [[{"podSelector": {"matchLabels": gateway}}]]
            assert asks(mine[0]) == {(("app.kubernetes.io/name", "weft-gateway"), "blobs")} and lets(policies["weft-gateway"], t, "blobs")
        elif name.startswith("weft-ray"):
            assert any(r["from"] == [{"podSelector": {"matchLabels": gateway}}] and r["ports"] == [{"port": 8000, "protocol": "TCP"}] for r in mine[0]["ingress"])
        else:
            assert [r["from"] for r in mine[0]["ingress"]] == [[{"podSelector": {"matchLabels": gateway}}]] and mine[0]["egress"] == []
        if name != "weft-gateway":  # and the gateway's own policy lets it go there
            out = [(peer, x["port"]) for r in policies["weft-gateway"]["egress"] for peer in r["to"] for x in r["ports"] if "podSelector" in peer]
            assert any(selects(peer["podSelector"], t["metadata"]["labels"]) and port == 8000 for peer, port in out), name


def settings(profile, name):
    text = found(profile, "ConfigMap", name)["data"][{"weft-gateway": "gateway.conf", "weft-engine": "engine.conf"}[name]]
    return dict(re.findall(r"^(\w+) = (.*)$", text, re.M))


def defaults(program):
    return {m[0]: m[2] for m in re.findall(r'^X\((\w+), (\w+), "([^"]*)"', (TOP / f"schema/{program}_settings.def").read_text(), re.M)}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_pod_is_given_more_time_to_end_than_it_takes(profile):
    for name, t in pods(profile):
        grace = t["spec"].get("terminationGracePeriodSeconds", 30)
        if name == "weft-gateway":
            own = {**defaults("gateway"), **settings(profile, name)}
            before = int(t["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
            assert grace * 1000 >= before * 1000 + int(own["drain_ms"]) + int(own["linger_ms"]) + 30000
            assert t["spec"]["containers"][0]["command"] == ["weft-gateway", "--config", "/etc/weft/gateway.conf"]
        if name == "weft-engine":
            own = {**defaults("engine"), **settings(profile, name)}
            assert grace * 1000 > int(own["drain_ms"]) + int(own["hang_s"]) * 1000
            alive = t["spec"]["containers"][0]["livenessProbe"]
            assert alive["periodSeconds"] * alive["failureThreshold"] > int(own["hang_s"]), "it says itself why it ends"
        if name == "vllm":
            script = t["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]
            assert grace >= int(re.search(r"monotonic\(\) \+ (\d+)", script).group(1)) + 30
        if name.startswith("weft-ray"):
            assert grace > int(re.search(r"graceful_shutdown_timeout_s=(\d+)", (OPS / "vllm/ray/weft_vllm.py").read_text()).group(1))


def test_there_is_one_gateway():
    for profile in PROFILES:
        d = found(profile, "StatefulSet", "weft-gateway")["spec"]
        assert d["replicas"] == 1
        # Gateway and standby have a volume each, by name, which is what a takeover changes; neither goes with a profile's folder.
        claims = [v["persistentVolumeClaim"]["claimName"] for name in ("weft-gateway", "weft-standby") for v in pod(profile, name)["spec"]["volumes"] if v["name"] == "data"]
        assert claims == ["weft-data-a", "weft-data-b"] and not [x for p in manifests(OPS / profile) for x in documents(p) if x["kind"] == "PersistentVolumeClaim"]
        assert found(profile, "PodDisruptionBudget", "weft-gateway")["spec"]["maxUnavailable"] == 0
        assert not [x for x in of(profile, "HorizontalPodAutoscaler", "ScaledObject") if x["spec"]["scaleTargetRef"]["name"].startswith("weft-")]
    cpu = found("cpu", "StatefulSet", "weft-gateway")["spec"]["template"]["spec"]["containers"][0]["resources"]
    own = settings("cpu", "weft-gateway")
    assert cpu["requests"]["cpu"] == own["threads"] and int(own["kv_mb"]) + int(own["adapter_mb"]) + 1024 < int(cpu["limits"]["memory"].removesuffix("Gi")) * 1024


# --- what they name of the programs ---


def routes(file, *tables):
    text = (TOP / file).read_text()
    return set(re.findall(r'(?:\{"GET", |GET\()"([^"]+)"', text.split(tables[0], 1)[1].split("};", 1)[0] if tables else text))


def test_probes_and_monitors_ask_for_routes_that_are_there():
    public = routes("gateway/api/health.c", "routes_health_public[]")
    admin = routes("gateway/api/health.c", "routes_health[]") | routes("gateway/observe/metrics_api.c")
    engine = routes("engine/api.c", "routes[] =")
    assert "/ready" not in public and {"/ready", "/metrics", "/metrics/targets"} <= admin and "/health" in engine
    standby = set(re.findall(r'\.method = "GET", \.pattern = "([^"]+)"', (TOP / "gateway/standby/standby.c").read_text()))
    known = {"public": public, "admin": admin, "http": engine, "status": standby}
    open_ones = set(re.findall(r'GET\("([^"]+)", admit_health', (TOP / "engine/api.c").read_text()))
    asked = set()
    for profile, name in EVERY_POD:
        for c in containers(pod(profile, name)):
            for probe in (c[p]["httpGet"] for p in ("startupProbe", "livenessProbe", "readinessProbe") if p in c):
                assert probe["path"] in known[probe["port"]], (name, probe)
                assert name != "weft-engine" or probe["path"] in open_ones, "a probe has no token"
                asked.add((name, probe["path"]))
    assert ("weft-gateway", "/ready") in asked and ("weft-engine", "/health") in asked and ("weft-standby", "/ready") in asked
    for d in of("cpu", "ServiceMonitor"):
        assert {e["path"] for e in d["spec"]["endpoints"]} <= {"weft-gateway": admin, "weft-standby": standby}[d["metadata"]["name"]]
    for d in of("cpu", "ScrapeConfig"):
        service = found("cpu", "Service", "weft-gateway-admin")["spec"]["ports"][0]["port"]
        assert [c["url"] for c in d["spec"]["httpSDConfigs"]] == [f"http://weft-gateway-admin.weft.svc:{service}/metrics/targets"]
    jobs = {d["spec"].get("endpoints", [d["spec"]])[0]["relabelings"][0]["replacement"] for d in of("cpu", "ServiceMonitor", "ScrapeConfig")}
    assert jobs == set(re.findall(r"job_name: (\S+)", (TOP / "ops/prometheus/prometheus.yml").read_text()))


def test_settings_and_flags_are_rows_of_the_programs_tables():
    for profile in PROFILES:
        for d in of(profile, "ConfigMap"):
            program = d["metadata"]["name"].removeprefix("weft-")
            names = re.findall(r"^(\w+) =", d["data"][f"{program}.conf"], re.M)
            assert names and set(names) <= set(defaults(program)) and len(set(names)) == len(names)
        for _, t in pods(profile):
            for c in containers(t):
                words = " ".join([*c.get("command", []), *c.get("args", [])])
                for program, rest in re.findall(r"weft-(gateway|engine)((?: (?!weft-)[\w./-]+)*)", words):
                    flags = {f.replace("-", "_") for f in re.findall(r"--([\w-]+)", rest)}
                    assert flags <= set(defaults(program)) | {"config"} or rest.startswith(" standby"), flags
    command = pod("cpu", "weft-standby")["spec"]["containers"][0]["command"]
    usage = subprocess.run([PROGRAM, "standby", "--help"], capture_output=True, text=True, timeout=60).stdout
    assert command[:2] == ["weft-gateway", "standby"] and {w.split("=")[0] for w in command[2:]} <= set(re.findall(r"^  (--[\w-]+)", usage, re.M))


def test_an_engine_fetches_from_the_gateways_port_for_engines_into_a_store_of_its_own():
    own, theirs, volumes = settings("gpu", "weft-engine"), settings("gpu", "weft-gateway"), {v["name"]: v for v in pod("gpu", "weft-engine")["spec"]["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in pod("gpu", "weft-engine")["spec"]["containers"][0]["volumeMounts"]}
    name, port = re.fullmatch(r"http://([\w-]+):(\d+)", own["pull_url"]).groups()
    assert [p["port"] for p in found("gpu", "Service", name)["spec"]["ports"]] == [int(port)] and theirs["blob_listen"].endswith(f":{port}")
    room = volumes[mounts[str(Path(own["store"]).parent)]]["emptyDir"]["sizeLimit"]
    assert int(room.removesuffix("Gi")) * 1024 > int(own["store_mb"]) + 1024, "a store that is full must not evict the pod"
    for key, secret in (("token_file", "weft-engine-token"), ("pull_token_file", "weft-engine-pull")):
        assert own[key].endswith("/token") and volumes[mounts[str(Path(own[key]).parent)]]["secret"]["secretName"] == secret and secrets_of("gpu")[secret] == "token"
    # No pod but the gateway's has its volume, where the engine fetches.
    assert [n for n, t in pods("gpu") for v in t["spec"]["volumes"] if v.get("persistentVolumeClaim", {}).get("claimName", "").startswith("weft-data")] == ["weft-gateway", "weft-standby"]
    url, listen = re.search(r"weft engine add main (\S+)", README["gpu"]).group(1), own["listen"]
    assert [p["port"] for p in found("gpu", "Service", url[7:].split(":")[0])["spec"]["ports"]] == [int(listen.split(":")[1])] == [int(url.split(":")[2])]


def series():
    rows = [(kind, name) for p in ("gateway", "engine") for kind, name in re.findall(r'^X\(\w+, (\w+), "([^"]+)"', (TOP / f"schema/{p}_metrics.def").read_text(), re.M)]
    return {name + s for kind, name in rows for s in (("_bucket", "_sum", "_count") if kind == "HISTOGRAM" else ("",))} | {"up"}


def named(expr):
    bare = re.sub(r"\{[^}]*\}", "", expr)
    return set(re.findall(r"\b(?:weft|vllm|process)[\w:]+", bare))


def scaled():
    """(metric or query, threshold) of each scaler."""
    keda = [(t["metadata"]["query"], float(t["metadata"]["threshold"])) for t in documents(OPS / "vllm/autoscale/keda.yaml")[0]["spec"]["triggers"]]
    adapter = {r["name"]["as"]: r for r in documents(OPS / "vllm/autoscale/adapter.yaml")[0]["rules"]["external"]}
    hpa = documents(OPS / "vllm/autoscale/hpa.yaml")[0]["spec"]["metrics"]
    number = lambda q: int(q[:-1]) / 1000 if q.endswith("m") else float(q)
    return keda, [(adapter[m["external"]["metric"]["name"]]["metricsQuery"], number(m["external"]["target"]["averageValue"])) for m in hpa], adapter.values()


def test_scalers_look_at_metrics_that_are_told_and_both_at_the_same():
    keda, hpa, rules = scaled()
    assert keda == hpa and {n for q, _ in keda for n in named(q)} == {"weft_engine_waiting", "vllm:kv_cache_usage_perc"} <= series()
    for r in rules:
        assert named(r["seriesQuery"]) == named(r["metricsQuery"])
    for q, _ in keda:
        assert re.search(r'job="weft-(gateway|engine)"', q)
        assert all(re.fullmatch(re.search(r'engine=~"(.*)"', q).group(1), f"vllm-{i}") for i in range(4))
    a, b = documents(OPS / "vllm/autoscale/keda.yaml")[0]["spec"], documents(OPS / "vllm/autoscale/hpa.yaml")[0]["spec"]
    assert (a["minReplicaCount"], a["maxReplicaCount"]) == (b["minReplicas"], b["maxReplicas"])
    assert a["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == b["behavior"] and b["behavior"]["scaleDown"] == {"selectPolicy": "Disabled"}


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here (Debian: prometheus)")
def test_promtool_takes_the_scalers_queries(tmp_path):
    rules = [{"record": f"x:q{i}", "expr": q} for i, (q, _) in enumerate(scaled()[0])]
    (tmp_path / "q.yml").write_text(json.dumps({"groups": [{"name": "q", "rules": rules}]}))
    out = subprocess.run(["promtool", "check", "rules", tmp_path / "q.yml"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stdout + out.stderr


def test_the_rules_are_those_of_prometheus(tmp_path):
    subprocess.run([OPS / "monitoring/make-rules", tmp_path / "rules.yaml"], check=True, timeout=60)
    assert (tmp_path / "rules.yaml").read_text() == (OPS / "monitoring/rules.yaml").read_text(), "run ops/kubernetes/monitoring/make-rules"
    assert documents(tmp_path / "rules.yaml")[0]["spec"] == yaml.safe_load((TOP / "ops/prometheus/alerts.yml").read_text())


def test_ray_is_told_the_same_with_and_without_kubernetes():
    service = documents(OPS / "vllm/ray/rayservice.yaml")[0]
    text = (OPS / "vllm/ray/serve.yaml").read_text()
    assert service["spec"]["serveConfigV2"] == text
    serve, worker = yaml.safe_load(text), service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    args = [a["args"] for a in serve["applications"]]
    assert worker["replicas"] * int(worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) >= sum(a["gpus"] for a in args)
    mounts = {m["mountPath"]: m["name"] for m in worker["template"]["spec"]["containers"][0]["volumeMounts"]}
    key = next(v for v in worker["template"]["spec"]["volumes"] if v["name"] == mounts[str(Path(args[0]["key_file"]).parent)])["secret"]
    assert [i["path"] for i in key["items"]] == [Path(args[0]["key_file"]).name]
    generated = documents(OPS / "vllm/ray/kustomization.yaml")[0]["configMapGenerator"][0]
    assert all((OPS / "vllm/ray" / f).exists() for f in generated["files"]) and all(a["import_path"].split(":")[0] + ".py" in generated["files"] for a in serve["applications"])
    assert {"name": "PYTHONPATH", "value": "/etc/weft-ray"} in worker["template"]["spec"]["containers"][0]["env"]


def test_readmes_lead_to_files_that_are_there_and_list_what_is_to_change():
    for page in [*OPS.rglob("README.md"), TOP / "docs/KUBERNETES.md", TOP / "docs/VLLM.md", TOP / "README.md", TOP / "ARCHITECTURE.md"]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"
    for path in [p for folder in ("docs", "ops", "tests/e2e", "tests/vllm") for p in (TOP / folder).rglob("*") if p.suffix in (".md", ".yaml", ".py") and p != Path(__file__)]:
        assert not re.search(r"ops/ray|kubernetes-vllm", path.read_text()), path
    for profile in PROFILES:
        assert "CHANGE" in (OPS / profile / "README.md").read_text()


# --- the programs with what stands in the manifests ---


PLAIN = {k: v for k, v in os.environ.items() if not k.startswith("WEFT_")}  # a pod has none of ours


class Cluster:
    """What the kubelet would do, below one folder: volumes as folders, settings as files."""

    def __init__(self, folder, profile):
        self.folder, self.profile = folder, profile
        self.volume = folder / "volume"
        self.volume.mkdir(mode=0o2770)
        self.volume.chmod(0o2770)  # as fsGroup leaves it
        (folder / "token").write_text("a-token-of-32-visible-characters\n")

    def settings(self, name, **changed):
        """The ConfigMap's file with the pod's paths made ours. Nothing else of it is changed but what is asked for."""
        program = name.removeprefix("weft-")
        text = found(self.profile, "ConfigMap", name)["data"][f"{program}.conf"]
        for pods_path, ours in {"/var/lib/weft": self.volume, "/var/cache/weft": self.folder / "cache", "/models/base.gguf": MODEL,
                                "/etc/weft-engine-token/token": self.folder / "token", "/etc/weft-engine-pull": self.folder / "pull", "0.0.0.0:80": "127.0.0.1:0 #"}.items():
            text = text.replace(pods_path, str(ours))
        for key, value in changed.items():
            text, n = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.M)
            assert n == 1, key
        file = self.folder / f"{program}.conf"
        file.write_text(text)
        return file

    def init(self, name):
        """An init container's script, word for word but for the volume's path; what it printed."""
        c = next(c for c in pod(self.profile, "weft-gateway")["spec"]["initContainers"] if c["name"] == name)
        words = [w.replace("/var/lib/weft", str(self.volume)) for w in [*c["command"], *c.get("args", [])]]
        done = subprocess.run(words, env={"PATH": f"{BIN}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "wfa_" not in done.stdout + done.stderr, done
        return done.stdout

    def first_start(self):
        assert [c["name"] for c in pod(self.profile, "weft-gateway")["spec"]["initContainers"]] == ["take-over", "first-admin-key"]
        self.init("take-over")
        self.init("first-admin-key")
        return (self.volume / "first-admin-key")


class Placed(Gateway):
    """A gateway that has its settings from a file, and its first key from the init container."""

    def __init__(self, cluster, file, ready=True):
        self.cluster, self.file = cluster, file
        super().__init__(cluster.folder / "g", "--config", file, "--data", cluster.volume / "data", model="", ready=ready)
        self.data = cluster.volume / "data"

    def _admin_key(self):
        key = self.cluster.first_start()
        assert key.stat().st_mode & 0o777 == 0o600
        return key.read_text().strip()

    def start(self, ready=True):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([PROGRAM, "--config", self.file], env=PLAIN, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        at = until(lambda: re.search(r"event=listening public=(\S+) admin=(\S+)", self.log.read_text()) or self.process.poll() is not None, 60, "the listeners")
        assert at is not True, self.tail()
        self.url, self.admin_url = ("http://" + x for x in at.groups())
        self.admin = httpx.Client(base_url=self.admin_url, headers={"Authorization": f"Bearer {self.admin_key}"}, timeout=30)
        if ready:
            until(lambda: self.probe("readinessProbe") == 200, 60, "readiness")

    def probe(self, which):
        asked = pod(self.cluster.profile, "weft-gateway")["spec"]["containers"][0][which]["httpGet"]
        return httpx.get({"public": self.url, "admin": self.admin_url}[asked["port"]] + asked["path"]).status_code


def assert_probes(g, ready):
    assert (g.probe("startupProbe"), g.probe("livenessProbe"), g.probe("readinessProbe")) == (200, 200, ready)


def test_the_cpus_settings_start_a_gateway_and_its_engine(tmp_path):
    c = Cluster(tmp_path, "cpu")
    g = Placed(c, c.settings("weft-gateway", threads=1, kv_mb=64, adapter_mb=64))
    try:
        assert_probes(g, 200)
        assert g.tenant("acme").ask("x", max_tokens=2).status_code == 200
        key = c.volume / "first-admin-key"
        key.unlink()
        g.stop()
        assert not c.first_start().exists(), "a later start has no key to tell"
        assert (c.volume / "data").stat().st_mode & 0o777 == 0o700
    finally:
        g.close()


def weft(g, *args, **more):
    env = {**PLAIN, "WEFT_ADMIN_URL": g.admin_url, "WEFT_ADMIN_KEY": g.admin_key, "WEFT_CONFIG": "/dev/null"}
    done = subprocess.run([BIN / "weft", *map(str, args)], env=env, capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def follow(c, g):
    """The standby's own command, beside the gateway; (process, address of its listener, data folder)."""
    other = c.folder / "other"
    (other / "token").parent.mkdir()
    (other / "token").write_text(weft(g, "admin-key", "create", "--role", "backup", "--name", "standby"))
    log = c.folder / "standby.log"
    swap = {"http://weft-gateway-admin:8081": g.admin_url, "/etc/weft-standby/token": other / "token", "/var/lib/weft": other, "0.0.0.0:8083": "127.0.0.1:0", "--every=2": "--every=0.2"}
    words = pod(c.profile, "weft-standby")["spec"]["containers"][0]["command"]
    for theirs, ours in swap.items():
        assert any(theirs in w for w in words), theirs
        words = [w.replace(theirs, str(ours)) for w in words]
    with open(log, "wb") as out:
        p = subprocess.Popen([PROGRAM, *words[1:]], env=PLAIN, stderr=out)
    at = until(lambda: re.search(r"event=listening standby=(\S+)", log.read_text()), what="the standby").group(1)
    return p, f"http://{at}", other


def test_the_gpus_engine_fetches_by_digest_and_a_standbys_volume_is_taken_over(tmp_path):
    c = Cluster(tmp_path, "gpu")
    for folder in ("pull", "cache-adapters"):
        (tmp_path / folder).mkdir()
    command = pod("gpu", "weft-engine")["spec"]["containers"][0]["command"]
    assert command == ["weft-engine", "serve", "--config", "/etc/weft/engine.conf"]
    g, engine, standby, log = Placed(c, c.settings("weft-gateway"), ready=False), None, None, tmp_path / "engine.log"
    try:
        assert_probes(g, 503)
        blobs = re.search(r"\bblobs=(\S+)", g.log.read_text()).group(1)
        file = c.settings("weft-engine", device="cpu", adapter_mb=64, pull_url=f"http://{blobs}")
        with open(log, "wb") as out:
            engine = subprocess.Popen([ENGINE, "serve", "--config", file, "--kv-mb", "64", "--threads", "1"], env=PLAIN, stderr=out)
        at = until(lambda: re.search(r"event=listening address=(\S+)", log.read_text()), what="the engine").group(1)
        # README.md's rows and Secrets.
        weft(g, "engine", "add", "main", f"http://{at}", "--kind", "weft", "--base", "smollm2-135m-instruct", "--secret-file", tmp_path / "token")
        (tmp_path / "pull/token").write_text(weft(g, "engine-token", "create", "main"))
        until(lambda: g.probe("readinessProbe") == 200, 60, "readiness")
        tenant = g.tenant("acme")
        assert tenant.upload("sql").status_code == 201
        assert tenant.ask("x", "sql", max_tokens=2).status_code == 200
        assert len(list((tmp_path / "cache-adapters/store").glob("??/*/adapter_model.safetensors"))) == 1 and not list(tmp_path.glob("cache-adapters/store/**/weft.db"))
        assert httpx.get(f"http://{at}/health").status_code == 200 and httpx.get(f"http://{at}/ready").status_code == 401

        standby, there, other = follow(c, g)
        probes = pod("gpu", "weft-standby")["spec"]["containers"][0]
        ask = lambda probe: httpx.get(there + probes[probe]["httpGet"]["path"]).status_code
        assert ask("livenessProbe") == 200
        asked = tenant.ask("y", "sql", max_tokens=2).headers["x-request-id"]
        until(lambda: asked in weft(g, "request", "list", "--all"), what="the settled request")
        weft(g, "tenant", "create", "newest-of-all")
        until(lambda: ask("readinessProbe") == 200 and (other / "data/weft.db").exists() and b"newest-of-all" in (other / "data/weft.db").read_bytes(), what="a state with all of it")
        g.stop()
        standby.terminate()
        assert standby.wait(60) == 0
        c.volume = other  # the other claim in gateway.yaml
        assert "takeover 1" in c.init("take-over") and c.init("take-over") == ""
        again = Placed.__new__(Placed)
        again.__dict__.update(g.__dict__)
        again.file, again.data, again.log = c.settings("weft-gateway"), other / "data", tmp_path / "second.log"
        g = again
        g.start()
        assert "newest-of-all" in weft(g, "tenant", "list") and asked in weft(g, "request", "list", "--all")
        assert httpx.post(g.url + "/v1/chat/completions", json={"model": "sql", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
                          headers={"Authorization": f"Bearer {tenant.key}"}, timeout=60).status_code == 200
        g.stop()
    finally:
        g.close()
        for p in (standby, engine):
            if p and p.poll() is None:
                p.terminate()
                assert p.wait(60) == 0


def test_the_pools_settings_start_a_gateway_that_waits_for_rows(tmp_path):
    c = Cluster(tmp_path, "vllm")
    g, up = Placed(c, c.settings("weft-gateway"), ready=False), Upstream("vllm")
    try:
        assert_probes(g, 503)
        up.join(g, "vllm-0")
        assert_probes(g, 200)
        script = pod("vllm", "vllm")["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        up.set("/fake/queue", running=2, waiting=0)
        stopping = subprocess.Popen([sys.executable, script[1], script[2].replace("http://127.0.0.1:8000", up.url)], stderr=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            stopping.wait(2)
        up.set("/fake/queue", running=0, waiting=0)
        assert stopping.communicate(timeout=20) == (None, "") and stopping.returncode == 0, "it goes once nothing runs"
        g.stop()
    finally:
        g.close()
        up.close()
