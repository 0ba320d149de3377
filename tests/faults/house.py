"""A service on a Ray of its own, as a process that may be killed with all that it started.

    python -m tests.faults.house SPEC.json

It says one JSON line when it is up, and answers each JSON line on its standard input with another. It ends with its
input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import ray._private.state
import yaml
from ray import serve
from ray.cluster_utils import Cluster

from gary.config import AppArgs
from tests.faults.application import ROOT, HouseSpec, fitted
from tests.faults.waiting import must

APP_NAME = "gary"
_STORE_BYTES = 512 * 1024 * 1024
_BALLAST = "ballast"


def main() -> None:
    spec = HouseSpec.model_validate_json(Path(sys.argv[1]).read_text())
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Ray prints goes to the log
    with ExitStack() as house:
        if spec.small_disk is not None:
            _mount(spec.small_disk, spec.small_disk_bytes)
        cluster = house.enter_context(_ray(spec))
        # Proxies of several nodes share the port of this machine: the kernel gives each new connection to one of them.
        location = "EveryNode" if spec.gpu_nodes else "HeadOnly"
        serve.start(http_options={"host": "127.0.0.1", "port": spec.port, "location": location})
        house.callback(serve.shutdown)
        _deploy(spec, spec.args)
        _wait_until_running()
        answers.write("{}\n")
        for line in sys.stdin:
            answers.write(json.dumps(_answer(json.loads(line), spec, cluster)) + "\n")


@contextmanager
def _ray(spec: HouseSpec) -> Iterator[Cluster | None]:
    """One node in this process, or a cluster of several on this machine."""
    settings: dict[str, Any] = {"num_cpus": 16, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    if spec.dashboard_port is not None:
        settings |= {"include_dashboard": True, "dashboard_port": spec.dashboard_port}
    if spec.nodes == 1 and not spec.gpu_nodes:
        ray.init(**settings, log_to_driver=False, namespace="faults", _temp_dir=str(spec.temp_dir))
        try:
            yield None
        finally:
            ray.shutdown()
        return
    head = settings | {"resources": {"head": 1}, "temp_dir": str(spec.temp_dir)}
    if spec.gpu_nodes:
        head |= {"num_cpus": _node_types()["head"]["resources"]["CPU"]}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(spec.nodes - 1):
            cluster.add_node(**settings | {"resources": {"work": 1}})
        for _ in range(spec.gpu_nodes):
            _join(cluster)
        ray.init(address=cluster.address, log_to_driver=False, namespace="faults")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def _answer(command: dict[str, Any], spec: HouseSpec, cluster: Cluster | None) -> Any:
    answers: dict[str, Callable[[], Any]] = {
        "replicas": _replicas,
        "deploy": lambda: _deploy(spec, _changed(spec.args)),
        "offer": lambda: _deploy(spec, _offering(spec.args, command["models"])),
        "states": lambda: _states(command["deployment"]),
        "proxies": _proxies,
        "nodes": lambda: _nodes(cluster),
        "join": lambda: _join(cluster),
        "drain": lambda: _drain(cluster, command["node"]),
        "leave": lambda: _leave(cluster, command["node"]),
        "fill": lambda: _fill(spec),
        "free": lambda: _free(spec),
    }
    return answers[command["do"]]()


def _replicas() -> list[dict[str, Any]]:
    """The living replicas: their deployment, process and node. Ray's public way to ask needs the dashboard."""
    actors = ray._private.state.actors(actor_state_name="ALIVE").values()
    named = [(actor["Name"].split("#"), actor) for actor in actors if actor["Name"].startswith("SERVE_REPLICA::")]
    return [{"deployment": name[1], "pid": a["Pid"], "node": a["Address"]["NodeID"]} for name, a in named]


def _changed(args: AppArgs) -> AppArgs:
    """Other settings for every deployment but the database, and so new replicas."""
    return args.model_copy(
        update={
            "limits": args.limits.model_copy(update={"clips": args.limits.clips + 1}),
            "engine": args.engine.model_copy(update={"slots": args.engine.slots + 1}),
        }
    )


def _offering(args: AppArgs, models: list[dict[str, str]]) -> AppArgs:
    """The same service with other models, the first of them the default."""
    return AppArgs.model_validate(args.model_dump() | {"models": models, "default_model": models[0]["name"]})


def _deploy(spec: HouseSpec, args: AppArgs) -> None:
    """Asks for a version of the service; it is not waited for here."""
    version = spec.model_copy(update={"args": args})
    if spec.dashboard_port is None:
        serve.run_many([serve.RunTarget(fitted(version), name=APP_NAME)], wait_for_applications_running=False)
        return
    application = {
        "name": APP_NAME,
        "import_path": "tests.faults.deployed:build",
        "args": version.model_dump(mode="json"),
    }
    config = spec.temp_dir / "serve_config.json"  # which is YAML too
    config.write_text(json.dumps({"applications": [application]}))
    program = str(Path(sys.executable).with_name("serve"))
    address = f"http://127.0.0.1:{spec.dashboard_port}"
    subprocess.run([program, "deploy", "--address", address, str(config)], check=True)


def _wait_until_running() -> None:
    def status() -> str:
        application = serve.status().applications.get(APP_NAME)
        return "NOT_STARTED" if application is None else str(application.status.value)

    must(lambda: status() in ("RUNNING", "DEPLOY_FAILED"), "a deployed service", 120)
    assert status() == "RUNNING", serve.status().applications[APP_NAME].message


def _nodes(cluster: Cluster | None) -> dict[str, int]:
    """The raylet of each node but the head."""
    assert cluster is not None
    return {
        node.node_id: node.all_processes[ray._private.ray_constants.PROCESS_TYPE_RAYLET][0].process.pid
        for node in cluster.worker_nodes
    }


def _node_types() -> dict[str, Any]:
    """Of production's cluster."""
    types: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    return types


def _join(cluster: Cluster | None) -> str:
    """One more node with a GPU that it only declares; its id."""
    assert cluster is not None
    shape = _node_types()["gpu"]["resources"]
    node = cluster.add_node(num_cpus=shape["CPU"], num_gpus=shape["GPU"], object_store_memory=_STORE_BYTES)
    return str(node.node_id)


def _drain(cluster: Cluster | None, node_id: str) -> None:
    """Tells Ray that a node is about to leave, as scripts/drain-node does."""
    assert cluster is not None
    program = str(Path(sys.executable).with_name("ray"))
    reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test"]
    where = ["--address", cluster.address, "--node-id", node_id]
    subprocess.run([program, "drain-node", *where, *reason, "--deadline-remaining-seconds=600"], check=True, stdout=2)


def _leave(cluster: Cluster | None, node_id: str) -> None:
    """Ends a node's raylet, and waits until Ray knows."""
    assert cluster is not None
    (node,) = [node for node in cluster.worker_nodes if node.node_id == node_id]
    cluster.remove_node(node, allow_graceful=True)


def _proxies() -> dict[str, int]:
    """The process of each node's proxy, by node."""
    actors = ray._private.state.actors(actor_state_name="ALIVE").values()
    return {a["Address"]["NodeID"]: a["Pid"] for a in actors if "PROXY_ACTOR" in a["Name"]}


def _states(deployment: str) -> dict[str, int]:
    """How many replicas Serve counts in each state."""
    states = serve.status().applications[APP_NAME].deployments[deployment].replica_states
    return {str(state): number for state, number in states.items()}  # plain strings, whatever its annotation says


def _mount(directory: Path, size_bytes: int) -> None:
    """A small disk that only this process and its children see, and that goes with them."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)], check=True)


def _fill(spec: HouseSpec) -> int:
    """Leaves no byte free on the small disk; bytes written."""
    assert spec.small_disk is not None
    written = 0
    with (spec.small_disk / _BALLAST).open("ab", buffering=0) as ballast:
        for chunk in (1 << 20, 1 << 12):
            try:
                while True:
                    written += ballast.write(bytes(chunk))
            except OSError:
                continue
    return written


def _free(spec: HouseSpec) -> None:
    assert spec.small_disk is not None
    (spec.small_disk / _BALLAST).unlink()


if __name__ == "__main__":
    main()
