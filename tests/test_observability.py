"""The alert rules and the dashboard name only metrics that exist, and every alert is explained."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.settings import BreakerSettings
from tests.service.installation import Installation
from tests.system.tools import tool

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "deploy/grafana/carpus.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
OF_PROMETHEUS = {"up"}
OF_PROMETHEUS_LABELS = {"job", "instance"}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[tuple[str, str]]]:
    """Yield every (metric, label) that an installation in use exposes; ("metric", "") for each metric."""
    made = Installation(tmp_path_factory.mktemp("metrics"))
    made.confirm()
    made.deliver()
    made.deliver(refused=True)
    made.wait_for_retry("peer-unreachable", "away", "wait")
    made.quarantine("no-study-uid", "none")
    made.jobs.beat("worker inference 1", {"canary_seconds": 1, "gpu_memory_bytes": {"used": 1, "total": 2}})
    made.jobs.beat("scp", {"refusing": [{"code": "disk-full", "text": "full"}]})
    made.jobs.count_refusals("disk-full", "full", "make room", 1)
    _open_a_breaker(made)
    page = metrics.text(metrics.registry(made.jobs, (made.store,), made.settings)).decode()
    found = set()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found |= {(sample.name, ""), *((sample.name, label) for label in sample.labels)}
        found.add((family.name + ("_total" if family.type == "counter" else ""), ""))
    yield found
    made.jobs.engine.dispose()


def _open_a_breaker(made: Installation) -> None:
    from service.errors import Retryable
    from service.queue.breakers import Breakers

    for _ in range(5):
        Breakers(made.jobs, BreakerSettings()).failed("archive", Retryable("away"))


def names(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:carpus_\w+|up)\b(?=[\s{\[)]|$)", re.sub(r'"[^"]*"', '""', expression)))


def labels(expression: str) -> set[str]:
    """Return the labels that an expression groups or joins by."""
    lists = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expression)
    return {label.strip() for each in lists for label in each.split(",") if label.strip()} - OF_PROMETHEUS_LABELS


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [rule["expr"] for rule in RULES] + panels


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_named_exists(exposed: set[tuple[str, str]], expression: str) -> None:
    known = {name for name, _ in exposed} | {name.removesuffix("_total") for name, _ in exposed} | OF_PROMETHEUS
    named = names(expression)
    assert named
    assert named - known == set()
    assert labels(expression) - {label for metric, label in exposed if metric.startswith(tuple(named))} == set()
    for metric, selected in re.findall(r"(carpus_\w+)\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selected):
            assert (metric, label) in exposed, expression


def test_the_metrics_that_a_panel_names_as_counters_are_counters(exposed: set[tuple[str, str]]) -> None:
    for expression in expressions():
        for name in re.findall(r"(?:rate|increase)\((carpus_\w+)", expression):
            assert name.endswith(("_total", "_bucket")), name
            assert (name, "") in exposed


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_cause_and_action_and_has_its_section(rule: dict[str, Any]) -> None:
    assert all(rule["annotations"][key] for key in ("summary", "cause", "action"))
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    section = PAGE.partition(f"### {rule['alert']}\n")[2].partition("\n#")[0]
    assert len(section.split()) > 25, f"docs/operations.md explains {rule['alert']} in a section of its own"


def test_every_section_of_an_alert_is_of_an_alert() -> None:
    assert set(re.findall(r"^### (Carpus\w+)$", PAGE, re.M)) == {rule["alert"] for rule in RULES}


def promtool(*words: str) -> str:
    """Return what Prometheus's own tool says; it is asked where it is installed."""
    done = subprocess.run(
        [tool("promtool", "prometheus"), *words],
        capture_output=True,
        text=True,
        cwd=PROMETHEUS,
        check=False,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "config", "prometheus.yml")


def test_every_alert_rings_when_it_must_and_is_over_afterwards() -> None:
    cases = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    rung = set()
    for case in cases:
        told = ["exp_samples" in asked for asked in case["promql_expr_test"]]
        assert told[0] is told[-1] is False, f"{case['name']}: silent before and after"
        rung |= set(re.findall(r'alertname="(\w+)"', str(case["promql_expr_test"])))
    assert rung == {rule["alert"] for rule in RULES}
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


def test_every_expression_of_the_dashboard_is_one_of_prometheus(tmp_path: Path) -> None:
    panels = [{"record": f"panel{number}", "expr": expr} for number, expr in enumerate(expressions())]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": panels}]}), encoding="utf-8")
    assert f"{len(panels)} rules found" in promtool("check", "rules", str(path))


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    places = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in places
                places.add((x, y))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_steps_are_added_up_once_and_stay_the_same(tmp_path: Path) -> None:
    made = Installation(tmp_path)
    own = metrics.registry(made.jobs, (made.store,))
    made.confirm()
    first = _steps(metrics.text(own).decode())
    made.clock.pass_by(3600)  # what is settled is kept now
    assert _steps(metrics.text(own).decode()) == first
    made.confirm()
    second = _steps(metrics.text(own).decode())
    assert second == _steps(metrics.text(metrics.registry(made.jobs, (made.store,))).decode())
    assert second["inferred"] == 2 * first["inferred"] == 2
    made.jobs.engine.dispose()


def _steps(page: str) -> dict[str, float]:
    families = text_string_to_metric_families(page)
    samples = next(family for family in families if family.name == "carpus_step_seconds").samples
    return {sample.labels["step"]: sample.value for sample in samples if sample.name.endswith("_count")}
