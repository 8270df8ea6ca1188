"""What the two datastores of a quick node hold, read without any of the agent's code."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

Keys = dict[bytes, bytes]

WRITTEN_BY_ITSELF = ("/registry/leases/", "/registry/masterleases/", "/registry/minions/", "/registry/events/")
"""What a running k3s changes without being asked."""


def sqlite_keys(state_db: Path) -> Keys:
    """Live keys of SQLite with its WAL, read from a copy."""
    with tempfile.TemporaryDirectory() as directory:
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{state_db}{suffix}", f"{directory}/state.db{suffix}")
        connection = sqlite3.connect(f"{directory}/state.db")
        try:
            rows = connection.execute(
                "SELECT name, value FROM kine WHERE id IN (SELECT MAX(id) FROM kine GROUP BY name) AND deleted = 0"
            ).fetchall()
        finally:
            connection.close()
    return {name.encode(): bytes(value) for name, value in rows if name.startswith("/registry/")}


def _etcdctl(tls: Path, *words: str) -> str:
    options = [f"--cacert={tls}/server-ca.crt", f"--cert={tls}/client.crt", f"--key={tls}/client.key"]
    command = ["etcdctl", "--endpoints=https://127.0.0.1:2379", *options, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "ETCDCTL_API": "3"}
    )
    return done.stdout


def etcd_keys(tls: Path) -> Keys:
    """Live keys of the etcd that answers on this server; ``tls``: k3s's ``server/tls/etcd``."""
    pairs = json.loads(_etcdctl(tls, "get", "--prefix", "/registry/", "-w", "json")).get("kvs", ())
    return {base64.b64decode(p["key"]): base64.b64decode(p.get("value", "")) for p in pairs}


def put(tls: Path, key: str, value: str) -> None:
    _etcdctl(tls, "put", key, value)


def difference(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> str:
    """What was lost, changed or added, but for what k3s writes by itself; "" when nothing was."""
    ours = tuple(prefix.encode() for prefix in WRITTEN_BY_ITSELF)
    differ = [k for k, v in before.items() if not k.startswith(ours) and after.get(k) != v]
    extra = [k for k in after if k not in before and not k.startswith(ours)]
    if not differ and not extra:
        return ""
    return f"{len(differ)} keys lost or changed ({differ[:3]}), {len(extra)} too many ({extra[:3]})"
