"""A Dockerfile's steps, done without a container engine: each stage is a folder that begins as a copy of the base's root, each RUN a chroot into it.

What our files use is done as Docker does it, anything else is refused: FROM with a name, ARG, ENV, LABEL, WORKDIR, COPY of files and folders (--from), RUN, USER,
EXPOSE, HEALTHCHECK, CMD. Needs root. RUN has the machine's network and its own mounts and processes, which end with it."""

import io
import json
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from dockerfile_parse import DockerfileParser

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]


def steps(path):
    """(line, instruction, value) of each step; lines that go on are one."""
    parser = DockerfileParser(fileobj=io.BytesIO(Path(path).read_bytes()))
    return [(s["startline"] + 1, s["instruction"], s["value"]) for s in parser.structure if s["instruction"] != "COMMENT"]


def filled(text, values):
    """${NAME} and $NAME replaced."""
    def value(m):
        name = m.group(1) or m.group(2)
        if name not in values:
            raise ValueError(f"{name} in '{text}' has no value")
        return values[name]
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", value, text)


def words(value):
    """The exec form's words, or those of a shell."""
    return json.loads(value) if value.startswith("[") else ["/bin/sh", "-c", value]


def mounts(root):
    """Shell lines that give a root /proc, /sys and a /dev with what a container has of it."""
    q = shlex.quote(str(root))
    lines = ["mount --make-rprivate /", f"mount --bind {q} {q}", f"mount -t proc -o nosuid,nodev,noexec proc {q}/proc", f"mount -t sysfs -o ro,nosuid,nodev,noexec sysfs {q}/sys",
             f"mount -t tmpfs -o mode=755,size=64k tmpfs {q}/dev"]
    for d in DEVICES:
        lines.append(f": >{q}/dev/{d}; mount --bind /dev/{d} {q}/dev/{d}")
    return [*lines, f"mkdir {q}/dev/shm; mount -t tmpfs -o mode=1777,size=64m tmpfs {q}/dev/shm", f"ln -s /proc/self/fd {q}/dev/fd",
            f"mkdir {q}/dev/pts; mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts {q}/dev/pts; ln -s pts/ptmx {q}/dev/ptmx"]


class Stage:
    def __init__(self, root, values):
        self.root, self.args, self.env = root, {}, {"PATH": PATH}
        self.values = values  # of ARGs before the first FROM, and of the command line
        self.workdir, self.user = "/", "0:0"
        self.cmd = self.health = None
        self.health_flags, self.ports, self.labels = {}, [], {}

    def inherit(self, other):
        self.env, self.workdir, self.user, self.cmd, self.health = dict(other.env), other.workdir, other.user, other.cmd, other.health

    def within(self, path):
        return self.root / str(Path(self.workdir) / path).lstrip("/")


class Builder:
    def __init__(self, dockerfile, context, base, folder, args=None, instead=None, say=print, again=False, made=None):
        """`instead` maps a word of a RUN that can't be done here to a folder of the machine's that is bound under the same path in the stage's RUNs
        from there on, or to None: then the build ends there, and what is left is told. `again`: the folders are there, only the settings are read.
        `made`: objects of the same sources, made by the same step of another file: what make finds up to date it does not compile a second time."""
        self.steps, self.context, self.base, self.folder = steps(dockerfile), Path(context), Path(base), Path(folder)
        self.given, self.instead, self.say, self.again, self.made = args or {}, instead or {}, say, again, made
        self.stages, self.values, self.bound, self.done, self.not_done = {}, {}, [], 0, []

    def build(self):
        stage = None
        for i, (line, instruction, value) in enumerate(self.steps):
            start = time.monotonic()
            found = [w for w in self.instead if instruction == "RUN" and w in value]
            if found:
                self.not_done.append((line, value))
                folder = self.instead[found[0]]
                if not folder:
                    self.not_done += [(n, f"{k} {v}") for n, k, v in self.steps[i + 1:]]
                    return None
                self.bound.append(folder)
                self.say(f"{line:4} not done, {folder} of this machine instead: {value[:90]}")
                continue
            if stage is None and instruction == "ARG":
                self.values |= self.argument(value)
            elif instruction == "FROM":
                stage = self.begin(value)
            elif not (self.again and instruction in ("COPY", "RUN")):
                getattr(self, f"do_{instruction.lower()}")(stage, value)
            self.done += 1
            self.say(f"{line:4} {time.monotonic() - start:6.1f} s  {instruction} {value[:110]}")
        return stage

    def argument(self, value):
        name, _, default = value.partition("=")
        return {name: self.given.get(name, self.values.get(name, default))}

    def begin(self, value):
        m = re.fullmatch(r"(\S+)(?: AS (\S+))?", filled(value, self.values))
        name = m.group(2) or "result"
        stage = Stage(self.folder / name, self.values)
        of = self.stages.get(m.group(1))
        if not self.again:
            shutil.rmtree(stage.root, ignore_errors=True)
            stage.root.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--reflink=auto", of.root if of else self.base, stage.root], check=True)
        if of:
            stage.inherit(of)
        self.bound = []
        self.stages[name] = stage
        return stage

    def do_arg(self, stage, value):
        stage.args |= self.argument(value)

    def do_env(self, stage, value):
        stage.env |= dict(w.split("=", 1) for w in shlex.split(filled(value, stage.env | stage.args)))

    def do_label(self, stage, value):
        stage.labels |= dict(w.split("=", 1) for w in shlex.split(filled(value, stage.env | stage.args)))

    def do_workdir(self, stage, value):
        stage.workdir = str(Path(stage.workdir) / value)
        stage.within(".").mkdir(parents=True, exist_ok=True)

    def do_user(self, stage, value):
        assert re.fullmatch(r"\d+:\d+", value), "a user by number"
        stage.user = value

    def do_expose(self, stage, value):
        stage.ports += [int(p) for p in value.split()]

    def do_cmd(self, stage, value):
        stage.cmd = words(value)

    def do_healthcheck(self, stage, value):
        flags, command = value.split(" CMD ", 1)
        stage.health_flags, stage.health = dict(re.findall(r"--([\w-]+)=(\S+)", flags)), words(command.strip())

    def do_copy(self, stage, value):
        parts = value.split()
        source = self.context
        if parts[0].startswith("--from="):
            source = self.stages[parts.pop(0).removeprefix("--from=")].root
        assert not any(p.startswith("--") for p in parts), value
        *names, target = parts
        into = stage.within(target)
        for name in names:
            path = source / name.lstrip("/")
            if path.is_dir() or target.endswith("/") or into.is_dir():
                into.mkdir(parents=True, exist_ok=True)
            else:
                into.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-dR", "--preserve=mode,timestamps,links", f"{path}/." if path.is_dir() else path, into], check=True)

    def do_run(self, stage, value):
        root, q = stage.root, shlex.quote
        if self.made and self.made.exists() and value.startswith("make "):
            self.say(f"     with the objects that are there of {self.made}")
            subprocess.run(["cp", "-a", self.made, stage.within(".")], check=True)
        lines = mounts(root)
        for name in ("resolv.conf", "hosts"):
            (root / "etc" / name).touch()
            lines.append(f"mount --bind -o ro /etc/{name} {q(str(root))}/etc/{name}")
        for folder in self.bound:
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --rbind -o ro {q(folder)} {q(str(root) + folder)}")
        env = {"HOME": "/root", **stage.env, **stage.args}
        command = ["env", "-i", "-C", stage.workdir, *(f"{k}={v}" for k, v in env.items()), *words(value)]
        lines.append(f"exec chroot {q(str(root))} {shlex.join(command)}")
        done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", "\n".join(lines)], stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"RUN ended with {done.returncode}: {value}")
