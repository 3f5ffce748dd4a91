"""The alerts fire when they should and not before, as Prometheus' own tool evaluates them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from tests.webadmin.test_metrics import collected

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "monitoring" / "cmserverd.rules.yml"
DASHBOARD = RULES.with_name("cmserverd.dashboard.json")
CASES = HERE / "cmserverd.rules.test.yml"


def promtool(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Prometheus' tool."""
    command = shutil.which("promtool")
    if command is None:
        pytest.skip("promtool is not installed: apt-get install --no-install-recommends prometheus")
    return subprocess.run([command, *arguments], input=given, capture_output=True, text=True, check=False)


def test_prometheus_takes_the_rules() -> None:
    """It finds no fault in them."""
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stderr


def test_the_rules_fire_as_they_promise() -> None:
    """Each case: the figures as they come, and which alerts there are at which time."""
    done = promtool("test", "rules", str(CASES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_figures() -> None:
    """Names, types and units are as its users know them."""
    done = promtool("check", "metrics", given=generate_latest(collected()).decode())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_prometheus_takes_what_the_dashboard_asks(tmp_path: Path) -> None:
    """Each expression, with the time that Grafana puts in for its variable."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__\w+", "5m", expression)}
        for number, expression in enumerate(asked)
    ]
    file = tmp_path / "dashboard.rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML, too
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_has_a_case() -> None:
    """One that fires, and one that does not."""
    cases = CASES.read_text(encoding="utf-8")
    for alert in re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8")):
        fires = re.search(rf"- alertname: {alert}\n +eval_time: \w+\n +exp_alerts:", cases)
        is_quiet = f"{{alertname: {alert}, eval_time:" in cases
        assert fires, alert
        assert is_quiet, alert


def test_the_cases_have_series_that_there_are() -> None:
    """With the labels that they have; `up` is Prometheus' own."""
    shown = {
        (sample.name, label)
        for family in collected().collect()
        for sample in family.samples
        for label in (*sample.labels, "instance")
    }
    for name, labels in re.findall(r"series: (cmserverd_\w+)\{(.*)\}", CASES.read_text(encoding="utf-8")):
        for label in re.findall(r"(\w+)=", labels):
            assert (name, label) in shown, (name, label)
