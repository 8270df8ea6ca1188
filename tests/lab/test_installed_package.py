"""The .deb in a node that has k3s and nothing of the checkout: installed and used with the README's commands alone,
upgraded and removed in the middle of an operation, removed, purged.

What the package's scripts do in every single case is tested in tests/packaging, in a root without a systemd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import provision, system
from tests.lab.datastore import assert_same
from tests.lab.lab import CHECKOUT, Lab
from tests.lab.node import AGENT, K3S, Node
from tests.lab.scenarios import (
    DB,
    DONE,
    DROP_IN,
    GATE,
    RESCUE,
    STATE,
    begin,
    look,
    on_etcd_with_all,
    on_sqlite_as_before,
    others,
    record,
    wait_for_copy,
    wait_until_finished,
)
from tests.lab.servers import make_server
from tests.packaging.build import PREVIOUS, copy_checkout, make, only

NewServer = Callable[..., Node]
README = CHECKOUT / "README.md"
RESTART_WANTED = "/run/k3s-ha-agent/restart-wanted"
RESTARTED = "The package was upgraded while an operation ran; it has ended, and the new version is started."


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("sources") / "checkout")


@pytest.fixture(scope="module")
def deb(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("deb")
    make("deb", dist, sources)
    return only(dist, "*_all.deb")


@pytest.fixture(scope="module")
def previous_deb(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a version before."""
    dist = tmp_path_factory.mktemp("previous-deb")
    make("deb", dist, sources, PACKAGE_SUFFIX=PREVIOUS)
    return only(dist, "*_all.deb")


@pytest.fixture(scope="module")
def only_k3s(lab: Lab) -> Path:
    """A layer with k3s and without the agent."""
    directory = lab.directory / "only-k3s"
    layer, merged = directory / "upper", directory / "root"
    system.mount_overlay(merged, lower=[lab.root], upper=layer, work=directory / "work")
    try:
        provision.install_k3s(CHECKOUT, merged, lab.k3s_binary)
    finally:
        system.run(["umount", str(merged)])
    return layer


@pytest.fixture
def bare(new_node: Callable[[str], Node], only_k3s: Path) -> Iterator[Callable[..., Node]]:
    """Makes servers on SQLite that never saw the agent."""

    def make_bare(**options: object) -> Node:
        node = new_node("n1")
        if node.lab.k3s_binary:
            pytest.skip("needs the stand-in k3s, which is seeded before the first boot")
        node.remove_disk()
        node.make_disk((only_k3s, node.lab.root))
        make_server(node, ready=False, **options)  # type: ignore[arg-type]
        node.wait_for_k3s()
        assert not node.exists("/usr/bin/k3s-ha-agent") and not node.exists("/usr/lib/k3s-ha-agent")
        return node

    yield make_bare


def block(containing: str) -> str:
    """The one fenced block of the README with that text in it."""
    found = [text for text in re.findall(r"^```\w+\n(.*?)^```", README.read_text(), re.M | re.S) if containing in text]
    assert len(found) == 1, f"{containing!r} is in {len(found)} blocks of the README"
    return found[0]


def as_root(containing: str) -> list[str]:
    """The commands of a console block that a person types as root."""
    return [line[2:] for line in block(containing).splitlines() if line.startswith("# ")]


def shell(node: Node, command: str) -> str:
    """What a command printed that is typed in root's home; it has to work."""
    return node.exec(["sh", "-c", f"cd /root && {command}"], timeout=300).stdout


def install(node: Node, package: Path) -> None:
    """With the README's command; what it needs of Debian is there, so nothing is fetched."""
    node.copy_in(package, f"/root/dist/{package.name}")
    (command,) = as_root("apt-get install")
    shell(node, command)
    node.wait_for_agent()


def dpkg(node: Node, *arguments: str) -> tuple[int, str]:
    done = node.exec(["dpkg", *arguments], check=False)
    return done.returncode, done.stdout + done.stderr


def version(node: Node) -> str:
    show = "--showformat=${db:Status-Status} ${Version}"
    return node.exec(["dpkg-query", "--show", show, "k3s-ha-agent"], check=False).stdout.strip()


def pid(node: Node) -> str:
    return node.show(AGENT, "MainPID")["MainPID"]


def test_a_new_user_on_the_command_line(bare: Callable[..., Node], deb: Path) -> None:
    node = bare()
    install(node, deb)
    before = look(node)
    done = []
    for command in as_root("k3s-ha-agentctl preflight"):
        said = shell(node, command)
        what = command.split()[1]
        done.append(what)
        if what == "migrate":
            on_etcd_with_all(node, before, record(node))
        elif what == "status":
            assert "etcd" in said
    assert done == ["preflight", "migrate", "status", "rollback"]
    on_sqlite_as_before(node, before)


def test_a_new_user_with_curl(bare: Callable[..., Node], deb: Path) -> None:
    node = bare()
    install(node, deb)
    before = look(node)
    here = block("api() {").partition("# on n2")[0].replace("\\\n", "")
    function, preflight, migrate, wait, rollback = [line for line in here.splitlines() if line.strip()]

    assert json.loads(shell(node, f"{function}\n{preflight}"))["ok"]
    begun = json.loads(shell(node, f"{function}\n{migrate}"))
    ended = json.loads(shell(node, f"{function}\n{wait.replace('ID', begun['id'])}"))
    assert (ended["id"], ended["outcome"]) == (begun["id"], "succeeded")
    node.wait_for(lambda: record(node)["phase"] == "finished", what="it is tidied up")
    on_etcd_with_all(node, before, ended)

    begun = json.loads(shell(node, f"{function}\n{rollback}"))
    ended = json.loads(shell(node, f"{function}\n{wait.replace('ID', begun['id'])}"))
    assert (ended["id"], ended["outcome"]) == (begun["id"], "succeeded")
    node.wait_for(lambda: record(node)["phase"] == "finished", what="it is tidied up")
    on_sqlite_as_before(node, before)


def test_upgraded_and_removed(bare: Callable[..., Node], deb: Path, previous_deb: Path) -> None:
    """In the window neither does any harm; afterwards both do what they should."""
    node = bare(speed={"put_delay": 0.02})
    install(node, previous_deb)
    assert version(node).endswith(PREVIOUS)
    before, old = look(node), pid(node)
    operation = begin(node)
    wait_for_copy(node)

    # Removed in the window: refused, and nothing has happened.
    for action in ("--remove", "--purge"):
        code, said = dpkg(node, action, "k3s-ha-agent")
        assert code != 0 and operation in said and "systemctl start k3s-ha-agent-rescue.service" in said, said
    assert (version(node).split()[0], pid(node)) == ("installed", old)

    # Upgraded in the window: the old one goes on to the end, and only then makes room for the new one.
    node.copy_in(deb, f"/root/{deb.name}")
    code, said = dpkg(node, "--install", f"/root/{deb.name}")
    assert code == 0 and "is left alone" in said, said
    assert not version(node).endswith(PREVIOUS)
    assert node.exists(f"{DB}/state.db"), "the upgrade came too late to be in the window"
    assert pid(node) == old and node.exists(RESTART_WANTED) and node.exists(GATE)
    ended = wait_until_finished(node, operation)
    assert (ended["outcome"], ended["finished_by"]) == ("succeeded", "agent"), ended["reason"]
    node.wait_for(lambda: pid(node) not in ("0", old), what="the agent has started itself again")
    node.wait_for_agent()
    assert RESTARTED in node.messages(AGENT) and node.show(AGENT, "NRestarts")["NRestarts"] == "1"
    assert node.messages(RESCUE) == [], "its end was taken for a failure"
    assert not node.exists(RESTART_WANTED)
    assert node.operation()["id"] == operation
    on_etcd_with_all(node, before, ended)

    # Removed: k3s runs on as it is, also after a restart, and what was saved is there.
    backups = {path.name for path in node.path(f"{STATE}/backups/{operation}").iterdir()}
    invocation = node.show(K3S, "InvocationID")
    assert dpkg(node, "--remove", "k3s-ha-agent")[0] == DONE
    assert node.show(AGENT, "LoadState")["LoadState"] in ("not-found", "masked")
    assert not node.exists("/usr/bin/k3s-ha-agent") and not node.exists("/usr/lib/k3s-ha-agent")
    assert node.show(K3S, "InvocationID") == invocation and node.exists(DROP_IN)
    node.systemctl("restart", K3S)
    node.wait_for_k3s()
    assert_same(others(node, before.keys), others(node, node.etcd_live()))
    assert record(node)["id"] == operation

    # Purged: the records are gone, the backups are not.
    code, said = dpkg(node, "--purge", "k3s-ha-agent")
    assert code == DONE and f"The backups in {STATE}/backups are kept." in said, said
    assert [path.name for path in node.path(STATE).iterdir()] == ["backups"]
    assert {path.name for path in node.path(f"{STATE}/backups/{operation}").iterdir()} == backups
    assert "sealed.db" in backups
    assert not node.exists("/etc/k3s-ha-agent")
    assert node.k3s_ready()
