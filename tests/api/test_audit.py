"""Every change is written down before it is done, and what came of it before it is answered."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from k3s_ha_agent.api.access import Role
from k3s_ha_agent.api.limits import Buckets
from k3s_ha_agent.api.routes import ID
from k3s_ha_agent.api.service import Limits
from k3s_ha_agent.errors import TooManyRequests
from tests.api.callers import ask, client_context, with_tls
from tests.api.conftest import Running, Start
from tests.api.memory_manager import Play
from tests.api.test_tcp import QUICK, reached
from tests.unit.k3s.pki import Authority


def entries(api: Running) -> list[dict[str, Any]]:
    path = api.path.with_name("audit.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_change_has_two_entries(start: Start) -> None:
    api = await start(Play(hold_at="stop-k3s"))
    operation = await api.begin()
    asked, answered = entries(api)
    assert asked["id"] == answered["id"]
    assert (asked["event"], asked["who"], asked["via"], asked["method"], asked["path"]) == (
        "asked",
        "uid 0",
        "socket",
        "POST",
        "/v1/migrate",
    )
    assert (answered["event"], answered["status"], answered["operation"]) == ("answered", 202, operation)
    await api.ask("POST", f"/v1/operations/{operation}/abort")
    assert entries(api)[3]["operation"] == operation
    mode = api.path.with_name("audit.jsonl").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


async def test_asking_is_no_change(start: Start) -> None:
    api = await start()
    for target in ("/v1/status", "/v1/operations", "/metrics", "/v1/preflight"):
        await api.ask("GET", target)
    assert entries(api) == []


async def test_every_route_that_changes_anything_is_written_and_no_other(start: Start) -> None:
    """Over the table itself: a new route is in it without this test being changed."""
    api = await start()
    done = await api.begin()
    await api.manager.wait(done, 60)
    routes = api.server.routes
    assert {route.method for route in routes} == {"GET", "POST", "DELETE"}
    for route in routes:
        path = route.path.replace(ID, done)
        before = len(entries(api))
        status, answer, _ = await api.ask(route.method, path)
        assert status != 405 and (status != 404 or "There is no /" not in answer["detail"]), f"not asked: {path}"
        new = entries(api)[before:]
        if route.method == "GET":
            assert new == [], path
            continue
        assert route.role is Role.ADMIN, path
        assert [entry["event"] for entry in new] == ["asked", "answered"], path
        asked, answered = new
        assert asked["id"] == answered["id"]
        assert (asked["who"], asked["method"], asked["path"]) == ("uid 0", route.method, path)
        assert (answered["status"], answered["code"]) == (status, answer["code"] if status >= 400 else None)


async def test_refusals_are_written_too(start: Start) -> None:
    api = await start(Play(refused=True))
    await api.ask("POST", "/v1/migrate")
    await api.ask("POST", "/v1/migrate", data=b"{", headers={"Content-Type": "application/json"})
    await api.ask("DELETE", "/v1/backups/op-9")
    answered = [(e["status"], e["code"]) for e in entries(api) if e["event"] == "answered"]
    assert answered == [(412, "preflight-failed"), (400, "bad-request"), (404, "not-found")]


async def test_who_has_no_role_is_written_with_its_name(start: Start, rundir: Path) -> None:
    authority = Authority("ca")
    settings = with_tls(rundir, authority)
    api = await start(settings=settings, limits=QUICK)
    url = (await reached(settings)).replace("http:", "https:")
    answer = await ask("POST", f"{url}/v1/migrate", context=client_context(authority, rundir, "reader"))
    assert answer.status == 403
    asked, answered = entries(api)
    assert (asked["who"], asked["via"], answered["code"]) == ("CN:reader", "tls", "forbidden")


async def test_no_secrets(start: Start) -> None:
    api = await start()
    with structlog.testing.capture_logs() as logs:
        _, answer, _ = await api.ask(
            "POST", "/v1/join", json={"server": "https://n1:6443", "token": "K10abc::server:hunter2"}
        )
        await api.ask("POST", "/v1/migrate?token=hunter2", headers={"Authorization": "Bearer hunter2"})
    assert "hunter2" not in api.path.with_name("audit.jsonl").read_text() + str(answer) + str(logs)


@pytest.mark.parametrize(("method", "target"), [("POST", "/v1/migrate"), ("DELETE", "/v1/backups/op-1")])
async def test_what_cannot_be_written_is_not_done(start: Start, method: str, target: str) -> None:
    api = await start()
    first = await api.begin()
    await api.manager.wait(first, 60)
    await api.manager.wait(await api.begin(), 60)
    audit = api.path.with_name("audit.jsonl")
    audit.unlink()
    audit.symlink_to("/dev/full")
    status, problem, _ = await api.ask(method, target)
    assert (status, problem["code"]) == (503, "audit-unavailable")
    assert len(api.manager.operations) == 2 and not api.manager.removed
    assert (await api.ask("GET", "/v1/status"))[0] == 200
    audit.unlink()
    assert (await api.ask(method, target))[0] in (200, 202)


async def test_what_was_done_is_answered_also_when_the_disk_fills_up_meanwhile(start: Start) -> None:
    api = await start()
    api.manager.submit_may_end.clear()
    asking = asyncio.create_task(api.ask("POST", "/v1/migrate"))
    await api.manager.in_submit.wait()
    audit = api.path.with_name("audit.jsonl")
    audit.unlink()
    audit.symlink_to("/dev/full")
    with structlog.testing.capture_logs() as logs:
        api.manager.submit_may_end.set()
        status, operation, _ = await asking
    assert status == 202
    (entry,) = [e for e in logs if e["log_level"] == "critical"]
    assert entry["operation"] == operation["id"]


async def test_a_line_that_was_cut_off_spoils_no_other(start: Start) -> None:
    api = await start()
    audit = api.path.with_name("audit.jsonl")
    audit.write_bytes(b'{"time": "2026-01-01T00:0')
    await api.begin()
    lines = audit.read_bytes().splitlines()
    assert len(lines) == 3 and [json.loads(line)["event"] for line in lines[1:]] == ["asked", "answered"]


async def test_a_bug_is_written_as_one(start: Start) -> None:
    api = await start()
    api.manager.keys = None  # type: ignore[assignment]
    status, _, _ = await api.ask("POST", "/v1/migrate")
    assert status == 500
    assert entries(api)[-1]["code"] == "internal"


# --- how often ----------------------------------------------------------------------------------------


def test_buckets() -> None:
    now = 0.0
    buckets = Buckets(3, 0.5, lambda: now)
    for _ in range(3):
        buckets.take("a")
    with pytest.raises(TooManyRequests) as error:
        buckets.take("a")
    assert error.value.extensions["retry_after"] == 2
    buckets.take("b")
    now = 2.0
    buckets.take("a")
    with pytest.raises(TooManyRequests):
        buckets.take("a")
    now = 1000.0
    for _ in range(3):
        buckets.take("a")
    with pytest.raises(TooManyRequests):
        buckets.take("a")


def test_buckets_of_many_callers_stay_few() -> None:
    now = 0.0
    buckets = Buckets(2, 1.0, lambda: now)
    for number in range(5000):
        now = number * 10.0
        buckets.take(f"caller {number}")
    assert len(buckets._left) <= 1024


async def test_changes_have_a_limit_and_questions_none(start: Start) -> None:
    api = await start(limits=Limits(changes_burst=2, changes_per_second=0.001))
    for _ in range(2):
        assert (await api.ask("POST", "/v1/migrate", json={"dry_run": True}))[0] == 200
    status, problem, response = await api.ask("POST", "/v1/migrate", json={"dry_run": True})
    assert (status, problem["code"]) == (429, "too-many-requests")
    assert int(response.headers["Retry-After"]) == problem["retry_after"] > 0
    assert len(entries(api)) == 4, "what is refused here fills no disk"
    for _ in range(10):
        assert (await api.ask("GET", "/v1/status"))[0] == 200
