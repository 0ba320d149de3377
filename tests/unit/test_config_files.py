"""Serve's config files. Serve accepts typos silently at most levels, so they are read strictly here."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve import Application, Deployment
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from deployments.app import build
from examples.local import laptop_config
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
    environment = value.get("runtime_env", {})
    return found + [f"{path}.runtime_env.{key}" for key in environment if key not in RuntimeEnv.known_fields]


def deployments_of(app: Application) -> dict[str, Deployment]:
    """An application's deployments by name."""
    found: dict[str, Deployment] = {}
    pending: list[Any] = [app]
    while pending:
        node = pending.pop()
        if isinstance(node, Application):
            found[node._bound_deployment.name] = node._bound_deployment
            pending += node._bound_deployment.init_args
        elif isinstance(node, dict):
            pending += node.values()
    return found


def scaling_faults(deployment: dict[str, Any], built: Deployment) -> list[str]:
    """What Serve says of a deployment's autoscaling only once it deploys, or never.

    Args:
        built: what the file's values are laid over.

    Raises:
        ValidationError: a value that AutoscalingConfig refuses.
    """
    if "autoscaling_config" not in deployment:
        return []
    scaling = AutoscalingConfig(**deployment["autoscaling_config"])
    most_ongoing = deployment.get("max_ongoing_requests", built.max_ongoing_requests)
    faults = []
    if "num_replicas" in deployment:
        faults.append("num_replicas beside autoscaling_config")
    if scaling.max_replicas < scaling.min_replicas:
        faults.append("min_replicas > max_replicas")
    initial = scaling.min_replicas if scaling.initial_replicas is None else scaling.initial_replicas
    if not scaling.min_replicas <= initial <= scaling.max_replicas:
        faults.append("initial_replicas out of bounds")
    if scaling.get_target_ongoing_requests() >= most_ongoing:  # else the queue, not the target, is what holds it back
        faults.append("target_ongoing_requests >= max_ongoing_requests")
    if scaling.downscale_delay_s <= scaling.upscale_delay_s:
        faults.append("it goes as fast as it comes")
    return faults


def _application(name: str) -> tuple[dict[str, Any], dict[str, Deployment]]:
    """The one application of a file, as it is written, and what `build` makes of its arguments."""
    raw = _load(name)
    (application,) = ServeDeploySchema.model_validate(raw).applications
    assert application.import_path == "deployments.app:build"
    return raw["applications"][0], deployments_of(build(AppArgs.model_validate(application.args)))


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
    config["applications"][0]["runtime_env"]["env_var"] = {}
    assert len(unknown_keys(config, ServeDeploySchema)) == 5


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_serve_config_fits_the_application(name: str) -> None:
    """Arguments are valid, the deployments named are exactly those that `build` makes but the embedded database."""
    application, built = _application(name)
    assert {deployment["name"] for deployment in application["deployments"]} == built.keys() - {"Database"}


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_autoscaling_is_consistent(name: str) -> None:
    """min <= initial <= max, a replica takes more than is aimed at, and goes slower than it comes."""
    application, built = _application(name)
    for deployment in application["deployments"]:
        assert scaling_faults(deployment, built[deployment["name"]]) == [], deployment["name"]


@pytest.mark.parametrize(
    "change",
    [
        {"min_replicas": 5},
        {"initial_replicas": 9},
        {"target_ongoing_requests": 16},
        {"downscale_delay_s": 1},
        {"upscale_delay_s": -1},
        {"max_replicas": "many"},
    ],
    ids=str,
)
def test_the_check_of_autoscaling_can_fail(change: dict[str, Any]) -> None:
    application, built = _application("serve_config.yaml")
    small = next(d for d in application["deployments"] if d["name"] == "MusicGen-small")
    small["autoscaling_config"] |= change
    try:
        faults = scaling_faults(small, built["MusicGen-small"])
    except ValidationError as error:
        faults = [str(error)]
    assert faults


def test_production_gives_each_size_gpus() -> None:
    """Each size holds one GPU a replica and scales by itself; the licence of each model is stated."""
    application, _ = _application("serve_config.yaml")
    sizes = {d["name"]: d for d in application["deployments"] if d["name"].startswith("MusicGen-")}
    assert set(sizes) == {"MusicGen-small", "MusicGen-medium", "MusicGen-large"}
    for deployment in sizes.values():
        assert deployment["ray_actor_options"]["num_gpus"] == 1
        assert deployment["autoscaling_config"]["max_replicas"] > 1
    assert all(model.licence for model in AppArgs.model_validate(application["args"]).models)


def test_a_release_can_be_rolled_out() -> None:
    """Serve replaces replicas where its hash of the config changes: a change of code alone shows in GARY_RELEASE."""
    config = _load("serve_config.yaml")
    before = get_app_code_version(ServeDeploySchema.model_validate(config).applications[0])
    assert get_app_code_version(ServeDeploySchema.model_validate(config).applications[0]) == before
    config["applications"][0]["runtime_env"]["env_vars"]["GARY_RELEASE"] += "+1"
    assert get_app_code_version(ServeDeploySchema.model_validate(config).applications[0]) != before


def test_the_default_model_never_scales_to_zero_and_rare_ones_do() -> None:
    """Nobody who names no model waits for a machine; a GPU is not kept for a size that nobody uses."""
    application, _ = _application("serve_config.yaml")
    args = AppArgs.model_validate(application["args"])
    (default,) = (model.size for model in args.models if model.name == args.default_model)
    least = {
        deployment["name"].removeprefix("MusicGen-"): deployment["autoscaling_config"]["min_replicas"]
        for deployment in application["deployments"]
        if deployment["name"].startswith("MusicGen-")
    }
    assert least.pop(default) > 0
    assert set(least.values()) == {0}


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


def test_a_laptop_may_be_served_by_the_stand_in() -> None:
    """Tests and benchmarks that want speed have the same service on the random checkpoint, with the usual words."""
    args = AppArgs.model_validate(laptop_config("tiny")["applications"][0]["args"])
    assert {(model.checkpoint, model.size) for model in args.models} == {(".models/gary-tiny", "tiny")}
    assert {model.name for model in args.models} == {
        model["name"].replace("gary-demo", "gary-tiny")
        for model in _load("serve_config.dev.yaml")["applications"][0]["args"]["models"]
    }
    assert args.models[0].description is None


def test_models_listed_twice_are_refused() -> None:
    args = _load("serve_config.dev.yaml")["applications"][0]["args"]
    args["models"].append(args["models"][0])
    with pytest.raises(ValidationError, match="listed twice"):
        AppArgs.model_validate(args)
