"""Every setting of the service, with its unit and its bounds. Unknown keys are refused.

Only `AppArgs` is read from outside (the `args` of a Serve config file); the rest hangs below it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, model_validator

MIB = 1024 * 1024


class Config(BaseModel):
    """Base of all settings: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Config):
    """A model that clients may name. What this list does not name is never loaded."""

    name: Annotated[str, Field(min_length=1, description="the name that clients send")]
    checkpoint: Annotated[
        str, Field(min_length=1, description="a hub repository, or a directory as audiocraft exports it")
    ]
    size: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", description="served by the deployment MusicGen-<size>")]
    description: Annotated[
        str | None, Field(description="used where a request brings none; an empty one leaves it to the prompt alone")
    ] = None
    licence: Annotated[str, Field(description="of the weights")] = "CC-BY-NC-4.0"


class Limits(Config):
    """What the service takes from strangers."""

    body_bytes: Annotated[int, Field(gt=0, description="a request's body")] = 160 * MIB
    download_bytes: Annotated[int, Field(gt=0, description="one fetched source")] = 256 * MIB
    download_timeout_s: Annotated[float, Field(gt=0, description="wall clock of one fetch")] = 120.0
    source_duration_s: Annotated[float, Field(gt=0, description="length of a video or track")] = 3 * 3600.0
    decoded_bytes: Annotated[int, Field(gt=0, description="one clip decoded to float32")] = 512 * MIB
    ffmpeg_timeout_s: Annotated[float, Field(gt=0, description="wall clock of one ffmpeg run")] = 120.0
    clip_min_s: Annotated[float, Field(gt=0, description="shorter audio is refused")] = 0.1
    clip_max_s: Annotated[float, Field(gt=0, description="longer uploads are refused")] = 1800.0
    clips: Annotated[int, Field(gt=0, description="clips in one /combine-audio")] = 64
    unfinished_tasks: Annotated[int, Field(gt=0, description="tasks in the house; one more is refused with 429")] = 500
    output_max_s: Annotated[float, Field(gt=0, le=30, description="MusicGen's window, prompt included")] = 30.0
    new_music_max_s: Annotated[float, Field(gt=0, description="new music of one answer, beyond the window too")] = 120.0
    prompt_max_s: Annotated[float, Field(gt=0, lt=30, description="what the model hears of a source")] = 20.0


class ApiKey(Config):
    """A key by its hash alone: `python -c "import hashlib; print(hashlib.sha256(input().encode()).hexdigest())"`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="of its holder; this is what logs show")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of the key's UTF-8 bytes")]


class AccessConfig(Config):
    """Who may ask, and how often. The defaults let the old clients in: no key, any origin, no rate."""

    api_keys: Annotated[tuple[ApiKey, ...], Field(description="with none listed, no key is asked for")] = ()
    key_posts_per_minute: Annotated[int | None, Field(ge=1, description="of one API key; None: any number")] = None
    address_posts_per_minute: Annotated[
        int | None, Field(ge=1, description="of one client's address; None: any number")
    ] = None
    trusted_proxies: Annotated[
        tuple[IPvAnyNetwork, ...],
        Field(description="addresses or networks whose X-Forwarded-For names the client; others' is ignored"),
    ] = ()
    cors_origins: Annotated[tuple[str, ...], Field(description="browsers of these origins may ask; * is any")] = ("*",)


HostAndPort = Annotated[str, Field(pattern=r"^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$")]


class SourcesConfig(Config):
    """Where audio may be fetched from, beyond YouTube and SoundCloud."""

    allow_direct_urls: Annotated[
        tuple[HostAndPort, ...],
        Field(description="host or host:port, exact; a literal private address is allowed only by being listed itself"),
    ] = ()
    cookie_file: Annotated[Path | None, Field(description="Netscape cookies for yt-dlp; each job gets a copy")] = None


class DatabaseConfig(Config):
    """MongoDB, or the embedded server that speaks its protocol."""

    uri: Annotated[str | None, Field(description="mongodb://...; None: MONGODB_URI, else the embedded server")] = None
    name: Annotated[str, Field(min_length=1)] = "gary"
    data_dir: Annotated[Path, Field(description="of the embedded server; survives restarts")] = Path(".data/database")
    port: Annotated[int, Field(ge=0, le=65535, description="of the embedded server on 127.0.0.1; 0: any free one")] = 0
    timeout_s: Annotated[float, Field(gt=0, description="for one operation to find a server")] = 10.0


class TasksConfig(Config):
    """How tasks are worked on and kept."""

    lease_s: Annotated[float, Field(gt=0, description="a worker not heard of for so long has lost its task")] = 15.0
    max_attempts: Annotated[int, Field(ge=1, description="times a task is begun before it counts as failed")] = 3
    backoff_s: Annotated[
        float, Field(ge=0, description="wait before the second attempt; doubled for each after it")
    ] = 1.0
    backoff_max_s: Annotated[float, Field(ge=0, description="longest wait between two attempts")] = 30.0
    model_patience_s: Annotated[
        float,
        Field(
            ge=0, description="a task waits so long for a replica that has its model, as while a new model is deployed"
        ),
    ] = 900.0
    store_patience_s: Annotated[
        float,
        Field(
            ge=0, description="a result waits so long for a database that is away before its attempt counts as failed"
        ),
    ] = 60.0
    watch_s: Annotated[float, Field(gt=0, description="time until a worker hears that its task was cancelled")] = 0.5
    idempotency_ttl_s: Annotated[float, Field(gt=0, description="an Idempotency-Key is remembered for")] = 24 * 3600.0
    sweep_s: Annotated[float, Field(gt=0, description="time between two looks for tasks left behind")] = 3.0
    progress_s: Annotated[float, Field(gt=0, description="least time between two writes of progress")] = 1.0
    ttl_s: Annotated[float, Field(gt=0, description="finished tasks are kept for")] = 7 * 24 * 3600.0
    live_ttl_s: Annotated[
        float, Field(gt=0, description="live audio goes so long after its task's claim; longer than any attempt takes")
    ] = 6 * 3600.0
    file_grace_s: Annotated[
        float, Field(gt=0, description="audio of no task is kept for; far longer than an upload takes")
    ] = 3600.0


class EngineConfig(Config):
    """How a model runs."""

    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto: cuda where there is one")] = "auto"
    threads: Annotated[int, Field(ge=1, description="torch threads of one replica on the CPU")] = 2
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"],
        Field(description="of the decoder; auto: fp16 on a GPU, bf16 on a CPU that multiplies it, else fp32"),
    ] = "auto"
    slots: Annotated[int, Field(ge=1, description="requests decoded at once, memory permitting")] = 16
    cache_bytes: Annotated[int, Field(gt=0, description="of keys and values, taken at once; it bounds the slots")] = (
        4096 * MIB
    )
    cuda_graphs: Annotated[
        bool, Field(description="on a GPU, decode by graphs captured at the start; false: launch by launch")
    ] = True
    prefill_chunk: Annotated[int, Field(ge=1, description="positions of a newcomer's prompt fed in one step")] = 64
    resident_bytes: Annotated[
        int,
        Field(ge=0, description="of models that one replica keeps loaded, each with its cache; 0: one model at a time"),
    ] = 0
    probe_s: Annotated[
        float, Field(gt=0, description="an idle model makes a short answer so often, to be sure of it")
    ] = 30.0
    stall_s: Annotated[
        float, Field(gt=0, description="a model at work that makes nothing for so long has failed; its replica goes")
    ] = 120.0
    hub_cache_dir: Annotated[Path | None, Field(description="HF_HOME of the replicas; None: the usual one")] = None
    hub_offline: Annotated[bool, Field(description="never ask the model hub")] = False


class TracingConfig(Config):
    """Where traces of tasks go. A key for the collector stands in OTEL_EXPORTER_OTLP_HEADERS, not here."""

    endpoint: Annotated[
        str | None,
        Field(
            pattern=r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$",
            description="of an OTLP/HTTP collector; None: OTEL_EXPORTER_OTLP_ENDPOINT, else no traces",
        ),
    ] = None
    sample_ratio: Annotated[float, Field(ge=0, le=1, description="of the tasks, those that are traced")] = 1.0


class AppArgs(Config):
    """The arguments of `deployments.app:build`."""

    models: Annotated[tuple[ModelSpec, ...], Field(min_length=1)]
    default_model: Annotated[str, Field(description="served where a request names none")] = "facebook/musicgen-small"
    limits: Limits = Limits()
    access: AccessConfig = AccessConfig()
    sources: SourcesConfig = SourcesConfig()
    database: DatabaseConfig = DatabaseConfig()
    tasks: TasksConfig = TasksConfig()
    engine: EngineConfig = EngineConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _names_agree(self) -> AppArgs:
        names = [model.name for model in self.models]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"models: {doubled} are listed twice")
        if self.default_model not in names:
            raise ValueError(f"default_model: {self.default_model!r} is not among the models {names}")
        return self

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes served, each by one deployment, in the order of the list."""
        return tuple(dict.fromkeys(model.size for model in self.models))
