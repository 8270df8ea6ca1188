"""What going back to the pre-image would lose: the keys in which etcd has moved on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.compare import compare
from k3s_ha_agent.k3s.etcd import EtcdClient
from k3s_ha_agent.k3s.layout import Layout

VOLATILE = ("/registry/events/", "/registry/leases/", "/registry/masterleases/")
"""What Kubernetes writes by itself all the time, and nobody misses."""


@dataclasses.dataclass(frozen=True, slots=True)
class LostWrites:
    """Keys, not writes: a key written three times counts once."""

    changed: int
    created: int
    deleted: int
    examples: tuple[str, ...]

    @property
    def total(self) -> int:
        return self.changed + self.created + self.deleted

    def sentence(self) -> str:
        parts = [
            f"{count} {word}"
            for count, word in ((self.created, "created"), (self.changed, "changed"), (self.deleted, "deleted"))
            if count
        ]
        if not parts:
            return "no key has changed since the migration"
        some = f", e.g. {', '.join(self.examples[:3])}" if self.examples else ""
        return f"{' + '.join(parts)} since the migration{some}"


async def lost_writes(layout: Layout, sealed: Path) -> LostWrites:
    """Compare etcd as it is now with the sealed pre-image, without what is volatile. EtcdError, KineError."""
    async with EtcdClient.from_layout(layout) as etcd:
        rows = (row for row in kine.live_rows(sealed) if not volatile(row.key))
        keys = (key async for key in etcd.range(b"/registry/") if not volatile(key.key))
        result = await compare(rows, keys)
    examples = (*result.extra, *result.different, *result.missing)
    return LostWrites(result.different_count, result.extra_count, result.missing_count, tuple(examples[:5]))


def volatile(key: bytes) -> bool:
    """Whether Kubernetes writes this key by itself all the time."""
    return key.startswith(tuple(prefix.encode() for prefix in VOLATILE))
