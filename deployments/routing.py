"""Sends a call of MusicGen to a replica that has its model, while one has room: loading takes seconds.

Serve's own way, `serve.multiplexed`, routes so as well, but evicts models in use. Its router alone cannot be had
either: nothing public tells it which models a replica holds. So this is Serve's public way for routers of one's own:
a replica says what it holds (`record_routing_stats`), Serve asks for that once a second and tells all callers, and
the router, which runs in each of them, ranks the replicas. What it chose itself it knows at once.

Calls do not name their model by `multiplexed_model_id`: a router other than Serve's own keeps every call that does,
for ever (Ray 2.60, `RequestRouter._pending_requests_by_model_id`).
"""

from collections.abc import Callable
from time import monotonic
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

MODELS = "models"  # key of what a replica says: names of models
_FRESH_S = 10.0  # a choice of one's own counts so long; by then the replica has said what it holds


class PreferLoaded(RequestRouter):
    """Ranks: who has the model; who holds fewest; all others. Within a rank the shortest queue goes first, and a full
    one is passed over. The model is the call's first argument.
    """

    def __init__(self, *args: Any, clock_s: Callable[[], float] = monotonic, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock_s = clock_s
        self._chosen_s: dict[tuple[str, ReplicaID], float] = {}  # when a replica was chosen for a model

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Serve asks again and again until one has room."""
        if pending_request is None or not pending_request.args:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # else Serve asks again at once, without a pause
        model = pending_request.args[0]
        self._forget_old()
        ranks: list[list[RunningReplica]] = [[], [], []]
        fewest = min((_number(replica) for replica in candidate_replicas if not self._has(replica, model)), default=0)
        for replica in candidate_replicas:
            rank = 0 if self._has(replica, model) else 1 if _number(replica) == fewest else 2
            ranks[rank].append(replica)
        return ranks

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        if pending_request.args:
            self._chosen_s[pending_request.args[0], replica_id] = self._clock_s()

    def _has(self, replica: RunningReplica, model: str) -> bool:
        return model in replica.routing_stats.get(MODELS, ()) or (model, replica.replica_id) in self._chosen_s

    def _forget_old(self) -> None:
        now_s = self._clock_s()
        self._chosen_s = {choice: at_s for choice, at_s in self._chosen_s.items() if now_s - at_s < _FRESH_S}


def _number(replica: RunningReplica) -> int:
    return len(replica.routing_stats.get(MODELS, ()))
