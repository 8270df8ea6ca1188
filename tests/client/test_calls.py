"""Every call, against the real API on its socket."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from aiohttp import web

from k3s_ha_agent import errors
from k3s_ha_agent.api import problems
from k3s_ha_agent.client import AgentClient, AnswerUnreadable, JoinRequest, MigrateRequest, RollbackRequest, unix_socket
from k3s_ha_agent.client.answers import EventParser
from k3s_ha_agent.client.problems import classes, error_of
from k3s_ha_agent.client.requests import body
from k3s_ha_agent.model import CheckStatus, Datastore, Kind, Outcome, Phase, StepStatus
from tests.api.conftest import Start
from tests.api.memory_manager import KEYS, STEPS, Play
from tests.client.conftest import MakeClient


async def test_a_migration_from_beginning_to_end(start: Start, make_client: MakeClient) -> None:
    running = await start()
    agent = make_client(running.path)
    assert (await agent.status()).node.datastore is Datastore.SQLITE
    assert (await agent.preflight()).ok

    begun = await agent.migrate(timeout=600, stability=30.0, idempotency_key="one")
    ended = await agent.wait(begun.operation.id)

    assert not begun.replayed and begun.operation.kind is Kind.MIGRATE
    assert ended.outcome is Outcome.SUCCEEDED and ended.committed
    assert ended.parameters == {"timeout": "10m", "stability": "30s"}
    assert [step.status for step in ended.steps] == [StepStatus.DONE] * len(STEPS)
    assert ended.evidence[0].value == f"{KEYS} = {KEYS}"
    assert (await agent.operation(ended.id)) == ended == (await agent.operations(limit=1))[0]
    status = await agent.status()
    assert status.running_operation is None
    assert status.last_operation is not None and status.last_operation.outcome is Outcome.SUCCEEDED
    assert (await agent.backups())[0]["operation"] == ended.id
    replayed = await agent.migrate(timeout=600, stability=30.0, idempotency_key="one")
    assert replayed.replayed and replayed.operation == ended


async def test_events_and_following(start: Start, make_client: MakeClient) -> None:
    running = await start(Play(fail_in="prove"))
    agent = make_client(running.path)
    begun = await agent.migrate()
    seen = [event async for event in agent.events(begun.operation.id)]
    snapshots = [operation async for operation in agent.follow(begun.operation.id, every=0.1)]
    assert seen[-1].type == "finished" and seen[-1].data == {"outcome": "rolled_back"}
    assert {event.type for event in seen} == {"step", "progress", "evidence", "decision", "finished"}
    kept = [event.id for event in seen if event.id is not None]
    assert kept == sorted(set(kept)) and all(event.id is None for event in seen if event.type == "progress")
    later = [event async for event in agent.events(begun.operation.id, after=kept[3])]
    assert [event.id for event in later if event.id is not None] == kept[4:]
    assert snapshots[-1].outcome is Outcome.ROLLED_BACK and snapshots[-1].failed_evidence == ("keys-equal",)


async def test_waiting_ends_in_time_and_aborting(start: Start, make_client: MakeClient) -> None:
    running = await start(Play(hold_at="prove"))
    agent = make_client(running.path)
    begun = await agent.migrate()
    with pytest.raises(errors.NotFinishedYet):
        await agent.wait(begun.operation.id, timeout=0.3)
    assert (await agent.abort(begun.operation.id)).abort_requested
    assert (await agent.wait(begun.operation.id, timeout=60)).outcome is Outcome.ROLLED_BACK
    with pytest.raises(errors.Conflict, match="has finished"):
        await agent.abort(begun.operation.id)


async def test_waiting_asks_again_as_long_as_it_takes(start: Start) -> None:
    running = await start(Play(hold_at="prove"))
    async with AgentClient(unix_socket(running.path), long_poll=0.1) as agent:
        begun = await agent.migrate()
        waiting = asyncio.ensure_future(agent.wait(begun.operation.id))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        running.manager.released.set()
        assert (await waiting).outcome is Outcome.SUCCEEDED


async def test_a_dry_run_begins_nothing(start: Start, make_client: MakeClient) -> None:
    running = await start(Play(refused=True))
    agent = make_client(running.path)
    plan = await agent.dry_run(MigrateRequest(accept_slow_disk=True))
    assert plan.would_be_refused and [check.name for check in plan.refused] == ["leftovers"]
    assert plan.steps == STEPS and plan.raw["parameters"] == {"accept_slow_disk": True}
    assert not (await agent.preflight()).ok
    assert await agent.operations() == ()


async def test_members(start: Start, make_client: MakeClient) -> None:
    running = await start(Play(members=3))
    view = await make_client(running.path).members()
    assert len(view.members) == 3 and view.quorum is not None and view.quorum.voters == 3
    assert (await make_client(running.path).status()).cluster == view


async def test_problems_are_the_classes_of_errors(start: Start, make_client: MakeClient) -> None:
    refusing = await start(Play(refused=True))
    agent = make_client(refusing.path)
    with pytest.raises(errors.PreflightFailed) as refused:
        await agent.migrate()
    assert refused.value.extensions["checks"][-1]["status"] == CheckStatus.REFUSED
    with pytest.raises(errors.NotFound):
        await agent.operation("no-such-thing")
    with pytest.raises(errors.NotImplementedYet, match="keep") as keep:
        await agent.rollback()
    assert keep.value.next_step.startswith('Use {"writes": "discard"}')
    refusing.manager.play = Play(hold_at="prove", writes_since=True)
    with pytest.raises(errors.LostWritesNotConfirmed) as lost:
        await agent.rollback(writes="discard")
    assert lost.value.extensions == {"lost_keys": 7}
    begun = await agent.rollback(writes="discard", confirm_lost_writes=True, idempotency_key="k")
    with pytest.raises(errors.OperationInProgress) as busy:
        await agent.migrate()
    assert busy.value.extensions == {"operation": begun.operation.id}
    with pytest.raises(errors.IdempotencyKeyReused):
        await agent.migrate(idempotency_key="k")


def test_every_code_has_its_class() -> None:
    """Also those that no test can bring about: the document that the API makes is read back."""
    every = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.AgentError)]
    assert len(every) > 30 and {c.code for c in every} == set(classes())
    for known in every:
        error = known("What.", next_step="Then.")
        error.extensions = {"self": "is a name, too", "checks": [1]}
        document = problems.document(error, "/v1/status")
        found = error_of(known.status, document)
        assert type(found) is known
        assert (found.detail, found.next_step, found.extensions) == (error.detail, "Then.", error.extensions)


def test_a_code_of_a_newer_agent() -> None:
    found = error_of(418, {"code": "teapot", "detail": "Short and stout.", "spout": 1})
    assert isinstance(found, errors.UnknownProblem) and found.detail == "Short and stout."
    assert found.extensions == {"code": "teapot", "status": 418, "spout": 1}
    assert error_of(500, {"message": "not ours"}) is None and error_of(500, "x") is None


def test_only_what_was_said_is_sent() -> None:
    assert body(MigrateRequest()) == {} == body(RollbackRequest())
    assert body(JoinRequest(server="https://a:6443", token="x", timeout=90.0)) == {
        "server": "https://a:6443",
        "token": "x",
        "timeout": "1m30s",
    }
    assert "K10" not in repr(JoinRequest(server="https://a:6443", token="K10secret"))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_events_however_they_are_cut(size: int) -> None:
    text = (
        b"retry: 1000\n\n: keep-alive\n\nid: 3\nevent: step\n"
        b'data: {"time": "t", "data": {"step": "\xc3\xa9"}}\n\n'
        b'event: progress\r\ndata: {"time": "t", "data": {}}\r\n\r\n'
        b'id: 4\nevent: cut\ndata: {"time'
    )
    parser = EventParser()
    found = [event for n in range(0, len(text), size) for event in parser.feed(text[n : n + size])]
    assert [(event.id, event.type, event.data) for event in found] == [
        (3, "step", {"step": "é"}),
        (None, "progress", {}),
    ]


@pytest.mark.parametrize(
    ("status", "text", "kind", "raised"),
    [
        (200, "<html>", "text/html", AnswerUnreadable),
        (200, '{"agent": 1}', "application/json", AnswerUnreadable),
        (301, "", "text/plain", AnswerUnreadable),
        (404, "nothing here", "text/plain", AnswerUnreadable),
        (502, "<h1>Bad Gateway</h1>", "text/html", errors.AgentUnreachable),
    ],
)
async def test_what_is_not_an_agent(
    tmp_path: object,
    rundir: object,
    make_client: MakeClient,
    status: int,
    text: str,
    kind: str,
    raised: type[Exception],
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type=kind, headers={"Location": "http://localhost/x"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    path = rundir / "api.sock"
    await web.UnixSite(runner, str(path)).start()
    try:
        with pytest.raises(raised):
            await make_client(path, patience=0.3).status()
    finally:
        await runner.cleanup()


async def test_one_client_asked_by_many(start: Start, make_client: MakeClient) -> None:
    agent: AgentClient = make_client((await start()).path)
    found = await asyncio.gather(*(agent.status() for _ in range(50)))
    assert len({status.agent_version for status in found}) == 1
    assert found[0].node.node_name == "n1"


async def test_an_operation_ended_is_ended(start: Start, make_client: MakeClient) -> None:
    agent = make_client((await start()).path)
    begun = await agent.migrate()
    assert (await agent.wait(begun.operation.id)).phase is Phase.FINISHED
    assert (await agent.wait(begun.operation.id, timeout=0)).phase is Phase.FINISHED
