"""What happens to tasks, as metrics and in their traces: the store tells it, wherever in the house it is changed."""

from datetime import datetime

from deployments.metrics import (
    AUDIO_STORED,
    DATABASE_UP,
    NONE,
    OTHER,
    QUEUE_OLDEST_WAIT,
    QUEUE_TASKS,
    TASK,
    TASK_ATTEMPTS,
    TASK_RETRIES,
    TASK_STAGE,
    TASK_TAKEOVERS,
    TASKS_ACCEPTED,
    TASKS_FINISHED,
    Meter,
)
from deployments.task_trace import TaskTrace
from deployments.tracing import OFF, Tracing
from gary.tasks.task import WORKING, QueueState, Status
from gary.tasks.witness import Change

# A stage that ended in any other way did not take its time, but was cut short.
_NEXT = {
    Status.QUEUED: Status.FETCHING,
    Status.FETCHING: Status.GENERATING,
    Status.GENERATING: Status.ENCODING,
    Status.ENCODING: Status.COMPLETED,
}
_OVER = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class TaskWitness:
    """Fulfils `gary.tasks.witness.Witness`."""

    def __init__(self, meter: Meter, tracing: Tracing = OFF) -> None:
        self._meter = meter
        self._trace = TaskTrace(tracing)

    def created(self) -> None:
        self._meter.add(TASKS_ACCEPTED)
        self._trace.created()

    def stored(self, size_bytes: int) -> None:
        self._meter.add(AUDIO_STORED, size_bytes)

    def changed(self, change: Change) -> None:
        self._trace.changed(change)
        before, status = change.before, change.status
        if before.steps and _NEXT.get(before.status) is status:
            self._meter.observe(TASK_STAGE, _seconds(before.steps[-1].at, change.at), stage=before.status.value)
        if status is Status.FETCHING:
            self._meter.add(TASK_ATTEMPTS)
            if before.status in WORKING:
                self._meter.add(TASK_TAKEOVERS)
        elif status is Status.QUEUED:
            self._queued_again(change)
        elif status in _OVER:
            code = (change.code or OTHER) if status is Status.FAILED else NONE
            self._meter.add(TASKS_FINISHED, outcome=status.value, code=code)
            if status is Status.COMPLETED:
                self._meter.observe(TASK, _seconds(before.queued_at, change.at))

    def _queued_again(self, change: Change) -> None:
        """For another attempt, or with another job: then it counts as a task that was let in."""
        if change.code is not None:
            self._meter.add(TASK_RETRIES, code=change.code)
        else:
            self._meter.add(TASKS_ACCEPTED)

    def queue(self, state: QueueState) -> None:
        """How busy the house is at present."""
        self._meter.set(DATABASE_UP, 1)
        self._meter.set(QUEUE_TASKS, state.queued, state="queued")
        self._meter.set(QUEUE_TASKS, state.working, state="working")
        self._meter.set(QUEUE_OLDEST_WAIT, state.oldest_waiting_s or 0.0)

    def no_database(self) -> None:
        """How busy it is, nobody knows: what was said of it last stays."""
        self._meter.set(DATABASE_UP, 0)


def _seconds(since: datetime, until: datetime) -> float:
    return max(0.0, (until - since).total_seconds())
