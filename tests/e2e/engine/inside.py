"""System calls from inside another process, as somebody who took it over would make them: what it may not do is tried, not read off its status. By ptrace, so
as root, on x86-64 alone; elsewhere the test is skipped."""

import ctypes
import os
import platform

import pytest

ATTACH, DETACH, GETREGS, SETREGS, STEP = 16, 17, 12, 13, 9
WALL = 0x40000000
NAMES = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs".split()
CALLS = {"open": 2, "socket": 41, "bind": 49, "listen": 50, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "rename": 82, "mkdir": 83, "unlink": 87, "symlink": 88, "ptrace": 101,
         "prctl": 157, "tgkill": 234, "clone": 56}


class Regs(ctypes.Structure):
    _fields_ = [(n, ctypes.c_ulonglong) for n in NAMES]


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(what, pid, data=None):
    if libc.ptrace(what, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def syscall_instruction(pid):
    """Where in the process's libc one stands: the process itself may stand anywhere when it is stopped."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            place, rights, *_, path = line.split(maxsplit=5)
            if "x" in rights and "/libc.so" in path:
                begin, end = (int(x, 16) for x in place.split("-"))
                mem.seek(begin)
                return begin + mem.read(end - begin).index(b"\x0f\x05")
    raise AssertionError("a process without libc")


class Inside:
    """Between `with` and its end the process stands still."""

    def __init__(self, pid):
        if platform.machine() != "x86_64":
            pytest.skip("system calls are put into processes on x86-64 alone")
        self.pid = pid

    def __enter__(self):
        self.instruction = syscall_instruction(self.pid)
        try:
            ptrace(ATTACH, self.pid)
        except PermissionError:
            pytest.skip("no right to look into a process")
        os.waitpid(self.pid, WALL)
        self.was = Regs()
        ptrace(GETREGS, self.pid, ctypes.addressof(self.was))
        return self

    def __exit__(self, *_):
        ptrace(SETREGS, self.pid, ctypes.addressof(self.was))
        ptrace(DETACH, self.pid)

    def call(self, name, *args):
        """What the call returned, an error as its negative number. Text and bytes are laid below the stack."""
        regs, at = Regs.from_buffer_copy(self.was), (self.was.rsp - 16384) & ~15
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as mem:
            for place, a in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), args):
                if isinstance(a, (str, bytes, os.PathLike)):
                    text = os.fsencode(a) + b"\0"
                    mem.seek(at)
                    mem.write(text)
                    a, at = at, at + (len(text) + 15 & ~15)
                setattr(regs, place, a & (1 << 64) - 1)
        regs.rax, regs.orig_rax, regs.rip = CALLS[name], (1 << 64) - 1, self.instruction
        ptrace(SETREGS, self.pid, ctypes.addressof(regs))
        ptrace(STEP, self.pid)
        os.waitpid(self.pid, WALL)
        ptrace(GETREGS, self.pid, ctypes.addressof(regs))
        return ctypes.c_longlong(regs.rax).value
