"""``backups``: listed, verified, pruned."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from k3s_ha_agent.ctl.backups import size
from tests.unit.ctl.conftest import Scene

Agent = Callable[..., Scene]


def with_three(agent: Agent, **play: object) -> Scene:
    scene = agent(**play)
    for _ in range(3):
        assert scene.run("migrate").code == 0
    return scene


def test_list(agent: Agent) -> None:
    scene = with_three(agent)
    lines = scene.run("backups", "list").out.splitlines()
    assert lines[0].split() == ["OPERATION", "BEGAN", "OUTCOME", "K3S", "SIZE", "NEEDED"]
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:]] == [
        ("op-3", "yes"),
        ("op-2", "no"),
        ("op-1", "no"),
    ]
    assert len(scene.run("backups", "list", "-o", "json").json["backups"]) == 3


def test_verify(agent: Agent) -> None:
    scene = with_three(agent)
    result = scene.run("backups", "verify")
    assert result.code == 0 and result.out.count(" ok ") == 3
    assert scene.run("backups", "verify", "op-2", "-o", "json").json["backups"][0]["verified"] is True
    assert scene.run("backups", "verify", "op-9").code == 2


def test_verify_says_what_is_damaged(agent: Agent) -> None:
    scene = with_three(agent, damaged=True)
    result = scene.run("backups", "verify", "op-1")
    assert result.code == 1 and "not what its manifest says" in result.out


def test_prune_takes_what_is_not_needed(agent: Agent) -> None:
    scene = with_three(agent)
    dry = scene.run("backups", "prune", "--dry-run")
    assert dry.code == 0 and "2 pre-images, 8.0 KiB, would be removed" in dry.out
    assert len(scene.run("backups", "list", "-o", "json").json["backups"]) == 3
    kept = scene.run("backups", "prune", "--keep", "1", "-o", "json").json
    assert [b["operation"] for b in kept["removed"]] == ["op-1"]
    assert "1 pre-image was removed, 4.0 KiB freed." in scene.run("backups", "prune").out
    assert [b["operation"] for b in scene.run("backups", "list", "-o", "json").json["backups"]] == ["op-3"]
    assert scene.run("backups", "prune").out == "Nothing to remove: every pre-image is needed.\n"


def test_prune_by_name(agent: Agent) -> None:
    scene = with_three(agent)
    refused = scene.run("backups", "prune", "op-3")
    assert refused.code == 6 and "rollback" in refused.err
    assert scene.run("backups", "prune", "op-9").code == 2
    assert scene.run("backups", "prune", "op-1").code == 0
    assert [b["operation"] for b in scene.run("backups", "list", "-o", "json").json["backups"]] == ["op-3", "op-2"]


def test_nothing_is_pruned_while_something_runs(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    assert scene.run("migrate", "--detach").code == 0
    assert scene.run("backups", "prune", "op-1").code == 6


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3072.0 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
