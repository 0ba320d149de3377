"""Requests and answers: the one place where httpx's errors and the service's refusals become ours.

What may be repeated is repeated, a bounded number of times, where a connection was lost or the service was away (502,
503, 504). What may be, the callers know. An address where nothing has ever answered is not asked twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import sleep
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from gary.client.errors import ClientError, Refused, ServiceFailed, ServiceUnreachable, StreamBroken
from gary.client.values import Problem

_AWAY = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})
_DIRECT = ("all://127.0.0.1", "all://localhost", "all://[::1]")  # never by way of a proxy

AnswerT = TypeVar("AnswerT", bound=BaseModel)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and how long to wait in between.

    Attributes:
        attempts: the first one included.
        pause_s: before the second; doubled for each after it.
        read_s: silence for so long is a lost connection; longer than the service may work at one answer.
    """

    attempts: int = 5
    pause_s: float = 0.2
    read_s: float = 150.0


class Wire:
    """One service's HTTP.

    Raises:
        ValueError: `base_url` is no http or https URL.
    """

    def __init__(self, base_url: str, api_key: str | None, patience: Patience) -> None:
        self.base_url = _checked(base_url)
        self.patience = patience
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(patience.read_s, connect=5.0),
            mounts=dict.fromkeys(_DIRECT),
        )
        self._answered = False

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, accept: Collection[int] = (), **content: Any) -> httpx.Response:
        """One answer below 400, asked for once.

        Args:
            accept: statuses from 400 on that are answers too.
            content: as httpx takes it; a file in it is rewound each time.

        Raises:
            Refused: 4xx.
            ServiceFailed: 5xx.
            ServiceUnreachable: no answer.
        """
        response = self._sent(self._http.build_request(method, path, **content), stream=False)
        if response.is_error and response.status_code not in accept:
            raise refusal(response)
        return response

    def repeated(self, action: Callable[[], ResultT]) -> ResultT:
        """Does what does no harm when it is done twice, until it is done or patience ends with its last error."""
        attempt = 1
        while True:
            try:
                return action()
            except (ServiceUnreachable, ServiceFailed, StreamBroken) as error:
                if attempt >= self.patience.attempts or not self.may_pass(error):
                    raise
            self.pause(attempt)
            attempt += 1

    @contextmanager
    def open(self, path: str, **content: Any) -> Iterator[httpx.Response]:
        """An answer below 400 whose body is not read yet; raises as `request` does, and is not repeated."""
        request = self._http.build_request("GET", path, **content)
        response = self._sent(request, stream=True)
        try:
            if response.is_error:
                self._read(response)
                raise refusal(response)
            yield response
        finally:
            response.close()

    def chunks(self, response: httpx.Response) -> Iterator[bytes]:
        """The body of an opened answer, as it comes; raises StreamBroken where it ends too early."""
        try:
            yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise StreamBroken(
                f"the stream from {self.base_url} ended too early ({_reason(error)})", "stream_broken"
            ) from error

    def parsed(self, kind: type[AnswerT], content: bytes | str) -> AnswerT:
        """JSON of the service as one of our values; raises ServiceFailed where it is none."""
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            raise ServiceFailed(
                f"what answers at {self.base_url} is no service that this client understands: "
                f"it sent no {kind.__name__.lower()}",
                "not_understood",
            ) from error

    def may_pass(self, error: ClientError) -> bool:
        """Whether what went wrong may be right in a moment."""
        return self._answered and (isinstance(error, ServiceUnreachable | StreamBroken) or error.status in _AWAY)

    def pause(self, attempt: int) -> None:
        sleep(self.patience.pause_s * 2 ** (attempt - 1))

    def _sent(self, request: httpx.Request, stream: bool) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServiceUnreachable(self.base_url, _reason(error)) from error
        except httpx.TransportError as error:
            self._answered = True  # somebody took the connection
            raise ServiceUnreachable(self.base_url, _reason(error)) from error
        self._answered = True
        return response

    def _read(self, response: httpx.Response) -> None:
        try:
            response.read()
        except httpx.TransportError as error:
            raise ServiceUnreachable(self.base_url, _reason(error)) from error


def refusal(response: httpx.Response) -> ClientError:
    """What an answer of 400 or above says, as an error of ours; one without problem details too."""
    status = response.status_code
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem()
    message = problem.detail or problem.title or f"the service answered {status} {response.reason_phrase}"
    code = problem.code or f"http_{status}"
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ServiceFailed(message, code, status)
    fields = [(str(error.get("field", "")), str(error.get("message", ""))) for error in problem.errors]
    return Refused(message, code, status, fields, _seconds(response.headers.get("Retry-After")))


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text) if text is not None else math.nan
    except ValueError:  # a date, which this service does not send
        return None
    return seconds if math.isfinite(seconds) else None


def _checked(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{base_url!r} is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{base_url!r} is no http or https URL, such as http://127.0.0.1:8000")
    return base_url.rstrip("/")


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
