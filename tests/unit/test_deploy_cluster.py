"""The files of Ray's cluster launcher, by Ray's own validator and against what serve_config.yaml asks for."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError  # Ray brings it, without types
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLUSTERS = ["cluster.yaml", "cluster.local.yaml"]


def _load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_passes_rays_validator(name: str) -> None:
    validate_config(prepare_config(_load(name)))


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(("key", "value"), [("max_worker", 3), ("upscaling_speed", "fast")])
def test_the_check_can_fail(name: str, key: str, value: object) -> None:
    """Of an unknown key, and of a value of the wrong kind."""
    with pytest.raises(ValidationError, match=key if key == "max_worker" else "fast"):
        validate_config(prepare_config(_load(name) | {key: value}))


def _wanted(gpu: bool) -> tuple[int, int]:
    """(CPUs, GPUs) that serve_config.yaml asks for at most, of the deployments with or without GPUs."""
    cpus = gpus = 0
    for deployment in _load("serve_config.yaml")["applications"][0]["deployments"]:
        options = deployment["ray_actor_options"]
        if bool(options.get("num_gpus")) is gpu:
            replicas = deployment.get("num_replicas") or deployment["autoscaling_config"]["max_replicas"]
            cpus += replicas * options["num_cpus"]
            gpus += replicas * options.get("num_gpus", 0)
    return cpus, gpus


def test_the_cloud_has_room_for_what_serve_may_ask_for() -> None:
    """The head holds all that needs no GPU; GPU workers may be as many as replicas, and hold nothing else."""
    config = prepare_config(_load("cluster.yaml"))
    types = config["available_node_types"]
    head, gpu = types[config["head_node_type"]], types["gpu"]
    assert "GPU" not in head["resources"]
    assert head["resources"]["CPU"] >= _wanted(gpu=False)[0]
    assert gpu["max_workers"] * gpu["resources"]["GPU"] >= _wanted(gpu=True)[1]
    assert config["max_workers"] >= gpu["max_workers"]
    assert gpu["resources"]["CPU"] == _wanted(gpu=True)[0] == 0, "what needs no GPU finds no CPU there"


def test_machines_of_ones_own_are_all_used() -> None:
    config = _load("cluster.local.yaml")
    assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_node_starts_ray_alike(name: str) -> None:
    """What is read from the environment where Ray is started is the same on head and workers, and so is the lock."""
    config = _load(name)
    for variable in ("MALLOC_ARENA_MAX=2", "RAY_SERVE_LOG_TO_STDERR=0", "RAY_SERVE_ENABLE_HA_PROXY=1"):
        for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
            assert variable in config[commands][-1]
    assert "scripts/install --no-dev" in config["setup_commands"][-1]
