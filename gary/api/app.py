"""`create_api`: the HTTP application, of routes that know tasks and nothing of who works on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.middleware.cors import CORSMiddleware

from gary.api.access_log import AccessLog
from gary.api.body_limit import BodyLimit
from gary.api.doors import Doors, Envelope
from gary.api.errors import LastResort, install_error_handlers
from gary.api.handbook import handbook_routes
from gary.api.legacy import legacy_routes
from gary.api.page import BUILT_PAGE, page_routes
from gary.api.services import Services
from gary.api.traffic import Count
from gary.api.v1.describe import corrected
from gary.api.v1.routes import v1_routes

_EXPOSED_HEADERS = ["Content-Disposition", "Content-Range", "ETag", "Location", "Retry-After", "X-Request-Id"]


class Api(FastAPI):
    """The application; it describes itself."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = corrected(super().openapi())
        return self.openapi_schema


def create_api(services: Services, adds_request_id: bool = True, page: Path = BUILT_PAGE) -> FastAPI:
    """The application over `services`: /v1, the old clients' routes and the page, behind the doors that
    `services.access` describes.

    Args:
        adds_request_id: False where the server before it puts X-Request-Id on answers.
        page: the folder of the built page; without it `/` says how it is built.
    """
    app = Api(
        title="gary",
        summary="Continues music with MusicGen",
        docs_url=None,  # FastAPI's would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        version="1",
    )
    # what looks at a key is Doors; these describe it
    schemes = [Depends(HTTPBearer(auto_error=False)), Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]
    keys = schemes if services.access.api_keys else []
    app.include_router(v1_routes(services, keys))
    app.include_router(legacy_routes(services, keys))
    app.include_router(handbook_routes(app.openapi))
    app.include_router(page_routes(page))
    install_error_handlers(app)
    app.add_middleware(Count, traffic=services.traffic)
    # the one added last is the outermost: refusals carry headers too, and a preflight needs no key
    app.add_middleware(BodyLimit, limit_bytes=services.limits.body_bytes)
    app.add_middleware(Doors, access=services.access)
    app.add_middleware(LastResort)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(services.access.cors_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=_EXPOSED_HEADERS,
    )
    app.add_middleware(Envelope, adds_request_id=adds_request_id)
    app.add_middleware(AccessLog)
    return app
