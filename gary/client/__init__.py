"""A client of the /v1 API: what the command line and the tests speak with. It knows the service by HTTP alone.

with Client() as client:
    task = client.create(UploadSource(), Order(length=Length(bars=8), seed=7), file=Path("song.mp3"))
    client.wait(task.id)
    client.save_audio(task.id, Path("out.flac"), "flac")
"""

from gary.client.client import Client, LiveStream
from gary.client.errors import ClientError, Refused, ServiceFailed, ServiceUnreachable, StreamBroken
from gary.client.events import Event
from gary.client.order import (
    Format,
    Length,
    LinkSource,
    Order,
    Prompt,
    Sampling,
    Side,
    Source,
    TaskSource,
    UploadSource,
)
from gary.client.values import Health, ModelInfo, Models, Music, Progress, QueuePlace, State, Take, Task, TaskFailure
from gary.client.wire import Patience

__all__ = [
    "Client",
    "ClientError",
    "Event",
    "Format",
    "Health",
    "Length",
    "LinkSource",
    "LiveStream",
    "ModelInfo",
    "Models",
    "Music",
    "Order",
    "Patience",
    "Progress",
    "Prompt",
    "QueuePlace",
    "Refused",
    "Sampling",
    "ServiceFailed",
    "ServiceUnreachable",
    "Side",
    "Source",
    "State",
    "StreamBroken",
    "Take",
    "Task",
    "TaskFailure",
    "TaskSource",
    "UploadSource",
]
