"""Alert rules, dashboard and metrics, judged by Prometheus's own promtool: read by it, and firing when they should.

promtool is taken out of Debian's package without installing it: that would start a server, and bring 100 MB along.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.conftest import Start, rundir, start
from tests.api.memory_manager import Play
from tests.api.test_observability import DASHBOARD, queries
from tests.packaging.build import CHECKOUT, run

__all__ = ["rundir", "start"]

CACHE = Path(os.environ.get("K3S_HA_AGENT_LAB_CACHE", "/var/cache/k3s-ha-agent-lab"))
"""Where the lab keeps its root, too."""
ALERTS = CHECKOUT / "packaging/alerts.yaml"
RULES = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
AGENT = "k3s_ha_agent_"


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = run(["apt-cache", "policy", "prometheus"], environment={**os.environ, "LC_ALL": "C"}).stdout
    version = re.search(r"Candidate: (\S+)", policy)
    assert version, "apt knows no package prometheus: apt-get update"
    program = CACHE / f"promtool-{version[1]}"
    if not program.exists():
        directory = tmp_path_factory.mktemp("prometheus")
        subprocess.run(["apt-get", "--quiet", "download", "prometheus"], cwd=directory, check=True, timeout=600)
        (package,) = directory.glob("prometheus_*.deb")
        run(["dpkg-deb", "--extract", str(package), str(directory)])
        CACHE.mkdir(parents=True, exist_ok=True)
        other = CACHE / f".promtool.{os.getpid()}"
        other.write_bytes((directory / "usr/bin/promtool").read_bytes())
        other.chmod(0o755)
        other.rename(program)
    return program


def test_the_rules_are_read(promtool: Path) -> None:
    assert f"{len(RULES)} rules found" in run([str(promtool), "check", "rules", str(ALERTS)]).stdout


def test_the_queries_of_the_dashboard_are_read(promtool: Path, tmp_path: Path) -> None:
    """Grafana's variables stand for values; the queries of its own variables are Grafana's."""
    found = [query for query in queries(DASHBOARD) if not query.startswith("label_values(")]
    plain = [re.sub(r"\$__(range|rate_interval|interval)", "5m", query).replace("$instance", "n1") for query in found]
    assert len(plain) > 8 and "$" not in "".join(plain)
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(plain)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run([str(promtool), "check", "rules", str(tmp_path / "rules.yaml")])


async def test_the_metrics_are_read(promtool: Path, start: Start) -> None:
    api = await start(Play(hold_at="clean-up"))
    await api.begin()
    while not api.manager.list()[0].committed:
        await api.ask("GET", "/livez")
    text = (await api.ask("GET", "/metrics"))[1]
    judged = subprocess.run(
        [str(promtool), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, "", "")


@dataclasses.dataclass(frozen=True)
class Case:
    """``series``: values a minute, by name and labels. ``fires``: for each moment the labels of what fires then."""

    alert: str
    series: dict[str, str]
    fires: dict[str, list[dict[str, str]]]


def operations(outcome: str, **labels: str) -> str:
    given = {"job": "k3s-ha-agent", "instance": "n1", "kind": "migrate", "outcome": outcome, **labels}
    return f"{AGENT}operations_total{{{','.join(f'{k}={json.dumps(v)}' for k, v in given.items())}}}"


def gauge(name: str, instance: str, **labels: str) -> str:
    given = {"job": "k3s-ha-agent", "instance": instance, **labels}
    return f"{name}{{{','.join(f'{k}={json.dumps(v)}' for k, v in given.items())}}}"


def here(instance: str, **labels: str) -> dict[str, str]:
    return {"job": "k3s-ha-agent", "instance": instance, **labels}


HALF = {"datastore": "half-copied", "k3s_version": "v1.34.1+k3s1"}
CASES = [
    Case(
        "K3sHaRollbackFailed",
        {operations("rollback_failed"): "0x10 1x100", operations("rolled_back"): "0x110"},
        {"9m": [], "12m": [here("n1", kind="migrate", outcome="rollback_failed")], "80m": []},
    ),
    Case(
        "K3sHaRolledBack",
        {operations("rolled_back", kind="join"): "0x10 1x100", operations("succeeded"): "0x10 1x100"},
        {"9m": [], "12m": [here("n1", kind="join", outcome="rolled_back")], "80m": []},
    ),
    Case(
        "K3sHaHalfCopied",
        {
            gauge(f"{AGENT}datastore_info", "alone", **HALF): "1x20",
            gauge(f"{AGENT}operation_in_progress", "alone", kind="migrate"): "0x20",
            gauge(f"{AGENT}datastore_info", "at-work", **HALF): "1x20",
            gauge(f"{AGENT}operation_in_progress", "at-work", kind="migrate"): "1x20",
            gauge(f"{AGENT}operation_in_progress", "at-work", kind="join"): "0x20",
            gauge(f"{AGENT}datastore_info", "silent", **HALF): "1x20",
            gauge(f"{AGENT}datastore_info", "well", datastore="etcd", k3s_version="v1.34.1+k3s1"): "1x20",
        },
        {"1m": [], "5m": [here("alone", **HALF), here("silent", **HALF)]},
    ),
    Case(
        "K3sHaPastDeadline",
        {
            gauge(f"{AGENT}deadline_timestamp_seconds", "late", kind="migrate"): "60x40",
            gauge(f"{AGENT}deadline_timestamp_seconds", "in-time", kind="join"): "6000x40",
        },
        {"10m": [], "20m": [here("late", kind="migrate")]},
    ),
    Case(
        "K3sHaNotReady",
        {gauge(f"{AGENT}ready", "n1"): "0x3 1x3 0x20", gauge(f"{AGENT}ready", "n2"): "1x30"},
        {"5m": [], "15m": [here("n1")]},
    ),
    Case(
        "K3sHaNodeStateUnknown",
        {gauge(f"{AGENT}node_state_known", "n1"): "0x40", gauge(f"{AGENT}node_state_known", "n2"): "1x40"},
        {"10m": [], "20m": [here("n1")]},
    ),
    Case(
        "K3sHaAgentDown",
        {gauge("up", "n1"): "0x40", 'up{job="node",instance="n1"}': "0x40", gauge("up", "n2"): "1x40"},
        {"5m": [], "15m": [here("n1")]},
    ),
]


def expected(case: Case, labels: dict[str, str]) -> dict[str, Any]:
    """What promtool should see, with the words of the rule filled in."""
    rule = RULES[case.alert]

    def fill(text: str) -> str:
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)

    return {
        "exp_labels": {**labels, **rule["labels"]},
        "exp_annotations": {name: fill(text) for name, text in rule["annotations"].items()},
    }


def test_every_alert_has_its_case() -> None:
    assert [case.alert for case in CASES] == list(RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alerts_fire_when_they_should(promtool: Path, tmp_path: Path, case: Case) -> None:
    moments = [
        {"eval_time": moment, "alertname": case.alert, "exp_alerts": [expected(case, labels) for labels in firing]}
        for moment, firing in case.fires.items()
    ]
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": moments,
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    run([str(promtool), "test", "rules", str(tmp_path / "test.yaml")])
