"""Pre-images: listed, verified, removed when nobody needs them."""

from __future__ import annotations

from tests.api.conftest import Running, Start
from tests.api.memory_manager import Play


async def two_operations(start: Start, play: Play | None = None) -> tuple[Running, str, str]:
    api = await start(play)
    ids = []
    for _ in range(2):
        ids.append(await api.begin())
        await api.manager.wait(ids[-1], 60)
    return api, ids[0], ids[1]


async def test_they_are_listed_newest_first(start: Start) -> None:
    api, old, new = await two_operations(start)
    _, answer, _ = await api.ask("GET", "/v1/backups")
    assert [(b["operation"], b["needed"]) for b in answer["backups"]] == [(new, True), (old, False)]


async def test_one_is_verified_only_when_asked(start: Start) -> None:
    api, old, _ = await two_operations(start)
    for query, verified in (("", None), ("?verify=false", None), ("?verify=true", True)):
        status, backup, _ = await api.ask("GET", f"/v1/backups/{old}{query}")
        assert (status, backup["verified"], backup["problem"]) == (200, verified, None)
    for query in ("?verify=yes", "?verify=", "?verify=true&verify=false"):
        assert (await api.ask("GET", f"/v1/backups/{old}{query}"))[0] == 400


async def test_a_damaged_one_is_an_answer(start: Start) -> None:
    api, old, _ = await two_operations(start, Play(damaged=True))
    status, backup, _ = await api.ask("GET", f"/v1/backups/{old}?verify=true")
    assert (status, backup["verified"]) == (200, False)
    assert "manifest" in backup["problem"]


async def test_what_is_not_needed_can_be_removed(start: Start) -> None:
    api, old, new = await two_operations(start)
    status, removed, _ = await api.ask("DELETE", f"/v1/backups/{old}")
    assert (status, removed["operation"]) == (200, old)
    assert (await api.ask("GET", f"/v1/backups/{old}"))[0] == 404
    assert (await api.ask("DELETE", f"/v1/backups/{old}"))[0] == 404
    status, problem, _ = await api.ask("DELETE", f"/v1/backups/{new}")
    assert (status, problem["code"]) == (409, "conflict")
    assert api.manager.removed == {old}


async def test_nothing_is_removed_while_an_operation_runs(start: Start) -> None:
    api, old, _ = await two_operations(start)
    api.manager.play.hold_at = "stop-k3s"
    running = await api.begin()
    status, problem, _ = await api.ask("DELETE", f"/v1/backups/{old}")
    assert (status, problem["code"], problem["operation"]) == (409, "operation-in-progress", running)
    assert not api.manager.removed
