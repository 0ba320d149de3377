"""Fetches what a link names, on a CPU. The downloader is a process of its own; this replica only waits for it."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from ray import serve
from ray.serve import Deployment

from deployments import logs, tracing
from deployments.metrics import FETCH, FETCHED, FETCHES, NONE, Meter
from gary.config import Limits, SourcesConfig, TracingConfig
from gary.errors import GaryError
from gary.links import Link
from gary.sources.fetch import fetch, remove_orphans

_log = logging.getLogger("ray.serve")


class Fetcher:
    """Clears away what a replica of this node left behind that was killed in mid-download."""

    def __init__(self, limits: Limits, sources: SourcesConfig, tracing_config: TracingConfig | None = None) -> None:
        logs.begin()
        self._tracing = tracing.begin(tracing_config)
        self._limits = limits
        self._sources = sources
        self._meter = Meter()
        if removed := remove_orphans():
            _log.warning("removed %d directories of downloads whose process was killed", removed)

    async def fetch(self, link: Link, start_s: float, trace: str | None = None) -> bytes:
        """The source's encoded audio, whole; errors as `gary.sources.fetch.fetch`."""
        with self._tracing.span("fetch", trace, site=link.site) as span, self._counted(link.site):
            data = (await fetch(link, start_s, self._limits, self._sources)).data
            span.note(size_bytes=len(data))
        self._meter.add(FETCHED, len(data))
        _log.info("fetched from %s", link.site, extra={"size_bytes": len(data)})
        return data

    @contextmanager
    def _counted(self, site: str) -> Iterator[None]:
        """A download, by how it ends."""
        began_s = monotonic()
        code = "internal"
        try:
            yield
            code = NONE
            self._meter.observe(FETCH, monotonic() - began_s, site=site)
        except GaryError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            self._meter.add(FETCHES, site=site, code=code)


deployment: Deployment = serve.deployment(
    max_ongoing_requests=8,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=2,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=180,
)(Fetcher)
