"""The same by podman, where it is at hand (Debian: podman, runc): a real builder and a real container engine instead of image.py and container.py.

RUN is a chroot here as well (--isolation chroot), and containers share the caller's network, so that neither wants bridges. Images lie in a store of their own."""

import json
import os
import subprocess
import time
from pathlib import Path

import container
import image


class Podman:
    def __init__(self, work):
        self.command = ["podman", "--root", str(work / "podman"), "--runroot", str(work / "podman-run"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]

    def __call__(self, *words, check=True, **more):
        return subprocess.run([*self.command, *map(str, words)], check=check, stdin=subprocess.DEVNULL, **{"capture_output": True, "text": True, **more})

    def base(self, root, name):
        if self("image", "exists", name, check=False).returncode == 0:
            return
        packed = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run([*self.command, "import", "-q", "-", name], stdin=packed.stdout, check=True)
        assert packed.wait() == 0

    def build(self, dockerfile, context, tag, args, made):
        """`made`: objects of the same sources, as in image.py."""
        given = [w for k, v in args.items() for w in ("--build-arg", f"{k}={v}")]
        self("build", "-q", "--format", "docker", "--isolation", "chroot", "--network", "host", "--pull=never", *given, *(["--volume", f"{made}:/src/build"] if made.exists() else []), "-f", dockerfile, "-t", tag, context, capture_output=False)
        return Image(self, tag)


class Image(image.Stage):
    """What the image says of itself, in a stage's terms."""

    def __init__(self, podman, tag):
        self.podman, self.tag = podman, tag
        super().__init__(Path(podman("image", "mount", tag).stdout.strip()), {})
        told = json.loads(podman("image", "inspect", tag).stdout)[0]
        self.config = told["Config"]
        self.user, self.cmd, self.env = self.config["User"], self.config["Cmd"], dict(e.split("=", 1) for e in self.config["Env"])
        self.health = told["Healthcheck"]["Test"][1:]
        self.ports = sorted(int(p.split("/")[0]) for p in self.config["ExposedPorts"])


class Container(container.Container):
    """A service of the compose file by `podman run`."""

    def start(self, command=None):
        s, p = self.service, self.stage.podman
        self.id = f"weft-{self.name}-{os.urandom(4).hex()}"
        words = ["--name", self.id, "--network", "host", "--read-only", "--read-only-tmpfs=false", "--ulimit", "nofile=16384:16384", "--ulimit", "nproc=16384:16384",
                 "--pids-limit", s["pids_limit"], "--memory", s["mem_limit"], *(f"--cap-drop={c}" for c in s["cap_drop"]), *(f"--security-opt={o.split(':')[0]}" for o in s["security_opt"])]
        words += [w for t in s.get("tmpfs", []) for w in ("--tmpfs", t)] + [w for k, v in s.get("environment", {}).items() for w in ("--env", f"{k}={v}")]
        words += [w for what, where, ro in self.mounted() for w in ("--volume", f"{what}:{where}" + ":ro" * ro)]
        words += [w for name in self.project["services"] for w in ("--add-host", f"{name}:127.0.0.1")] + ["--no-healthcheck"]
        (self.folder / "hosts").write_text("127.0.0.1 localhost " + " ".join(self.project["services"]) + "\n")
        self.out = open(self.log, "ab")
        self.process = subprocess.Popen([*p.command, "run", *map(str, words), self.stage.tag, *(command or s.get("command") or [])], stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)
        return self

    def pid(self):
        return int(self.stage.podman("inspect", "--format", "{{.State.Pid}}", self.id).stdout)

    def exec(self, *command):
        return self.stage.podman("exec", self.id, *command, check=False, timeout=60)

    def stop(self):
        start = time.monotonic()
        self.stage.podman("stop", "--time", container.seconds(self.service["stop_grace_period"]), self.id)
        return self.process.wait(60), time.monotonic() - start

    def close(self):
        if self.process.poll() is None:
            self.stage.podman("kill", self.id, check=False)
            self.process.wait()
        self.stage.podman("rm", "-f", self.id, check=False)
        self.out.close()
