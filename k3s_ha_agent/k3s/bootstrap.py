"""What a server token opens: the cluster's CAs, as k3s itself hands them to a joining server.

``/v1-k3s/server-bootstrap`` answers whoever knows the server token with the CA certificates and keys
(k3s-facts, "HTTP endpoints" and "Bootstrap data"). Before a join nothing else shows the Nodes, the
node passwords and the versions of the cluster, so a client certificate of one hour is made from
it, used, and forgotten: keys are never written anywhere but for the moment in which OpenSSL reads
them out of a 0600 file, and never logged.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import datetime
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from k3s_ha_agent.errors import SupervisorError
from k3s_ha_agent.k3s.apiserver import Apiserver
from k3s_ha_agent.k3s.supervisor import Supervisor
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
        raise SupervisorError("The bootstrap data of the cluster cannot be read.") from error
    missing = [name for name in ("ServerCA", "ClientCA", "ClientCAKey") if not files.get(name)]
    if missing:
        raise SupervisorError(f"The bootstrap data of the cluster lacks {', '.join(missing)}.")
    return Bootstrap(files)


async def fetch(url: str, token: Token) -> Bootstrap:
    """The bootstrap data, as the ``server`` user. TokenError, or SupervisorError with ``http_status``."""
    async with await Supervisor.of_peer(url, token, username="server") as supervisor:
        return parse(await supervisor.server_bootstrap())


def admin_context(bootstrap: Bootstrap, directory: Path | None = None) -> ssl.SSLContext:
    """TLS as ``system:admin`` of ``system:masters``, trusting the cluster's server CA. Blocks shortly.

    ``directory``: where the 0600 file lies for the moment OpenSSL reads it; a tmpfs, please.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(bootstrap, key)
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=bootstrap.files["ServerCA"].decode("ascii"))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fd, name = tempfile.mkstemp(dir=directory, prefix=".admin-")  # 0600 by itself
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(private + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
    return context


def _sign(bootstrap: Bootstrap, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    try:
        authority = x509.load_pem_x509_certificate(bootstrap.files["ClientCA"])
        authority_key = serialization.load_pem_private_key(bootstrap.files["ClientCAKey"], None)
    except ValueError as error:
        raise SupervisorError("The client CA in the bootstrap data cannot be read.") from error
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise SupervisorError("The client CA in the bootstrap data has a key of a kind this agent cannot use.")
    now = datetime.datetime.now(datetime.UTC)
    subject = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
        x509.NameAttribute(NameOID.COMMON_NAME, "system:admin"),
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority_key, None if isinstance(authority_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


async def admin(url: str, token: Token, directory: Path | None = None) -> Apiserver:
    """A client of the cluster's API server, before this server belongs to it."""
    return Apiserver(url, admin_context(await fetch(url, token), directory))
