"""What is in a datastore, read without the agent's code, and how two of them differ."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.system import LabError

Keys = dict[str, bytes]

VOLATILE = ("/registry/leases/", "/registry/masterleases/", "/registry/events/")
"""Prefixes of keys a running cluster writes all the time by itself."""

_LIVE = """
SELECT name, value FROM kine
WHERE id IN (SELECT MAX(id) FROM kine WHERE name >= ? AND name < ? GROUP BY name) AND deleted = 0
"""


def kine_live(state_db: Path, prefix: str = "/registry/", *, wal: bool = True) -> Keys:
    """The live keys of a kine database, with its WAL if one lies beside it and ``wal`` is true.

    Works on a copy, so that nothing is checkpointed and no file touched; safe while k3s writes. LabError when the
    database is not sound.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "state.db"
        _copy_at_rest(state_db, copy)
        if not wal:
            copy.with_name("state.db-wal").unlink(missing_ok=True)
        database = sqlite3.connect(copy)
        try:
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                raise LabError(f"{state_db} is not sound: {verdict}")
            after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
            return {_text(name): bytes(value or b"") for name, value in database.execute(_LIVE, (prefix, after))}
        finally:
            database.close()


def _copy_at_rest(state_db: Path, copy: Path) -> None:
    """Copy database and WAL as they are at one moment: again, until neither changed meanwhile."""
    wal = state_db.with_name("state.db-wal")
    for _ in range(200):
        before = _signs(state_db, wal)
        shutil.copyfile(state_db, copy)
        if wal.exists():
            shutil.copyfile(wal, copy.with_name("state.db-wal"))
        if _signs(state_db, wal) == before:
            return
        copy.with_name("state.db-wal").unlink(missing_ok=True)
        time.sleep(0.02)
    raise LabError(f"{state_db} is written so often that it cannot be copied.")


def _signs(*paths: Path) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return found


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def etcd_answer(text: str) -> tuple[int, Keys]:
    """Revision and keys of what ``etcdctl get --write-out=json`` printed."""
    answer = json.loads(text)
    keys = {
        base64.b64decode(entry["key"]).decode(): base64.b64decode(entry.get("value", ""))
        for entry in answer.get("kvs", ())
    }
    return int(answer["header"]["revision"]), keys


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes], ignore: Sequence[str] = ()) -> list[str]:
    """One line for each key that is missing, altered or too much; ``ignore``: prefixes not looked at."""
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        if key.startswith(tuple(ignore)):
            continue
        if key not in found:
            lines.append(f"missing: {key}")
        elif key not in expected:
            lines.append(f"too much: {key}")
        elif expected[key] != found[key]:
            lines.append(f"altered: {key} ({len(expected[key])} bytes before, {len(found[key])} now)")
    return lines


def assert_same(expected: Mapping[str, bytes], found: Mapping[str, bytes], ignore: Sequence[str] = ()) -> None:
    """Fail with the keys that differ. An empty ``expected`` fails too: it would prove nothing."""
    assert expected, "nothing to compare: no keys were expected"
    lines = differences(expected, found, ignore)
    shown = "\n".join(lines[:40])
    assert not lines, f"{len(lines)} of {len(expected)} keys differ:\n{shown}"
