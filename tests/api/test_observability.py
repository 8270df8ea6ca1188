"""Metrics have the names that were promised; dashboard and alerts use no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from k3s_ha_agent.model import Datastore, Outcome
from tests.api.conftest import Start
from tests.api.memory_manager import Play
from tests.api.test_status import samples
from tests.packaging.build import CHECKOUT

PROMISED = {
    "k3s_ha_agent_build_info": {"version", "python"},
    "k3s_ha_agent_operations_total": {"kind", "outcome"},
    "k3s_ha_agent_operation_in_progress": {"kind"},
    "k3s_ha_agent_step_duration_seconds": {"kind", "step"},
    "k3s_ha_agent_deadline_timestamp_seconds": {"kind"},
    "k3s_ha_agent_datastore_info": {"datastore", "k3s_version"},
    "k3s_ha_agent_pre_image_age_seconds": set(),
    "k3s_ha_agent_ready": set(),
    "k3s_ha_agent_node_state_known": set(),
}
ADDED_BY_PROMETHEUS = {"instance", "job", "le"}

ALERTS = yaml.safe_load((CHECKOUT / "packaging/alerts.yaml").read_text())
DASHBOARD = json.loads((CHECKOUT / "packaging/grafana-dashboard.json").read_text())


async def test_every_metric_and_its_labels(start: Start) -> None:
    api = await start(Play(hold_at="clean-up"))
    await api.begin()
    while not api.manager.list()[0].committed:
        await api.ask("GET", "/livez")
    text = (await api.ask("GET", "/metrics"))[1]
    found: dict[str, set[str]] = {name: set() for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)}
    for sample in samples(text):
        name, _, labels = sample.partition("{")
        base = name if name in found else re.sub(r"_(bucket|sum|count)$", "", name)
        found[base] |= set(re.findall(r'(\w+)="', labels)) - {"le"}
    assert found == PROMISED


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def queries(node: Any) -> Iterator[str]:
    """Every query of a dashboard, wherever it stands."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query") and isinstance(value, str) and value != "prometheus":
                yield value
            else:
                yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


EXPRESSIONS = [rule["expr"] for rule in rules()] + list(queries(DASHBOARD))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_queries_use_what_is_there(expression: str) -> None:
    names = set(re.findall(r"k3s_ha_agent_\w+", expression))
    for name in names:
        assert re.sub(r"_(bucket|sum|count)$", "", name) in PROMISED, name
    assert names or expression.startswith("up{")
    known = set().union(*PROMISED.values()) | ADDED_BY_PROMETHEUS
    selected = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression))
    grouped = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(", ")}
    assert selected | grouped <= known
    for open_, close in ("()", "{}", "[]"):
        assert expression.count(open_) == expression.count(close)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_queries_ask_for_values_that_exist(expression: str) -> None:
    for label, words in (("outcome", Outcome), ("datastore", Datastore)):
        for value in re.findall(rf'\b{label}="([^"]+)"', expression):
            assert value in {word.value for word in words}


def test_every_promised_metric_is_shown() -> None:
    shown = " ".join(queries(DASHBOARD))
    assert [name for name in PROMISED if name not in shown] == []


def test_alerts_say_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert "$labels.instance" in rule["annotations"]["summary"]
        assert re.search(r"systemctl|journalctl|k3s-ha-agentctl", rule["annotations"]["description"]), rule["alert"]
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert label in set().union(*PROMISED.values()) | ADDED_BY_PROMETHEUS


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
