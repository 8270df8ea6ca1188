"""What a server token opens: the cluster's CAs, as k3s itself hands them to a joining server.

``/v1-k3s/server-bootstrap`` answers whoever knows the server token with the CA certificates and keys
(k3s-facts, "HTTP endpoints" and "Bootstrap data"). Before a join nothing else shows the Nodes, the
node passwords and the versions of the cluster, so a client certificate of one hour is made from
it, used, and forgotten: keys are never written anywhere but for the moment in which OpenSSL reads
them out of a 0600 file, and never logged.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import datetime
import json
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from k3s_ha_agent.errors import SupervisorError
from k3s_ha_agent.k3s.apiserver import Apiserver
from k3s_ha_agent.k3s.supervisor import Supervisor, parse_passwd
from k3s_ha_agent.k3s.token import Token

LIFETIME = datetime.timedelta(hours=1)
SKEW = datetime.timedelta(minutes=10)
"""How far our clock may be ahead of the API server's before it calls the certificate not yet valid."""
PATH = "/v1-k3s/server-bootstrap"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Bootstrap:
    """The files of the bootstrap data by k3s's names (``ServerCA``, ``ClientCAKey``, …). Secret."""

    files: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"Bootstrap({', '.join(sorted(self.files))})"


def parse(text: str) -> Bootstrap:
    """Bootstrap data in either form: base64 as in 1.22.2, or with ``Timestamp`` and ``Content`` since 2021-10.

    SupervisorError when it is neither; the error never quotes the data.
    """
    try:
        given = json.loads(text)
        files = {
            str(name): base64.b64decode(entry["Content"] if isinstance(entry, dict) else entry, validate=True)
            for name, entry in given.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        # Without the cause: a parser quotes what it could not read.
        raise SupervisorError(f"The bootstrap data of the cluster cannot be read ({type(error).__name__}).") from None
    missing = [name for name in ("ServerCA", "ClientCA", "ClientCAKey") if not files.get(name)]
    if missing:
        raise SupervisorError(f"The bootstrap data of the cluster lacks {', '.join(missing)}.")
    return Bootstrap(files)


async def fetch(url: str, token: Token) -> Bootstrap:
    """The bootstrap data, as the ``server`` user. TokenError, or SupervisorError with ``http_status``."""
    async with await Supervisor.of_peer(url, token, username="server") as supervisor:
        return parse(await supervisor.server_bootstrap())


def node_password(bootstrap: Bootstrap) -> str | None:
    """What the ``node`` user of the supervisor is known by; another than the token's when there is an agent token."""
    return parse_passwd(bootstrap.files.get("PasswdFile", b"").decode(errors="replace")).get("node")


def admin_context(bootstrap: Bootstrap, directory: Path | None = None) -> ssl.SSLContext:
    """TLS as ``system:admin`` of ``system:masters``, trusting the cluster's server CA. Blocks shortly.

    ``directory``: where the 0600 file lies for the moment OpenSSL reads it; a tmpfs, please. SupervisorError when
    the CAs cannot be used.
    """
    names = ((NameOID.ORGANIZATION_NAME, "system:masters"), (NameOID.COMMON_NAME, "system:admin"))
    return _context(bootstrap, "ServerCA", "ClientCA", names, directory)


def etcd_context(bootstrap: Bootstrap, directory: Path | None = None) -> ssl.SSLContext:
    """TLS as k3s's own client of etcd, which etcd's server CA signs (k3s-facts 4.1). As ``admin_context``."""
    return _context(bootstrap, "ETCDServerCA", "ETCDServerCA", ((NameOID.COMMON_NAME, "etcd-client"),), directory)


def _context(
    bootstrap: Bootstrap,
    trusted: str,
    authority: str,
    names: Sequence[tuple[x509.ObjectIdentifier, str]],
    directory: Path | None,
) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        certificate = _sign(bootstrap, authority, names, key)
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=bootstrap.files[trusted].decode("ascii"))
    except (KeyError, ValueError, TypeError, ssl.SSLError) as error:  # TypeError: the key has a passphrase
        # Without the cause: its text may quote what was given.
        raise SupervisorError(
            f"The {authority} or {trusted} in the bootstrap data cannot be used ({type(error).__name__})."
        ) from None
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fd, name = tempfile.mkstemp(dir=directory, prefix=".client-")  # 0600 by itself
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(private + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
    return context


def _sign(
    bootstrap: Bootstrap,
    authority: str,
    names: Sequence[tuple[x509.ObjectIdentifier, str]],
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    issuer = x509.load_pem_x509_certificate(bootstrap.files[authority])
    issuer_key = serialization.load_pem_private_key(bootstrap.files[f"{authority}Key"], None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise TypeError("a key of a kind that does not sign here")
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in names]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(issuer_key, None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


async def admin(url: str, token: Token, directory: Path | None = None) -> Apiserver:
    """A client of the cluster's API server, before this server belongs to it."""
    found = await fetch(url, token)
    return Apiserver(url, await asyncio.to_thread(admin_context, found, directory))
