"""The dashboard and the alerts: made of metrics that are there, and wired into what runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import make
from deployments.metrics import CATALOGUE, CODES, Metric

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
EXPRESSIONS = [target["expr"] for panel in make.dashboard()["panels"] for target in panel.get("targets", ())]
EXPOSED = {metric.exported + ("_bucket" if metric.kind == "histogram" else ""): metric for metric in CATALOGUE}
SERVES = {"deployment", "replica", "application", "le"}  # labels that are there besides our own


def named(expression: str) -> list[str]:
    return re.findall(r"ray_gary_\w+", expression)


def faults(expression: str) -> list[str]:
    """What in an expression is not there: metrics, labels, values of labels; and parentheses that do not close."""
    found = [name for name in named(expression) if name not in EXPOSED]
    metrics: list[Metric] = [EXPOSED[name] for name in named(expression) if name in EXPOSED]
    labels = {label for metric in metrics for label in metric.labels} | SERVES
    for by in re.findall(r"by \(([^)]*)\)", expression):
        found += [label for label in re.split(r",\s*", by) if label not in labels]
    for name, matchers in re.findall(r"(ray_gary_\w+)\{([^}]*)\}", expression):
        for label, values in re.findall(r'(\w+)\s*[!=]?=?~?\s*"([^"]*)"', matchers):
            known = EXPOSED[name].labels.get(label, frozenset())
            found += [value for value in values.split("|") if value not in known]
    found += ["rate of a gauge" for name in re.findall(r"(?:rate|increase)\((\w+)", expression) if is_gauge(name)]
    return found + ["()" for pair in ("()", "{}", "[]") if expression.count(pair[0]) != expression.count(pair[1])]


def is_gauge(name: str) -> bool:
    return name in EXPOSED and EXPOSED[name].kind == "gauge"


def runbook(rule: dict[str, Any]) -> tuple[str, str]:
    page, anchor = rule["annotations"]["runbook"].split("#")
    return page, anchor


@pytest.mark.parametrize("expression", [*EXPRESSIONS, *(rule["expr"] for rule in RULES)])
def test_an_expression_asks_for_what_is_there(expression: str) -> None:
    """Metrics by their exported names, labels that they have, values that those can have."""
    assert faults(expression) == []
    assert named(expression) or expression.startswith("up{")


@pytest.mark.parametrize(
    "expression",
    [
        "ray_gary_queue",
        "ray_gary_task_seconds",
        "sum by (colour) (ray_gary_queue_tasks)",
        'ray_gary_queue_tasks{state="sleeping"}',
        "rate(ray_gary_queue_tasks[5m])",
        "sum(ray_gary_queue_tasks",
    ],
)
def test_the_check_can_fail(expression: str) -> None:
    assert faults(expression)


def test_every_metric_is_shown() -> None:
    """On the dashboard."""
    assert {name for expression in EXPRESSIONS for name in named(expression)} == EXPOSED.keys()


def test_the_file_is_what_the_code_makes() -> None:
    """deploy/grafana/dashboard.json; `.venv/bin/python -m deploy.grafana.make` writes it."""
    assert make.PATH.read_text() == make.text()


def test_panels_lie_beside_each_other() -> None:
    """Within the page's 24 columns, no two on the same place, each with an id of its own and a series that has a
    name."""
    panels = json.loads(make.text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert all(target["legendFormat"] for target in panel.get("targets", ()))
    assert len({panel["id"] for panel in panels}) == len(panels) > 15


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """How urgent it is, what is wrong, and a heading of the operator's page, which it does not share."""
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    page, anchor = runbook(rule)
    headings = re.findall(r"^### (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert rule["alert"] in headings


def test_no_runbook_without_an_alert() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    assert set(re.findall(r"^### (Gary\w+)$", text, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_an_alert_s_codes_are_known() -> None:
    """That of a failure of ours names none that is a link's or a client's."""
    (fails,) = (rule for rule in RULES if rule["alert"] == "GaryFails")
    (codes,) = re.findall(r'code=~"([^"]*)"', fails["expr"])
    assert set(codes.split("|")) < CODES
    assert not set(codes.split("|")) & {"private", "removed", "geo", "age", "live", "not_audio", "invalid_input"}


def test_what_runs_reads_them() -> None:
    """compose.yaml puts rules and dashboard where Prometheus and Grafana are told to look."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    (rules,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())["rule_files"]
    assert f"./prometheus/alerts.yaml:{rules}:ro" in services["prometheus"]["volumes"]
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/gary.yaml").read_text())
    (folder,) = (provider["options"]["path"] for provider in provisioned["providers"])
    assert f"./grafana/dashboard.json:{folder}/gary.json:ro" in services["grafana"]["volumes"]
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    uids = {target["datasource"]["uid"] for panel in make.dashboard()["panels"] for target in panel.get("targets", ())}
    assert uids == {source["uid"]}
