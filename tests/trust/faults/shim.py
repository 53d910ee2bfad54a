"""Steers tests/trust/faults/shim.c: a program whose calls fail, stop short or come late on request, whose memory runs out and whose clock is set.

    with Shim(folder, "weft-gateway") as shim:
        g = Gateway(folder, fake=True, env=shim.env())
        with shim.rule("pwrite fdatasync", error=errno.ENOSPC, path="*/weft.db*") as full:
            ...
        assert full.done
        shim.clock(hours=-1)

A rule is in force as long as its block; what it counted can be read after it."""
import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import trust

CALLS = ("read", "write", "pread", "pwrite", "writev", "send", "recv", "fdatasync", "fsync", "ftruncate", "open", "rename", "mkdir", "unlink", "accept", "malloc")
KINDS = {"": 0, "file": 1, "socket": 2, "other": 4}
MAGIC, RULES = 0x77656674, 32
DISK = "write pwrite writev fdatasync fsync ftruncate"  # what a full or failing disk refuses


class _Rule(ctypes.Structure):
    _fields_ = [("armed", ctypes.c_uint32), ("calls", ctypes.c_uint32), ("kinds", ctypes.c_uint32), ("error", ctypes.c_int32), ("from_", ctypes.c_int64),
                ("times", ctypes.c_int64), ("delay_us", ctypes.c_int64), ("short_to", ctypes.c_int64), ("seen", ctypes.c_int64), ("done", ctypes.c_int64),
                ("path", ctypes.c_char * 128)]


class _Page(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_uint32), ("any", ctypes.c_uint32), ("clock_us", ctypes.c_int64), ("pid", ctypes.c_int64), ("rule", _Rule * RULES)]


def library():
    """The shim, built if need be. Always the release build of the tree that this file is in: it is no part of what is tested."""
    subprocess.run(["make", "-s", "build/release/tests/trust/shim.so"], cwd=trust.TOP, check=True, capture_output=True, timeout=300)
    return trust.TOP / "build/release/tests/trust/shim.so"


class Rule:
    def __init__(self, shim, at):
        self.shim, self.at = shim, at

    @property
    def _raw(self):
        return self.shim.page.rule[self.at]

    @property
    def seen(self):
        return self._raw.seen

    @property
    def done(self):
        return self._raw.done

    def end(self):
        self._raw.armed = 0
        self.shim.page.any = int(any(r.armed for r in self.shim.page.rule))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Shim:
    def __init__(self, folder, program):
        self.path, self.program, self.next = Path(folder) / f"faults-{program}", program, 0
        self.path.write_bytes(bytes(ctypes.sizeof(_Page)))
        self.file = open(self.path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), ctypes.sizeof(_Page))
        self.page = _Page.from_buffer(self.map)
        self.page.magic = MAGIC

    def env(self, asan=False):
        """For the program's environment. asan: it is built with ASan, whose runtime asks to be first."""
        more = {"ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=1:abort_on_error=0:exitcode=77"} if asan else {}
        return {"LD_PRELOAD": str(library()), "WEFT_FAULTS": str(self.path), "WEFT_FAULTS_IN": self.program, **more}

    def rule(self, calls, error=0, path="", kind="", at=0, times=-1, delay_us=0, short_to=0):
        """calls: words of CALLS. path: a pattern; of malloc, of the library that asks. at, times: which of the matching calls, counted from 0. error 0 and no delay: transfers are halved, or at most `short_to` bytes."""
        i, self.next = self.next % RULES, self.next + 1
        r = self.page.rule[i]
        r.armed = 0
        r.calls, r.kinds, r.error = sum(1 << CALLS.index(c) for c in calls.split()), KINDS[kind], error
        r.from_, r.times, r.delay_us = at, times, delay_us
        r.short_to = short_to if short_to or error or not delay_us else 1 << 62  # a delay alone shortens nothing
        r.path, r.seen, r.done = os.fsencode(path), 0, 0
        r.armed = self.page.any = 1
        return Rule(self, i)

    def clock(self, seconds=0, hours=0, days=0):
        """The program's wall clock from now on, off the machine's by so much."""
        self.page.clock_us = int((seconds + 3600 * hours + 86400 * days) * 1e6)

    @property
    def pid(self):
        """Of the program that runs with it; 0: none has mapped it, so nothing would be tested."""
        return self.page.pid

    def close(self):
        self.page = None
        self.map.close()
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
