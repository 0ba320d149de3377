"""The fetching process: `python -m gary.sources.child`, a job on standard input, messages on standard output.

It confines itself before it loads the downloader, and it never ends by itself once it has answered: the parent
kills its whole process group, whose id therefore cannot have passed to another. Linux only (prctl).
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import resource
import signal
import sys
from typing import NoReturn, TextIO

from gary.config import MIB
from gary.sources.guard import Guard
from gary.sources.protocol import Done, Downloaded, Failed, Job

_PR_SET_PDEATHSIG = 1
# Of data, not of address space: V8 reserves far more addresses than it uses. deno does not start with 512 MiB.
_DATA_BYTES = 512 * MIB
_DATA_WITH_DENO_BYTES = 2048 * MIB
_FILE_SLACK_BYTES = 16 * MIB  # the progress hook refuses first; this is what holds where it is not asked


def _take_standard_output() -> TextIO:
    """Keeps standard output for messages alone; what anybody prints goes to the log."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return channel


def _die_with_parent(parent_pid: int) -> None:
    """Takes the whole group along when the parent dies, JavaScript runtime included."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: os.killpg(0, signal.SIGKILL))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before prctl
        os.killpg(0, signal.SIGKILL)


def _limit_resources(job: Job) -> None:
    cpu_s = math.ceil(job.timeout_s)
    for limit, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_DATA, _DATA_BYTES if job.deno_path is None else _DATA_WITH_DENO_BYTES),
        (resource.RLIMIT_FSIZE, job.download_bytes + _FILE_SLACK_BYTES),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        lowered = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (lowered, lowered))


def main() -> NoReturn:
    channel = _take_standard_output()

    def send(message: Downloaded | Done | Failed) -> None:
        channel.write(message.model_dump_json() + "\n")

    job = Job.model_validate_json(sys.stdin.buffer.read())
    _die_with_parent(job.parent_pid)
    _limit_resources(job)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    sys.addaudithook(Guard(job.listed_address, None if job.deno_path is None else str(job.deno_path)))

    from gary.sources.download import download

    send(download(job, send))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
