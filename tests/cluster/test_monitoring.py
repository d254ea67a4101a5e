"""Alerts and dashboards: valid, about metrics that exist, and speaking when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import servers
from cliploom.training.exporter import COUNTERS, GAUGES

FOLDER = servers.ROOT / "cluster" / "monitoring"
DASHBOARDS = sorted((FOLDER / "grafana").glob("*.json"))
# Of Ray's own, as the endpoint of a node of Ray 2.60 has them.
RAYS = {
    *("node_mem_used", "node_mem_total", "node_disk_free", "node_disk_usage", "node_cpu_utilization"),
    *("node_network_receive_speed", "node_gpus_utilization", "node_gram_used", "object_store_memory"),
}


def promtool(*arguments: str) -> str:
    if not shutil.which("promtool"):
        pytest.skip("no promtool (Debian: prometheus)")
    answer = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


def dashboard(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def expressions(path: Path) -> list[str]:
    return [target["expr"] for panel in dashboard(path)["panels"] for target in panel["targets"]]


def test_prometheus_accepts_the_configuration() -> None:
    assert "8 rules found" in promtool("check", "config", "prometheus.yml")


def test_the_alerts_speak_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboards_queries_are_valid(path: Path, tmp_path: Path) -> None:
    rules = [{"record": f"r{n}", "expr": e.replace("$run", ".*")} for n, e in enumerate(expressions(path))]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboards_panels_have_places_of_their_own(path: Path) -> None:
    tree = dashboard(path)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in tree["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in tree["panels"]}) == len(tree["panels"])
    assert {variable["name"] for variable in tree["templating"]["list"]} == {"datasource", "run"}


def test_all_that_is_asked_for_is_measured() -> None:
    asked = [expression for path in DASHBOARDS for expression in expressions(path)]
    asked += [rule["expr"] for rule in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]]
    names = {name for text in asked for name in re.findall(r"\bray_(\w+)", text)}
    assert names == {f"cliploom_{name}" for name in (*GAUGES, *COUNTERS)} | RAYS
