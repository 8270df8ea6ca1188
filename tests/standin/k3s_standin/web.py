"""A small HTTPS server: one thread a connection, client certificates asked for but not required."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    content_type: str
    body: bytes
    subject: tuple[str, str] | None
    """(O, CN) of the client certificate, when there is one; the handshake proved it."""
    basic: tuple[str, str] | None
    """User and password of basic authentication."""
    peer: str


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    content_type: str = "application/json"


Route = Callable[[Request], Answer]


def json_answer(thing: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(thing).encode())


def text(content: str, status: int = 200) -> Answer:
    return Answer(status, content.encode(), "text/plain; charset=utf-8")


def failure(status: int, reason: str, message: str, **details: Any) -> Answer:
    """A Kubernetes Status object, as in db-info-sqlite.txt of the recording."""
    thing: dict[str, Any] = {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status,
    }  # fmt: skip
    if details:
        thing["details"] = details
    return json_answer(thing, status)


UNAUTHORIZED = failure(401, "Unauthorized", "Unauthorized")


def context(tls: Path) -> ssl.SSLContext:
    """The serving certificate signed by server-ca; clients signed by client-ca may show theirs."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(tls / "serving-kube-apiserver.crt", tls / "serving-kube-apiserver.key")
    made.load_verify_locations(tls / "client-ca.crt")
    made.verify_mode = ssl.CERT_OPTIONAL
    return made


def serve(address: str, port: int, tls: Path, route: Route) -> None:
    """Listen at once, answer from a thread. OSError when the port is taken."""
    server = _Server((address, port), tls, route)
    threading.Thread(target=server.serve_forever, daemon=True, name=f"https-{port}").start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], tls: Path, route: Route) -> None:
        self.route = route
        self._context = context(tls)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the resolver for a name, which can take long.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "k3s", int(self.server_address[1])

    def get_request(self) -> tuple[Any, Any]:
        plain, peer = self.socket.accept()
        return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), peer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news; what a route raises is answered with 500 there."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.request.settimeout(30)
        self.request.do_handshake()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request.settimeout(300)
        super().setup()

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        parts = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=parts.path,
            query=parse_qs(parts.query),
            content_type=(self.headers.get("Content-Type") or "").partition(";")[0].strip(),
            body=self.rfile.read(length),
            subject=_subject(self.request.getpeercert()),
            basic=_basic(self.headers.get("Authorization") or ""),
            peer=str(self.client_address[0]),
        )
        try:
            answer = self.server.route(request)
        except Exception as error:  # the process must go on, as an API server does
            answer = failure(500, "InternalError", f"Internal error occurred: {error}")
        with contextlib.suppress(OSError):
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def log_message(self, *args: Any) -> None:
        """k3s has no access log."""


def _subject(certificate: Any) -> tuple[str, str] | None:
    if not certificate:
        return None
    names = {key: value for part in certificate.get("subject", ()) for key, value in part}
    return names.get("organizationName", ""), names.get("commonName", "")


def _basic(header: str) -> tuple[str, str] | None:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return None
    return user, password
