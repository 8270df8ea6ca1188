"""What the API server and the controllers see of either datastore."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Item(NamedTuple):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


class Exists(Exception):
    """Create of a key that is there."""


class Missing(Exception):
    """Update or delete of a key that is not there."""


class Changed(Exception):
    """The key is not at the expected revision."""


class StoreError(Exception):
    """The datastore refused, with its own words (NOSPACE, request too large)."""


class Store(Protocol):
    name: str
    """``sqlite`` or ``etcd``."""

    def revision(self) -> int: ...

    def get(self, key: str) -> Item | None: ...

    def below(self, prefix: str) -> tuple[int, list[Item]]:
        """(revision, live items below the prefix in key order)."""

    def create(self, key: str, value: bytes, lease: int = 0) -> int:
        """The new revision. ``lease`` is a TTL in seconds. Exists."""

    def update(self, key: str, value: bytes, expected: int = 0, lease: int = 0) -> int:
        """``expected``: the mod revision the caller saw, 0 for any. Missing, Changed."""

    def delete(self, key: str, expected: int = 0) -> int: ...
