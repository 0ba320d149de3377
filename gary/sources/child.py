"""The fetching process: `python -m gary.sources.child`, a job on standard input, messages on standard output.

It confines itself before it loads the downloader, and it never ends by itself once it has answered: the parent
kills its whole process group, whose id therefore cannot have passed to another, and which nobody can leave.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import sys
from typing import NoReturn, TextIO

import gary
from gary.audio import confine
from gary.config import MIB
from gary.logs import JsonLines
from gary.sources.guard import Guard
from gary.sources.protocol import Done, Downloaded, Failed, Job

# Of data, not of address space: V8 reserves far more addresses than it uses. deno does not start with 512 MiB.
_DATA_BYTES = 512 * MIB
_DATA_WITH_DENO_BYTES = 2048 * MIB
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys")  # of other processes /proc shows no secrets then
_PACKAGE = os.path.dirname(os.path.abspath(gary.__file__))
_DEVICE = confine.READ_FILE | confine.WRITE_FILE
_FILE_SLACK_BYTES = 16 * MIB  # the progress hook refuses first; this is what holds where it is not asked


def _take_standard_output() -> TextIO:
    """Keeps standard output for messages alone; what anybody prints goes to the log."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return channel


def _die_with_parent(parent_pid: int) -> None:
    """Takes the whole group along when the parent dies, JavaScript runtime included."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: os.killpg(0, signal.SIGKILL))
    try:
        confine.die_with_parent(parent_pid, signal.SIGTERM)
    except ProcessLookupError:
        os.killpg(0, signal.SIGKILL)


def _confine(job: Job) -> None:
    """Limits resources, stays in its group, and leaves of all files the interpreter, the system's and the job's own."""
    confine.limit(
        {
            resource.RLIMIT_CPU: math.ceil(job.timeout_s),
            resource.RLIMIT_DATA: _DATA_BYTES if job.deno_path is None else _DATA_WITH_DENO_BYTES,
            resource.RLIMIT_FSIZE: job.download_bytes + _FILE_SLACK_BYTES,
            resource.RLIMIT_NOFILE: 256,
            resource.RLIMIT_CORE: 0,
        }
    )
    confine.forbid(confine.GROUP)
    visible: dict[str | int, int] = dict.fromkeys(_SYSTEM, confine.READ | confine.EXECUTE)
    # The resolver's settings are often a link to somewhere else.
    visible |= dict.fromkeys(
        (sys.prefix, sys.base_prefix, _PACKAGE, os.path.realpath("/etc/resolv.conf")), confine.READ
    )
    visible |= dict.fromkeys(("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"), _DEVICE)
    if job.deno_path is not None:
        visible[str(job.deno_path)] = confine.READ_FILE | confine.EXECUTE
    confine.see_only(visible | {str(job.job_dir): confine.EVERYTHING & ~confine.EXECUTE})


def main() -> NoReturn:
    channel = _take_standard_output()

    def send(message: Downloaded | Done | Failed) -> None:
        channel.write(message.model_dump_json() + "\n")

    job = Job.model_validate_json(sys.stdin.buffer.read())
    _die_with_parent(job.parent_pid)
    _confine(job)
    log = logging.StreamHandler()
    log.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[log])
    sys.addaudithook(Guard(job.listed_address, None if job.deno_path is None else str(job.deno_path), job.hosts))

    from gary.sources.download import download

    send(download(job, send))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
