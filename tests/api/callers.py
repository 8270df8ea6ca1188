"""Callers that do not use the socket: ports, tokens, certificates."""

from __future__ import annotations

import dataclasses
import datetime
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from k3s_ha_agent.settings import Address, Settings
from tests.api import contract
from tests.unit.k3s.pki import Authority

TOKEN = "0123456789abcdef0123456789abcdef-token"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_token(directory: Path, token: str = TOKEN) -> Settings:
    """Settings of an agent that listens on loopback TCP."""
    path = directory / "api-token"
    path.write_text(token + "\n")
    path.chmod(0o600)
    return dataclasses.replace(Settings(), listen_tcp=Address("127.0.0.1", free_port()), tcp_token_file=path)


def with_tls(directory: Path, authority: Authority, **more: Any) -> Settings:
    """Settings of an agent that listens with TLS; its files are in ``directory``."""
    certificate, key = authority.issue(directory, "server")
    key.chmod(0o600)
    ca = directory / "client-ca.crt"
    ca.write_bytes(authority.pem)
    given: dict[str, Any] = {"tls_admin": ("CN:fleet-*",), "tls_read": ("CN:reader",), "tls_metrics": ("CN:prom",)}
    return dataclasses.replace(
        Settings(),
        listen_tls=Address("127.0.0.1", free_port()),
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=ca,
        **{**given, **more},
    )


def client_context(
    authority: Authority, directory: Path, name: str | None, by: Authority | None = None
) -> ssl.SSLContext:
    """A client that trusts ``authority`` and shows a certificate of ``name``, signed ``by`` another when given."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if name is not None:
        context.load_cert_chain(*(by or authority).issue(directory / "clients", name))
    return context


def uri_certificate(authority: Authority, directory: Path, uri: str) -> tuple[Path, Path]:
    """A client certificate without a subject, named by a URI."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .sign(authority.key, hashes.SHA256())
    )
    directory.mkdir(exist_ok=True)
    files = directory / "uri.crt", directory / "uri.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def revocation_list(authority: Authority, *revoked: Path, days: int = 1) -> bytes:
    """A list of ``authority`` with the certificates of some files on it; ``days`` until it expires."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.name)
        .last_update(now - datetime.timedelta(days=3))
        .next_update(now + datetime.timedelta(days=days))
    )
    for path in revoked:
        serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclasses.dataclass
class Answer:
    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> str:
        return str(self.body["code"])


async def ask(
    method: str, url: str, *, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None, **body: Any
) -> Answer:
    """One call on a connection of its own; the answer is held against the contract."""
    options: dict[str, Any] = {"json": body} if method == "POST" else {}
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.request(method, url, headers=headers, ssl=context, **options) as response:
            text = await response.text()
            found = json.loads(text) if "json" in response.content_type and text else text
            target = "/" + url.split("/", 3)[3]
            contract.check(method, target, response.status, response.headers, response.content_type, found)
            return Answer(response.status, found, response.headers)
