"""Taking secrets out of texts somebody else wrote: journals, unit files, records.

Two ways together: what looks like a secret (k3s's token formats, keys, passwords in URLs, values of names
like ``token``), and the very secrets of this server, read from their files, wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

HIDDEN = "(removed)"
SHORTEST = 6
"""Characters; a shorter secret of this server would take ordinary words out."""

_NAMES = (
    r"[\w.-]*(?:token(?!-file|_file|file)|passw(?:or)?d|passphrase|secret(?!s\b|-encryption|_encryption|s-encryption)"
    r"|private[-_]?key|access[-_]?key|join[-_]?key|credential|api[-_]?key|psk)[\w.-]*"
)
_VALUE = r"(?:([\"'])(?:(?!\2)[^\\\n]|\\.)*\2|[^\s,;}\]\"']+)"
"""A value, quoted (the quote is group 2, and stays) or not (the group is empty)."""
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL), HIDDEN),
    # k3s: K10<CA hash>::user:password, and the short form user:password after ::
    (re.compile(r"K10[0-9A-Fa-f]{8,}::[^\s\"',;]+"), HIDDEN),
    # kubeadm style bootstrap tokens, JSON web tokens
    (re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=:-]{6,}"), rf"\1 {HIDDEN}"),
    # user:password@ of a URL, a DSN as well
    (re.compile(r"((?:://|\b)[\w.+-]*):([^\s:@/\"']+)@(?=[\w.(\[-])"), rf"\1:{HIDDEN}@"),
    # the value of vpn-auth is a list of names and values, one of them the key
    (re.compile(r"(?i)(\bvpn-auth(?:-file)?\"?\s*[=:]?\s*)([^\n]+)"), rf"\1{HIDDEN}"),
    # name: value, name=value, "name": "value", --name value, "--name", "value"
    (re.compile(rf"(?i)(\"?\b{_NAMES}\"?\s*[=:]\s*){_VALUE}"), rf"\1\2{HIDDEN}\2"),
    (re.compile(rf"(?i)(--{_NAMES}\s+)(?!-){_VALUE}"), rf"\1\2{HIDDEN}\2"),
    (re.compile(rf"(?i)(\"--{_NAMES}\",\s*){_VALUE}"), rf"\1\2{HIDDEN}\2"),
)


class Scrubber:
    """``secrets``: literal ones, taken out wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def secrets_of(data_dir: Path, *files: Path) -> Iterator[str]:
    """The secrets of this server that this user can read: whole lines, and their password parts."""
    server = data_dir / "server"
    names = ("token", "node-token", "agent-token", "cred/passwd", "cred/ipsec.psk")
    for path in (*(server / name for name in names), Path("/etc/rancher/node/password"), *files):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            word = line.strip()
            # cred/passwd is password,name,name,role; what follows the :: of a token is user:password.
            yield from (word, word.partition(",")[0], word.partition("::")[2].partition(":")[2])
