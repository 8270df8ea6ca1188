"""Port 2379 as of k3s 2023-09: gRPC only.

A connection whose TLS ClientHello offers ALPN ``h2`` is handed on, still encrypted, to the etcd
behind; any other gets its handshake and then what a gRPC server says first, an HTTP/2 SETTINGS
frame, which no HTTP/1 client takes for an answer.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"


class Front:
    def __init__(self, tls: Path, addresses: Sequence[str], port: int, behind: int) -> None:
        self._behind = behind
        self._listeners = [_listen(address, port) for address in dict.fromkeys(addresses)]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(tls / "etcd/server-client.crt", tls / "etcd/server-client.key")
        self._context.load_verify_locations(tls / "etcd/server-ca.crt")
        self._context.verify_mode = ssl.CERT_REQUIRED

    def start(self) -> None:
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                time.sleep(0.1)
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(10)
            if not _offers_h2(client):
                with self._context.wrap_socket(client, server_side=True) as secured:
                    secured.sendall(_SETTINGS)
                return
            with socket.create_connection(("127.0.0.1", self._behind), 10) as server:
                for one in (client, server):
                    one.settimeout(None)
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _offers_h2(client: socket.socket) -> bool:
    """Whether the ClientHello, looked at but not taken, names h2 among its protocols."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        seen = client.recv(16384, socket.MSG_PEEK)
        if not seen or seen[0] != 0x16:
            return False
        if len(seen) >= 5 and len(seen) >= 5 + int.from_bytes(seen[3:5], "big"):
            return "h2" in _protocols(seen[5:])
        time.sleep(0.005)
    return False


def _protocols(hello: bytes) -> list[str]:
    """The ALPN names of a ClientHello (RFC 8446 4.1.2, RFC 7301)."""
    position = 4 + 2 + 32  # handshake header, version, random
    position += 1 + hello[position]  # session id
    position += 2 + int.from_bytes(hello[position : position + 2], "big")  # cipher suites
    position += 1 + hello[position]  # compression
    end = position + 2 + int.from_bytes(hello[position : position + 2], "big")
    position += 2
    while position + 4 <= end:
        kind = int.from_bytes(hello[position : position + 2], "big")
        size = int.from_bytes(hello[position + 2 : position + 4], "big")
        body = hello[position + 4 : position + 4 + size]
        if kind == 16:
            names, at = [], 2
            while at < len(body):
                names.append(body[at + 1 : at + 1 + body[at]].decode("ascii", "replace"))
                at += 1 + body[at]
            return names
        position += 4 + size
    return []


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(128)
    return listener
