"""Every error that the library raises, as one tree. It imports nothing of ours.

GaryError
├── ClientError                 what was asked cannot be served; 4xx; the same request fails again
│   ├── InvalidInput            400  a value is malformed or out of range
│   ├── MediaError              400  bytes that are no audio we can use
│   ├── Unauthorized            401  no API key, or one that is not known here
│   ├── UnknownTask             404  no task has this id
│   ├── Conflict                409  the task is not in a state for this; `code` says why
│   ├── TooLarge                413  more than a limit of the service
│   ├── IdempotencyMismatch     422  an idempotency key that was used before, for another request
│   ├── TooManyRequests         429  more than may be asked in a while; says when to come again
│   │   └── QueueFull           429  as many tasks wait as may
│   └── SourceError             a link that cannot be fetched; `code` is one of SOURCE_CODES
└── ServerError                 our side failed; 5xx
    ├── RecoverableError        another attempt may succeed
    │   ├── DatabaseUnavailable 503  the task store does not answer
    │   ├── SourceUnavailable   the far side did not serve us this time: rate_limited, timeout, upstream
    │   ├── DeviceError         the model's device failed; its replica must be replaced
    │   ├── ModelAway           no replica that was asked has the model: it is being deployed, or is served no longer
    │   └── LeaseLost           another worker has taken this task over; our writes are refused
    └── FatalError              another attempt fails alike
        ├── CheckpointError     a checkpoint is missing, malformed or not weights only
        ├── ToolMissing         a program that we need (ffmpeg, deno) is not installed
        └── AttemptsExhausted   a task failed as often as it may be tried
    Aborted                     the request was given up on purpose

Ray carries errors between processes by pickling them, so each class is rebuilt from its `args` alone:
message first, code second. `tests/unit/test_errors.py` pickles all of them.
"""

from typing import ClassVar

SOURCE_CODES = frozenset(
    {"bot_check", "geo", "age", "private", "removed", "live", "too_long", "past_end", "too_large", "unsupported"}
)
SOURCE_UNAVAILABLE_CODES = frozenset({"rate_limited", "timeout", "upstream"})


class GaryError(Exception):
    """Root of the tree.

    Args:
        message: a sentence that says what was wrong with which value, and what would be right.
        code: a stable word for programs; the class's own `default_code` unless given.
    """

    http_status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message, code or self.default_code)

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def code(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        return self.message


class ClientError(GaryError):
    http_status = 400
    default_code = "bad_request"


class InvalidInput(ClientError):
    default_code = "invalid_input"


class MediaError(ClientError):
    default_code = "not_audio"


class UnknownTask(ClientError):
    http_status = 404
    default_code = "unknown_task"


class Conflict(ClientError):
    http_status = 409
    default_code = "conflict"


class TooLarge(ClientError):
    http_status = 413
    default_code = "too_large"


class Unauthorized(ClientError):
    http_status = 401
    default_code = "unauthorized"


class IdempotencyMismatch(ClientError):
    http_status = 422
    default_code = "idempotency_mismatch"


class TooManyRequests(ClientError):
    """Args:
    retry_after_s: when the same request may be served.
    """

    http_status = 429
    default_code = "rate_limited"

    def __init__(self, message: str, code: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, code)
        self.args = (*self.args, retry_after_s)

    @property
    def retry_after_s(self) -> float:
        return float(self.args[2])


class QueueFull(TooManyRequests):
    default_code = "queue_full"


class SourceError(ClientError):
    default_code = "unsupported"


class ServerError(GaryError):
    pass


class RecoverableError(ServerError):
    http_status = 503
    default_code = "unavailable"


class DatabaseUnavailable(RecoverableError):
    default_code = "database_unavailable"


class SourceUnavailable(RecoverableError):
    default_code = "upstream"


class DeviceError(RecoverableError):
    default_code = "device_failed"


class ModelAway(RecoverableError):
    default_code = "model_away"


class LeaseLost(RecoverableError):
    default_code = "lease_lost"


class FatalError(ServerError):
    default_code = "fatal"


class CheckpointError(FatalError):
    default_code = "checkpoint"


class ToolMissing(FatalError):
    default_code = "tool_missing"


class AttemptsExhausted(FatalError):
    default_code = "attempts_exhausted"


class Aborted(GaryError):
    default_code = "aborted"
