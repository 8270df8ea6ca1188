"""The certificates below server/tls, made as k3s names them (facts 4.1).

Files that exist are kept; a leaf is made anew when its names no longer fit. The CAs are the
stand-in's own, or those a joining server was given.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CAS = {
    "server-ca": "k3s-server-ca",
    "client-ca": "k3s-client-ca",
    "request-header-ca": "k3s-request-header-ca",
    "etcd/server-ca": "etcd-server-ca",
    "etcd/peer-ca": "etcd-peer-ca",
}
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file under a temporary name, so that a kill never leaves half of one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
    temporary.rename(path)


def ensure_cas(tls: Path) -> None:
    for name, common in CAS.items():
        certificate, key = tls / f"{name}.crt", tls / f"{name}.key"
        if not (certificate.exists() and key.exists()):
            stamp = int(_now().timestamp())
            _make(certificate, key, subject=[(NameOID.COMMON_NAME, f"{common}@{stamp}")], issuer=None)
    if not (tls / "service.key").exists():
        write(tls / "service.key", _pem(ec.generate_private_key(ec.SECP256R1())))


def ensure_leaves(tls: Path, node_name: str, addresses: Sequence[str], extra: Iterable[str]) -> None:
    """The leaf certificates of a server; ``addresses`` are its own, ``extra`` the tls-san."""
    organization, common = NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME
    local = ["127.0.0.1", "::1", "localhost", node_name, *addresses]
    served = [*local, "10.43.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", *extra]
    admin = [(organization, "system:masters"), (common, "system:admin")]
    _leaf(tls, "client-admin", "client-ca", admin, [CLIENT], [])
    _leaf(tls, "client-controller", "client-ca", [(common, "system:kube-controller-manager")], [CLIENT], [])
    _leaf(tls, "client-kube-apiserver", "client-ca", [*admin[:1], (common, "kube-apiserver")], [CLIENT], [])
    _leaf(tls, "client-auth-proxy", "request-header-ca", [(common, "system:auth-proxy")], [CLIENT], [])
    _leaf(tls, "serving-kube-apiserver", "server-ca", [(common, "kube-apiserver")], [SERVER], served)
    _leaf(tls, "etcd/server-client", "etcd/server-ca", [(common, "etcd-server")], [SERVER, CLIENT], local)
    _leaf(tls, "etcd/peer-server-client", "etcd/peer-ca", [(common, "etcd-peer")], [SERVER, CLIENT], local)
    _leaf(tls, "etcd/client", "etcd/server-ca", [(common, "etcd-client")], [CLIENT], [])


def ca_hash(tls: Path) -> str:
    """The hash of the K10 token form: SHA-256 of server-ca.crt's bytes (4.1, one certificate)."""
    return hashlib.sha256((tls / "server-ca.crt").read_bytes()).hexdigest()


def _leaf(
    tls: Path, name: str, ca: str, subject: list[tuple[Any, str]], usages: list[Any], names: Sequence[str]
) -> None:
    certificate, key = tls / f"{name}.crt", tls / f"{name}.key"
    issuer = x509.load_pem_x509_certificate((tls / f"{ca}.crt").read_bytes())
    if certificate.exists() and key.exists():
        made = x509.load_pem_x509_certificate(certificate.read_bytes())
        if made.issuer == issuer.subject and set(names) <= _names(made):
            return
    issuer_key = serialization.load_pem_private_key((tls / f"{ca}.key").read_bytes(), None)
    _make(certificate, key, subject=subject, issuer=(issuer, issuer_key), usages=usages, names=names)


def _make(
    certificate: Path,
    key: Path,
    *,
    subject: list[tuple[Any, str]],
    issuer: tuple[x509.Certificate, Any] | None,
    usages: Sequence[Any] = (),
    names: Sequence[str] = (),
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    now = _now()
    # Valid since yesterday, so that a test may set the clock back.
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer[0].subject if issuer else name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 if issuer else 3650))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_encipherment=True, key_cert_sign=issuer is None,
                content_commitment=False, data_encipherment=False, key_agreement=False, crl_sign=False,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
    signed = builder.sign(issuer[1] if issuer else private, hashes.SHA256())
    write(key, _pem(private))
    write(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)


def _general(names: Iterable[str]) -> list[x509.GeneralName]:
    general: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.append(x509.DNSName(name))
    return general


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = {str(a) for a in extension.get_values_for_type(x509.IPAddress)}
    return addresses | set(extension.get_values_for_type(x509.DNSName))


def _pem(key: Any) -> bytes:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return text


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
