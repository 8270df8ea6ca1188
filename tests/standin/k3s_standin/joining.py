"""A server that joins: bootstrap data, critical flags, its member (facts J1 to J6, the join recordings)."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import ssl
import subprocess
import time
from typing import Any, NoReturn
from urllib.parse import urlsplit

from . import identity, log
from .gateway import GatewayError
from .node import CRITICAL, Node, control


class Refused(Exception):
    """The other server answered with an error status."""


def fetch(url: str, path: str, user: str = "", password: str = "") -> bytes:
    """GET from another server. The TLS peer is proven by the token's CA hash, as in k3s."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=20, context=context)
    headers = {}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise Refused(f"{url}{path}: {response.status} {http.client.responses.get(response.status, '')}")
    return body


def fetch_bootstrap(node: Node, token: identity.Token) -> None:
    """CAs and secrets of the cluster onto disk. Ends the process where k3s would."""
    url = node.flags.get("server").rstrip("/")
    try:
        if token.ca_hash:
            found = hashlib.sha256(fetch(url, "/cacerts")).hexdigest()
            if found != token.ca_hash:
                _fatal(f"token CA hash does not match the Cluster CA certificate hash: {token.ca_hash} != {found}")
        data = fetch(url, "/v1-k3s/server-bootstrap", "server", token.password)
    except Refused as error:
        _fatal(str(error))
    except (OSError, http.client.HTTPException) as error:
        _fatal(f'failed to get CA certs: Get "{url}/cacerts": {error}')
    identity.store(node.server, data)


def compare_critical(node: Node, token: identity.Token) -> None:
    """The critical flags must be equal, where this release looks (4.5, "Seen" 10 and 17)."""
    version = node.standin.version
    if not version.checks_critical_flags:
        return
    url = node.flags.get("server").rstrip("/")
    try:
        theirs: dict[str, Any] = json.loads(fetch(url, "/v1-k3s/config", "node", token.password))
    except (Refused, OSError, http.client.HTTPException) as error:
        _fatal(f"failed to validate server configuration: {error}")
    ours = control(node)
    differing = [flag for field, flag in CRITICAL.items() if theirs.get(field) != ours.get(field)]
    if differing:
        if version.names_critical_flags:
            log.line("error", f"critical configuration mismatched: {', '.join(differing)}")
            _fatal("failed to validate server configuration: critical configuration value mismatch between servers")
        _fatal("unable to join cluster due to critical configuration value mismatch")


def add_member(node: Node, token: identity.Token) -> str:
    """Ask the cluster to take this server as a learner; the initial-cluster text for etcd."""
    etcd = node.etcd
    if etcd is None:
        raise AssertionError("a joining server uses etcd")
    url = node.flags.get("server").rstrip("/")
    own, peer = etcd.ensure_name(), f"https://{node.address}:2380"
    while True:
        try:
            members = json.loads(fetch(url, "/db/info", "server", token.password))["members"]
            names = _names(node, members, own, peer)
            if names is None:
                (etcd.directory / "name").unlink(missing_ok=True)
                _join_failed(node, "duplicate node name found, please use a unique name for this node")
            if not any(member_peer == peer for _, member_peer in names):
                listed = " ".join(f"{n}={u}" for n, u in names)
                log.info(f"Adding {peer} to etcd cluster [{listed}]")
                _add_learner(node, members, own, peer)
                names = [*names, (own, peer)]
            cluster = [(n or own, u) for n, u in names]
            log.info(f"Starting etcd for cluster [{' '.join(f'{n}={u}' for n, u in cluster)}]")
            return ",".join(f"{n}={u}" for n, u in cluster)
        except GatewayError as error:
            again = any(w in str(error) for w in ("too many learner", "unhealthy cluster", "timed out"))
            if not (again and node.standin.version.retries_join):
                _join_failed(node, str(error))
            log.info(f"Waiting to join etcd cluster: {error}")
        except (Refused, OSError, http.client.HTTPException) as error:
            _join_failed(node, str(error))
        time.sleep(1)


def wait_promoted(node: Node) -> None:
    """Until this server votes; a learner's reads fail, so nothing else can start."""
    etcd = node.etcd
    if etcd is None:
        raise AssertionError("a joining server uses etcd")
    said = 0.0
    while True:
        etcd.check()
        try:
            own = [m for m in etcd.gateway.members() if m.get("name") == etcd.name]
            if own and not own[0].get("isLearner"):
                etcd.wait_leader()
                return
            words = "this server has not yet been promoted from learner to voting member"
        except (GatewayError, OSError, http.client.HTTPException) as error:
            words = "this server has not yet been promoted from learner to voting member"
            if isinstance(error, GatewayError) and "learner" not in str(error):
                words = str(error)
        if time.monotonic() - said > 5:
            log.info(f"Failed to test data store connection: {words}")
            said = time.monotonic()
        time.sleep(0.05)


def _names(node: Node, members: list[dict[str, Any]], own: str, peer: str) -> list[tuple[str, str]] | None:
    """(name, peer URL) of each member; None when another member bears this node's name (J4)."""
    found = []
    for member in members:
        name, url = member.get("name", ""), member["peerURLs"][0]
        mine = url == peer and name in ("", own)
        if not mine and name and name.rpartition("-")[0] == node.name:
            return None
        found.append((name, url))
    return found


def _add_learner(node: Node, members: list[dict[str, Any]], own: str, peer: str) -> None:
    """MemberAddAsLearner over gRPC, asked of any voter's client URL. GatewayError with etcd's words."""
    urls = [url for m in members if not m.get("isLearner") for url in m.get("clientURLs", [])]
    tls = node.server / "tls/etcd"
    try:
        done = subprocess.run(
            ["etcdctl", "--endpoints", ",".join(urls), "--command-timeout", "10s", "--cacert", tls / "server-ca.crt",
             "--cert", tls / "client.crt", "--key", tls / "client.key",
             "member", "add", own, "--learner", f"--peer-urls={peer}"],
            env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise GatewayError("context deadline exceeded") from error
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        raise GatewayError(words[-1].removeprefix("Error: ") if words else done.stderr.strip())


def _join_failed(node: Node, words: str) -> NoReturn:
    log.fatal(
        f"starting kubernetes: preparing server: start managed database: joining etcd cluster: {words}"
        if not node.standin.version.new_milestones
        else f"starting kubernetes: preparing server: start managed database: etcd cluster join failed: {words}",
        0 if node.standin.version.failure_exits_zero else 1,
    )


def _fatal(words: str) -> NoReturn:
    log.fatal(f"starting kubernetes: preparing server: {words}")
