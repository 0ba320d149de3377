"""deploy/kuberay, by a closed schema of what it uses of KubeRay's CRD, and against the service that it deploys."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # Ray brings it, without types

from deployments.app import build
from gary.config import AppArgs
from tests.unit.test_config_files import deployments_of

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/kuberay/rayservice.yaml"


def _documents() -> list[Any]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


@pytest.fixture
def service() -> dict[str, Any]:
    (found,) = (document for document in _documents() if document["kind"] == "RayService")
    return deepcopy(dict(found))


def faults(service: dict[str, Any]) -> list[str]:
    schema = json.loads((ROOT / "tests/unit/schemas/rayservice.json").read_text())
    return [error.message for error in Draft202012Validator(schema).iter_errors(service)]


def _pods(service: dict[str, Any]) -> dict[str, Any]:
    """Pod specs, by group."""
    cluster = service["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in ({"head": cluster["headGroupSpec"]} | groups).items()}


def test_rayservice_keeps_to_the_schema(service: dict[str, Any]) -> None:
    assert faults(service) == []


@pytest.mark.parametrize(
    "path", ["", "spec", "spec.rayClusterConfig", "spec.rayClusterConfig.headGroupSpec.template.spec"]
)
def test_the_check_finds_typos(service: dict[str, Any], path: str) -> None:
    """An unknown key is found at every level, down into the pods."""
    target = service
    for key in filter(None, path.split(".")):
        target = target[key]
    target["replica"] = 1
    assert faults(service) == ["Additional properties are not allowed ('replica' was unexpected)"]


def test_the_check_finds_a_wrong_value(service: dict[str, Any]) -> None:
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplicas"] = "two"
    assert faults(service)


def test_it_deploys_serve_config_word_for_word(service: dict[str, Any]) -> None:
    """deploy/kuberay/refresh writes it anew."""
    assert service["spec"]["serveConfigV2"] == (ROOT / "serve_config.yaml").read_text()


def test_every_node_has_the_ray_of_the_lock(service: dict[str, Any]) -> None:
    (locked,) = re.findall(r"^ray(?:\[.*\])?==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == locked
    assert len({pod["containers"][0]["image"] for pod in _pods(service).values()}) == 1


def test_pods_drain_for_longer_than_the_longest_task(service: dict[str, Any]) -> None:
    """A worker's pod is emptied before SIGTERM, for longer than any deployment drains, and Kubernetes waits for that;
    an old cluster stays as long after traffic has moved."""
    args = AppArgs.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"])
    longest_s = max(
        deployment._deployment_config.graceful_shutdown_timeout_s for deployment in deployments_of(build(args)).values()
    )
    pods = _pods(service)
    for group in ("cpu", "gpu"):
        script, seconds = pods[group]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert (ROOT / script.removeprefix("/app/")).is_file()
        assert longest_s < int(seconds) < pods[group]["terminationGracePeriodSeconds"]
    assert service["spec"]["rayClusterDeletionDelaySeconds"] > longest_s


def test_pods_can_do_little(service: dict[str, Any]) -> None:
    """Not root, no rights, a root file system that they cannot write, and what must be writable is."""
    for name, pod in _pods(service).items():
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/data"}
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_groups_have_room_for_what_serve_may_ask_for(service: dict[str, Any]) -> None:
    """min <= replicas <= max, GPUs for all replicas, CPUs for the rest; what Ray is told fits into the pod."""
    groups = {g["groupName"]: g for g in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    needed = {"cpu": 0.0, "gpu": 0.0}
    for deployment in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["deployments"]:
        options = deployment["ray_actor_options"]
        replicas = deployment.get("num_replicas") or deployment["autoscaling_config"]["max_replicas"]
        needed["gpu" if options.get("num_gpus") else "cpu"] += replicas * options["num_cpus"]
    for name, group in groups.items():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        cpus = int(group["rayStartParams"]["num-cpus"])
        assert group["maxReplicas"] * cpus >= needed[name], name
        assert cpus < int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])


def test_the_heads_tables_outlive_it(service: dict[str, Any]) -> None:
    """GCS fault tolerance names the Redis that redis.yaml makes, by the secret that it reads, and it writes to disk."""
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    address, redis = list(yaml.safe_load_all((ROOT / "deploy/kuberay/redis.yaml").read_text()))
    port = address["spec"]["ports"][0]["port"]
    assert options["redisAddress"] == f"redis://{address['metadata']['name']}:{port}"
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    (password,) = container["env"]
    assert options["redisPassword"]["valueFrom"] == password["valueFrom"]
    assert "appendonly yes" in container["command"][-1]
    assert redis["spec"]["volumeClaimTemplates"]


def test_the_claim_that_pods_mount_is_made() -> None:
    documents = {document["kind"]: document for document in _documents()}
    volumes = _pods(documents["RayService"])["gpu"]["volumes"]
    (claimed,) = (v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v)
    assert documents["PersistentVolumeClaim"]["metadata"]["name"] == claimed
    groups = documents["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    guarded = documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]["ray.io/group"]
    assert guarded in {group["groupName"] for group in groups}
