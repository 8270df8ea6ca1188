"""etcd snapshots: ``k3s etcd-snapshot save|list`` and /db/snapshot (facts 4.7)."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from .node import Node
from .web import Answer, Request, failure, json_answer


def save(server: Path, port: int, node_name: str, name: str = "on-demand", directory: str = "") -> Path:
    """A snapshot ``<name>-<node>-<unix>`` by etcdctl; RuntimeError with its words."""
    place = Path(directory) if directory else server / "db/snapshots"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = place / f"{name}-{node_name}-{int(time.time())}"
    tls = server / "tls/etcd"
    done = subprocess.run(
        ["etcdctl", "--endpoints", f"https://127.0.0.1:{port}", "--cacert", tls / "server-ca.crt",
         "--cert", tls / "client.crt", "--key", tls / "client.key", "snapshot", "save", target],
        env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "etcdctl failed")
    return target


def listed(server: Path) -> list[dict[str, Any]]:
    place = server / "db/snapshots"
    files = sorted(place.iterdir()) if place.is_dir() else []
    return [{"name": f.name, "location": f"file://{f}", "size": f.stat().st_size} for f in files if f.is_file()]


def snapshot(node: Node, request: Request) -> Answer:
    """POST /db/snapshot {"operation": "save"|"list"}."""
    if node.etcd is None:
        return failure(400, "BadRequest", "etcd datastore disabled")
    wanted = json.loads(request.body or b"{}")
    if wanted.get("operation", "save") == "list":
        return json_answer({"items": listed(node.server)})
    if wanted.get("operation", "save") != "save":
        return failure(400, "BadRequest", f"the stand-in does not know {wanted.get('operation')!r}")
    directory = (wanted.get("dir") or [""])[0] if isinstance(wanted.get("dir"), list) else wanted.get("dir") or ""
    name = (wanted.get("name") or ["on-demand"])[0] if isinstance(wanted.get("name"), list) else "on-demand"
    try:
        made = save(node.server, 2379, node.name, name, directory)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return failure(500, "InternalError", str(error))
    return json_answer({"created": [made.name]})
