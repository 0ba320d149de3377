"""`create_api`: the HTTP application, of routes that know tasks and nothing of who works on them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gary.api.body_limit import BodyLimit
from gary.api.errors import install_error_handlers
from gary.api.legacy import legacy_routes
from gary.api.services import Services


def create_api(services: Services) -> FastAPI:
    """The application over `services`: the old clients' routes, open to browsers of any origin."""
    app = FastAPI(title="gary", summary="Continues music with MusicGen")
    app.include_router(legacy_routes(services))
    install_error_handlers(app)
    app.add_middleware(BodyLimit, limit_bytes=services.limits.body_bytes)
    # added last, so outermost: refusals carry its headers too
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    return app
