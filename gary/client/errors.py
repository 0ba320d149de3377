"""Every error that the client raises, as one tree. It imports nothing of ours.

ClientError                 code: a stable word; status: of the HTTP answer, None where there was none
├── ServiceUnreachable      nothing answers at the address, or it hung up too often
├── ServiceFailed    5xx    the service is there and could not do it; asked again later it may
├── StreamBroken            audio ended before its length: its task failed, was cancelled or the connection was lost
└── Refused          4xx    the same request fails again, but for 429, which says when to come back
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ClientError(Exception):
    """Root of the tree.

    Args:
        message: a sentence for people.
        code: a stable word for programs; the service's own where it gave one.
        status: of the HTTP answer.
    """

    def __init__(self, message: str, code: str, status: int | None = None, *more: Any) -> None:
        super().__init__(message, code, status, *more)

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def code(self) -> str:
        return str(self.args[1])

    @property
    def status(self) -> int | None:
        status: int | None = self.args[2]
        return status

    def __str__(self) -> str:
        return self.message


class ServiceUnreachable(ClientError):
    """Args:
    base_url: where nothing answers.
    reason: what the connection died of.
    """

    def __init__(self, base_url: str, reason: str) -> None:
        super().__init__(
            f"no service answers at {base_url} ({reason}); start one with `gary serve`, "
            "or say where it is with --url or GARY_URL",
            "unreachable",
            None,
        )
        self._from = (base_url, reason)

    def __reduce__(self) -> tuple[type[ServiceUnreachable], tuple[str, str]]:
        return type(self), self._from


class ServiceFailed(ClientError):
    pass


class StreamBroken(ClientError):
    pass


class Refused(ClientError):
    """Args:
    fields: (field, what is wrong with it), where the service names them.
    retry_after_s: when the same request may be served.
    """

    def __init__(
        self,
        message: str,
        code: str,
        status: int | None = None,
        fields: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code, status, tuple(fields), retry_after_s)

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        fields: tuple[tuple[str, str], ...] = self.args[3]
        return fields

    @property
    def retry_after_s(self) -> float | None:
        retry_after_s: float | None = self.args[4]
        return retry_after_s
