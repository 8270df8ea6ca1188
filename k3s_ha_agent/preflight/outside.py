"""Looking at a cluster from outside, with its server token; nothing is changed there.

Each thing is asked only once the server has proven what the thing before says: the token is sent to nobody who does not
have the CA of its hash, under a name its certificate has (docs/decisions/006). What cannot be found out because of
that is Missing, naming the check that refuses.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import socket
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from k3s_ha_agent.errors import AgentError, EtcdError, ObjectNotFound, SupervisorError
from k3s_ha_agent.k3s import bootstrap, node_password, supervisor
from k3s_ha_agent.k3s import token as tokens
from k3s_ha_agent.k3s.apiserver import Apiserver, Node
from k3s_ha_agent.k3s.bootstrap import Bootstrap
from k3s_ha_agent.k3s.etcd import EtcdClient, Member
from k3s_ha_agent.k3s.supervisor import Encryption, Supervisor
from k3s_ha_agent.preflight.answers import LIMIT, answer
from k3s_ha_agent.preflight.cluster import Admission, ClusterFacts, EtcdFacts, Port
from k3s_ha_agent.preflight.critical import critical_of
from k3s_ha_agent.preflight.join_target import JoinTarget
from k3s_ha_agent.preflight.results import Missing

PROBE_LIMIT = 5.0
"""Seconds for a connection to a port of another server; a packet that is dropped costs all of them."""
ETCD_CLIENT, ETCD_PEER = 2379, 2380
SERVER_ROLES = frozenset({"control-plane", "master", "etcd"})


@dataclasses.dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks. ``password_file``: ``/etc/rancher/node/password`` of this server."""

    target: JoinTarget
    node_name: str
    runtime_dir: Path
    password_file: Path


async def look(visitor: Visitor) -> ClusterFacts:
    """Everything a join wants to know of the cluster. Never raises for what does not answer."""
    target = visitor.target
    facts: dict[str, Any] = {
        "url": target.url if target.problem() is None else "",
        "host": target.host if target.problem() is None else "",
        "token_short_hash": target.token.short_hash,
        "token_ca_hash": target.token.ca_hash,
        "url_problem": target.problem(),
    }
    missing = await _ask(visitor, facts)
    names = (field.name for field in dataclasses.fields(ClusterFacts))
    return ClusterFacts(**{name: facts.get(name, missing) for name in names})


async def _ask(visitor: Visitor, facts: dict[str, Any]) -> Missing:
    """Fill in ``facts``; the reason for what is not among them in the end."""
    target = visitor.target
    problem = target.problem()
    if problem is not None:
        return Missing(problem, "target-url")
    facts["host_addresses"] = await answer(
        f"The address of {target.host}", _resolve(target.host, target.port), see="target-url"
    )
    greeting = await answer(f"{target.url}", supervisor.greet(target.url), see="target-answers", limit=LIMIT + 1)
    if isinstance(greeting, Missing):
        return greeting
    facts["clock_offset"] = greeting.clock_offset
    facts["ca_hash"] = ca_hash = await answer("The CA of the server", _hash(greeting.cacerts), see="cluster-ca")
    if isinstance(ca_hash, Missing):
        return ca_hash
    if ca_hash != target.token.ca_hash:
        return Missing("The server has not proven that it belongs to the token's cluster.", "cluster-ca")
    facts["certificate_problem"] = certificate = await answer(
        f"The certificate of {target.url}", _certificate_problem(target, greeting.cacerts), see="target-answers"
    )
    if certificate is not None:
        return certificate if isinstance(certificate, Missing) else Missing(certificate, "certificate-name")
    admission, data = await _admitted(target)
    facts["admission"] = admission
    if isinstance(admission, Missing):
        return admission
    if data is None:
        refusal = f"{target.url} answered {admission.http_status} to the question for the cluster's certificates."
        on_sqlite = admission.password_known or admission.http_status not in (401, 403)
        return Missing(refusal, "target-etcd" if on_sqlite else "token-accepted")
    await asyncio.gather(_ask_supervisor(target, data, facts), _ask_api(visitor, data, facts))
    await asyncio.gather(_ask_ports(target, facts), _ask_etcd(visitor, data, facts))
    return Missing("Not looked at.")


# --- proving who answers ---------------------------------------------------------------------------


async def _resolve(host: str, port: int) -> tuple[str, ...]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _hash(cacerts: bytes) -> str:
    return tokens.ca_hash(cacerts)


async def _certificate_problem(target: JoinTarget, cacerts: bytes) -> str | None:
    """What OpenSSL says against the certificate for the name in the URL; k3s would say the same (J9)."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=cacerts.decode("ascii"))
        _, writer = await asyncio.open_connection(
            target.host, target.port, ssl=context, server_hostname=target.host, ssl_handshake_timeout=LIMIT
        )
    except ssl.SSLCertVerificationError as error:
        return f"{target.url}: {error.verify_message.rstrip('.')}."
    except (ssl.SSLError, UnicodeDecodeError) as error:
        return f"{target.url}: no TLS connection can be made with its CA bundle ({type(error).__name__})."
    await _close(writer)
    return None


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


async def _admitted(target: JoinTarget) -> tuple[Admission | Missing, Bootstrap | None]:
    try:
        return Admission(200, "", True), await bootstrap.fetch(target.url, target.token)
    except AgentError as error:
        status = error.extensions.get("http_status")
        if status is None:
            return Missing(error.detail, "target-etcd", error.next_step), None
        known = await _opens_config(target, target.token.password)
        return Admission(int(status), error.detail, known), None


async def _opens_config(target: JoinTarget, password: str) -> bool:
    try:
        await _config(target, password)
    except AgentError:
        return False
    return True


async def _config(target: JoinTarget, password: str) -> Mapping[str, Any]:
    known = tokens.Token(target.token.ca_hash, "node", password)
    async with await Supervisor.of_peer(target.url, known) as client:
        return await client.config()


# --- what it shows to who is admitted -------------------------------------------------------------------


async def _ask_supervisor(target: JoinTarget, data: Bootstrap, facts: dict[str, Any]) -> None:
    # With an agent token `node` has another password than `server`; it is part of the bootstrap data.
    password = bootstrap.node_password(data) or target.token.password
    config, facts["members"], facts["encryption"] = await asyncio.gather(
        answer("The configuration of the other server", _config(target, password), see="critical-flags"),
        answer("The members of the cluster", _members(target), see="target-etcd", limit=LIMIT + 1),
        answer("The state of secrets encryption", _encryption(target), see="cluster-encryption", limit=LIMIT + 1),
    )
    facts["critical"] = config if isinstance(config, Missing) else critical_of(config)


async def _members(target: JoinTarget) -> tuple[Member, ...]:
    async with await Supervisor.of_peer(target.url, target.token, username="server") as client:
        found = await client.db_info()
    if found.http_status != 200:
        raise SupervisorError(f"{target.url} lists no members of etcd (HTTP {found.http_status}): {found.message}.")
    return found.members


async def _encryption(target: JoinTarget) -> Encryption | None:
    async with await Supervisor.of_peer(target.url, target.token, username="server") as client:
        try:
            return await client.encryption()
        except SupervisorError as error:
            if error.extensions.get("http_status") in (401, 404):  # what an API server behind says to an unknown path
                return None
            raise


async def _ask_api(visitor: Visitor, data: Bootstrap, facts: dict[str, Any]) -> None:
    see = "target-api"
    context = await answer(
        "The API server", asyncio.to_thread(bootstrap.admin_context, data, visitor.runtime_dir), see=see
    )
    names = ("version", "api_ready", "nodes", "node_password")
    if isinstance(context, Missing):
        facts.update(dict.fromkeys(names, context))
        return
    async with Apiserver(visitor.target.url, context) as api:
        answers = await asyncio.gather(
            answer("The version of the API server", api.version(), see=see, limit=LIMIT + 1),
            answer("Whether the API server is ready", api.readyz(), see=see, limit=LIMIT + 1),
            answer("The Nodes of the cluster", _nodes(api), see=see, limit=LIMIT + 1),
            answer("The node password", _knows_password(api, visitor), see="node-password", limit=LIMIT + 1),
        )
    facts.update(zip(names, answers, strict=True))


async def _nodes(api: Apiserver) -> tuple[Node, ...]:
    return tuple(await api.nodes())


async def _knows_password(api: Apiserver, visitor: Visitor) -> bool | None:
    try:
        secret = await api.ask("GET", node_password.secret_path(visitor.node_name))
    except ObjectNotFound:
        return None
    kept = str((secret.get("data") or {}).get("hash", ""))
    return await asyncio.to_thread(_same_password, visitor.password_file, kept)


def _same_password(file: Path, kept: str) -> bool:
    try:
        ours = file.read_bytes().strip()
    except FileNotFoundError:
        return False
    return node_password.matches(ours, _decoded(kept)) is True


def _decoded(text: str) -> str:
    """A Secret's value: base64 of the hash."""
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except ValueError:
        return ""


# --- the other servers' ports and etcd -------------------------------------------------------------------


async def _ask_ports(target: JoinTarget, facts: dict[str, Any]) -> None:
    members, nodes = facts["members"], facts["nodes"]
    for needed in (members, nodes):
        if isinstance(needed, Missing):
            facts["ports"] = needed
            return
    wanted = ports_of(members, nodes, target.port)
    reasons = await asyncio.gather(*(_unreachable(port) for port in wanted))
    facts["ports"] = dict(zip(wanted, reasons, strict=True))


def ports_of(members: Sequence[Member], nodes: Sequence[Node], api_port: int) -> list[Port]:
    """Every port a joining server has to reach: 2379 and 2380 of each member, the API of each server."""
    found: dict[tuple[str, int], str] = {}
    for member in members:
        for url, default in (
            *((url, ETCD_PEER) for url in member.peer_urls),
            *((url, ETCD_CLIENT) for url in member.client_urls),
        ):
            parts = urllib.parse.urlsplit(url)
            if parts.hostname:
                found.setdefault((parts.hostname, parts.port or default), member.name or "a member without a name")
    for node in nodes:
        if SERVER_ROLES & set(node.roles) and node.internal_ip:
            found.setdefault((node.internal_ip, api_port), node.name)
    return [Port(name, host, port) for (host, port), name in found.items()]


async def _unreachable(port: Port) -> str | None:
    try:
        async with asyncio.timeout(PROBE_LIMIT):
            _, writer = await asyncio.open_connection(port.host, port.port)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    await _close(writer)
    return None


async def _ask_etcd(visitor: Visitor, data: Bootstrap, facts: dict[str, Any]) -> None:
    facts["etcd"] = await answer("etcd's alarms", _etcd(visitor, data, facts["members"]), limit=2 * LIMIT)


async def _etcd(visitor: Visitor, data: Bootstrap, members: Sequence[Member] | Missing) -> EtcdFacts:
    if isinstance(members, Missing):
        raise EtcdError(members.reason)
    context = await asyncio.to_thread(bootstrap.etcd_context, data, visitor.runtime_dir)
    for member in members:
        for url in member.client_urls if not member.is_learner else ():
            try:
                async with EtcdClient(url, context, timeout=PROBE_LIMIT) as client:
                    return EtcdFacts(tuple(await client.alarms()), (await client.status()).db_size)
            except EtcdError:
                continue  # gRPC only since 2023-09, or it is down, which the ports say
    raise EtcdError("etcd's alarms are not shown to other servers by this release.")
