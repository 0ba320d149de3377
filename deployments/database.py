"""The embedded database, for a machine that has no MongoDB: one replica owns the server process.

Serve replaces the replica when it or its server dies; the server dies with its replica, and the next one opens the
same files on the same port, so that clients reconnect by themselves.
"""

import logging

from ray import serve
from ray.serve import Deployment

from deployments import logs
from gary.config import DatabaseConfig
from gary.tasks.embedded import EmbeddedDatabase

_log = logging.getLogger("ray.serve")


class Database:
    """Starts the server in its constructor: a replica that is up has a database that answers."""

    def __init__(self, config: DatabaseConfig) -> None:
        logs.begin()
        self._server = EmbeddedDatabase(config.data_dir, config.port)
        self._uri = self._server.start()
        _log.info("the embedded database answers at %s", self._uri)

    def uri(self) -> str:
        """mongodb://..., once the server answers."""
        return self._uri

    def check_health(self) -> None:
        self._server.check_health()

    def __del__(self) -> None:
        self._server.stop()


deployment: Deployment = serve.deployment(
    num_replicas=1,
    ray_actor_options={"num_cpus": 0},
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=20,
)(Database)
