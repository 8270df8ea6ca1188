"""Versions of k3s, in order, and those that must not migrate."""

from __future__ import annotations

import dataclasses
import functools
import re

from k3s_ha_agent.errors import ConfigurationError

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+?))?(?:\+(?:k3s)?([0-9A-Za-z.-]+))?")
_IN_OUTPUT = re.compile(r"^k3s version (\S+)", re.MULTILINE)


@functools.total_ordering
@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Version:
    """``v1.22.2-rc2+k3s1``: Kubernetes version, pre-release, k3s build."""

    release: tuple[int, int, int]
    pre: tuple[tuple[bool, int | str], ...]
    build: str
    text: str

    @classmethod
    def parse(cls, text: str) -> Version:
        """ConfigurationError when the text is no version."""
        match = _VERSION.fullmatch(text.strip())
        if match is None:
            raise ConfigurationError(f"{text.strip()[:80]!r} is not a version of k3s.")
        major, minor, patch, pre, build = match.groups()
        return cls(
            (int(major), int(minor), int(patch)),
            tuple(_part(p) for p in re.findall(r"\d+|[^\d.-]+", pre)) if pre else (),
            build or "",
            text.strip(),
        )

    def _key(self) -> tuple[object, ...]:
        build = tuple(_part(p) for p in re.findall(r"\d+|[^\d.-]+", self.build))
        # A pre-release comes before its release, whatever follows.
        return (self.release, not self.pre, self.pre, build)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return self._key() < other._key()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        return self.text


def _part(text: str) -> tuple[bool, int | str]:
    """Numbers compare as numbers and come before words."""
    return (False, int(text)) if text.isdigit() else (True, text)


def from_binary_output(text: str) -> Version:
    """The version in what ``k3s --version`` prints."""
    match = _IN_OUTPUT.search(text)
    if match is None:
        raise ConfigurationError(f"{text.strip()[:80]!r} is not what k3s --version prints.")
    return Version.parse(match[1])


FIRST = (1, 22, 2)
"""The first release whose conversion carries the data over; before it makes an empty datastore [D]."""
BROKEN = {(1, 30, 13): (1, 30, 14), (1, 31, 9): (1, 31, 10), (1, 32, 5): (1, 32, 6), (1, 33, 1): (1, 33, 2)}
"""Releases of May 2025 whose conversion crashes, and the one that mends each (k3s-io/k3s issue 12478)."""


def migration_gate(version: Version) -> str | None:
    """Why this version must not convert its datastore, with what to install; None when it may.

    Release candidates count as their release: v1.22.2-rc2 carried the data over when recorded.
    """
    if version.release < FIRST:
        return (
            f"k3s {version} makes an empty etcd instead of converting its data; "
            f"upgrade to v{_dotted(FIRST)} or later first."
        )
    if version.release in BROKEN:
        mended = _dotted(BROKEN[version.release])
        return f"The conversion of k3s {version} crashes (k3s-io/k3s issue 12478); upgrade to v{mended} first."
    return None


def _dotted(release: tuple[int, int, int]) -> str:
    return ".".join(str(n) for n in release)
