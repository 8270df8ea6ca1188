"""Data nobody thinks of goes to etcd and comes back as it was: odd names, no value, the biggest that fits."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from k3s_ha_agent.preflight.sizes import DEFAULT_MAX_REQUEST, REQUEST_OVERHEAD
from tests.crash.look import nothing_left, one_datastore
from tests.crash.quick_node import ADDRESS, K3S, QuickNode, quick_node
from tests.crash.ways import DISCARD, PATIENT
from tests.standin.networks import own_network

BIGGEST = "/registry/odd/biggest"
ODD: dict[str, bytes] = {
    "/registry/": b"the prefix itself",
    "/registry/odd/ünï": b"\x00\xff",
    "/registry/odd/sp ace \"q\" 'x' \n %s $x": b"v",
    "/registry/odd/empty": b"",
    BIGGEST: os.urandom(DEFAULT_MAX_REQUEST - REQUEST_OVERHEAD - len(BIGGEST)),
    **{f"/registry/odd/many{n:02}": os.urandom(300_000) for n in range(20)},  # more than one answer of etcd
}
INSERT = """INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)
VALUES (:name, :created, :deleted, 0, (SELECT COALESCE(MAX(id), 0) FROM kine WHERE name = :name), 0, :value)"""


def written(node: QuickNode) -> None:
    """By somebody who leaves it all in the WAL; k3s does not run."""
    with contextlib.closing(sqlite3.connect(node.db / "state.db")) as database, database:
        database.execute("PRAGMA wal_autocheckpoint = 0")
        again = [("/registry/odd/again", b"1", 1), ("/registry/odd/again", b"1", 0), ("/registry/odd/again", b"2", 1)]
        gone = [("/registry/odd/gone", b"1", 1), ("/registry/odd/gone", b"1", 0)]
        beyond = [("/registry", b"before", 1), ("/registry0", b"behind", 1), ("gap-7", b"", 0)]
        for name, value, lives in [*((name, value, 1) for name, value in ODD.items()), *again, *gone, *beyond]:
            row = {"name": name, "value": value, "created": lives, "deleted": 1 - lives}
            database.execute(INSERT, row)


def test_odd_data_there_and_back() -> None:
    with own_network(ADDRESS), quick_node() as node:
        node.systemctl("stop", K3S)
        written(node)
        node.systemctl("start", K3S)
        before = node.keys()
        assert {name.encode(): value for name, value in ODD.items()}.items() <= before.items()
        assert before[b"/registry/odd/again"] == b"2" and b"/registry/odd/gone" not in before
        node.start_agent()
        for kind, body, on_etcd in (("migrate", PATIENT, True), ("rollback", {**PATIENT, **DISCARD}, False)):
            ended = node.finish(node.begin(kind, body))
            assert ended["outcome"] == "succeeded", ended["reason"]
            one_datastore(node, on_etcd, before)
            nothing_left(node)
        node.stop_agent()
