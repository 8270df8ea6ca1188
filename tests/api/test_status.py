"""Status, preflight, health, metrics, and what a bug looks like from outside."""

from __future__ import annotations

import re

import pytest
import structlog.testing

from k3s_ha_agent import __version__
from k3s_ha_agent.api.metrics import Text, escape, number
from tests.api.conftest import Start
from tests.api.memory_manager import Play


async def test_status(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    _, answer, response = await api.ask("GET", "/v1/status")
    assert answer["agent"] == {"version": __version__}
    assert answer["node"]["datastore"] == "sqlite"
    assert answer["cluster"]["sentence"] == "This server runs on SQLite and stands alone."
    assert (answer["running_operation"], answer["last_operation"]) == (None, None)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Server"] == "k3s-ha-agent"
    operation = await api.begin()
    _, answer, _ = await api.ask("GET", "/v1/status")
    assert answer["running_operation"]["id"] == operation
    assert "facts" not in answer["running_operation"]
    api.manager.released.set()
    await api.manager.wait(operation, 60)
    _, answer, _ = await api.ask("GET", "/v1/status")
    assert answer["running_operation"] is None
    assert answer["last_operation"]["outcome"] == "succeeded"


@pytest.mark.parametrize("refused", [False, True])
async def test_preflight_is_an_answer_whatever_it_finds(start: Start, refused: bool) -> None:
    api = await start(Play(refused=refused))
    for target in ("/v1/preflight", "/v1/preflight?for=migrate"):
        status, answer, _ = await api.ask("GET", target)
        assert (status, answer["ok"], answer["for"]) == (200, not refused, "migrate")
        assert len(answer["checks"]) == 2 + refused
        assert set(answer["checks"][0]) == {"name", "status", "found", "needs", "remedy"}


async def test_preflight_for_other_things(start: Start) -> None:
    api = await start()
    assert (await api.ask("GET", "/v1/preflight?for=rollback"))[0] == 200
    status, problem, _ = await api.ask("GET", "/v1/preflight?for=join")
    assert (status, problem["code"]) == (422, "invalid-body") and "/v1/join" in problem["next_step"]
    status, problem, _ = await api.ask("GET", "/v1/preflight?for=lunch")
    assert (status, problem["code"]) == (400, "bad-request")
    assert "rollback" in problem["next_step"]


async def test_members(start: Start) -> None:
    api = await start(Play(members=2))
    status, answer, _ = await api.ask("GET", "/v1/members")
    assert status == 200
    assert answer["quorum"] == {"voters": 2, "needed": 2, "tolerates": 0, "up": 2}
    assert answer["sentence"] == "2 servers: one failure stops the cluster, add a third."
    assert [m["name"] for m in answer["members"]] == ["n1-00000001", "n2-00000002"]
    assert (await api.ask("GET", "/v1/status"))[1]["cluster"] == answer


async def test_members_where_there_are_none_and_backups(start: Start) -> None:
    api = await start()
    status, answer, _ = await api.ask("GET", "/v1/members")
    assert (status, answer["members"], answer["quorum"]) == (200, [], None)
    operation = await api.begin()
    _, answer, _ = await api.ask("GET", "/v1/backups")
    assert [b["operation"] for b in answer["backups"]] == [operation]


async def test_nothing_is_said_about_operations_before_the_journal_is_read(start: Start) -> None:
    ready = False
    api = await start(ready=lambda: ready)
    for route in api.server.routes:
        target = route.path.replace("{id:[A-Za-z0-9][A-Za-z0-9_.-]{0,127}}", "op-1")
        status, problem, response = await api.ask(route.method, target)
        if target in ("/livez", "/metrics", "/v1/openapi.json"):
            assert status == 200
        else:
            assert (status, problem["code"], response.headers["Retry-After"]) == (503, "unavailable", "2"), target
    assert not api.manager.operations
    assert "operations_total" not in (await api.ask("GET", "/metrics"))[1]
    ready = True
    assert (await api.ask("GET", "/readyz"))[:2] == (200, "ok\n")
    assert (await api.ask("POST", "/v1/migrate"))[0] == 202


async def test_a_bug_is_said_to_be_one_and_says_no_more(start: Start) -> None:
    api = await start(Play(bug="K10secret::server:hunter2"))
    with structlog.testing.capture_logs() as logs:
        status, problem, response = await api.ask("GET", "/v1/status")
    assert (status, problem["code"], response.content_type) == (500, "internal", "application/problem+json")
    assert "hunter2" not in await response.text()
    (entry,) = logs
    assert entry["log_level"] == "error"
    assert entry["incident"] == problem["incident"]
    assert entry["exc_info"]
    assert problem["incident"] in problem["next_step"]


# --- metrics ----------------------------------------------------------------------------------------

LABEL = r'[a-z_][a-z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"(k3s_ha_agent_[a-z_]+)(\{{{LABEL}(?:,{LABEL})*\}})? (\+Inf|[-0-9.e+]+)")


def samples(text: str) -> dict[str, float]:
    """Every sample; fails on a line that is not of the text format."""
    found: dict[str, float] = {}
    declared: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in declared
            declared.add(name)
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert re.sub(r"_(bucket|sum|count)$", "", match[1]) in declared or match[1] in declared, line
            assert match[1] + (match[2] or "") not in found, line
            found[match[1] + (match[2] or "")] = float(match[3])
    assert text.endswith("\n")
    return found


async def test_metrics_of_an_idle_agent(start: Start) -> None:
    api = await start()
    _, text, response = await api.ask("GET", "/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(text)
    assert any(name.startswith(f'k3s_ha_agent_build_info{{version="{__version__}"') for name in found)
    assert found['k3s_ha_agent_operations_total{kind="migrate",outcome="rolled_back"}'] == 0
    assert found['k3s_ha_agent_operation_in_progress{kind="migrate"}'] == 0
    assert found['k3s_ha_agent_datastore_info{datastore="sqlite",k3s_version="v1.22.2+k3s1"}'] == 1
    assert not any("deadline" in name or "pre_image" in name or "step_duration" in name for name in found)


async def test_metrics_of_a_busy_agent(start: Start) -> None:
    api = await start(Play(hold_at="clean-up"))
    operation = await api.begin()
    while not api.manager.get(operation).committed:
        await api.ask("GET", "/livez")
    found = samples((await api.ask("GET", "/metrics"))[1])
    assert found['k3s_ha_agent_operation_in_progress{kind="migrate"}'] == 1
    assert found['k3s_ha_agent_deadline_timestamp_seconds{kind="migrate"}'] == 4070908800
    assert found["k3s_ha_agent_pre_image_age_seconds"] >= 0
    step = 'kind="migrate",step="prove"'
    assert found[f"k3s_ha_agent_step_duration_seconds_count{{{step}}}"] == 1
    assert found[f'k3s_ha_agent_step_duration_seconds_bucket{{{step},le="+Inf"}}'] == 1
    assert found['k3s_ha_agent_operations_total{kind="migrate",outcome="succeeded"}'] == 0
    api.manager.released.set()
    await api.manager.wait(operation, 60)
    found = samples((await api.ask("GET", "/metrics"))[1])
    assert found['k3s_ha_agent_operation_in_progress{kind="migrate"}'] == 0
    assert found['k3s_ha_agent_operations_total{kind="migrate",outcome="succeeded"}'] == 1


async def test_metrics_do_not_fail_with_the_node(start: Start) -> None:
    api = await start(Play(bug="hunter2"))
    with structlog.testing.capture_logs() as logs:
        status, text, _ = await api.ask("GET", "/metrics")
    assert status == 200
    assert samples(text)["k3s_ha_agent_node_state_known"] == 0
    assert "datastore_info{" not in text
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_label_values_are_escaped() -> None:
    text = Text()
    text.family("x", "gauge", "x")
    text.sample("x", 1, reason='a "b"\\\nc')
    assert samples(str(text)) == {'k3s_ha_agent_x{reason="a \\"b\\"\\\\\\nc"}': 1.0}
    assert escape("plain") == "plain"
    assert (number(1.0), number(0.25), number(float("inf"))) == ("1", "0.25", "+Inf")
