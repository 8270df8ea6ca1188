"""Somebody who writes to k3s while things happen to it, and keeps what was acknowledged."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping

from tests.crash.quick_node import QuickNode

PAUSE = 0.03
"""Seconds between two rows."""
MOST = 20
"""Rows; more would only make the copies longer."""


class Writer:
    """Writes ConfigMaps over one connection, which is one run of k3s: what is acknowledged was on its datastore.

    Use as a context manager; it ends by itself when k3s does.
    """

    def __init__(self, node: QuickNode, prefix: str) -> None:
        tls = node.data / "server/tls"
        context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
        context.load_cert_chain(str(tls / "client-admin.crt"), str(tls / "client-admin.key"))
        self._connection = http.client.HTTPSConnection("127.0.0.1", 6443, timeout=30, context=context)
        self._connection.connect()
        self._connection.auto_open = 0
        self._prefix = prefix
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="writer")
        self.acknowledged: set[bytes] = set()
        """Their keys in the datastore."""

    def _work(self) -> None:
        for number in range(1, MOST + 1):
            if self._over.wait(PAUSE):
                return
            name = f"{self._prefix}-{number}"
            try:
                if not self._post(name):
                    return
            except (OSError, http.client.HTTPException):
                return  # this k3s is no more, or does not answer
            self.acknowledged.add(f"/registry/configmaps/default/{name}".encode())

    def _post(self, name: str) -> bool:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"row": name}}
        path = "/api/v1/namespaces/default/configmaps"
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 201

    def lost(self, keys: Mapping[bytes, bytes]) -> list[str]:
        """Acknowledged rows that are not there, or not with what was written."""
        return [
            key.decode()
            for key in sorted(self.acknowledged)
            if json.loads(keys.get(key) or b"{}").get("data") != {"row": key.decode().rpartition("/")[2]}
        ]

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()
