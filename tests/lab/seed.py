"""A data directory as a server leaves it that ran on SQLite for a while: the recorded one, and more rows.

The rows added here stand only in the WAL, as k3s leaves them: it does not checkpoint when it stops (k3s-facts, "Seen" 2).
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.lab.system import LabError

RECORDING = Path(__file__).resolve().parent.parent / "recordings/k3s-1.22.2"

_INSERT = (
    "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def seed(server: Path, rows: int) -> None:
    """Fill ``server`` (``/var/lib/rancher/k3s/server`` of a node on which k3s does not run).

    ``rows``: how many ConfigMaps are added to the about 340 live keys of the recording. Each tenth is updated later
    and each tenth deleted again, so that a copy that takes wrong revisions or deleted keys is found out.
    """
    database = server / "db/state.db"
    if database.exists():
        raise LabError(f"{server} has a datastore already.")
    database.parent.mkdir(parents=True, exist_ok=True)
    for directory in (server, server / "db"):
        directory.chmod(0o700)
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        shutil.copyfile(RECORDING / "sqlite" / name, database.with_name(name))
    shutil.copyfile(RECORDING / "token", server / "token")
    (server / "token").chmod(0o600)
    # In a process of its own that ends without closing: closing would checkpoint the WAL and remove it.
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.seed", str(database), str(rows)],
        cwd=RECORDING.parent.parent.parent, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise LabError(f"The datastore cannot be seeded:\n{done.stderr}")


def config_map(name: str, text: str) -> bytes:
    """A ConfigMap as it may stand in the datastore; JSON is as good as protobuf to the API server."""
    body = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "uid": f"00000000-0000-4000-8000-{hash_of(name):012x}"},
        "data": {"text": text},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[-5:], "big")


def _add_rows(database: Path, rows: int) -> None:
    random_text = random.Random(rows)  # the same rows in each run
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("BEGIN IMMEDIATE")
    written: list[tuple[str, int, bytes]] = []
    for number in range(rows):
        name = f"lab-{number:05d}"
        key = f"/registry/configmaps/default/{name}"
        value = config_map(name, random_text.randbytes(random_text.randrange(50, 600)).hex())
        cursor = connection.execute(_INSERT, (key, 1, 0, 0, 0, 0, value, None))
        written.append((key, cursor.lastrowid or 0, value))
    for number, (key, revision, value) in enumerate(written):
        if number % 10 == 3:
            newer = value.replace(b'"text":"', b'"text":"newer ')
            connection.execute(_INSERT, (key, 0, 0, revision, revision, 0, newer, value))
        elif number % 10 == 7:
            connection.execute(_INSERT, (key, 0, 1, revision, revision, 0, value, value))
    connection.execute("COMMIT")


if __name__ == "__main__":
    import os

    _add_rows(Path(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)
