"""Where a page's blocks run: a folder that looks like the top of the repository, a home of its own, one shell and one Python for a page.

What a block finds: `weft`, `weft-gateway` and `weft-engine` on the PATH, the tree's files in the working folder (links: what a block writes lies
beside them), HOME empty but for what earlier pages left. curl takes an HTTP error for a failure (~/.curlrc). A command that fails ends the page.
"""
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages import TOP

BLOCK_S = 60  # for a block, everyday
LONG_S = 1500  # with make docs-check: installs and trains
START_S = 180

PYTHON = """
import sys, traceback
names = {"__name__": "__main__"}
for path in sys.stdin:
    path = path.strip()
    with open(path + ".out", "w") as out:
        sys.stdout = sys.stderr = out
        try:
            exec(compile(open(path).read(), path, "exec"), names)
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    print(code, flush=True)
"""


class Failed(AssertionError):
    pass


def end(process, kind=signal.SIGTERM):
    """Ends a process that leads a group, and the group."""
    for sig in (kind, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            pass
        try:
            process.wait(30)
            return
        except subprocess.TimeoutExpired:
            continue


class Place:
    """The folder and the environment. Short, for a socket's path has 107 bytes at most."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="wd.", dir="/tmp"))
        self.home, self.work = self.folder / "h", self.folder / "weft"
        self.home.mkdir()
        self.work.mkdir()
        for entry in TOP.iterdir():
            if entry.name != ".git":
                (self.work / entry.name).symlink_to(entry)
        (self.home / ".curlrc").write_text("fail-with-body\nshow-error\n")
        self.bin = Path(os.environ.get("WEFT_BIN", TOP / "build/release"))
        cache = os.environ.get("WEFT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft"
        self.env = {
            "HOME": str(self.home), "PATH": f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8", "WEFT_CACHE": str(cache),
            "WEFT_LISTEN": "127.0.0.1:0", "WEFT_ADMIN_LISTEN": "127.0.0.1:0", "WEFT_DEVICE": "cpu", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR") or str(Path.home() / ".cache/pip"),
            **{k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_", "http", "HTTP", "no_proxy", "NO_PROXY", "REQUESTS_", "NODE_EXTRA"))},
        }
        self.staying = []
        self.count = 0

    def write(self, text, suffix):
        self.count += 1
        path = self.folder / f"block{self.count}{suffix}"
        path.write_text(text)
        return path

    def stay(self, block, env=None):
        """Starts a block that stays, and waits for the words that it is to print."""
        path = self.write(block.text, ".sh")
        out = Path(f"{path}.out")
        with open(out, "wb") as to:
            process = subprocess.Popen(["bash", "-e", path], cwd=self.work, env=env or self.env, stdin=subprocess.DEVNULL, stdout=to, stderr=to, start_new_session=True)
        self.staying.append(process)
        until = time.monotonic() + START_S
        while block.marks["until"] not in out.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"{block}: no {block.marks['until']!r} in\n{out.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
        return process, out.read_text(errors="replace")

    def close(self):
        for process in reversed(self.staying):
            try:
                os.kill(process.pid, signal.SIGTERM)
                process.wait(40)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
            end(process)
        shutil.rmtree(self.folder, ignore_errors=True)


class Session:
    """One page."""

    def __init__(self, place, long=False):
        self.place, self.limit = place, LONG_S if long else BLOCK_S
        self.env, self.python, self.stayed = dict(place.env), None, []
        self.shell = self._start(["bash", "--norc", "--noprofile"])
        self.shell.stdin.write("set -e -o pipefail\nset +m\n")

    def _start(self, command):
        return subprocess.Popen(command, cwd=self.place.work, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def _line(self, process, block, out):
        """The line that says how a block ended, or None where the process did."""
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self.limit)
        if not ready:
            raise Failed(f"{block}: longer than {self.limit} s\n{out.read_text(errors='replace')[-3000:]}")
        return process.stdout.readline().strip() or None

    def _sh(self, block):
        path = self.place.write(block.text, ".sh")
        out = Path(f"{path}.out")
        if "fails" in block.marks:
            self.shell.stdin.write(f'( . "{path}" ) >"{out}" 2>&1 </dev/null && echo 0 || echo $?\n')
            code = self._line(self.shell, block, out)
        else:
            self.shell.stdin.write(f'. "{path}" >"{out}" 2>&1 </dev/null\nenv -0 >"{path}.env"\necho 0\n')
            code = self._line(self.shell, block, out) or str(self.shell.wait(10))
        printed = out.read_text(errors="replace") if out.exists() else ""
        if code != block.marks.get("fails", "0"):
            raise Failed(f"{block}: exit status {code}\n{block.text}--\n{printed[-3000:]}")
        if "fails" not in block.marks:
            pairs = Path(f"{path}.env").read_text(errors="replace").split("\0")
            self.env = dict(p.split("=", 1) for p in pairs if "=" in p)
        return printed

    def _python(self, block):
        path = self.place.write(block.text, ".py")
        out = Path(f"{path}.out")
        if self.python is None:
            self.python = self._start(["python3" if shutil.which("python3", path=self.env["PATH"]) is None else shutil.which("python3", path=self.env["PATH"]), "-u", "-c", PYTHON])
        self.python.stdin.write(f"{path}\n")
        code = self._line(self.python, block, out)
        if code != "0":
            raise Failed(f"{block}: {code}\n{out.read_text(errors='replace')[-3000:]}")
        return out.read_text(errors="replace")

    def _js(self, block):
        path = self.place.write(block.text, ".mjs")
        done = subprocess.run(["node", path], cwd=self.place.work, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=self.limit)
        if done.returncode != 0:
            raise Failed(f"{block}: exit status {done.returncode}\n{done.stdout[-3000:]}")
        return done.stdout

    def run(self, block):
        """What the block printed; Failed says what went wrong."""
        if "until" in block.marks:
            process, printed = self.place.stay(block, self.env)
            self.stayed.append(process)
            return printed
        return {"sh": self._sh, "python": self._python, "js": self._js}[block.language](block)

    def close(self):
        for p in [self.shell, self.python]:
            if p is not None:
                end(p, signal.SIGKILL)
        for p in self.stayed:
            os.kill(p.pid, signal.SIGTERM)
            p.wait(40)
            self.place.staying.remove(p)
