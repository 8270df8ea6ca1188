"""A stand-in one start away from its conversion."""

from __future__ import annotations

from typing import Any

from tests.standin.harness import RECORDING, K3s

SEED = str(RECORDING / "sqlite")
KEYS = 341
"""The recording's 340 and one written before the conversion."""
NEW = ("v1.34.1+k3s1", "v1.35.1+k3s1")
ALL = ("v1.22.2+k3s1", "v1.22.4+k3s1", *NEW)


def port(version: str) -> int:
    return 2382 if version in NEW else 2379


def prepare(k3s: K3s, version: str = "v1.22.2+k3s1", *, faults: dict[str, Any] | None = None, **speed: Any) -> None:
    """A node that ran on SQLite, was stopped, and will be converted by its next start."""
    k3s.settings(version=version, seed=SEED)
    k3s.up()
    body = {"metadata": {"name": "late"}, "data": {"only": "in the WAL"}}
    assert k3s.http("/api/v1/namespaces/shop/configmaps", method="POST", body=body)[0] == 201
    k3s.stop()
    assert len(k3s.sqlite_rows()) == KEYS
    k3s.cluster_init()
    k3s.settings(version=version, faults=faults or {}, speed=speed)
