"""What a process gives up before it works on a stranger's bytes. It imports nothing of ours, and is a program too:

    python -I -S confine.py PARENT_PID CPU_S MEMORY_BYTES FILE_BYTES PROGRAM ARGUMENT...

limits itself and becomes PROGRAM, an absolute path, which then has no network and no second process, cannot leave its
process group, opens no file but its own libraries, its standard input and its standard output, and dies with the thread
that started it. A `preexec_fn` would run Python between fork and exec, which may deadlock in a process with threads.

Seccomp filters (seccomp(2)) and Landlock (landlock(7)) need no rights and no namespaces, so they hold for root, for
others and in containers alike. Where the kernel has not got one of them the rest still holds; `missing` says which.
Linux only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import struct
import sys

TYPE_CHECKING = False  # every import below is a millisecond of each ffmpeg's start
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import NoReturn

CANNOT_CONFINE = 125  # exit status: a limit that this kernel has could not be set
CANNOT_EXECUTE = 127

# Each of these is refused with EPERM. glibc's threads come from clone(CLONE_THREAD), which stays.
NETWORK = ("socket", "socketpair", "io_uring_setup")
GROUP = ("setsid", "setpgid")
PROCESSES = ("fork", "vfork", "clone", "clone3")

_PR_SET_PDEATHSIG, _PR_GET_SECCOMP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 21, 22, 38
_CLONE_THREAD = 0x10000
_SIGKILL = 9

# linux/audit.h, and each machine's asm/unistd.h; aarch64 has neither fork nor vfork.
_MACHINES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41,
            "socketpair": 53,
            "io_uring_setup": 425,
            "setsid": 112,
            "setpgid": 109,
            "fork": 57,
            "vfork": 58,
            "clone": 56,
            "clone3": 435,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198,
            "socketpair": 199,
            "io_uring_setup": 425,
            "setsid": 157,
            "setpgid": 154,
            "clone": 220,
            "clone3": 435,
        },
    ),
}

# linux/landlock.h
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV  # the rights that a file, too, can have
_RIGHTS_SINCE = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL_DEV}  # by version of its interface
READ = READ_FILE | READ_DIR
EVERYTHING = (1 << 16) - 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # system calls, on every machine
_RULE_PATH_BENEATH = 1

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/bin")


class CannotConfine(OSError):
    """The kernel has this limit and refused to set it."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.syscall.restype = ctypes.c_long


def missing() -> tuple[str, ...]:
    """Which of seccomp and Landlock this kernel lacks, or does not let us use."""
    seccomp = os.uname().machine in _MACHINES and _libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0
    return tuple(name for name, there in (("seccomp", seccomp), ("Landlock", _landlock_version() > 0)) if not there)


def die_with_parent(parent_pid: int, number: int) -> None:
    """Has the kernel send us a signal when the thread that started us ends.

    Raises:
        CannotConfine: prctl failed.
        ProcessLookupError: the parent has ended already.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        raise ProcessLookupError(errno.ESRCH, "the parent has ended")


def limit(limits: Mapping[int, int]) -> None:
    """Lowers resource limits, by RLIMIT_ number; one that is lower already stays."""
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        lowered = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (lowered, lowered))


def forbid(calls: Iterable[str]) -> None:
    """Refuses system calls to this thread, and to all that it starts, for good. Nothing where seccomp is missing.

    Raises:
        CannotConfine: the filter was not taken.
    """
    if "seccomp" in missing():
        return
    filter_bytes = _filter(os.uname().machine, calls)
    program = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
    header = struct.pack("@HP", len(filter_bytes) // 8, ctypes.addressof(program))  # struct sock_fprog
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(ctypes.create_string_buffer(header, len(header))))


def _filter(machine: str, calls: Iterable[str]) -> bytes:
    """The filter as classic BPF: instructions of (code, jump if true, jump if false, operand)."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000  # an errno is added to the last
    architecture, numbers = _MACHINES[machine]
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":  # x32's calls have numbers of their own
        code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, kill)]
    for name in calls:
        number = numbers.get(name)
        if number is None:
            continue
        if name == "clone":  # its flags are the first argument; a thread may be made
            code += [(equal, 0, 4, number), (load, 0, 0, 16), (any_bit, 0, 1, _CLONE_THREAD)]
            code += [(give, 0, 0, allow), (give, 0, 0, refuse | errno.EPERM)]
        else:  # of clone3 the flags cannot be seen; libc falls back to clone where it is unknown
            code += [(equal, 0, 1, number), (give, 0, 0, refuse | (errno.ENOSYS if name == "clone3" else errno.EPERM))]
    code.append((give, 0, 0, allow))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def see_only(rights: Mapping[str | int, int]) -> None:
    """Leaves of all files only these, by path or descriptor, to this thread and all that it starts, for good.

    With it go signals to, and ptrace of, processes outside. Paths that do not exist are passed over. Nothing where
    Landlock is missing.

    Raises:
        CannotConfine: the rules were not taken.
    """
    version = _landlock_version()
    if version <= 0:
        return
    handled = 0
    for since, right in _RIGHTS_SINCE.items():
        handled |= right if version >= since else 0
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals
    attributes = struct.pack("=QQQ", handled, 0, scoped)[: 24 if version >= 6 else 8]
    rules = _landlock(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    try:
        for place, right in rights.items():
            _allow(rules, place, right & handled)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _landlock(_LANDLOCK_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, place: str | int, rights: int) -> None:
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC) if isinstance(place, str) else os.dup(place)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        _landlock(_LANDLOCK_ADD, rules, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _landlock_version() -> int:
    return int(_libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def _landlock(call: int, *arguments: int | bytes) -> int:
    given = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    done = int(_libc.syscall(ctypes.c_long(call), *given))
    if done < 0:
        raise CannotConfine(ctypes.get_errno(), f"Landlock's system call {call} failed")
    return done


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    if _libc.prctl(option, value, pointer, 0, 0) != 0:
        raise CannotConfine(ctypes.get_errno(), f"prctl({option}) failed")


def _become(parent_pid: int, limits: Mapping[int, int], program: str, arguments: list[str]) -> None:
    die_with_parent(parent_pid, _SIGKILL)
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(program))), "lib")
    visible: dict[str | int, int] = dict.fromkeys((*_LIBRARIES, beside), READ | EXECUTE)
    visible |= {program: READ_FILE | EXECUTE, "/etc/ld.so.cache": READ_FILE}
    visible |= {"/dev/null": READ_FILE | WRITE_FILE, "/dev/urandom": READ_FILE}
    for descriptor, right in ((0, READ_FILE), (1, READ_FILE | WRITE_FILE | _TRUNCATE)):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            visible[descriptor] = right
    see_only(visible)
    forbid(NETWORK + GROUP + PROCESSES)
    limit(limits)  # last: of memory this interpreter, too, needs some
    os.execv(program, [program, *arguments])  # noqa: S606  no shell is wanted


def main() -> NoReturn:
    parent_pid, cpu_s, memory_bytes, file_bytes = (int(text) for text in sys.argv[1:5])
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    status = CANNOT_EXECUTE
    try:
        _become(parent_pid, limits, sys.argv[5], sys.argv[6:])
    except CannotConfine as error:
        status = CANNOT_CONFINE
        os.write(2, f"{error}\n".encode())
    except OSError as error:
        os.write(2, f"{error}\n".encode())
    sys.exit(status)


if __name__ == "__main__":
    main()
