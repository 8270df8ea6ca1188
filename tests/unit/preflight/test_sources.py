"""Sources that answer late, or not, or something else."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from k3s_ha_agent.errors import ConfigurationError, KineError
from k3s_ha_agent.host.addresses import InterfaceAddress
from k3s_ha_agent.k3s.configuration import effective
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.preflight import binary, identity
from k3s_ha_agent.preflight.addresses import default_address, default_interface
from k3s_ha_agent.preflight.answers import answer
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.sources import ask_apiserver, ask_members
from tests.unit.k3s.etcd_process import running_etcd
from tests.unit.k3s.pki import Authority
from tests.unit.k3s.serving import hanging_server


async def test_a_late_answer_is_missing() -> None:
    found = await answer("The weather", asyncio.sleep(60), limit=0.01, see="weather")
    assert found == Missing("The weather could not be found out within 10ms.", "weather")


async def test_a_problem_is_missing_with_its_reason_and_what_to_do() -> None:
    async def problem() -> None:
        raise KineError("It is broken.", next_step="Mend it.")

    async def denied() -> None:
        raise PermissionError(13, "Permission denied", "/x")

    assert await answer("x", problem(), see="sqlite") == Missing("It is broken.", "sqlite", "Mend it.")
    found = await answer("The file", denied())
    assert isinstance(found, Missing) and "Permission denied" in found.reason


async def test_a_bug_is_not_swallowed() -> None:
    async def bug() -> None:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        await answer("x", bug())


def credentials(directory: Path) -> Layout:
    layout = Layout(directory)
    authority = Authority("k3s-server-ca")
    authority.issue(layout.tls, "client-admin")
    layout.server_ca.write_bytes(authority.pem)
    return layout


async def test_an_api_server_that_hangs_costs_its_limit_and_no_more(tmp_path: Path) -> None:
    layout = credentials(tmp_path)
    async with hanging_server() as url:
        found = await ask_apiserver(layout, int(url.rpartition(":")[2]), "n1", limit=3.0)
    assert not found.ready and isinstance(found.node, Missing) and found.node.see == "node"
    assert isinstance(found.version, Missing)


async def test_without_certificates_the_check_for_them_is_named(tmp_path: Path) -> None:
    found = await ask_apiserver(Layout(tmp_path), 6443, "n1")
    assert isinstance(found.node, Missing) and found.node.see == "credentials"
    members = await ask_members(Layout(tmp_path))
    assert isinstance(members, Missing) and members.see == "unit", "etcd runs inside of k3s"


async def test_the_members_of_a_real_etcd(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as layout:
        members = await ask_members(layout)
    assert not isinstance(members, Missing)
    assert [member.name for member in members] == ["n1-test"]


# --- the binary ------------------------------------------------------------------------------------


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_the_version_is_asked_of_the_binary_without_the_units_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K3S_TOKEN", "secret")
    k3s = script(tmp_path / "k3s", f'env > {tmp_path}/env; echo "k3s version v1.22.2+k3s1 (0)"')
    assert str(await binary.version([str(k3s), "server"])) == "v1.22.2+k3s1"
    assert "secret" not in (tmp_path / "env").read_text()


async def test_a_binary_that_hangs_is_killed(tmp_path: Path) -> None:
    k3s = script(tmp_path / "k3s", f"echo $$ > {tmp_path}/pid; exec sleep 1000")

    async def asked() -> None:
        await binary.version([str(k3s), "server"])

    task = asyncio.create_task(asked())
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        await asyncio.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())
    found = await answer("The version", task, limit=0.01)
    assert isinstance(found, Missing)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_binary_that_says_something_else_is_missing(tmp_path: Path) -> None:
    k3s = script(tmp_path / "k3s", "echo hello")
    found = await answer("The version", binary.version([str(k3s), "server"]), see="version")
    assert isinstance(found, Missing) and "hello" in found.reason
    found = await answer("The version", binary.version([str(tmp_path / "k3s-gone"), "server"]), see="version")
    assert isinstance(found, Missing)


def test_the_command_is_everything_up_to_k3s() -> None:
    assert binary.command(["/usr/local/bin/k3s", "server"]) == ["/usr/local/bin/k3s"]
    assert binary.command(["/usr/bin/nice", "-n5", "/opt/k3s", "server"]) == ["/usr/bin/nice", "-n5", "/opt/k3s"]
    with pytest.raises(ConfigurationError):
        binary.command(["/usr/bin/sleep", "5"])


# --- names and addresses -----------------------------------------------------------------------------

K3S = "/usr/local/bin/k3s"


def test_the_name_of_the_node(tmp_path: Path) -> None:
    named = effective([K3S, "server", "--node-name=N1.Example"], [], [])
    assert identity.node_name(named, tmp_path) == "n1.example"
    assert identity.node_name(Missing("x"), tmp_path) == os.uname().nodename.lower()
    assert identity.node_name(effective([K3S, "server"], [], []), tmp_path) == os.uname().nodename.lower()
    with_id = effective([K3S, "server", "--node-name=n1", "--with-node-id"], [], [])
    assert identity.node_name(with_id, tmp_path) == "n1", "no id was made yet"
    (tmp_path / "etc/rancher/node").mkdir(parents=True)
    (tmp_path / "etc/rancher/node/id").write_text("deadbeef\n")
    assert identity.node_name(with_id, tmp_path) == "n1-deadbeef"


def test_the_port_of_the_api_server() -> None:
    assert identity.api_port(effective([K3S, "server", "--https-listen-port=7443"], [], [])) == 7443
    assert identity.api_port(effective([K3S, "server"], [], [])) == identity.api_port(Missing("x")) == 6443


ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	000A0A0A	00000000	0001	0	0	0	00FFFFFF	0	0	0
lost	00000000	0100000A	0201	0	0	0	00000000	0	0	0
down	00000000	0100000A	0002	0	0	0	00000000	0	0	0
eth0	00000000	0101A8C0	0003	0	0	100	00000000	0	0	0
wlan0	00000000	0101A8C0	0003	0	0	600	00000000	0	0	0
"""


def test_the_address_of_the_default_route() -> None:
    def at(interface: str, address: str) -> InterfaceAddress:
        return InterfaceAddress(interface, ipaddress.ip_address(address), 24, False)

    found = [at("lo", "127.0.0.1"), at("eth1", "10.10.10.5"), at("eth0", "fe80::1")]
    found += [at("eth0", "169.254.3.4"), at("eth0", "192.168.1.7")]
    assert default_interface(ROUTES) == "eth0"
    assert default_address(ROUTES, found) == "192.168.1.7"
    assert default_address(ROUTES.splitlines()[0], found) is None
    assert default_address(ROUTES, found[:2]) is None


PROBE = """
    import asyncio, subprocess, sys
    from pathlib import Path
    from k3s_ha_agent.k3s.layout import Layout
    from k3s_ha_agent.preflight import gather
    from k3s_ha_agent.preflight.results import Missing
    from k3s_ha_agent.settings import Settings

    directory = Path(sys.argv[1])
    layout = Layout(directory / "data")
    layout.db.mkdir(parents=True)
    subprocess.run(["mount", "--bind", layout.db, layout.db], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", layout.db], check=True)
    settings = Settings(data_dir=layout.data_dir, state_dir=directory / "state")
    found = asyncio.run(gather._probe(settings, layout))
    assert not isinstance(found, Missing), found
    subprocess.run(["mount", "-t", "tmpfs", "none", layout.server], check=True)
    layout.db.mkdir()
    assert not isinstance(asyncio.run(gather._probe(settings, layout)), Missing)
    subprocess.run(["mount", "-o", "remount,ro", layout.server], check=True)
    found = asyncio.run(gather._probe(settings, layout))
    assert isinstance(found, Missing) and found.see == "slow-disk", "another file system is measured itself"
"""


def test_fsync_is_measured_beside_the_datastore_and_not_in_it(tmp_path: Path) -> None:
    """In a mount namespace of its own, which ends with the process."""
    subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", textwrap.dedent(PROBE), str(tmp_path)],
        check=True,
        cwd=Path(__file__).parents[3],
        timeout=120,
    )
