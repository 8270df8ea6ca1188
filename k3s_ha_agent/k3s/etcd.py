"""A client of etcd's JSON gateway, as k3s's embedded etcd serves it.

Needs no gRPC (k3s-facts, "Seen" 5). Names and meanings are etcd's (api/etcdserverpb/rpc.proto); in
its JSON keys and values are base64, 64-bit numbers strings, and zero values left out.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from k3s_ha_agent.errors import EtcdError, OutsideError, RevisionCompacted
from k3s_ha_agent.k3s import etcd_snapshot
from k3s_ha_agent.k3s.http_client import AnswerTooBig, HttpClient, client_ssl, parse_json
from k3s_ha_agent.k3s.layout import Layout

TIMEOUT = 10.0
"""Seconds for one answer."""
_PAGE_BYTES = 1024 * 1024
"""What a page of a range aims at; its number of keys follows from the size of the page before."""
_FIRST_PAGE = 100
_MAX_PAGE_BYTES = 8 * 1024 * 1024
_OUT_OF_RANGE = 11
_RESOURCE_EXHAUSTED = 8


@dataclasses.dataclass(frozen=True, slots=True)
class EtcdKey:
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    """The lease's id, 0 for none."""


@dataclasses.dataclass(frozen=True, slots=True)
class EtcdStatus:
    version: str
    db_size: int
    """Bytes of the backend database."""
    db_in_use: int
    leader: int
    """Member id of the leader, 0 when there is none."""
    member_id: int
    raft_term: int
    revision: int
    is_learner: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    id: int
    name: str
    """Empty as long as the member was added but never started."""
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class EtcdClient(HttpClient):
    """All methods raise EtcdError: no answer within ``timeout`` seconds, a refusal, nonsense."""

    def __init__(self, endpoint: str, ssl_context: ssl.SSLContext | None, *, timeout: float = TIMEOUT) -> None:
        super().__init__(endpoint, ssl_context, timeout=timeout, error=EtcdError, who="etcd")

    @classmethod
    def from_layout(cls, layout: Layout, *, timeout: float = TIMEOUT) -> Self:
        """The client of this server's own etcd, by ``db/etcd/config`` and ``tls/etcd``. Blocks shortly."""
        try:
            endpoint = endpoint_of(layout.etcd_config.read_text(encoding="utf-8"))
            context = client_ssl(str(layout.etcd_server_ca), str(layout.etcd_client_cert), str(layout.etcd_client_key))
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            raise EtcdError(
                f"etcd cannot be asked, its configuration or certificates in {layout.server} cannot be read: "
                f"{name}{error.strerror or error}."
            ) from error
        return cls(endpoint, context, timeout=timeout)

    # --- keys ---

    async def range(
        self, prefix: bytes, *, revision: int | None = None, page: int = 500, keys_only: bool = False
    ) -> AsyncIterator[EtcdKey]:
        """All keys with a prefix, in byte order, as they were at one revision (the current one if None).

        Read in pages of at most ``page`` keys, fewer when values are big, so that memory stays
        flat. RevisionCompacted when the revision is gone, also half-way. Close it
        (``contextlib.aclosing``) when it is not read to its end.
        """
        start = prefix or b"\0"
        limit = min(page, _FIRST_PAGE)
        while True:
            asked = {
                "key": _b64(start),
                "range_end": _b64(range_end(prefix)),
                "limit": str(limit),
                "revision": str(revision or 0),
                "keys_only": keys_only,
            }
            try:
                body = await self._page(asked)
            except AnswerTooBig:
                if limit == 1:
                    raise self.problem(f"has a value of more than {_MAX_PAGE_BYTES} bytes after {start!r}.") from None
                limit = max(1, limit // 4)
                continue
            keys, revision_read, more = await asyncio.to_thread(parse_range, body)
            revision = revision or revision_read
            for key in keys:
                yield key
            if not more:
                return
            if not keys:
                raise self.problem(f"says there are more keys after {start!r} but sends none.")
            start = keys[-1].key + b"\0"
            limit = max(1, min(page, _PAGE_BYTES * len(keys) // len(body)))

    async def count(self, prefix: bytes, *, revision: int | None = None) -> int:
        """How many keys have a prefix."""
        answer = await self._ask(
            "/v3/kv/range",
            {
                "key": _b64(prefix or b"\0"),
                "range_end": _b64(range_end(prefix)),
                "revision": str(revision or 0),
                "count_only": True,
            },
        )
        return int(answer.get("count", 0))

    async def get(self, key: bytes, *, revision: int | None = None) -> EtcdKey | None:
        body = await self._call("/v3/kv/range", {"key": _b64(key), "revision": str(revision or 0)})
        keys, _, _ = await asyncio.to_thread(parse_range, body)
        return keys[0] if keys else None

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Write a key; the revision it got."""
        answer = await self._ask("/v3/kv/put", {"key": _b64(key), "value": _b64(value), "lease": str(lease)})
        return int(answer["header"]["revision"])

    async def delete(self, key: bytes) -> bool:
        """Delete a key; whether there was one."""
        answer = await self._ask("/v3/kv/deleterange", {"key": _b64(key)})
        return int(answer.get("deleted", 0)) > 0

    async def revision(self) -> int:
        """The current revision, linearized: asks the cluster, not only this member."""
        answer = await self._ask("/v3/kv/range", {"key": _b64(b"\0"), "count_only": True})
        return int(answer["header"]["revision"])

    async def compact(self, revision: int) -> None:
        """Forget the history before a revision."""
        await self._ask("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    # --- leases ---

    async def lease_grant(self, ttl: int) -> int:
        """A new lease of ``ttl`` seconds; its id."""
        return int((await self._ask("/v3/lease/grant", {"TTL": str(ttl)}))["ID"])

    async def lease_ttl(self, lease: int) -> int:
        """Seconds a lease has left; -1 when it has expired or never was."""
        return int((await self._ask("/v3/lease/timetolive", {"ID": str(lease)})).get("TTL", 0))

    # --- members ---

    async def status(self) -> EtcdStatus:
        return parse_status(await self._ask("/v3/maintenance/status", {}))

    async def members(self) -> list[Member]:
        return parse_members(await self._ask("/v3/cluster/member/list", {}))

    async def member_remove(self, member: int) -> None:
        await self._ask("/v3/cluster/member/remove", {"ID": str(member)})

    async def move_leader(self, target: int) -> None:
        """Make another member the leader; only the leader can be asked."""
        await self._ask("/v3/maintenance/transfer-leadership", {"targetID": str(target)})

    async def alarms(self) -> list[str]:
        """Raised alarms by name, ``NOSPACE`` or ``CORRUPT``, one for each member that has it."""
        return parse_alarms(await self._ask("/v3/maintenance/alarm", {"action": "GET"}))

    async def snapshot(self, target: Path) -> None:
        """Save a snapshot that k3s and etcdctl can restore, 0600, durable, its hash checked."""
        async with self.stream("POST", "/v3/maintenance/snapshot", data=b"{}") as response:
            if response.status != 200:
                raise self._refusal("/v3/maintenance/snapshot", response.status, await response.content.read(65536))
            await etcd_snapshot.receive(response.content.iter_any(), target, source=self.url)

    # --- asking ---

    async def _ask(self, path: str, asked: Mapping[str, Any]) -> Any:
        body = await self._call(path, asked)
        try:
            answer = await parse_json(body)
            if not isinstance(answer, dict):
                raise ValueError("no JSON object")
        except ValueError as error:
            raise self.problem(f"answered {path} with something that is not JSON: {error}.") from error
        return answer

    async def _page(self, asked: Mapping[str, Any]) -> bytes:
        """The answer to a range; AnswerTooBig when fewer keys must be asked for."""
        path = "/v3/kv/range"
        answer = await self.request("POST", path, data=json.dumps(asked).encode(), max_answer=_MAX_PAGE_BYTES)
        if answer.status != 200:
            code, message = parse_error(answer.body)
            if code == _RESOURCE_EXHAUSTED and "received message larger than max" in message:
                raise AnswerTooBig  # the gateway's own limit on what it takes from etcd
            raise self._refusal(path, answer.status, answer.body)
        return answer.body

    async def _call(self, path: str, asked: Mapping[str, Any]) -> bytes:
        answer = await self.request("POST", path, data=json.dumps(asked).encode())
        if answer.status != 200:
            raise self._refusal(path, answer.status, answer.body)
        return answer.body

    def _refusal(self, path: str, status: int, body: bytes) -> OutsideError:
        code, message = parse_error(body)
        if code == _OUT_OF_RANGE and "compacted" in message:
            return RevisionCompacted(f"etcd at {self.url} has compacted the revision asked for away.")
        return self.problem(f"refused {path} with HTTP {status}: {message}.", grpc_code=code)


# --- reading text ------------------------------------------------------------------------------


def endpoint_of(config: str) -> str:
    """The URL of the JSON gateway in etcd's configuration file, one on loopback if there is one.

    k3s serves it on ``listen-client-http-urls`` (2382) since 2023-09, before that on the client
    URL (2379).
    """
    try:
        settings = yaml.safe_load(config)
        listed = settings.get("listen-client-http-urls") or settings["listen-client-urls"]
        urls = [url.strip() for url in str(listed).split(",") if url.strip()]
    except (yaml.YAMLError, KeyError, AttributeError) as error:
        raise EtcdError("etcd's configuration file names no client URL.") from error
    if not urls:
        raise EtcdError("etcd's configuration file names no client URL.")
    loopback = (url for url in urls if urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"))
    return next(loopback, urls[0])


def parse_range(body: bytes) -> tuple[list[EtcdKey], int, bool]:
    """The keys of a range answer, the revision of the store, and whether there are more keys."""
    try:
        answer = json.loads(body)
        keys = [
            EtcdKey(
                key=base64.b64decode(kv["key"], validate=True),
                value=base64.b64decode(kv.get("value", ""), validate=True),
                create_revision=int(kv["create_revision"]),
                mod_revision=int(kv["mod_revision"]),
                version=int(kv["version"]),
                lease=int(kv.get("lease", 0)),
            )
            for kv in answer.get("kvs", ())
        ]
        return keys, int(answer["header"]["revision"]), bool(answer.get("more", False))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EtcdError(f"etcd's answer to a range is not understood: {type(error).__name__}.") from error


def parse_status(answer: Mapping[str, Any]) -> EtcdStatus:
    header = answer["header"]
    return EtcdStatus(
        version=answer["version"],
        db_size=int(answer.get("dbSize", 0)),
        db_in_use=int(answer.get("dbSizeInUse", 0)),
        leader=int(answer.get("leader", 0)),
        member_id=int(header["member_id"]),
        raft_term=int(answer.get("raftTerm", 0)),
        revision=int(header.get("revision", 0)),
        is_learner=bool(answer.get("isLearner", False)),
    )


def parse_members(answer: Mapping[str, Any]) -> list[Member]:
    """The members of a member list; the JSON gateway and k3s's ``/db/info`` write them alike."""
    return [
        Member(
            id=int(member["ID"]),
            name=member.get("name", ""),
            peer_urls=tuple(member.get("peerURLs", ())),
            client_urls=tuple(member.get("clientURLs", ())),
            is_learner=bool(member.get("isLearner", False)),
        )
        for member in answer.get("members", ())
    ]


def parse_alarms(answer: Mapping[str, Any]) -> list[str]:
    return [alarm.get("alarm", "NONE") for alarm in answer.get("alarms", ())]


def parse_error(body: bytes) -> tuple[int, str]:
    """gRPC code and message of a refusal; code -1 when it is no JSON."""
    try:
        answer = json.loads(body)
        return int(answer.get("code", -1)), str(answer.get("message") or answer.get("error", ""))
    except (ValueError, TypeError, AttributeError):
        return -1, body[:200].decode("utf-8", "replace").strip()


def range_end(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix: the prefix plus one, ``\\0`` for no end."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
