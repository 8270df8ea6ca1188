"""The server token: its parts, the key its password encrypts the bootstrap data under, CA hashes.

Format and hashes as in pkg/clientaccess/token.go and pkg/cluster/encrypt.go of k3s. Passwords
never appear in ``repr``, ``str`` or errors.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import re

from k3s_ha_agent.errors import TokenError
from k3s_ha_agent.k3s.layout import Layout

_PREFIX = "K10"
_HASH = re.compile(r"[0-9a-f]{64}")
_KUBEADM = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    ca_hash: str
    """SHA-256, hex, that the cluster's CA must have; empty when the token is a bare password."""
    username: str
    """``server`` or ``node``; empty when the token is a bare password."""
    password: str = dataclasses.field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Token:
        """``K10<CA-HASH>::<USERNAME>:<PASSWORD>`` or ``<PASSWORD>``. TokenError says what is wrong."""
        text = text.strip()
        if not text:
            raise TokenError("The token is empty.")
        ca, credentials = "", f":{text}"
        if text.startswith(_PREFIX):
            ca, separator, rest = text.removeprefix(_PREFIX).partition("::")
            if not separator:
                ca, rest = "", ca
            credentials = rest
        if ca and not _HASH.fullmatch(ca):
            raise TokenError("The CA hash in the token is not a SHA-256 in hex.")
        if _KUBEADM.fullmatch(credentials.removeprefix(":")):
            raise TokenError(
                "The token is a bootstrap token for agents.", next_step="Use the one in server/token of a server."
            )
        username, separator, password = credentials.partition(":")
        if not separator or not password:
            raise TokenError("The token must be K10<CA-HASH>::<USERNAME>:<PASSWORD> or a password.")
        return cls(ca, username, password)

    @property
    def short_hash(self) -> str:
        """The first 12 hex digits of the password's SHA-256."""
        return hashlib.sha256(self.password.encode()).hexdigest()[:12]

    @property
    def bootstrap_key(self) -> str:
        """The datastore's key of the bootstrap data encrypted with this token."""
        return f"/bootstrap/{self.short_hash}"


def read(layout: Layout) -> Token:
    """The token of this server. Blocks; TokenError when there is none or it is not valid."""
    try:
        return Token.parse(layout.token_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TokenError(f"The token {layout.token_file} cannot be read: {reason}.") from None


def ca_hash(pem: bytes) -> str:
    """The hash of a CA bundle that a token carries.

    One certificate: SHA-256 of the file as it is. Several: SHA-256 of the root's DER, the root
    being what the issuers lead to from the first one (a bundle that leads nowhere is hashed as it
    is, as k3s does). Issuers are followed by name; signatures are TLS's business. TokenError when
    there is no certificate in it.
    """
    try:
        certificates = [base64.b64decode(body, validate=False) for body in _PEM.findall(pem)]
        hashed = pem
        if len(certificates) > 1:
            hashed = _root(certificates) or pem
    except (binascii.Error, IndexError, ValueError) as error:
        raise TokenError("The CA bundle has a certificate that cannot be read.") from error
    if not certificates:
        raise TokenError("The CA bundle has no certificate in it.")
    return hashlib.sha256(hashed).hexdigest()


def _root(certificates: list[bytes]) -> bytes | None:
    names = [_issuer_and_subject(der) for der in certificates]
    current = 0
    for _ in certificates:
        issuer = names[current][0]
        found = [i for i in range(1, len(names)) if names[i][1] == issuer and i != current]
        if not found:
            return None
        current = found[0]
        if names[current][0] == names[current][1]:
            return certificates[current]
    return None


def _issuer_and_subject(der: bytes) -> tuple[bytes, bytes]:
    """The two names of an X.509 certificate, as their DER (RFC 5280, 4.1)."""
    fields = _elements(_elements(_elements(der)[0][1])[0][1])
    if fields[0][0] == 0xA0:  # the version is optional
        fields = fields[1:]
    # serialNumber, signature, issuer, validity, subject
    return fields[2][1], fields[4][1]


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of the DER elements that follow one another in ``data``."""
    elements: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        if position + length > len(data):
            raise ValueError("element is cut short")
        elements.append((tag, data[position : position + length]))
        position += length
    return elements
