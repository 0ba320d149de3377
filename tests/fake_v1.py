"""A service that speaks /v1 over real loopback HTTP and makes nothing: for tests of those who call it.

Its tasks go through the steps that a test gives them. Faults are named beforehand, and each happens once: a connection
that is closed before or after the request was done, an answer that stops halfway, a stream of events that is cut.
"""

from __future__ import annotations

import email
import io
import json
import threading
import wave
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

RATE_HZ = 8000
FINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """(name, bytes) of a form."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.body)
        payload: Any = message.get_payload()
        return [
            (part.get_param("name", header="content-disposition"), part.get_payload(decode=True)) for part in payload
        ]


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def as_json(document: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode())


def problem(status: int, code: str, detail: str, errors: Any = None, **headers: str) -> Answer:
    body = {"type": f"/docs/errors#{code}", "title": code, "status": status, "detail": detail, "code": code}
    body |= {"errors": errors} if errors else {}
    return Answer(status, json.dumps(body).encode(), "application/problem+json", headers)


def wav(samples: array[int], channels: int = 1) -> bytes:
    """A 16-bit WAV of the fake's rate."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def samples_of(data: bytes) -> array[int]:
    with wave.open(io.BytesIO(data)) as reader:
        return array("h", reader.readframes(reader.getnframes()))


def ramp(duration_s: float, first: int = 0) -> array[int]:
    """Samples that all differ from their neighbours, so that a shift shows."""
    return array("h", ((first + 37 * n) % 20_000 - 10_000 for n in range(round(duration_s * RATE_HZ))))


MUSIC = {
    "sample_rate_hz": RATE_HZ,
    "channels": 1,
    "source_s": 1.0,
    "duration_s": 3.0,
    "prompt_s": 1.0,
    "tempo_bpm": 120.0,
    "tempo_confidence": 0.9,
    "tempo_assumed": False,
    "bars": 1,
}
ANSWER_WAV = wav(ramp(3.0))


def progress(fraction: float) -> dict[str, Any]:
    done = round(100 * fraction)
    return {"fraction": fraction, "frames_done": done, "frames_total": 100, "eta_s": 10 * (1 - fraction)}


Step = tuple[str, dict[str, Any]]
"""The event's id, and how the task changed."""

USUAL_STEPS: tuple[Step, ...] = (
    ("1.0", {"state": "queued", "queue": {"position": 2, "eta_s": 40.0}}),
    ("2.0", {"state": "fetching", "queue": None}),
    ("3.0", {"state": "generating", "music": MUSIC, "progress": progress(0.0)}),
    ("3.50", {"progress": progress(0.5)}),
    ("4.100", {"state": "encoding", "progress": progress(1.0)}),
    ("5.100", {"state": "completed", "finished_at": "2026-01-02T03:04:09Z"}),
)
FAILED_STEPS: tuple[Step, ...] = (
    *USUAL_STEPS[:3],
    ("4.0", {"state": "failed", "error": {"code": "device_failed", "message": "the model's device failed"}}),
)


class FakeService:
    """What the handler below answers from; a test reads and changes it between requests.

    Attributes:
        steps: of every task; a task stands still after the last one until it is cancelled.
        answers: by (method, path): what is answered in place of the usual, until it is taken away.
        hang_up, lose_answer, cut_body: (method, path) of requests to be spoilt, each entry once: closed unread,
            done but not answered, answered by half.
        cut_changes: how a task changes when its audio stops by half.
        cut_events: after how many events a stream is cut; each entry once.
    """

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}"
        self.requests: list[Asked] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self.steps: tuple[Step, ...] = USUAL_STEPS
        self.answers: dict[tuple[str, str], Answer] = {}
        self.hang_up: list[tuple[str, str]] = []
        self.lose_answer: list[tuple[str, str]] = []
        self.cut_body: list[tuple[str, str]] = []
        self.cut_changes: dict[str, Any] = {}
        self.cut_events: list[int] = []
        self.changed = threading.Condition()
        self._keys: dict[str, str] = {}

    def count(self, method: str, path: str) -> int:
        return sum((asked.method, asked.path) == (method, path) for asked in self.requests)

    def add(self, **changes: Any) -> str:
        """A task that is there already; returns its id."""
        task_id = f"{len(self.tasks) + 1:024x}"
        self.tasks[task_id] = _new_task(task_id, {}) | changes
        if changes.get("state") == "completed":
            self._complete(self.tasks[task_id])
        return task_id

    def change(self, task_id: str, **changes: Any) -> None:
        with self.changed:
            self.tasks[task_id] |= changes
            if changes.get("state") == "completed":
                self._complete(self.tasks[task_id])
            self.changed.notify_all()

    def tells_events(self, asked: Asked) -> bool:
        """Whether it is answered by the stream of a task's steps."""
        parts = asked.path.split("/")
        return parts[-1] == "events" and parts[3] in self.tasks and (asked.method, asked.path) not in self.answers

    def answer(self, asked: Asked) -> Answer:  # noqa: PLR0911  a table of routes
        route = (asked.method, asked.path)
        if route in self.answers:
            return self.answers[route]
        match [asked.method, *asked.path.strip("/").split("/")]:
            case ["POST", "v1", "tasks"]:
                return self._create(asked, _body(asked))
            case ["POST", "v1", "tasks", task_id, "continue"] if task_id in self.tasks:
                return self._create(asked, asked.json | {"source": {"task": task_id}}, parent=task_id)
            case ["GET", "v1", "tasks", task_id] if task_id in self.tasks:
                return as_json(self.tasks[task_id])
            case ["DELETE", "v1", "tasks", task_id] if task_id in self.tasks:
                return self._delete(task_id, asked.query.get("only"))
            case ["GET", "v1", "tasks", task_id, "audio"] if task_id in self.tasks:
                return self._audio(asked, self.tasks[task_id])
            case ["GET", "v1", "models"]:
                model = {"name": "tiny", "size": "tiny", "licence": "MIT", "loaded": True, "replicas_ready": 1}
                return as_json({"default": "tiny", "models": [model | {"max_total_s": 240.0, "max_new_s": 120.0}]})
            case ["GET", "v1", "limits"]:
                return as_json({"new_music_max_s": 120.0, "takes_max": 8})
            case ["GET", "health"]:
                return as_json({"status": "live", "mongodb": "live", "queue": {"queued": 0}})
            case ["POST", "v1", "audio", "crop"]:
                return _crop(asked)
            case ["POST", "v1", "audio", "join"]:
                joined = array("h")
                for _, data in asked.parts:
                    joined += samples_of(data)
                return Answer(200, wav(joined), "audio/wav")
        return problem(404, "unknown_task", "no task has this id")

    def _create(self, asked: Asked, body: dict[str, Any], parent: str | None = None) -> Answer:
        key = asked.headers["idempotency-key"]
        if key not in self._keys:
            task_id = self.add(request=body, parent=parent, seed=body.get("seed", 7))
            self._keys[key] = task_id
        task = self.tasks[self._keys[key]]
        return Answer(202, json.dumps(task).encode(), headers={"Location": task["links"]["self"]})

    def _delete(self, task_id: str, only: str | None) -> Answer:
        stands = "finished" if self.tasks[task_id]["state"] in FINAL else "unfinished"
        if only not in (None, stands):
            return problem(409, stands, f"the task is {stands}")
        if stands == "finished":
            del self.tasks[task_id]
            return Answer(204)
        self.change(task_id, state="cancelled")
        return as_json(self.tasks[task_id])

    def _audio(self, asked: Asked, task: dict[str, Any]) -> Answer:
        if task["state"] != "completed" and "live" not in asked.query:
            return problem(409, "not_ready", "the task is not completed")
        return Answer(200, ANSWER_WAV, "audio/wav")

    def _complete(self, task: dict[str, Any]) -> None:
        takes = range(task["request"].get("takes", 1))
        task["music"] = task["music"] or MUSIC
        task["takes"] = [
            {"take": take, "seed": task["seed"] + take, "duration_s": 3.0, "wav_sha256": "0" * 64, "audio": "/"}
            for take in takes
        ]

    def events(self, task_id: str, last_id: str) -> Iterator[bytes]:
        """The steps after `last_id`, each applied as it is told, then whatever ends the task."""
        ids = [step_id for step_id, _ in self.steps]
        for step_id, changes in self.steps[ids.index(last_id) + 1 if last_id in ids else 0 :]:
            if self.tasks[task_id]["state"] == "cancelled":
                break
            self.change(task_id, **changes)
            yield _event(step_id, "state" if "state" in changes else "progress", self.tasks[task_id])
            yield b": ping\r\n\r\n"
        with self.changed:
            over = self.changed.wait_for(lambda: self.tasks[task_id]["state"] in FINAL, timeout=60)
        if over and self.tasks[task_id]["state"] != self.steps[-1][1].get("state"):
            yield _event("9.0", "state", self.tasks[task_id])


def _new_task(task_id: str, request: dict[str, Any]) -> dict[str, Any]:
    own = f"/v1/tasks/{task_id}"
    return {
        "id": task_id,
        "state": "queued",
        "created_at": "2026-01-02T03:04:05Z",
        "finished_at": None,
        "expires_at": None,
        "queue": {"position": 1, "eta_s": None},
        "progress": None,
        "error": None,
        "attempts": 0,
        "request": request,
        "model": "tiny",
        "seed": 7,
        "takes": [],
        "music": None,
        "timings": {"queued_s": 0.1, "fetching_s": None, "generating_s": None, "encoding_s": None},
        "parent": None,
        "children": [],
        "receipt": None,
        "links": {"self": own, "events": f"{own}/events", "audio": f"{own}/audio", "live": None, "parent": None},
    }


def _event(step_id: str, kind: str, task: dict[str, Any]) -> bytes:
    return f"id: {step_id}\r\nevent: {kind}\r\ndata: {json.dumps(task)}\r\n\r\n".encode()


def _body(asked: Asked) -> dict[str, Any]:
    if asked.headers["content-type"].startswith("multipart/"):
        body: dict[str, Any] = json.loads(dict(asked.parts)["task"])
        return body
    return dict(asked.json)


def _crop(asked: Asked) -> Answer:
    samples = samples_of(asked.body)
    start, end = (float(asked.query.get(name, "inf")) * RATE_HZ for name in ("start_s", "end_s"))
    return Answer(200, wav(samples[round(start) : round(min(end, len(samples)))]), "audio/wav")


@contextmanager
def fake_service() -> Iterator[FakeService]:
    """Runs one on a free port for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def do_DELETE(self) -> None:
            self._do()

        def _do(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            service.requests.append(asked)
            route = (asked.method, asked.path)
            if _taken(service.hang_up, route):
                self.close_connection = True
            elif service.tells_events(asked):
                self._tell_events(parts.path.split("/")[3], headers.get("last-event-id", ""))
            else:
                answer = service.answer(asked)
                if _taken(service.lose_answer, route):
                    self.close_connection = True
                else:
                    self._send(answer, halved := _taken(service.cut_body, route))
                    if halved and service.cut_changes:
                        service.change(parts.path.split("/")[3], **service.cut_changes)

        def _send(self, answer: Answer, halved: bool) -> None:
            self.send_response(answer.status)
            for name, value in {"Content-Type": answer.kind, **answer.headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) // 2] if halved else answer.body)
            self.close_connection |= halved

        def _tell_events(self, task_id: str, last_id: str) -> None:
            self.close_connection = True
            left = 2 * service.cut_events.pop(0) if service.cut_events else None  # a ping goes with each
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for number, data in enumerate(service.events(task_id, last_id)):
                if number == left:
                    return
                self.wfile.write(data)
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up in mid-answer is part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        service = FakeService(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


def _taken(faults: list[tuple[str, str]], route: tuple[str, str]) -> bool:
    if route in faults:
        faults.remove(route)
        return True
    return False
