"""Fetches what a link names, on a CPU. The downloader is a process of its own; this replica only waits for it."""

import logging

from ray import serve
from ray.serve import Deployment

from deployments import logs
from gary.config import Limits, SourcesConfig
from gary.links import Link
from gary.sources.fetch import fetch, remove_orphans

_log = logging.getLogger("ray.serve")


class Fetcher:
    """Clears away what a replica of this node left behind that was killed in mid-download."""

    def __init__(self, limits: Limits, sources: SourcesConfig) -> None:
        logs.begin()
        self._limits = limits
        self._sources = sources
        if removed := remove_orphans():
            _log.warning("removed %d directories of downloads whose process was killed", removed)

    async def fetch(self, link: Link, start_s: float) -> bytes:
        """The source's encoded audio, whole; errors as `gary.sources.fetch.fetch`."""
        data = (await fetch(link, start_s, self._limits, self._sources)).data
        _log.info("fetched from %s", link.site, extra={"size_bytes": len(data)})
        return data


deployment: Deployment = serve.deployment(
    max_ongoing_requests=8,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=2,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=180,
)(Fetcher)
