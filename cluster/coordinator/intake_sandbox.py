"""The walls around the process that opens volunteers' uploads; each one is put up where the kernel offers it.

From the outside in: limits on memory, processor time, file size, open files and processes (setrlimit); no new
privileges; a network namespace of its own, so no network; Landlock (Linux 5.13) with no rule, so no path can be opened
any more; death with its supervisor. Numbers: linux/prctl.h, linux/sched.h, linux/landlock.h, the syscall table.
What it does not do: filter system calls (a library for seccomp would come here).

Invariants: nothing raises when a wall is not offered; what is returned holds for the whole process; call
``leave_network`` before and ``confine`` after every import, because nothing can be opened afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_ALL_OF_ABI_1 = (1 << 13) - 1
_MAX_OPEN_FILES = 64
_MEMORY_FLOOR_NBYTES = 768 << 20
_MEMORY_FACTOR = 8  # inflated columns, their filtered copy, the Parquet file, allocator slack: measured below 5


def leave_network() -> list[str]:
    """Enter a network namespace without interfaces; needs a process of one thread, so call it before heavy imports."""
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    left = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWNET) == 0
    return ["no network"] if left else []


def confine() -> list[str]:
    """Put up what lasts for the life of the process; returns the names of the walls that stand."""
    walls = _linux_walls() if sys.platform == "linux" else []
    for name, limit in (("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", _MAX_OPEN_FILES), ("RLIMIT_NPROC", 0)):
        if _limit(name, limit, hard=True):
            walls.append(name)
    return walls


def _linux_walls() -> list[str]:
    walls = []
    alone = len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - the last walls hold for this thread only
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0:
        walls.append("dies with its supervisor")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and alone:
        walls.append("no new privileges")
    if _forbid_paths(libc) and alone:
        walls.append("no paths")
    return walls


def limit_job(max_nbytes: int, cpu_s: int) -> None:
    """Limits for the next upload: memory and file size by what it may inflate to, processor time from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit("RLIMIT_CPU", int(used.ru_utime + used.ru_stime) + 1 + cpu_s)
    _limit("RLIMIT_FSIZE", 2 * max_nbytes + (16 << 20))
    base = _virtual_nbytes()
    if base is not None:
        _limit("RLIMIT_AS", base + _MEMORY_FLOOR_NBYTES + _MEMORY_FACTOR * max_nbytes)


def _limit(name: str, soft: int, *, hard: bool = False) -> bool:
    number = getattr(resource, name, None)
    if number is None:
        return False
    _, ceiling = resource.getrlimit(number)
    soft = soft if ceiling == resource.RLIM_INFINITY else min(soft, ceiling)
    try:
        resource.setrlimit(number, (soft, soft if hard else ceiling))
    except (OSError, ValueError):
        return False
    return True


def _forbid_paths(libc: ctypes.CDLL) -> bool:
    attributes = ctypes.create_string_buffer(struct.pack("=Q", _LANDLOCK_ALL_OF_ABI_1), 8)
    ruleset = libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    try:
        return bool(libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


_statm: int | None = None


def _virtual_nbytes() -> int | None:
    """Size of the address space now; the file is opened once, before paths are forbidden."""
    global _statm
    with contextlib.suppress(OSError):
        if _statm is None:
            _statm = os.open("/proc/self/statm", os.O_RDONLY)
        return int(os.pread(_statm, 64, 0).split()[0]) * resource.getpagesize()
    return None
