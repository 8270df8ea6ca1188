"""What port 6443 answers: the supervisor's own paths (facts 4.3) and the API server's behind them."""

from __future__ import annotations

import http.client
import time
from typing import Any

from . import identity
from .node import Node, control
from .objects import Objects
from .settings import hang
from .snapshots import snapshot
from .store import StoreError
from .web import UNAUTHORIZED, Answer, Request, failure, json_answer, text

LOCAL = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


class Supervisor:
    """The routes of 6443."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __call__(self, request: Request) -> Answer:
        path, node = request.path, self.node
        if path == "/ping":
            return text("pong")
        if path == "/cacerts":
            return text((node.server / "tls/server-ca.crt").read_text())
        if path == "/db/info":
            return self._db_info(request)
        if path == "/db/snapshot" and node.standin.version.snapshot_over_http:
            return self._as("server", request) or snapshot(node, request)
        if path.startswith("/v1-k3s/"):
            return self._own(request, path.removeprefix("/v1-k3s/"))
        return kubernetes(node, request)

    def _own(self, request: Request, name: str) -> Answer:
        node = self.node
        if name in ("server-bootstrap", "encrypt/status"):
            refused = self._as("server", request)
            if name == "server-bootstrap" and node.etcd is None and not node.standin.version.bootstrap_says_disabled:
                return UNAUTHORIZED  # server-bootstrap-sqlite.txt
            if refused:
                return refused
            if name == "encrypt/status":
                stage = node.standin.encryption_stage
                return json_answer({"stage": stage, "enable": node.flags.on("secrets-encryption"), "hashmatch": True})
            if node.etcd is None:
                return failure(400, "BadRequest", "etcd disabled")
            return Answer(200, identity.collect(node.server, with_times=node.standin.version.since(1, 22, 4)))
        refused = self._as("node", request)
        if refused:
            return refused
        if name == "readyz":
            if node.core_ready or not node.runs_api:
                return text("ok")
            return text("not ready", node.standin.version.not_ready_status)
        if name == "config":
            return json_answer(control(node))
        if name == "apiservers":
            return json_answer(self._apiservers())
        return failure(404, "NotFound", "the server could not find the requested resource")

    def _as(self, user: str, request: Request) -> Answer | None:
        """None when the request is authenticated as ``user``: ``node`` (agents) or ``server``."""
        known = identity.users(self.node.server)
        name, password = request.basic or ("", "")
        if name not in known or known[name][0] != password:
            return UNAUTHORIZED
        if name != user:
            if self.node.standin.version.since(1, 23):
                return failure(403, "Forbidden", f"user {name} may not do this")
            return UNAUTHORIZED
        return None

    def _db_info(self, request: Request) -> Answer:
        node, version = self.node, self.node.standin.version
        anonymous_here = version.local_db_info and request.peer in LOCAL and request.basic is None
        if not anonymous_here:
            refused = self._as("server", request)
            if refused:
                return refused
        if node.etcd is None:
            # Old: not served without etcd, so the API server behind answers (db-info-sqlite.txt).
            return failure(400, "BadRequest", "etcd datastore disabled") if version.says_etcd_disabled else UNAUTHORIZED
        if not node.etcd.running:
            return failure(500, "InternalError", "etcd is not started")
        try:
            members: list[dict[str, Any]] = node.etcd.gateway.members()
        except (StoreError, OSError, http.client.HTTPException):
            own = node.etcd.address
            members = [
                {
                    "name": node.etcd.name,
                    "peerURLs": [f"https://{own}:2380"],
                    "clientURLs": [f"https://{own}:2379"],
                }
            ]
        for member in members:
            if "ID" in member:
                member["ID"] = int(member["ID"])
        return json_answer({"members": members})

    def _apiservers(self) -> list[str]:
        store = self.node.store
        prefix = "/registry/masterleases/"
        keys = [item.key for item in store.below(prefix)[1]] if store else []
        return [f"{key.removeprefix(prefix)}:{self.node.port}" for key in keys]


def kubernetes(node: Node, request: Request) -> Answer:
    """The API server: nothing without a client certificate (--anonymous-auth=false)."""
    faults = node.standin.faults
    if not node.runs_api:
        return failure(503, "ServiceUnavailable", "apiserver disabled")
    if faults.api_hang or (faults.api_hang_after_ready and node.ready):
        hang()
    if not node.core_ready or node.store is None:
        return failure(503, "ServiceUnavailable", "apiserver not ready")
    if request.subject is None:
        return UNAUTHORIZED
    organization, common = request.subject
    if organization != "system:masters":
        return failure(403, "Forbidden", f'User "{common}" cannot do this')
    if request.path in ("/readyz", "/livez", "/healthz"):
        if request.path != "/livez":
            node.store.revision()  # waits while etcd has no quorum, as the API does ("Seen" 11)
        return text("ok")
    if request.path == "/version":
        return json_answer(version_info(node))
    if request.path.startswith("/api/v1/"):
        return Objects(node.store)(request)
    return failure(404, "NotFound", "the server could not find the requested resource")


def version_info(node: Node) -> dict[str, str]:
    version = node.standin.version
    return {
        "major": str(version.numbers[0]), "minor": str(version.numbers[1]), "gitVersion": version.text,
        "gitCommit": "0" * 40, "gitTreeState": "clean", "buildDate": "2021-09-16T19:43:43Z",
        "goVersion": "go1.16.8", "compiler": "gc", "platform": "linux/amd64",
    }  # fmt: skip


def wait_ready(node: Node) -> None:
    """The API server's way to ready, with the faults that keep it from there."""
    if node.standin.speed.ready_delay:
        time.sleep(node.standin.speed.ready_delay)
    if node.standin.faults.api_never_ready or node.standin.faults.api_hang:
        hang()
    node.core_ready = True
