"""Runs a program that dies with the process that wants it, even where that one is killed: Linux tells it by SIGKILL.

    python -I -S leash.py PARENT_PID PROGRAM ARGUMENT...

A file of its own, run by path before the program takes its place: the alternative, code between fork and exec, may
deadlock in a parent with threads. The signal comes when the *thread* that started us ends (prctl(2), PR_SET_PDEATHSIG),
so that thread has to outlive us. Where there is no prctl, the program runs without a leash.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent_pid: int, command: list[str]) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent_pid:
            sys.exit("the parent died before the leash was on")
    os.execv(command[0], command)  # noqa: S606  that is what this file is for


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
