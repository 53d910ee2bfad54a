"""A service of a compose file, started from a root that image.py made: what Docker would make of read_only, user, cap_drop, no-new-privileges, tmpfs, volumes,
secrets and healthcheck, by util-linux' unshare, setpriv and nsenter. Memory, limits of processes and networks are not made: all share the caller's network, in
which each service's name is 127.0.0.1."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

from image import mounts


def project(files, values):
    """What Docker Compose makes of the files: one document, everything filled in, no short forms."""
    import compose

    program = Path(compose.__file__).with_name("docker-compose")
    command = [program, *(w for f in files for w in ("-f", f)), "config", "--format", "json"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], **values}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode or done.stderr:
        raise ValueError(done.stderr)
    # What goes through a shell again has its dollars doubled.
    return json.loads(done.stdout.replace("$$", "$"))


def seconds(text):
    return sum(int(n) * {"s": 1, "m": 60, "h": 3600}[u] for n, u in re.findall(r"(\d+)([smh])", text))


class Container:
    def __init__(self, name, project, stage, folder):
        """`folder`: where named volumes are kept."""
        self.name, self.stage, self.service = name, stage, project["services"][name]
        self.folder, self.project = Path(folder), project
        self.log = self.folder / f"{name}.log"
        assert (self.service["read_only"], self.service["cap_drop"], self.service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])

    def mounted(self):
        """(what, where, whether it is read-only) of volumes and secrets."""
        for v in self.service.get("volumes", []):
            source = Path(v["source"])
            if v["type"] == "volume":
                source = self.volume(v["source"], v["target"]) / v["volume"].get("subpath", "")
            yield source, v["target"], v.get("read_only", False)
        for s in self.service.get("secrets", []):
            yield Path(self.project["secrets"][s["source"]]["file"]), s["target"], True

    def volume(self, name, where):
        """A new volume begins as what the image has at its place, with its owner."""
        path = self.folder / "volumes" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", self.stage.root / where.lstrip("/"), path], check=True)
        return path

    def start(self, command=None):
        q, root = shlex.quote, self.stage.root
        lines = mounts(root)
        hosts = self.folder / "hosts"
        hosts.write_text("127.0.0.1 localhost " + " ".join(self.project["services"]) + "\n")
        for t in self.service.get("tmpfs", []):
            where, _, options = t.partition(":")
            lines.append(f"mount -t tmpfs -o nosuid,nodev,noexec,{options} tmpfs {q(str(root) + where)}")
        for what, where, read_only in [*self.mounted(), (hosts, "/etc/hosts", True)]:
            at = root / where.lstrip("/")
            at.parent.mkdir(parents=True, exist_ok=True)
            at.mkdir(exist_ok=True) if what.is_dir() else at.touch()
            lines.append(f"mount --bind {q(str(what))} {q(str(at))}")
            if read_only:
                lines.append(f"mount -o remount,bind,ro {q(str(at))}")
        lines.append(f"mount -o remount,bind,ro {q(str(root))}")
        command = command or self.service.get("command") or self.stage.cmd
        lines.append(f"exec chroot {q(str(root))} {shlex.join([*self.rights(), *command])}")
        self.out = open(self.log, "ab")
        self.process = subprocess.Popen(["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-euc", "\n".join(lines)],
                                        stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)
        return self

    def rights(self):
        uid, gid = self.stage.user.split(":")
        env = {"HOME": "/", **self.stage.env, **self.service.get("environment", {})}
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs",
                "env", "-i", "-C", "/", *(f"{k}={v}" for k, v in env.items())]

    def pid(self):
        """The first process of the container, as it is seen from here."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(found[0]) if found else None

    def exec(self, *command):
        inside = ["nsenter", "--target", str(self.pid()), "--mount", "--pid", "--ipc", "--root", *self.rights(), *command]
        return subprocess.run(inside, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def wait_healthy(self, check, seconds=120):
        """Asks as Docker does, only more often. Returns how long it took."""
        start = time.monotonic()
        while True:
            done = self.exec(*check)
            if done.returncode == 0:
                return time.monotonic() - start
            if self.process.poll() is not None or time.monotonic() > start + seconds:
                raise SystemExit(f"{self.name}: {check} said {done.returncode} {done.stderr}\n{self.log.read_text()[-4000:]}")
            time.sleep(0.25)

    def status(self):
        """What the kernel says of the first process."""
        return dict(line.split(":\t", 1) for line in Path(f"/proc/{self.pid()}/status").read_text().splitlines() if ":\t" in line)

    def stop(self):
        """SIGTERM, and as long as the compose file gives. Returns (exit status, seconds)."""
        start = time.monotonic()
        os.kill(self.pid(), signal.SIGTERM)
        code = self.process.wait(seconds(self.service["stop_grace_period"]))
        return code, time.monotonic() - start

    def close(self):
        if self.process.poll() is None:
            self.process.kill()  # and with it, all of the container
            self.process.wait()
        self.out.close()
