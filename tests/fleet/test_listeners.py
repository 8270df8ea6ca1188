"""``k3s-ha-fleet`` at the doors agents really open: TLS 1.3 with certificates and roles, loopback TCP with a token."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.client import tls_context
from k3s_ha_agent.settings import Settings
from tests.api.callers import TOKEN, with_tls, with_token
from tests.fleet.conftest import Fleet, MakeFleet, finish
from tests.fleet.simulated import Fate, SimServer
from tests.unit.k3s.pki import Authority

THREE = {"one": [Fate()], "three": [Fate(), Fate(), Fate()]}
CONTROLLER = "fleet-controller"


@dataclasses.dataclass
class Pki:
    """The authority of the agents, and what the controller has."""

    directory: Path
    authority: Authority = dataclasses.field(default_factory=lambda: Authority("agents-ca"))

    def door(self, server: SimServer) -> Settings:
        directory = server.path.with_suffix(".pki")
        directory.mkdir()
        return with_tls(directory, self.authority, tls_admin=(f"CN:{CONTROLLER}",))

    def renew(self, server: SimServer) -> None:
        assert server.doors is not None
        _, key = self.authority.issue(server.doors.tls_key.parent, "server")
        key.chmod(0o600)

    def controller(self, name: str = CONTROLLER, *, trusts: Authority | None = None, **issue: Any) -> dict[str, str]:
        """``tls`` of fleet.yaml. ``by`` and ``days`` are about the controller's certificate."""
        ca = self.directory / "ca.crt"
        ca.write_bytes((trusts or self.authority).pem)
        by = issue.pop("by", self.authority)
        cert, key = by.issue(self.directory, name, **issue)
        return {"ca": str(ca), "cert": str(cert), "key": str(key)}


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def token_door(server: SimServer) -> Settings:
    directory = server.path.with_suffix(".token")
    directory.mkdir()
    return with_token(directory)


def asked_by(fleet: Fleet) -> set[str]:
    servers = [server for cluster in fleet.world.clusters.values() for server in cluster.servers]
    return {operation.requested_by for server in servers for operation in server.operations}


async def everything_is_done(fleet: Fleet, asked: str) -> None:
    assert (await fleet.run("plan")).code == 0 and not fleet.world.history
    done = await fleet.run("apply", "--log", str(fleet.log))
    assert done.code == 0, done
    assert {state[0] for state in fleet.world.state().values()} == {"etcd"}
    assert asked_by(fleet) == {asked}
    assert (await fleet.run("status")).code == 0 and fleet.world.wrongs == []


async def test_over_tls(make_fleet: MakeFleet, pki: Pki) -> None:
    fleet = await make_fleet(THREE, doors=pki.door, tls=pki.controller())
    await everything_is_done(fleet, f"CN:{CONTROLLER}")
    assert [o.kind.value for o in fleet.world.clusters["three"].servers[2].operations] == ["join"], "with its token"


async def test_over_loopback_tcp(make_fleet: MakeFleet, tmp_path: Path) -> None:
    bearer = tmp_path / "bearer"
    bearer.write_text(TOKEN)
    bearer.chmod(0o600)
    fleet = await make_fleet(THREE, doors=token_door, defaults={"bearer_token_file": str(bearer)})
    await everything_is_done(fleet, "token")
    everything = fleet.log.read_text() + (await fleet.run("status", "-o", "json")).out
    assert TOKEN not in everything


async def test_a_wrong_token(make_fleet: MakeFleet, tmp_path: Path) -> None:
    bearer = tmp_path / "bearer"
    bearer.write_text(TOKEN[::-1])
    bearer.chmod(0o600)
    fleet = await make_fleet(THREE, doors=token_door, defaults={"bearer_token_file": str(bearer)})
    for command in ("plan", "apply", "status"):
        done = await fleet.run(command, "-o", "json")
        assert done.code == 1 and "The token is not this agent's" in done.out, (command, done)
        assert TOKEN[::-1] not in done.out + done.err
    assert fleet.world.history == []


async def test_the_role_read_is_enough_to_look_and_for_nothing_else(make_fleet: MakeFleet, pki: Pki) -> None:
    fleet = await make_fleet(THREE, doors=pki.door, tls=pki.controller("reader"))
    assert (await fleet.run("status")).code == 0
    for command, code in (("plan", 5), ("apply", 1)):
        done = await fleet.run(command, "-o", "json")
        assert done.code == code, (command, done)
        assert "CN:reader has not got the role admin" in done.out
    assert fleet.world.history == []


Certificates = Callable[[Pki], dict[str, str]]


@pytest.mark.parametrize(
    ("certificates", "said"),
    [
        (lambda pki: pki.controller(days=-1), "client certificate"),
        (lambda pki: pki.controller(by=Authority("agents-ca")), "client certificate"),
        (lambda pki: pki.controller(trusts=Authority("agents-ca")), "cannot be trusted"),
    ],
    ids=["expired", "of another authority", "agents of another authority"],
)
async def test_certificates_that_are_not_taken(
    make_fleet: MakeFleet, pki: Pki, certificates: Certificates, said: str
) -> None:
    fleet = await make_fleet({"one": [Fate()]}, doors=pki.door, tls=certificates(pki), limits={"reach": "1s"})
    for command in ("plan", "apply", "status"):
        done = await fleet.run(command, "-o", "json")
        assert done.code == 7 and said in done.out, (command, done)
    assert fleet.world.history == []


async def test_certificates_renewed_in_the_middle(make_fleet: MakeFleet, pki: Pki) -> None:
    """Connections made with the old ones end; the driver goes on, and asks for nothing twice."""
    fleet = await make_fleet(THREE, doors=pki.door, tls=(tls := pki.controller()))
    context = tls_context(*(Path(tls[name]) for name in ("ca", "cert", "key")))
    servers = [server for cluster in fleet.world.clusters.values() for server in cluster.servers]
    before = [await shown(server, context) for server in servers]
    fleet.world.hold()
    applying = await fleet.start("apply")
    await fleet.world.until_begun(2)
    for server in servers:
        pki.renew(server)
    for server, old in zip(servers, before, strict=True):
        while await shown(server, context) == old:
            await asyncio.sleep(0.1)
    fleet.world.going_on.set()
    done = await finish(applying)
    assert done.code == 0, done
    assert {len(state) for state in fleet.world.state().values()} == {2}, "one operation on each server"


async def shown(server: SimServer, context: ssl.SSLContext) -> bytes:
    """The certificate an agent shows now."""
    assert server.doors is not None and server.doors.listen_tls is not None
    address = server.doors.listen_tls
    while True:
        try:
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
            continue
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return bytes(found)
