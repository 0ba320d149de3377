"""What is kept: the database, its clock, the models."""

from __future__ import annotations

from pathlib import Path

from gary.config import AppArgs
from gary.doctor.database import DatabaseAnswer
from gary.doctor.finding import Finding, fail, ok, warn
from gary.doctor.machine import Machine
from gary.errors import GaryError

WRITE_WARN_S, WRITE_FAIL_S = 0.05, 0.5  # a task costs some thirty writes
AHEAD_WARN_S, AHEAD_FAIL_S = 1.0, 60.0


def database(machine: Machine, args: AppArgs) -> list[Finding]:
    """The database that the service would use, and its clock beside ours."""
    uri = args.database.uri or machine.environment("MONGODB_URI")
    try:
        if uri is None:
            answer = machine.embedded_database(args.database.data_dir)
        else:
            answer = machine.database(uri, args.database.name)
    except GaryError as error:
        advice = "scripts/install, or set MONGODB_URI" if uri is None else "is it up, and is the URI right?"
        return [fail("database", f"{error.message} ({error.code})", advice)]
    return [_answered(answer, embedded=uri is None), _clock(answer)]


def _answered(answer: DatabaseAnswer, embedded: bool) -> Finding:
    kind = "embedded" if embedded else f"MongoDB, {answer.replica_set or 'no replica set'}"
    found = f"{kind}, speaks as {answer.version}, a write takes {answer.write_s * 1000:.1f} ms"
    if answer.write_s > WRITE_FAIL_S:
        return fail("database", found, "leases run out before they are renewed: look at its disk and the way to it")
    if answer.write_s > WRITE_WARN_S:
        return warn("database", found, "look at its disk (is it an SSD?) and the way to it")
    if not embedded and answer.replica_set is None:
        return warn("database", found, "a server by itself loses what its disk loses: make it a replica set")
    return ok("database", found)


def _clock(answer: DatabaseAnswer) -> Finding:
    """Leases and times go by the database's clock alone; logs, certificates and sites' signatures go by ours."""
    found = f"the database's is {abs(answer.ahead_s):.3f} s {'ahead' if answer.ahead_s >= 0 else 'behind'}"
    if abs(answer.ahead_s) > AHEAD_FAIL_S:
        return fail("clock", found, "timedatectl set-ntp true, on both")
    return (
        warn("clock", found, "timedatectl set-ntp true, on both")
        if abs(answer.ahead_s) > AHEAD_WARN_S
        else ok("clock", found)
    )


def models(machine: Machine, args: AppArgs) -> list[Finding]:
    """One line for each checkpoint of the list: a directory, or the hub's cache."""
    return [_model(machine, args, checkpoint) for checkpoint in dict.fromkeys(m.checkpoint for m in args.models)]


def _model(machine: Machine, args: AppArgs, checkpoint: str) -> Finding:
    subject = f"model {checkpoint}"
    if machine.is_dir(Path(checkpoint)):
        return ok(subject, "a directory")
    if checkpoint.startswith((".", "/")):
        return fail(
            subject, "there is no such directory", "scripts/install makes the stand-ins; others are copied there"
        )
    cache = hub_cache(machine, args) / f"models--{checkpoint.replace('/', '--')}" / "snapshots"
    if machine.is_dir(cache):
        return ok(subject, f"in {cache.parents[1]}")
    found, advice = f"not in {cache.parents[1]}", f"hf download {checkpoint}"
    if args.engine.hub_offline or machine.environment("HF_HUB_OFFLINE") == "1":
        return fail(subject, f"{found}, and the hub may not be asked", advice)
    return warn(subject, found, f"its first listener waits for the download; before that: {advice}")


def hub_cache(machine: Machine, args: AppArgs) -> Path:
    """Where the hub's library keeps what it fetched, by the rules of its documentation."""
    if args.engine.hub_cache_dir is not None:
        return args.engine.hub_cache_dir.absolute() / "hub"
    if given := machine.environment("HF_HUB_CACHE"):
        return Path(given)
    if given := machine.environment("HF_HOME"):
        return Path(given) / "hub"
    return Path(machine.environment("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface" / "hub"
