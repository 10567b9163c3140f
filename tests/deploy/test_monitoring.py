"""Alerts, dashboard and autoscaling: of metrics that exist, each alert tested and explained."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import KUBERNETES, ROOT

MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
#: Names of metrics, of ours and of every process; not those of labels.
METRIC = re.compile(r"\b(?:layerserve|process)_\w+\b")


def metrics() -> dict[str, str]:
    """The names of the server's series as Prometheus has them, with the metric's type."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",), "gauge": ("",)}
    return {name + suffix: kind for name, kind in rows for suffix in suffixes[kind]}


def test_every_file_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert runpy.run_path(str(ROOT / "deploy" / "generate.py"))["main"]() == 0


def test_a_file_that_is_not_up_to_date_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    (tmp_path / "deploy" / "monitoring" / "alerts.yaml").write_text("groups: []\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = runpy.run_path(str(tmp_path / "deploy" / "generate.py"))
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert made["main"]() == 1
    assert "stale: prometheusrule.yaml, alerts.yaml: run `make docs` and commit" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert made["main"]() == 0
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert made["main"]() == 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_of_metrics_that_exist(rule: dict[str, Any]) -> None:
    named = set(METRIC.findall(rule["expr"]))
    assert named <= metrics().keys()
    assert named or "up{" in rule["expr"]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert all('job="layerserve"' in selector for selector in re.findall(r"\w+(\{[^}]*\})", rule["expr"]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_in_the_runbook(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    sections = re.split(r"^## ", (ROOT / page).read_text(), flags=re.MULTILINE)[1:]
    (section,) = [section for section in sections if section.splitlines()[0] == rule["alert"]]
    assert anchor == rule["alert"].lower()
    assert all(f"**{word}.**" in section for word in ("Meaning", "Look", "Do"))


def test_the_runbook_has_no_other_alerts() -> None:
    headings = re.findall(r"^## (Layerserve\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]


def test_every_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in RULES}
    # A server that is well has none of them, though it has all series.
    (well,) = [test for test in tests if test["name"] == "a server that is well"]
    (quiet,) = well["promql_expr_test"]
    assert quiet["exp_samples"] == []
    series = {name for line in well["input_series"] for name in re.findall(r"^\w+", line["series"])}
    assert series >= {name for rule in RULES for name in METRIC.findall(rule["expr"])}


def test_prometheus_passes_the_alerts_and_their_tests() -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool isn't installed")
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        made = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_is_of_metrics_that_exist(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        named = METRIC.findall(target["expr"])
        assert set(named) <= metrics().keys()
        # Buckets count since the start of the server.
        assert "rate(" in target["expr"] or not any(name.endswith("_bucket") for name in named)
        variables = re.findall(r"\$(\w+)", target["expr"])
        known = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
        assert set(variables) <= known


def test_panels_have_numbers_and_places_of_their_own() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in PANELS)


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    names = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    missing = {name for name in names if not any(one.startswith(name) for one in shown)}
    # Part of another panel: total times are in the histograms, and virtual memory says nothing here.
    others = {"layerserve_requests_seconds", "layerserve_streamed_requests_seconds", "process_virtual_memory_bytes"}
    assert missing == others | {"layerserve_store_list_failures"}


def test_both_autoscalers_use_the_same_metric() -> None:
    values = yaml.safe_load((MONITORING / "adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    scaler = yaml.safe_load((KUBERNETES / "components/autoscaling/horizontalpodautoscaler.yaml").read_text())
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(METRIC.findall(rule["metricsQuery"])) <= metrics().keys()
    keda = yaml.safe_load((KUBERNETES / "components/keda/scaledobject.yaml").read_text())
    (trigger,) = keda["spec"]["triggers"]
    ours = re.sub(r" by \(<<.GroupBy>>\) |<<.LabelMatchers>>", "", rule["metricsQuery"])
    assert ours == trigger["metadata"]["query"].replace('job="layerserve"', "").strip()
    milliseconds = int(metric["pods"]["target"]["averageValue"].removesuffix("m"))
    assert float(trigger["metadata"]["threshold"]) == milliseconds / 1000
