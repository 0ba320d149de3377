"""What a request's path says before any route is looked for."""

from __future__ import annotations

from starlette.types import Scope

_OPEN = frozenset({"/", "/health", "/docs", "/openapi.json"})
_OPEN_BELOW = ("/assets/", "/docs/")


def own_path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_v1(scope: Scope) -> bool:
    """Whether it is a path of the /v1 API, one that there is or not."""
    path = own_path(scope)
    return path == "/v1" or path.startswith("/v1/")


def is_open(scope: Scope) -> bool:
    """Whether no key is asked for: the page, the description of the service, its health."""
    path = own_path(scope)
    return path in _OPEN or path.startswith(_OPEN_BELOW)
