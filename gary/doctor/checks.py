"""The machine and its programs: each function looks at one thing, and judges it by numbers that stand above it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from gary.config import AppArgs
from gary.doctor.finding import Finding, fail, ok, warn
from gary.doctor.machine import Machine

GIB = 1024**3

# NVIDIA's table of CUDA 13's drivers; torch's wheels bring CUDA 13.0.
DRIVER_MIN = 580
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits")

# Ray and the service's processes take 4 GiB before the first model.
MEMORY_FAIL_BYTES, MEMORY_WARN_BYTES = 2 * GIB, 6 * GIB
DISK_FAIL_BYTES, DISK_WARN_BYTES = 2 * GIB, 20 * GIB
SHM_OF_MEMORY = 0.3  # what Ray's object store takes unless told otherwise
OPEN_FILES_FAIL, OPEN_FILES_WARN = 1024, 8192
YTDLP_WARN_DAYS, YTDLP_FAIL_DAYS = 30, 120  # sites change within weeks; a release a month is the least
DENO_MIN = (2, 3)
ENCODERS = ("libmp3lame", "libopus")


def gpu(machine: Machine, args: AppArgs) -> Finding:
    listed = machine.run(GPU_QUERY)
    if not listed:
        if args.engine.device == "cuda":
            return fail(
                "gpu",
                "none answers to nvidia-smi",
                "install NVIDIA's driver (and, for containers, its container toolkit)",
            )
        return ok("gpu", "none; the CPU decodes")
    cards = [[field.strip() for field in line.split(",")] for line in listed.strip().splitlines()]
    driver = cards[0][1]
    found = f"driver {driver}; " + ", ".join(f"{name} {used}/{total} MiB used" for name, _, total, used in cards)
    if int(driver.partition(".")[0]) < DRIVER_MIN:
        return fail("gpu", found, f"torch's CUDA 13 needs driver {DRIVER_MIN} or later: upgrade it")
    return ok("gpu", found)


def memory(machine: Machine) -> Finding:
    total, available = machine.memory_bytes()
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if available < MEMORY_FAIL_BYTES:
        return fail("memory", found, "Ray kills replicas at 95 %: stop something, or take a larger machine")
    if available < MEMORY_WARN_BYTES:
        return warn("memory", found, f"keep {MEMORY_WARN_BYTES // GIB} GiB and a model's weights free")
    return ok("memory", found)


def disk(machine: Machine, path: Path, what: str) -> Finding:
    """Args:
    what: is kept there.
    """
    free = machine.free_bytes(path)
    subject, found = f"disk {path}", f"{free / GIB:.1f} GiB are free for {what}"
    if free < DISK_FAIL_BYTES:
        return fail(subject, found, "make room: a full disk fails every task that needs a file")
    if free < DISK_WARN_BYTES:
        return warn(subject, found, f"make room: {DISK_WARN_BYTES // GIB} GiB are soon used")
    return ok(subject, found)


def shared_memory(machine: Machine) -> Finding:
    total, _ = machine.memory_bytes()
    size = machine.shm_bytes()
    found = f"{size / GIB:.1f} GiB in all"
    if size < SHM_OF_MEMORY * total:
        wanted = f"{SHM_OF_MEMORY * total / GIB:.0f}g"
        return warn("shared memory", found, f"Ray falls back to files, slowly: in Docker --shm-size={wanted}")
    return ok("shared memory", found)


def open_files(machine: Machine) -> Finding:
    soft, hard = machine.open_files()
    found, advice = f"{soft} a process (at most {hard})", "ulimit -n 65536 before Ray is started"
    if soft < OPEN_FILES_FAIL:
        return fail("open files", found, advice)
    return warn("open files", found, advice) if soft < OPEN_FILES_WARN else ok("open files", found)


def kernel(machine: Machine) -> Finding:
    lacking = machine.lacks()
    if lacking:
        return warn(
            "confinement",
            f"this kernel lacks {' and '.join(lacking)}",
            "ffmpeg and yt-dlp are less confined: take Linux 5.13 or later, and a runtime that lets it through",
        )
    return ok("confinement", "seccomp and Landlock")


def ffmpeg(machine: Machine) -> Finding:
    program = machine.ffmpeg()
    banner = machine.run((str(program), "-version")) if program else None
    if banner is None:
        return fail("ffmpeg", "none that runs", "apt-get install ffmpeg")
    version = re.search(r"version (\S+)", banner)
    found = f"{version[1] if version else 'of unknown version'} at {program}"
    encoders = machine.run((str(program), "-hide_banner", "-encoders")) or ""
    lacking = [name for name in ENCODERS if name not in encoders.split()]
    if lacking:
        return fail("ffmpeg", f"{found}, without {', '.join(lacking)}", "take Debian's ffmpeg, or imageio-ffmpeg's")
    return ok("ffmpeg", f"{found}, with {', '.join(ENCODERS)}")


def ytdlp(machine: Machine) -> Finding:
    version = machine.package_version("yt-dlp")
    advice = "scripts/lock --upgrade-package yt-dlp, scripts/install, deploy"
    if version is None:
        return fail("yt-dlp", "not installed", "scripts/install")
    year, month, day = (int(part) for part in version.split(".")[:3])
    age_days = (machine.now() - datetime(year, month, day, tzinfo=UTC)).days
    found = f"{version}, {age_days} days old"
    if age_days > YTDLP_FAIL_DAYS:
        return fail("yt-dlp", found, advice)
    return warn("yt-dlp", found, advice) if age_days > YTDLP_WARN_DAYS else ok("yt-dlp", found)


def deno(machine: Machine) -> Finding:
    program = machine.program("deno")
    said = machine.run((str(program), "--version")) if program else None
    version = re.search(r"deno (\d+)\.(\d+)\S*", said or "")
    if version is None:
        return fail("deno", "none that runs", "scripts/install; without it no YouTube link can be fetched")
    if (int(version[1]), int(version[2])) < DENO_MIN:
        return fail(
            "deno", version[0], "yt-dlp needs 2.3 or later: scripts/lock --upgrade-package deno, scripts/install"
        )
    return ok("deno", version[0])


def ray(machine: Machine) -> Finding:
    version, wanted = machine.package_version("ray"), machine.required("ray")
    if version is None:
        return fail("ray", "not installed", "scripts/install")
    if wanted is not None and version != wanted:
        return fail(
            "ray", version, f"a cluster's nodes must agree, and this service is made for {wanted}: scripts/install"
        )
    return ok("ray", version)


def port(machine: Machine, number: int, path: str, mark: str, owner: str) -> Finding:
    """Free, or held by who should hold it.

    Args:
        path: of a page that tells.
        mark: stands in what the owner answers.
    """
    subject = f"port {number}"
    if machine.is_free(number):
        return ok(subject, "free")
    answer = machine.http(f"http://127.0.0.1:{number}{path}")
    if answer is not None and mark in answer[1]:
        return ok(subject, f"{owner} listens")
    if answer is not None and answer[0] in {401, 403}:
        return ok(subject, "somebody listens who asks for a key")
    return fail(subject, "somebody else listens", f"find them (ss -ltnp 'sport = :{number}') and stop them")
