"""deploy/compose.yaml by the Compose specification's schema, and the files that it mounts."""

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator  # Ray brings it, without types
from pymongo.uri_parser import parse_uri

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def _load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def faults(compose: dict[str, Any]) -> list[str]:
    """What the specification says of a file. `name`, at the top, is newer than the schema that is kept here."""
    schema = json.loads((ROOT / "tests/unit/schemas/compose-spec.json").read_text())
    rest = {key: value for key, value in compose.items() if key != "name"}
    return [error.message for error in Draft201909Validator(schema).iter_errors(rest)]


def test_compose_keeps_to_the_specification() -> None:
    compose = _load("compose.yaml")
    assert faults(compose) == []
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", compose["name"])


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("gary", {"stop_grace": "200s"}),
        ("gary", {"deploy": {"resources": {"reservations": {"gpus": 1}}}}),
        ("mongodb", {"healthcheck": {"tests": ["true"]}}),
        ("grafana", {"read_only": "maybe", "ports": 3000}),
    ],
    ids=str,
)
def test_the_check_can_fail(service: str, change: dict[str, Any]) -> None:
    compose = _load("compose.yaml")
    compose["services"][service] |= change
    assert faults(compose)


def test_every_name_is_declared_and_every_file_is_there() -> None:
    """Volumes, networks, secrets and what is mounted from the repository."""
    compose = _load("compose.yaml")
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()
        assert set(service.get("networks", [])) <= compose["networks"].keys()
        assert set(service.get("depends_on", [])) <= compose["services"].keys()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]


def test_images_are_pinned_and_nothing_is_open_to_the_network() -> None:
    """Ports are on loopback: what is before them has TLS and a door."""
    for name, service in _load("compose.yaml")["services"].items():
        assert name == "gary" or re.fullmatch(r"[\w/]+:v?\d+(\.\d+)+", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_the_service_waits_for_its_database_and_is_given_time() -> None:
    """It starts with a primary that takes writes, is drained for longer than any deployment drains, and cannot write
    to its own image."""
    service = _load("compose.yaml")["services"]["gary"]
    assert service["depends_on"]["mongodb"]["condition"] == "service_healthy"
    assert int(service["stop_grace_period"].rstrip("s")) > 180
    assert service["read_only"] is True
    writable = [volume.split(":")[1] for volume in service["volumes"]] + [t.split(":")[0] for t in service["tmpfs"]]
    assert set(writable) == {"/data", "/tmp/ray", "/tmp"}


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    """Each secret of the file is made, closed to others by its directory, and a second run changes none of them."""
    script = tmp_path / "secrets"
    script.write_bytes((DEPLOY / "secrets").read_bytes())
    subprocess.run(["bash", script], check=True, timeout=30)
    made = {path.name: path.read_text() for path in (tmp_path / ".secrets").iterdir()}
    subprocess.run(["bash", script], check=True, timeout=30)
    assert {path.name: path.read_text() for path in (tmp_path / ".secrets").iterdir()} == made
    assert {Path(s["file"]).name for s in _load("compose.yaml")["secrets"].values()} == made.keys()
    assert stat.S_IMODE((tmp_path / ".secrets").stat().st_mode) == 0o700
    uri = parse_uri(made["mongodb-uri"])
    assert (uri["username"], uri["password"]) == ("gary", made["mongodb-gary-password"])
    assert uri["options"] == {"replicaSet": "gary", "authSource": "gary"}
    assert 6 <= len(made["mongodb-keyfile"]) <= 1024, "what mongod takes"


def test_prometheus_reads_what_ray_writes() -> None:
    """The file in which Ray lists its nodes lies on a volume that both have."""
    compose = _load("compose.yaml")["services"]
    (ray, _) = _load("prometheus/prometheus.yaml")["scrape_configs"]
    (found,) = ray["file_sd_configs"]
    assert found["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
    assert "ray:/tmp/ray" in compose["gary"]["volumes"]
    assert "ray:/tmp/ray:ro" in compose["prometheus"]["volumes"]


def test_grafana_asks_prometheus() -> None:
    """By the name and the port that it has in the file."""
    (source,) = _load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert _load("compose.yaml")["services"][host]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_traces_are_asked_for() -> None:
    """Jaeger runs where its profile is named, nobody waits for it, and without an endpoint the service has none."""
    services = _load("compose.yaml")["services"]
    assert services["jaeger"]["profiles"] == ["tracing"]
    assert [name for name, service in services.items() if "jaeger" in service.get("depends_on", [])] == []
    assert services["gary"]["environment"] == {"OTEL_EXPORTER_OTLP_ENDPOINT": "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"}
    (source,) = _load("grafana/provisioning/datasources/jaeger.yaml")["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
