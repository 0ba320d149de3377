"""What requests of all routes carry beside their bodies."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Request

from gary.api.access import Caller
from gary.api.schemas import TASK_ID


def _caller(request: Request) -> Caller:
    """Whom the doors let in."""
    caller: Caller = request.state.caller
    return caller


TaskId = Annotated[str, Path(description="24 hexadecimal digits", json_schema_extra=dict(TASK_ID))]
CallerParam = Annotated[Caller, Depends(_caller)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="the same request under the same key is done once, and answered the same each time",
    ),
]
