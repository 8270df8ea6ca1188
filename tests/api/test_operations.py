"""Beginning, showing, awaiting and aborting operations."""

from __future__ import annotations

import asyncio

import pytest

from k3s_ha_agent.api.service import Limits
from tests.api.conftest import Running, Start
from tests.api.memory_manager import STEPS, Play


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.01)


async def test_accepted(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    status, operation, response = await api.ask("POST", "/v1/migrate", json={"timeout": "5m"})
    assert status == 202
    assert response.headers["Location"] == f"/v1/operations/{operation['id']}"
    assert "Idempotent-Replayed" not in response.headers
    assert operation["kind"] == "migrate"
    assert operation["parameters"] == {"timeout": "5m"}
    assert operation["requested_by"] == "uid 0"
    assert [step["name"] for step in operation["steps"]] == list(STEPS)
    status, shown, _ = await api.ask("GET", response.headers["Location"])
    assert (status, shown["id"]) == (200, operation["id"])


async def test_a_second_one_is_told_the_first(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    first = await api.begin()
    status, problem, _ = await api.ask("POST", "/v1/migrate")
    assert (status, problem["code"], problem["operation"]) == (409, "operation-in-progress", first)
    assert problem["instance"] == "/v1/migrate"
    assert problem["title"]
    assert problem["type"].endswith("operation-in-progress")


async def test_the_same_key_is_the_same_operation(start: Start) -> None:
    api = await start()
    headers = {"Idempotency-Key": "k-1"}
    _, first, _ = await api.ask("POST", "/v1/migrate", headers=headers)
    status, again, response = await api.ask("POST", "/v1/migrate", headers=headers)
    assert (status, again["id"], response.headers["Idempotent-Replayed"]) == (202, first["id"], "true")
    status, problem, _ = await api.ask("POST", "/v1/migrate", headers=headers, json={"timeout": "5m"})
    assert (status, problem["code"]) == (422, "idempotency-key-reused")
    assert len(api.manager.operations) == 1


async def test_a_refusal_shows_every_check(start: Start) -> None:
    api = await start(Play(refused=True))
    status, problem, _ = await api.ask("POST", "/v1/migrate", json={})
    assert (status, problem["code"]) == (412, "preflight-failed")
    assert [check["status"] for check in problem["checks"]] == ["ok", "warned", "refused"]
    assert problem["checks"][2]["remedy"] == "Move db/etcd away."
    assert not api.manager.operations


async def test_a_dry_run_begins_nothing(start: Start) -> None:
    api = await start()
    status, plan, response = await api.ask("POST", "/v1/migrate", json={"dry_run": True})
    assert (status, plan["kind"], plan["estimates"]["live_keys"]) == (200, "migrate", 1245)
    assert "Location" not in response.headers
    assert not api.manager.operations


@pytest.mark.parametrize(
    ("target", "body"),
    [("/v1/migrate", {"method": "staged"}), ("/v1/rollback", {}), ("/v1/rollback", {"writes": "keep"})],
)
async def test_what_cannot_be_done_yet(start: Start, target: str, body: dict[str, str]) -> None:
    api = await start()
    status, problem, _ = await api.ask("POST", target, json=body)
    assert (status, problem["code"]) == (501, "not-implemented")
    assert problem["next_step"]


async def test_lost_writes_must_be_confirmed(start: Start) -> None:
    api = await start(Play(writes_since=True))
    status, problem, _ = await api.ask("POST", "/v1/rollback", json={"writes": "discard"})
    assert (status, problem["code"], problem["lost_keys"]) == (409, "lost-writes-not-confirmed", 7)
    await api.begin("rollback", writes="discard", confirm_lost_writes=True)


async def test_the_list_is_newest_first_and_limited(start: Start) -> None:
    api = await start()
    for _ in range(3):
        await api.manager.wait(await api.begin(), 60)
    _, answer, _ = await api.ask("GET", "/v1/operations")
    assert [o["id"] for o in answer["operations"]] == ["op-3", "op-2", "op-1"]
    _, answer, _ = await api.ask("GET", "/v1/operations?limit=2")
    assert [o["id"] for o in answer["operations"]] == ["op-3", "op-2"]


async def test_an_operation_that_is_not_there(start: Start) -> None:
    api = await start()
    for method, suffix in (("GET", ""), ("GET", "/wait"), ("GET", "/events"), ("POST", "/abort")):
        status, problem, _ = await api.ask(method, f"/v1/operations/op-9{suffix}")
        assert (status, problem["code"]) == (404, "not-found")


async def test_nothing_secret_is_shown(start: Start) -> None:
    api = await start()
    operation = await api.begin()
    finished = await api.manager.wait(operation, 60)
    assert finished is not None
    _, shown, _ = await api.ask("GET", f"/v1/operations/{operation}")
    assert shown["facts"] == {
        "inode": 4711,
        "bootstrap_password": "(not shown)",
        "nested": {"token": "(not shown)", "rows": 3},
    }
    assert {"rescue", "idempotency_key", "request_digest"}.isdisjoint(shown)


# --- wait -----------------------------------------------------------------------------------------


async def test_wait_for_the_end(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    waiting = asyncio.ensure_future(api.ask("GET", f"/v1/operations/{operation}/wait?timeout=10m"))
    await until(lambda: api.manager.waiting)
    api.manager.released.set()
    status, finished, _ = await waiting
    assert (status, finished["outcome"], finished["phase"]) == (200, "succeeded", "finished")
    assert finished["evidence"][0] == {"name": "keys-equal", "ok": True, "value": "1245 = 1245", "needed": "all"}


async def test_not_yet(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    for timeout in ("0s", "10ms", "700ms"):
        status, problem, _ = await api.ask("GET", f"/v1/operations/{operation}/wait?timeout={timeout}")
        assert (status, problem["code"], problem["operation"]) == (504, "not-finished-yet", operation)


@pytest.mark.parametrize("timeout", ["30", "soon", "", "10m1s", "1h", "-1s"])
async def test_timeouts_that_are_none(start: Start, timeout: str) -> None:
    api = await start()
    operation = await api.begin()
    status, problem, _ = await api.ask("GET", f"/v1/operations/{operation}/wait?timeout={timeout}")
    assert (status, problem["code"]) == (400, "bad-request")
    assert problem["next_step"]


async def test_a_caller_that_leaves_is_not_waited_for(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    waiting = asyncio.ensure_future(api.ask("GET", f"/v1/operations/{operation}/wait?timeout=10m"))
    await until(lambda: api.manager.waiting)
    waiting.cancel()
    await until(lambda: api.server.service.long_calls == 0 and api.manager.waiting == 0)


async def test_there_is_a_limit_to_waiting_callers(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"), limits=Limits(long_calls=2))
    operation = await api.begin()
    target = f"/v1/operations/{operation}/wait?timeout=10m"
    waiting = [asyncio.ensure_future(api.ask("GET", target)) for _ in range(2)]
    await until(lambda: api.server.service.long_calls == 2)
    status, problem, response = await api.ask("GET", target)
    assert (status, problem["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"] == "2"
    assert (await api.ask("GET", f"/v1/operations/{operation}"))[0] == 200
    api.manager.released.set()
    assert [(await w)[0] for w in waiting] == [200, 200]
    assert (await api.ask("GET", target))[0] == 200


# --- abort ----------------------------------------------------------------------------------------


async def finished(api: Running, operation: str) -> str:
    done = await api.manager.wait(operation, 60)
    assert done is not None
    return str(done.outcome)


async def test_abort(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    status, shown, response = await api.ask("POST", f"/v1/operations/{operation}/abort")
    assert (status, shown["abort_requested"]) == (202, True)
    assert response.headers["Location"] == f"/v1/operations/{operation}"
    assert await finished(api, operation) == "rolled_back"
    status, problem, _ = await api.ask("POST", f"/v1/operations/{operation}/abort", json={})
    assert (status, problem["code"]) == (409, "conflict")


async def test_abort_after_the_commitment(start: Start) -> None:
    api = await start(Play(hold_at="clean-up"))
    operation = await api.begin()
    await until(lambda: api.manager.get(operation).committed)
    status, problem, _ = await api.ask("POST", f"/v1/operations/{operation}/abort")
    assert (status, problem["code"]) == (409, "already-committed")


async def test_abort_takes_nothing(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    status, problem, _ = await api.ask("POST", f"/v1/operations/{operation}/abort", json={"force": True})
    assert (status, problem["code"]) == (422, "invalid-body")
    assert not api.manager.get(operation).abort_requested


# --- callers that leave, an agent that stops --------------------------------------------------------


async def test_a_caller_that_leaves_does_not_break_what_it_began(start: Start) -> None:
    api = await start()
    api.manager.submit_may_end.clear()
    asking = asyncio.ensure_future(api.ask("POST", "/v1/migrate"))
    await api.manager.in_submit.wait()
    asking.cancel()
    await until(asking.done)
    api.manager.submit_may_end.set()
    await until(lambda: api.manager.operations)
    assert await finished(api, "op-1") == "succeeded"


async def test_stopping_lets_a_begun_request_end(start: Start) -> None:
    api = await start()
    api.manager.submit_may_end.clear()
    asking = asyncio.ensure_future(api.ask("POST", "/v1/migrate"))
    await api.manager.in_submit.wait()
    stopping = asyncio.ensure_future(api.server.stop(grace=60))
    await until(lambda: not api.path.exists())
    api.manager.submit_may_end.set()
    await stopping
    assert (await asking)[0] == 202
    assert list(api.manager.operations) == ["op-1"]


async def test_stopping_tells_those_who_wait(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    waiting = asyncio.ensure_future(api.ask("GET", f"/v1/operations/{operation}/wait?timeout=10m"))
    following = asyncio.ensure_future(api.ask("GET", f"/v1/operations/{operation}/events"))
    await until(lambda: api.server.service.long_calls == 2)
    await api.server.stop(grace=60)
    status, problem, _ = await waiting
    assert (status, problem["code"]) == (503, "unavailable")
    status, text, _ = await following
    assert status == 200
    assert "finished" not in text


async def test_stopping_cuts_off_what_hangs(start: Start) -> None:
    api = await start()
    api.manager.submit_may_end.clear()
    asking = asyncio.ensure_future(api.ask("POST", "/v1/migrate"))
    await api.manager.in_submit.wait()
    await api.server.stop(grace=0.1)
    with pytest.raises(Exception, match=r"(?i)disconnected|reset"):
        await asking
    # What it began is not torn in the middle.
    api.manager.submit_may_end.set()
    await until(lambda: api.manager.operations)
