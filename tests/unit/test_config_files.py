"""The files that deploy the service. Serve accepts typos silently at most levels, so they are read strictly here."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from deployments.app import build
from gary.config import AccessConfig, AppArgs

ROOT = Path(__file__).parents[2]
SERVE_CONFIGS = ["serve_config.yaml", "serve_config.dev.yaml"]


def _load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `list[X] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_of(part))), None)


def unknown_keys(value: Any, schema: type[BaseModel], path: str = "") -> list[str]:
    """Keys of `value` that no field of `schema`, or of the schemas below it, has."""
    if isinstance(value, list):
        return [key for item in value for key in unknown_keys(item, schema, path)]
    if not isinstance(value, dict):
        return []
    found = [f"{path}.{key}" for key in value if key not in schema.model_fields]
    for name, field in schema.model_fields.items():
        below = AutoscalingConfig if name == "autoscaling_config" else _model_of(field.annotation)
        if below is not None and name in value:
            found += unknown_keys(value[name], below, f"{path}.{name}")
    return found


def deployment_names(app: Application) -> set[str]:
    """The names of an application's deployments."""
    names = set()
    pending: list[Any] = [app]
    while pending:
        node = pending.pop()
        if isinstance(node, Application):
            names.add(node._bound_deployment.name)
            pending += node._bound_deployment.init_args
        elif isinstance(node, dict):
            pending += node.values()
    return names


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_serve_config_holds_no_unknown_key(name: str) -> None:
    """Every key is one that Serve knows."""
    assert unknown_keys(_load(name), ServeDeploySchema) == []


def test_the_check_finds_typos() -> None:
    """The check above can fail, at every level."""
    config = _load("serve_config.yaml")
    config["http_option"] = {}
    config["applications"][0]["deployments"][0]["num_replica"] = 2
    config["applications"][0]["deployments"][2]["autoscaling_config"]["min_replica"] = 1
    config["applications"][0]["deployments"][4]["ray_actor_options"]["num_gpu"] = 1
    assert len(unknown_keys(config, ServeDeploySchema)) == 4


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_serve_config_fits_the_application(name: str) -> None:
    """Arguments are valid, the deployments named are exactly those that `build` makes but the embedded database."""
    config = ServeDeploySchema.model_validate(_load(name))
    (application,) = config.applications
    assert application.import_path == "deployments.app:build"
    args = AppArgs.model_validate(application.args)
    built = deployment_names(build(args))
    assert {deployment.name for deployment in application.deployments} == built - {"Database"}


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_autoscaling_is_consistent(name: str) -> None:
    """What Serve checks only when it deploys: min <= max, and the queue of a replica admits what is aimed at."""
    for deployment in _load(name)["applications"][0]["deployments"]:
        if "autoscaling_config" in deployment:
            scaling = AutoscalingConfig(**deployment["autoscaling_config"])
            assert scaling.get_target_ongoing_requests() <= deployment.get("max_ongoing_requests", 8), deployment[
                "name"
            ]


def test_production_gives_each_size_gpus() -> None:
    """Each size holds one GPU a replica and scales by itself; the licence of each model is stated."""
    application = _load("serve_config.yaml")["applications"][0]
    sizes = {d["name"]: d for d in application["deployments"] if d["name"].startswith("MusicGen-")}
    assert set(sizes) == {"MusicGen-small", "MusicGen-medium", "MusicGen-large"}
    for deployment in sizes.values():
        assert deployment["ray_actor_options"]["num_gpus"] == 1
        assert deployment["autoscaling_config"]["max_replicas"] > 1
    assert all(model.licence for model in AppArgs.model_validate(application["args"]).models)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tasks.lease", 3),
        ("models.0.chekpoint", "x"),
        ("engine.device", "tpu"),
        ("default_model", "not-listed"),
        ("limits.body_bytes", -1),
    ],
)
def test_app_args_refuse(path: str, value: object) -> None:
    """Unknown keys, values out of bounds and a default that is not served are errors that name the key."""
    args = _load("serve_config.dev.yaml")["applications"][0]["args"]
    *parents, key = path.split(".")
    target: Any = args
    for parent in parents:
        target = target[int(parent)] if parent.isdigit() else target.setdefault(parent, {})
    target[key] = value
    with pytest.raises(ValidationError, match=key):
        AppArgs.model_validate(args)


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_the_old_clients_are_let_in(name: str) -> None:
    """They know of no key and no rate, and their pages have other origins."""
    access = AppArgs.model_validate(_load(name)["applications"][0]["args"]).access
    assert (access.api_keys, access.key_posts_per_minute, access.address_posts_per_minute) == ((), None, None)
    assert access.cors_origins == ("*",)


def test_the_documented_access_is_valid() -> None:
    """What docs/deployment.md shows of `args.access` can be pasted."""
    block = (ROOT / "docs/deployment.md").read_text().split("```yaml\n")[1].split("```")[0]
    access = AccessConfig.model_validate(yaml.safe_load(block)["args"]["access"])
    assert set(access.model_fields_set) == set(AccessConfig.model_fields), "it shows every setting"


@pytest.mark.parametrize(
    "access",
    [
        {"api_keys": [{"name": "a", "sha256": "a key in the clear"}]},
        {"api_keys": [{"name": "a b", "sha256": "0" * 64}]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"address_posts_per_minute": 0},
    ],
    ids=range(4),
)
def test_access_that_cannot_be_meant_is_refused(access: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AccessConfig.model_validate(access)


def test_models_listed_twice_are_refused() -> None:
    args = _load("serve_config.dev.yaml")["applications"][0]["args"]
    args["models"].append(args["models"][0])
    with pytest.raises(ValidationError, match="listed twice"):
        AppArgs.model_validate(args)


def test_cluster_yaml_passes_rays_validator() -> None:
    """Ray's own check of the cluster launcher's file, and the head keeps to CPUs while workers bring GPUs."""
    config = prepare_config(_load("cluster.yaml"))
    validate_config(config)
    types = config["available_node_types"]
    assert "GPU" not in types[config["head_node_type"]]["resources"]
    assert any(node["resources"].get("GPU") for node in types.values())


def test_cluster_yaml_schema_check_can_fail() -> None:
    config = _load("cluster.yaml")
    config["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config))


def _dockerfile() -> list[tuple[str, str]]:
    """(instruction, rest) of each of the Dockerfile's instructions, continuation lines joined."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")]


def test_dockerfile_as_far_as_it_can_be_read() -> None:
    """A pinned slim base, not root from the installation on, the project's own scripts, a health check."""
    steps = _dockerfile()
    instructions = [name for name, _ in steps]
    base = dict(steps)["FROM"]
    assert "slim" in base
    assert base.count(":") == 1
    assert "latest" not in base
    assert dict(steps)["USER"] not in ("root", "0")
    assert instructions.index("USER") < max(i for i, name in enumerate(instructions) if name == "RUN")
    assert ("RUN", "scripts/install") in steps
    assert "/health" in dict(steps)["HEALTHCHECK"]
    command = json.loads(dict(steps)["CMD"])
    assert (ROOT / command[-1]).is_file()


def test_dockerfile_copies_what_exists() -> None:
    """Every source of a COPY is in the repository."""
    for name, rest in _dockerfile():
        if name == "COPY":
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), sources


def test_compose_gives_the_service_its_database() -> None:
    """The service waits for a healthy MongoDB, is told its address, and has time to drain."""
    services = _load("deploy/compose.yaml")["services"]
    assert set(services["gary"]["depends_on"]) == {"mongodb"}
    assert services["gary"]["depends_on"]["mongodb"]["condition"] == "service_healthy"
    assert services["gary"]["environment"]["MONGODB_URI"].startswith("mongodb://mongodb:")
    assert "healthcheck" in services["mongodb"]
    assert int(services["gary"]["stop_grace_period"].rstrip("s")) > 180
