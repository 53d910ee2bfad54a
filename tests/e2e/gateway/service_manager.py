"""A parent that holds a gateway as a service manager does: it opens the listening sockets, hands them over, and hears what the gateway tells."""

import contextlib
import ctypes
import os
import re
import socket
import subprocess
import sys

import httpx

from gateway_process import ENGINE, FAKE, PROGRAM, START_S, Gateway, until

# The new process puts its sockets where the protocol wants them and names itself as the one who is meant.
HAND_OVER = """
import os, sys
n = int(sys.argv[1])
fds = [int(x) for x in sys.argv[2:2 + n]]
high = [os.dup2(fd, 100 + i, inheritable=False) for i, fd in enumerate(fds)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ.pop("PID_OFF", "0")))
os.environ["LISTEN_FDS"] = str(n)
os.execv(sys.argv[2 + n], sys.argv[2 + n:])
"""


PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 17, 0x4206, 0x4207, 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, thread):
    if LIBC.ptrace(request, thread, None, None):
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")


@contextlib.contextmanager
def standing(pid):
    """All threads of a child but its first stand still, as threads that hang do."""
    threads = [int(t) for t in os.listdir(f"/proc/{pid}/task") if int(t) != pid]
    for t in threads:
        ptrace(PTRACE_SEIZE, t)
        ptrace(PTRACE_INTERRUPT, t)
    for t in threads:
        os.waitpid(t, WALL)
    try:
        yield
    finally:
        for t in threads:
            ptrace(PTRACE_DETACH, t)


class Notify:
    """The manager's end of NOTIFY_SOCKET."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.messages = []

    def read(self):
        """All messages so far, each a dict; the lines of one datagram belong together."""
        try:
            while True:
                text = self.socket.recv(4096).decode()
                self.messages.append(dict(line.split("=", 1) for line in text.split("\n")))
        except BlockingIOError:
            pass
        return self.messages

    def has(self, name, value="1"):
        return [m for m in self.read() if m.get(name) == value]


class Held(Gateway):
    """A gateway on sockets that outlive it."""

    def __init__(self, folder, *args, names="public:admin", env=None, wait=True, **kw):
        self.sockets, self.names, self.wait = [], names, wait
        for _ in range(names.count(":") + 1 if names else 2):
            s = socket.socket()
            s.bind(("127.0.0.1", 0))
            s.listen(1024)
            self.sockets.append(s)
        folder.mkdir(parents=True, exist_ok=True)
        self.notify = Notify(folder)
        super().__init__(folder, *args, env={"NOTIFY_SOCKET": self.notify.path, **({"LISTEN_FDNAMES": names} if names else {}), **(env or {})}, **kw)

    def spawn(self):
        """Starts the process and returns at once."""
        ports = self.folder / "ports.env"
        ports.unlink(missing_ok=True)
        fds = [s.fileno() for s in self.sockets]
        command = [sys.executable, "-c", HAND_OVER, len(fds), *fds, PROGRAM, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", self.data,
                   "--ports-file", ports, "--model", self.model, "--engine", FAKE if self.fake else ENGINE] + self.args
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(c) for c in command], stderr=log, stdout=log, stdin=subprocess.DEVNULL, pass_fds=fds,
                                            env={**os.environ, **self.env})
        return ports

    def start(self, ready=True):
        ports = self.spawn()
        if not self.wait:
            return
        until(lambda: ports.exists() or self.process.poll() is not None, START_S, "the ports file")
        if self.process.poll() is not None:
            assert not ready, f"exit {self.process.returncode}:\n{self.tail()}"
            return
        text = ports.read_text()
        self.url = re.search(r"WEFT_URL='(.*)'", text).group(1)
        self.admin_url = re.search(r"WEFT_ADMIN_URL='(.*)'", text).group(1)
        self.admin = httpx.Client(base_url=self.admin_url, headers={"Authorization": f"Bearer {self.admin_key}"}, timeout=30)

    def restart(self):
        self.stop()
        self.start()

    def close(self):
        super().close()
        for s in self.sockets:
            s.close()


def wait_line(gateway, words, timeout=20):
    """The first line of the log with all the words."""
    def find():
        return [x for x in gateway.log.read_text().splitlines() if all(w in x for w in words)]
    return until(find, timeout, f"a line with {words}")[0]
