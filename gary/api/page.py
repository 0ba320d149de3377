"""The page at `/`: files that were built before, served as they lie there, under a strict policy.

Everything that it loads comes from here. What lies under /assets has a hash of itself in its name, so it is never
asked for again.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

BUILT_PAGE = Path(__file__).parent / "web" / "dist"

_POLICY = {
    "default-src": "'self'",
    "base-uri": "'none'",
    "connect-src": "'self'",
    "font-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' blob:",  # a recording is heard before it is sent
    "object-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "worker-src": "'self' blob:",
}


def page_headers(**sources: str) -> dict[str, str]:
    """What every HTML answer carries.

    Args:
        sources: of the policy, where they differ; names with an underscore.
    """
    policy = _POLICY | {name.replace("_", "-"): source for name, source in sources.items()}
    return {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "; ".join(f"{name} {source}" for name, source in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
    }


_NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>gary</title>
<h1>gary</h1>
<p>The service runs. Its page has not been built: <code>scripts/install</code> builds it.</p>
<p>The API describes itself at <a href="/docs">/docs</a>.</p>
</html>
"""


def page_routes(built: Path) -> APIRouter:
    """Args:
    built: a folder with index.html and assets; it may come later.
    """
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def index() -> Response:
        """The page."""
        path = built / "index.html"
        if not path.is_file():
            return HTMLResponse(_NOT_BUILT, headers=page_headers())
        return FileResponse(path, headers=page_headers())

    routes.routes.append(Mount("/assets", _Assets(directory=built / "assets", check_dir=False), name="assets"))
    return routes


class _Assets(StaticFiles):
    """Files whose names change when they do."""

    async def check_config(self) -> None:
        """The folder may come later: until then nothing is found in it."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        # a service worker among them may serve the page beside the folder, not the folder alone
        answer.headers["Service-Worker-Allowed"] = scope["root_path"].removesuffix("/assets") + "/"
        return answer
