"""Who may do what, told by the kernel: real peers with real uids and groups."""

from __future__ import annotations

import asyncio
import errno
import grp
import json
import os
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from k3s_ha_agent.api.access import Role, identify, read_peer, roles_of
from k3s_ha_agent.api.routes import table
from k3s_ha_agent.errors import Forbidden
from tests.api.conftest import GROUP, Running, Start, ask_as
from tests.api.memory_manager import Play

NOBODY = 65534
GID = grp.getgrnam(GROUP).gr_gid
ROUTES = table(None, None)  # type: ignore[arg-type]


def target_of(path: str) -> str:
    """The path of a route with an operation that exists."""
    return path.replace("{id:[A-Za-z0-9][A-Za-z0-9_.-]{0,127}}", "op-1")


async def ask(api: Running, *args: Any, **options: Any) -> tuple[int, str | None]:
    return await asyncio.to_thread(ask_as, api.path, *args, **options)


def test_everything_that_changes_something_needs_the_role() -> None:
    for route in ROUTES:
        assert (route.method in ("POST", "DELETE")) == (route.role is Role.ADMIN), route.path
        assert route.method in ("GET", "POST", "DELETE"), route.path


@pytest.mark.parametrize("route", [r for r in ROUTES if r.role is Role.ADMIN], ids=lambda r: target_of(r.path))
async def test_nobody_is_denied(start: Start, route: Any) -> None:
    api = await start(Play(hold_at="start-k3s"))
    await api.begin()
    before = list(api.manager.operations.values())
    api.path.chmod(0o666)
    status, text = await ask(api, route.method, target_of(route.path), uid=NOBODY, gid=NOBODY, body="{}")
    assert status == 403
    problem = json.loads(text or "")
    assert problem["code"] == "forbidden"
    assert "sudo" in problem["next_step"]
    assert [o.id for o in api.manager.operations.values()] == [o.id for o in before]
    assert not any(o.abort_requested for o in api.manager.operations.values())
    assert not api.manager.removed


async def test_nobody_may_read_a_socket_that_was_opened_up(start: Start) -> None:
    api = await start()
    api.path.chmod(0o666)
    status, text = await ask(api, "GET", "/v1/status", uid=NOBODY, gid=NOBODY)
    assert status == 200
    assert json.loads(text or "")["node"]["node_name"] == "n1"


async def test_nobody_cannot_open_the_socket(start: Start) -> None:
    api = await start()
    assert await ask(api, "GET", "/livez", uid=NOBODY, gid=NOBODY) == (errno.EACCES, None)


async def test_a_member_by_primary_group_may_begin(start: Start) -> None:
    api = await start()
    status, _ = await ask(api, "POST", "/v1/migrate", uid=NOBODY, gid=GID)
    assert status == 202
    assert api.manager.list()[0].requested_by == f"uid {NOBODY}"


async def test_a_member_by_supplementary_group_may_begin(start: Start) -> None:
    api = await start()
    status, _ = await ask(api, "POST", "/v1/migrate", uid=NOBODY, gid=NOBODY, groups=(4242, GID))
    assert status == 202


async def test_another_group_is_no_help(start: Start) -> None:
    api = await start()
    api.path.chmod(0o666)
    status, _ = await ask(api, "POST", "/v1/migrate", uid=NOBODY, gid=0, groups=(4242,))
    assert status == 403


async def test_without_the_group_only_root_is_left(start: Start) -> None:
    api = await start(group="no-such-group")
    assert api.path.stat().st_mode & 0o777 == 0o600
    api.path.chmod(0o666)
    status, _ = await ask(api, "POST", "/v1/migrate", uid=NOBODY, gid=0, groups=(0,))
    assert status == 403
    status, _ = await ask(api, "POST", "/v1/migrate", uid=0, gid=0)
    assert status == 202


async def test_a_peer_whose_groups_cannot_be_read_is_refused(start: Start) -> None:
    api = await start()
    api.path.chmod(0o666)
    groups = (GID, *range(100000, 100300))
    for method, target in (("POST", "/v1/migrate"), ("GET", "/v1/status")):
        status, _ = await ask(api, method, target, uid=NOBODY, gid=NOBODY, groups=groups)
        assert status == 403
    assert not api.manager.operations


async def test_a_connection_that_is_no_unix_socket_is_refused() -> None:
    """Later listeners bring their own way of telling who is asking; until then there is none."""

    async def handler(request: web.Request) -> web.Response:
        try:
            identify(request, GID)
        except Forbidden as error:
            return web.Response(status=error.status)
        return web.Response()

    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    try:
        await site.start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            assert response.status == 403
    finally:
        await runner.cleanup()


def test_the_peer_is_what_the_kernel_says() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        peer = read_peer(left)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert peer.groups == frozenset(os.getgroups())
    assert Role.ADMIN in roles_of(peer, None)
