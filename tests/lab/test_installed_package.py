"""The .deb in a node that has k3s and nothing of the checkout: installed and used with the README's commands alone,
upgraded and removed in the middle of an operation, removed, purged.

What the package's scripts do in every single case is tested in tests/packaging, in a root without a systemd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.lab.datastore import assert_same
from tests.lab.documents import README, block, install, shell, typed
from tests.lab.node import AGENT, K3S, Node
from tests.lab.scenarios import (
    DB,
    DONE,
    DROP_IN,
    GATE,
    RESCUE,
    ROLLED_BACK,
    STATE,
    begin,
    look,
    on_etcd_with_all,
    on_sqlite_as_before,
    others,
    record,
    records,
    sabotage,
    wait_for_copy,
    wait_until_finished,
)
from tests.lab.test_join import CALM, CHANGING, TOKEN, members
from tests.packaging.build import PREVIOUS

RESTART_WANTED = "/run/k3s-ha-agent/restart-wanted"
RESTARTED = "The package was upgraded while an operation ran; it has ended, and the new version is started."


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
    for command in typed(README, "# k3s-ha-agentctl preflight"):
        said = shell(node, command)
        what = command.split()[1]
        done.append(what)
        if what == "migrate":
            on_etcd_with_all(node, before, record(node))
        elif what == "status":
            assert "etcd" in said
    assert done == ["preflight", "migrate", "status", "rollback"]
    on_sqlite_as_before(node, before)
    migration = records(node)[0]["id"]
    said = explained(node, f"migrate {migration} succeeded")
    assert "data-equal" in shell(node, told(said, f"k3s-ha-agentctl operations {migration}"))

    # And when it goes wrong, the journal says what to do; that says which evidence failed.
    sabotage(node, skip_keys=[LEFT_OUT])
    before = look(node)
    assert node.ctl("migrate").returncode == ROLLED_BACK
    on_sqlite_as_before(node, before)
    failed = record(node)["id"]
    said = explained(node, f"migrate {failed} was rolled back")
    assert "k3s runs on the datastore it came from" in said and "Remove the cause, then ask again." in said
    shown = shell(node, told(said, f"k3s-ha-agentctl operations {failed}"))
    assert re.search(r"^data-equal +FALSE .*1 missing", shown, re.M), shown
    assert f"k3s-ha-agentctl watch {failed}" in explained(node, f"The step prove of {failed} failed")


def test_from_one_server_to_three(bare: Callable[..., Node], deb: Path) -> None:
    """The README's commands, each typed on the server its prompt names; then the one that left joins again by curl."""
    nodes = {"n1": bare("n1", speed=CALM), **{name: bare(name, started=False, speed=CALM) for name in ("n2", "n3")}}
    n1, n3 = nodes["n1"], nodes["n3"]
    for node in nodes.values():
        install(node, deb)
    for node in (nodes["n2"], n3):
        node.write("/root/token", n1.read(TOKEN), mode=0o600)
    before = n1.kine_live()

    done = []
    for line in block(README, "n2# k3s-ha-agentctl join").splitlines():
        prompt, _, command = line.partition("# ")
        said = shell(nodes[prompt], command.replace("10.0.0.1", n1.address))
        done.append((prompt, command.split()[1]))
        if done[-1] == ("n1", "members"):
            assert "3 servers" in said and said.count("voter") + said.count("leader") == 3, said
            assert_same(before, n3.etcd_live(), ignore=CHANGING)
    assert done == [("n1", "migrate"), ("n2", "join"), ("n3", "join"), ("n1", "members"), ("n3", "rollback")]
    assert members(n1) == {"n1": "voter", "n2": "voter"} and not n3.active(K3S)

    function = block(README, "api() {").splitlines()[0]
    on_joining = block(README, "api() {").partition("# on n2")[2].partition("\n")[2]
    join, ask = [line for line in on_joining.replace("\\\n", "").splitlines() if line.strip()]
    n3.write("/etc/rancher/cluster-token", n1.read(TOKEN), mode=0o600)
    begun = json.loads(shell(n3, f"{function}\n{join.replace('10.0.0.1', n1.address)}"))
    n3.wait_for(lambda: record(n3)["phase"] == "finished", timeout=120, what="the join has ended")
    assert (record(n3)["id"], record(n3)["outcome"]) == (begun["id"], "succeeded"), record(n3)["reason"]
    assert {m["node"] for m in json.loads(shell(n3, f"{function}\n{ask}"))["members"]} == set(nodes)


LEFT_OUT = "/registry/configmaps/seeded/seed-00042"


def explained(node: Node, subject: str) -> str:
    """The text that ``journalctl -x`` has below a line of the agent."""
    node.exec(["journalctl", "--sync"])
    journal = node.exec(["journalctl", "-x", "--no-pager", "-u", AGENT]).stdout
    found: dict[str, str] = {}
    current = ""
    for line in journal.splitlines():
        if not line.startswith("░░"):
            current = ""
            continue
        text = line.removeprefix("░░").strip()
        if text.startswith("Subject: "):
            current = text.removeprefix("Subject: ")
            found[current] = ""
        elif current:
            found[current] += f"{text}\n"
    assert subject in found, sorted(found)
    return found[subject]


def told(text: str, command: str) -> str:
    """A command that the text tells to run."""
    assert command in text, text
    return command


def test_a_new_user_with_curl(bare: Callable[..., Node], deb: Path) -> None:
    node = bare()
    install(node, deb)
    before = look(node)
    here = block(README, "api() {").partition("# on n2")[0].replace("\\\n", "")
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
