"""Token, cred/passwd, and the bootstrap data that carries CAs and secrets between servers (4.1)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from . import pki

FILES = {
    "ServerCA": "tls/server-ca.crt",
    "ServerCAKey": "tls/server-ca.key",
    "ClientCA": "tls/client-ca.crt",
    "ClientCAKey": "tls/client-ca.key",
    "ServiceKey": "tls/service.key",
    "PasswdFile": "cred/passwd",
    "RequestHeaderCA": "tls/request-header-ca.crt",
    "RequestHeaderCAKey": "tls/request-header-ca.key",
    "IPSECKey": "cred/ipsec.psk",
    "ETCDServerCA": "tls/etcd/server-ca.crt",
    "ETCDServerCAKey": "tls/etcd/server-ca.key",
    "ETCDPeerCA": "tls/etcd/peer-ca.crt",
    "ETCDPeerCAKey": "tls/etcd/peer-ca.key",
    "EncryptionConfig": "cred/encryption-config.json",
}
"""Names of ControlRuntimeBootstrap and where their files lie below server/."""

TIME_SKEW = 3.0
"""Seconds a file may be newer than the datastore (M7, ``systemTimeSkew``)."""


class Wrong(Exception):
    """The data cannot be decrypted: another token."""


class Newer(Exception):
    """A file is newer than the datastore's copy of it."""


class Token(NamedTuple):
    """``K10<CA hash>::server:<password>`` or only the password."""

    password: str
    ca_hash: str = ""

    @classmethod
    def parse(cls, text: str) -> Token:
        text = text.strip()
        if not text.startswith("K10"):
            return cls(text)
        ca_hash, separator, user = text[3:].partition("::")
        return cls(user.partition(":")[2] if separator else "", ca_hash)

    @property
    def key(self) -> str:
        return "/bootstrap/" + hashlib.sha256(self.password.encode()).hexdigest()[:12]


def write_credentials(server: Path, password: str) -> None:
    """server/token, node-token, cred/passwd, cred/ipsec.psk, as far as they are missing."""
    passwd = server / "cred/passwd"
    if not passwd.exists():
        lines = f"{password},node,node,k3s:agent\n{password},server,server,k3s:server\n"
        pki.write(passwd, lines.encode())
    psk = server / "cred/ipsec.psk"
    if not psk.exists():
        pki.write(psk, secrets.token_hex(48).encode())
    full = f"K10{pki.ca_hash(server / 'tls')}::server:{password}\n".encode()
    token = server / "token"
    if not token.exists() or token.read_bytes() != full:
        pki.write(token, full)
    for name in ("node-token", "agent-token"):
        link = server / name
        if not link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(token)


def users(server: Path) -> dict[str, tuple[str, str]]:
    """name -> (password, role) out of cred/passwd."""
    found = {}
    for line in (server / "cred/passwd").read_text().splitlines():
        password, name, _, role = line.split(",")
        found[name] = (password, role)
    return found


def collect(server: Path, *, with_times: bool) -> bytes:
    """The bootstrap data of this server as JSON; file times since 2021-10 (ac7a8d89c)."""
    data: dict[str, object] = {}
    for name, relative in FILES.items():
        path = server / relative
        if path.exists():
            content = base64.b64encode(path.read_bytes()).decode()
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))
            data[name] = {"Timestamp": moment, "Content": content} if with_times else content
    return json.dumps(data).encode()


def unpack(data: bytes) -> dict[str, tuple[bytes, float | None]]:
    """name -> (content, time) of either form."""
    found: dict[str, tuple[bytes, float | None]] = {}
    for name, entry in json.loads(data).items():
        if isinstance(entry, Mapping):
            moment = time.strptime(str(entry["Timestamp"])[:19], "%Y-%m-%dT%H:%M:%S")
            import calendar

            found[name] = (base64.b64decode(entry["Content"]), float(calendar.timegm(moment)))
        else:
            found[name] = (base64.b64decode(entry), None)
    return found


def store(server: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write bootstrap data to disk, as a joining server does."""
    for name, (content, moment) in unpack(data).items():
        if name not in FILES:
            continue
        path = server / FILES[name]
        if overwrite or not path.exists():
            pki.write(path, content, 0o644 if path.suffix == ".crt" else 0o600)
            if moment is not None:
                os.utime(path, (moment, moment))


def reconcile(server: Path, data: bytes) -> list[str]:
    """Replace files older than the datastore's; Newer when a differing one is newer on disk (M7)."""
    replaced = []
    for name, (content, moment) in unpack(data).items():
        path = server / FILES.get(name, "unknown")
        if name not in FILES or moment is None or (path.exists() and path.read_bytes() == content):
            continue
        if path.exists() and path.stat().st_mtime - moment >= TIME_SKEW:
            raise Newer(str(path))
        pki.write(path, content, 0o644 if path.suffix == ".crt" else 0o600)
        os.utime(path, (moment, moment))
        replaced.append(str(path))
    return replaced


def _cipher(password: str, salt: str) -> object:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hashlib.pbkdf2_hmac("sha1", password.encode(), salt.encode(), 4096, 32))


def encrypt(password: str, data: bytes) -> bytes:
    """``salt:base64(nonce + AES-256-GCM)`` with PBKDF2-SHA1, 4096 rounds (4.1)."""
    salt, nonce = secrets.token_hex(8), secrets.token_bytes(12)
    sealed = _cipher(password, salt).encrypt(nonce, data, None)  # type: ignore[attr-defined]
    return salt.encode() + b":" + base64.b64encode(nonce + sealed)


def decrypt(password: str, value: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    salt, _, text = value.partition(b":")
    sealed = base64.b64decode(text)
    try:
        plain: bytes = _cipher(
            password, salt.decode()
        ).decrypt(  # type: ignore[attr-defined]
            sealed[:12], sealed[12:], None
        )
    except InvalidTag as error:
        raise Wrong("encrypted with another token") from error
    return plain
