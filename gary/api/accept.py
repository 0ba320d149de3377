"""From a body to a task: what the old routes' POSTs that make work check, and the job that they make of it.

Everything is checked before a task is written; what came before under the same Idempotency-Key is answered, not done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from gary.api.access import Caller
from gary.api.schemas import ContinueBody, GenerateBody, decode_base64
from gary.api.services import Services
from gary.errors import InvalidInput
from gary.links import parse_link
from gary.logs import note_task
from gary.tasks.music import Sampling
from gary.tasks.task import AnyJob, ContinueJob, GenerateJob, Idempotency

GENERATE_SAMPLING = Sampling(top_k=150, cfg_coef=5.0)
CONTINUE_SAMPLING = Sampling(top_k=250, cfg_coef=3.0)
GENERATE_DESCRIPTION = "drums, percussion"

_log = logging.getLogger(__name__)


async def accept_generate(services: Services, body: GenerateBody, caller: Caller, key: str | None) -> str:
    model = services.model(body.model)
    min_s, max_s = body.range_s(services.limits.output_max_s)
    longest_s = services.limits.source_duration_s
    if body.start_s > longest_s:
        raise InvalidInput(f"currentTime is {body.start_s:g} s; sources are at most {longest_s:g} s long", "past_end")
    link = parse_link(body.url, services.sources.allow_direct_urls)
    job = GenerateJob(
        url=body.url,
        link=link.url,
        site=link.site,
        start_s=body.start_s,
        model=model.name,
        prompt_s=body.prompt_s,
        min_s=min_s,
        max_s=max_s,
        description=GENERATE_DESCRIPTION if model.description is None else model.description,
        seed=services.new_seed(),
        sampling=GENERATE_SAMPLING,
    )
    idempotency = idempotency_of(caller, key, "/generate", body.model_dump())
    if known := await answered_before(services, idempotency):
        return known
    task_id = await services.store.create(job, idempotency)
    begin(services, task_id, job, caller)
    return task_id


async def accept_continue(services: Services, body: ContinueBody, caller: Caller, key: str | None) -> str:
    """Everything is checked before the task is touched: a bad request leaves it as it was."""
    model = services.model(body.model)
    length_s = services.limits.output_max_s
    if body.prompt_s >= length_s:
        raise InvalidInput(f"prompt_duration is {body.prompt_s:g} s; it must be less than {length_s:g} s")
    before = await services.store.get(body.task_id)
    data = await decoded(body.audio, "audio")
    asked = body.model_dump(exclude={"audio"})
    idempotency = await asyncio.to_thread(idempotency_of, caller, key, "/continue", asked, data)
    if known := await answered_before(services, idempotency):
        return known
    await services.audio.probe(data)
    job = ContinueJob(
        url=before.job.url,
        start_s=before.job.start_s,
        model=model.name,
        prompt_s=body.prompt_s,
        length_s=length_s,
        description=model.description,
        seed=services.new_seed(),
        sampling=CONTINUE_SAMPLING,
    )
    await services.store.restart(before.id, job, data, idempotency)
    begin(services, before.id, job, caller)
    return before.id


def idempotency_of(
    caller: Caller, key: str | None, route: str, asked: Mapping[str, Any], audio: bytes | None = None
) -> Idempotency | None:
    """What makes two requests the same: their fields as they were understood, and the bytes of their audio.

    Args:
        key: of the request; None where it brought none.
        asked: values of JSON.
    """
    if key is None:
        return None
    whole = {"route": route, **asked}
    if audio is not None:
        whole["audio_sha256"] = hashlib.sha256(audio).hexdigest()
    return Idempotency.of(caller.holder or "", key, json.dumps(whole, sort_keys=True))


async def answered_before(services: Services, idempotency: Idempotency | None) -> str | None:
    """The id of the task that the same request was answered with; None where it is new."""
    return await services.store.replayed(idempotency) if idempotency is not None else None


def begin(services: Services, task_id: str, job: AnyJob, caller: Caller) -> None:
    """Has a task that was just written worked on, and says so in the log."""
    note_task(task_id)
    _log.info("task %s accepted: %s for %s", task_id, job.kind, caller)
    services.begin(task_id)


async def decoded(text: str, field: str) -> bytes:
    """100 MB take a while: not on the event loop."""
    return await asyncio.to_thread(decode_base64, text, field)
