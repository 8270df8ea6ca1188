"""Rollback on request: back to the SQLite from before the migration, or, when that fails, back on etcd, whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.datastore import Keys, assert_same
from tests.lab.documents import commands, shell
from tests.lab.lab import CHECKOUT
from tests.lab.node import AGENT, K3S, Node
from tests.lab.scenarios import (
    CONFLICT,
    DB,
    DONE,
    DROP_IN,
    MEMBER_WAL,
    QUARANTINE,
    REFUSED,
    RESCUE,
    ROLLED_BACK,
    STATE,
    Before,
    begin,
    configuration,
    look,
    nothing_left_behind,
    on_etcd_with_all,
    on_sqlite_as_before,
    operate,
    record,
    records,
    served_as_stored,
    wait_for_step,
)

NewServer = Callable[..., Node]
DISCARD = ("rollback", "--writes", "discard", "--confirm-lost-writes")
CREATED = "/registry/configmaps/default/made-after"
CHANGED = "/registry/configmaps/seeded/seed-00007"
EVIDENCE = {"pre-image-sound", "data-equal", "on-sqlite", "api-ready", "etcd-role-gone", "stable"}


@dataclasses.dataclass(frozen=True)
class Migrated:
    """A server on etcd with writes made since, as it is before a rollback."""

    node: Node
    before: Before
    """What it was before the migration."""
    migration: dict[str, Any]
    revision: int
    keys: Keys
    configuration: dict[str, str]


@pytest.fixture
def migrated(new_server: NewServer) -> Migrated:
    node = new_server(agent={"stability_window": "1s"})
    before = look(node)
    code, migration = operate(node, "migrate")
    assert code == DONE
    node.create_config_map("made-after", text="lost by a rollback that discards")
    path = "/api/v1/namespaces/seeded/configmaps/" + CHANGED.rpartition("/")[2]
    assert node.kubectl(path, "PATCH", {"data": {"content": "changed after the migration"}}).status == 200
    revision = node.etcd_revision()
    return Migrated(node, before, migration, revision, node.etcd_live(revision=revision), configuration(node))


def still_on_etcd(migrated: Migrated) -> None:
    """Every key as it was, by revision: this is the very etcd, not a copy; and k3s is well on it."""
    node = migrated.node
    node.wait_for_k3s()
    node.wait_for(lambda: "etcd" in node.roles(), what="the etcd role")
    assert node.exists(MEMBER_WAL) and not node.exists(f"{DB}/state.db")
    assert_same(migrated.keys, node.etcd_live(revision=migrated.revision))
    assert {CREATED, CHANGED} <= node.etcd_live().keys()
    served_as_stored(node, migrated.keys)
    assert written_anew(configuration(node)) == written_anew(migrated.configuration)
    nothing_left_behind(node)


def written_anew(found: dict[str, str]) -> dict[str, str]:
    """Our drop-in was taken away and written again, so its mtime is another one; its content is not."""
    return {**found, DROP_IN: found[DROP_IN].partition(", mtime")[0] + found[DROP_IN][-16:]}


def test_an_etcd_that_is_lost_by_the_documentations_commands(migrated: Migrated) -> None:
    """Refused while k3s does not come up, with the page that helps; its commands bring the pre-image back."""
    node = migrated.node
    node.systemctl("stop", K3S)
    spoilt = "dd if=/dev/urandom of=$(echo {}/*.wal) bs=512 seek=8 count=1 conv=notrunc status=none"
    node.exec(["bash", "-c", spoilt.format(MEMBER_WAL)])
    node.exec(["systemctl", "start", "--no-block", K3S])
    node.wait_for(lambda: int(node.systemctl("show", "--value", "--property=NRestarts", K3S)) > 0, what="k3s crashes")
    code, problem = operate(node, *DISCARD)
    assert (code, problem["code"]) == (REFUSED, "preflight-failed")
    _, _, place = problem["next_step"].partition("docs/how-to/roll-back.md#")
    assert place == "an-etcd-that-does-not-come-up-any-more", problem["next_step"]

    lines = commands(CHECKOUT / "docs/how-to/roll-back.md", "etcd-that-was-lost")
    assert lines[0].startswith("ID=")
    shell(node, "\n".join([f"ID={migrated.migration['id']}", *lines[1:]]))

    node.wait_for(lambda: "etcd" not in node.roles(), what="k3s without the etcd role")
    on_sqlite_as_before(node, migrated.before)
    assert operate(node, "migrate")[0] == DONE, "what was done by hand stands in the way of the next migration"


def test_writes_are_discarded_when_that_is_confirmed(migrated: Migrated) -> None:
    node = migrated.node
    invocation = node.show(K3S, "InvocationID")

    code, problem = operate(node, "rollback", "--writes", "discard")
    assert (code, problem["status"], problem["code"]) == (CONFLICT, 409, "lost-writes-not-confirmed")
    assert problem["lost_keys"] == 3  # made-after, seed-00007, and the Node that got its role
    assert {CREATED, CHANGED} <= set(problem["examples"])
    assert node.show(K3S, "InvocationID") == invocation and len(records(node)) == 1
    still_on_etcd(migrated)

    code, plan = operate(node, *DISCARD, "--dry-run")
    assert (code, plan["lost_writes"]["keys"]) == (DONE, 3)
    code, rollback = operate(node, *DISCARD)
    assert (code, rollback["outcome"]) == (DONE, "succeeded"), rollback["reason"]
    assert {item["name"]: item["ok"] for item in rollback["evidence"]} == dict.fromkeys(EVIDENCE, True)
    on_sqlite_as_before(node, migrated.before)
    assert CREATED not in node.kine_live()
    assert node.kine_live()[CHANGED] == migrated.before.keys[CHANGED]
    assert node.exists(f"{QUARANTINE}/{rollback['id']}/etcd/member/wal"), "the discarded etcd was not kept"

    # There and back again, and there: nothing of the first time stands in the way.
    code, again = operate(node, "migrate")
    assert code == DONE, again
    on_etcd_with_all(node, migrated.before, again)
    assert [path.name for path in node.path(QUARANTINE).iterdir()] == [again["id"]]


def test_when_sqlite_does_not_start_etcd_is_put_back_whole(migrated: Migrated) -> None:
    node = migrated.node
    node.standin(faults={"exit_at": "sqlite-open"})

    code, rollback = operate(node, *DISCARD)

    assert (code, rollback["outcome"]) == (ROLLED_BACK, "rolled_back")
    assert rollback["failed_evidence"] == ["start-k3s"] and "k3s ended" in rollback["reason"]
    assert {"etcd-restored", "back-api-ready", "back-etcd-role"} <= {item["name"] for item in rollback["evidence"]}
    still_on_etcd(migrated)

    # The cause is mended: the same request works now, for the migration is still what would be undone.
    node.standin()
    code, rollback = operate(node, *DISCARD)
    assert code == DONE
    on_sqlite_as_before(node, migrated.before)


def test_the_rescue_puts_etcd_back(migrated: Migrated) -> None:
    """The agent is stopped in the middle of a rollback, and a person calls the rescue, twice."""
    node = migrated.node
    node.standin(speed={"start_delay": 5.0})
    begin(node, "rollback", writes="discard", confirm_lost_writes=True)
    wait_for_step(node, "start-k3s")
    node.systemctl("stop", AGENT)
    assert node.exists(f"{DB}/state.db") and not node.exists(MEMBER_WAL) and not node.exists(DROP_IN)
    node.standin()

    node.systemctl("start", RESCUE)
    node.systemctl("start", RESCUE)

    ended = record(node)
    assert (ended["kind"], ended["outcome"], ended["finished_by"]) == ("rollback", "rolled_back", "rescue")
    still_on_etcd(migrated)


def test_a_damaged_pre_image_is_not_used(migrated: Migrated) -> None:
    node = migrated.node
    sealed = node.path(f"{STATE}/backups/{migrated.migration['id']}/sealed.db")
    content = bytearray(sealed.read_bytes())
    content[len(content) // 2] ^= 1
    sealed.write_bytes(content)
    code, problem = operate(node, *DISCARD)
    assert (code, problem["code"]) == (REFUSED, "preflight-failed")
    assert "pre-image" in {item["name"] for item in problem["checks"] if item["status"] == "refused"}
    still_on_etcd(migrated)


def test_what_is_not_built_yet_says_so(server: Node) -> None:
    """And a server on SQLite has nothing to undo."""
    for path, body, says in (
        ("/v1/rollback", {}, "keep"),
        ("/v1/rollback", {"writes": "keep"}, "keep"),
        ("/v1/migrate", {"method": "staged"}, "staged"),
    ):
        answer = server.api("POST", path, body)
        assert (answer.status, answer.json["code"]) == (501, "not-implemented"), answer.text
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert says in answer.json["detail"]
    code, problem = operate(server, *DISCARD)
    assert (code, problem["code"]) == (REFUSED, "preflight-failed")
    assert {"etcd-in-use", "pre-image"} <= {i["name"] for i in problem["checks"] if i["status"] == "refused"}
    assert records(server) == []
