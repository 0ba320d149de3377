"""`build`: the application as a graph of deployments. The only module that knows them all.

No `from __future__ import annotations` here: Serve reads the type of `args` to validate a config file's arguments.
"""

import os
import socket
from pathlib import Path
from typing import NamedTuple

from ray.serve import Application, Deployment

from deployments import conductor, cropper, database, fetcher, ingress, musicgen
from gary.config import AppArgs, DatabaseConfig, EngineConfig, ModelSpec, TracingConfig


class Parts(NamedTuple):
    """What an application is put together from. Others than the product's own come in here, for tests."""

    database: Deployment = database.deployment
    fetcher: Deployment = fetcher.deployment
    cropper: Deployment = cropper.deployment
    musicgen: Deployment = musicgen.deployment
    conductor: Deployment = conductor.deployment
    ingress: Deployment = ingress.deployment


def build(args: AppArgs) -> Application:
    """The service. The database is `args.database.uri`, else MONGODB_URI, else an embedded server. Traces go to
    `args.tracing.endpoint`, else to OTEL_EXPORTER_OTLP_ENDPOINT, else there are none.

    Relative paths in `args` are taken from the directory that the application is started in.
    """
    return assemble(args, Parts())


def assemble(args: AppArgs, parts: Parts) -> Application:
    """`build`, of any parts that fit."""
    args = args.model_copy(
        update={
            "database": _resolved_database(args.database),
            "engine": _resolved_engine(args.engine),
            "tracing": _resolved_tracing(args.tracing),
            "models": tuple(_resolved_model(model) for model in args.models),
        }
    )
    embedded = None if args.database.uri else parts.database.bind(args.database)
    uri = args.database.uri or f"mongodb://127.0.0.1:{args.database.port}/"
    fetching = parts.fetcher.bind(args.limits, args.sources, args.tracing)
    cropping = parts.cropper.bind(args.limits, args.tracing)
    models = {size: _musicgen(args, size, parts.musicgen) for size in args.sizes}
    conducting = parts.conductor.bind(args, uri, fetching, cropping, models, embedded)
    return parts.ingress.bind(args, uri, conducting, cropping)


def _musicgen(args: AppArgs, size: str, deployment: Deployment) -> Application:
    models = tuple(model for model in args.models if model.size == size)
    return deployment.options(name=f"MusicGen-{size}").bind(models, args.engine, tracing_config=args.tracing)


def _resolved_database(config: DatabaseConfig) -> DatabaseConfig:
    uri = config.uri or os.environ.get("MONGODB_URI")
    port = config.port or (_free_port() if uri is None else 0)
    return config.model_copy(update={"uri": uri, "port": port, "data_dir": config.data_dir.absolute()})


def _resolved_engine(config: EngineConfig) -> EngineConfig:
    if config.hub_cache_dir is None:
        return config
    return config.model_copy(update={"hub_cache_dir": config.hub_cache_dir.absolute()})


def _resolved_tracing(config: TracingConfig) -> TracingConfig:
    endpoint = config.endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None
    return TracingConfig(endpoint=endpoint, sample_ratio=config.sample_ratio)


def _resolved_model(model: ModelSpec) -> ModelSpec:
    """A checkpoint that is a directory here, by its absolute path; any other is a name at the hub."""
    path = Path(model.checkpoint)
    return model.model_copy(update={"checkpoint": str(path.absolute())}) if path.is_dir() else model


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
