"""etcd's JSON gateway as a store: one keep-alive connection per thread, one Put per call."""

from __future__ import annotations

import base64
import functools
import http.client
import json
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from .store import Changed, Exists, Item, Missing, StoreError


class GatewayError(StoreError):
    """etcd answered with an error; ``str`` is etcd's own text."""


class Gateway:
    """Calls of ``https://127.0.0.1:PORT/v3/…`` with tls/etcd/client.{crt,key}."""

    def __init__(self, tls: Path, host: str, port: int, *, timeout: float = 20.0) -> None:
        self._tls = tls
        self._address = (host, port)
        self._timeout = timeout
        self._local = threading.local()

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self._tls / "etcd/server-ca.crt"))
        made.load_cert_chain(self._tls / "etcd/client.crt", self._tls / "etcd/client.key")
        return made

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer. GatewayError for etcd's refusals, OSError or HTTPException without an answer."""
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        data = json.dumps(body).encode()
        for fresh in (False, True):
            if connection is None or fresh:
                connection = http.client.HTTPSConnection(*self._address, timeout=self._timeout, context=self._context)
                self._local.connection = connection
                fresh = True
            try:
                connection.request("POST", f"/v3/{path}", data, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read() or b"{}")
            except (http.client.HTTPException, OSError):
                connection.close()
                self._local.connection = None
                # A kept connection may have been closed at rest; an unanswered Put must not be
                # repeated blindly, so only a read is tried again.
                if fresh or not path.endswith(("range", "status", "list")):
                    raise
                continue
            if response.status != 200:
                raise GatewayError(str(answer.get("error") or answer.get("message") or answer))
            return dict(answer)
        raise AssertionError("not reached")

    def put(self, key: str | bytes, value: bytes, lease: int = 0) -> int:
        body: dict[str, Any] = {"key": _b64(key), "value": _b64(value)}
        if lease:
            body["lease"] = str(lease)
        return _revision(self.call("kv/put", body))

    def grant(self, seconds: int) -> int:
        return int(self.call("lease/grant", {"TTL": str(seconds)})["ID"])

    def members(self) -> list[dict[str, Any]]:
        return list(self.call("cluster/member/list", {}).get("members", []))

    def status(self) -> dict[str, Any]:
        return self.call("maintenance/status", {})

    def alarms(self) -> list[dict[str, Any]]:
        return list(self.call("maintenance/alarm", {"action": "GET"}).get("alarms", []))


class EtcdStore:
    """The keyspace as the API server uses it."""

    name = "etcd"

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def revision(self) -> int:
        return _revision(self._call("kv/range", {"key": _b64("/"), "count_only": True, "range_end": _b64("0")}))

    def get(self, key: str) -> Item | None:
        found = self._call("kv/range", {"key": _b64(key)}).get("kvs", [])
        return _item(found[0]) if found else None

    def below(self, prefix: str) -> tuple[int, list[Item]]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self._call("kv/range", {"key": _b64(prefix), "range_end": _b64(end)})
        return _revision(answer), [_item(entry) for entry in answer.get("kvs", [])]

    def create(self, key: str, value: bytes, lease: int = 0) -> int:
        compare = {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": "0"}
        answer = self._transaction([compare], {"request_put": self._put(key, value, lease)})
        if not answer.get("succeeded"):
            raise Exists(key)
        return _revision(answer)

    def update(self, key: str, value: bytes, expected: int = 0, lease: int = 0) -> int:
        return self._change(key, expected, {"request_put": self._put(key, value, lease)})

    def delete(self, key: str, expected: int = 0) -> int:
        return self._change(key, expected, {"request_delete_range": {"key": _b64(key)}})

    def _change(self, key: str, expected: int, act: dict[str, Any]) -> int:
        compare: dict[str, Any] = {"key": _b64(key), "target": "MOD", "result": "GREATER", "mod_revision": "0"}
        if expected:
            compare = {**compare, "result": "EQUAL", "mod_revision": str(expected)}
        answer = self._transaction([compare], act)
        if answer.get("succeeded"):
            return _revision(answer)
        raise Missing(key) if self.get(key) is None else Changed(key)

    def _put(self, key: str, value: bytes, lease: int) -> dict[str, Any]:
        put: dict[str, Any] = {"key": _b64(key), "value": _b64(value)}
        if lease:
            put["lease"] = str(self.gateway.grant(lease))
        return put

    def _transaction(self, compare: list[dict[str, Any]], act: dict[str, Any]) -> dict[str, Any]:
        return self._call("kv/txn", {"compare": compare, "success": [act]})

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Without quorum the API hangs rather than fails ("Seen" 11): reads are tried again."""
        deadline = time.monotonic() + 3600
        while True:
            try:
                return self.gateway.call(path, body)
            except GatewayError as error:
                waiting = "timed out" in str(error) or "no leader" in str(error)
                if not waiting or path != "kv/range" or time.monotonic() > deadline:
                    raise
            except (http.client.HTTPException, OSError):
                if path != "kv/range" or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


def _b64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _revision(answer: dict[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _item(entry: dict[str, Any]) -> Item:
    return Item(
        key=base64.b64decode(entry["key"]).decode(),
        value=base64.b64decode(entry.get("value", "")),
        create_revision=int(entry["create_revision"]),
        mod_revision=int(entry["mod_revision"]),
        lease=int(entry.get("lease", 0)),
    )
