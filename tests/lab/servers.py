"""How a bare node becomes a server with k3s on SQLite and the agent, both ready."""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab.node import Node


def make_server(
    node: Node,
    *,
    rows: int = 200,
    version: str = "v1.22.2+k3s1",
    faults: Mapping[str, object] | None = None,
    speed: Mapping[str, object] | None = None,
    agent: Mapping[str, object] | None = None,
    k3s: Mapping[str, object] | None = None,
    ready: bool = True,
) -> Node:
    """Seed and boot a node.

    ``rows``: ConfigMaps besides those of the recording; 0 leaves the data dir empty. ``version``, ``faults`` and
    ``speed`` are the stand-in's (tests/standin/README.md), ``agent`` the agent's settings, ``k3s`` the content of
    config.yaml. ``ready=False`` does not wait until k3s and the agent are ready.
    """
    node.agent_settings(**agent or {})
    if k3s:
        node.k3s_config(**k3s)
    if node.lab.k3s_binary:
        return _make_with_real_k3s(node, rows, ready)
    node.standin(version=version, faults=dict(faults or {}), speed=dict(speed or {}))
    if rows:
        node.k3s_seed(rows)
    node.boot()
    if ready:
        node.wait_for_k3s()
        node.wait_for_agent()
    return node


def _make_with_real_k3s(node: Node, rows: int, ready: bool) -> Node:
    """A real k3s makes its datastore itself; the rows go through its API."""
    node.boot()
    if rows or ready:
        node.wait_for_k3s()
        for number in range(rows):
            node.create_config_map(f"seed-{number:05}", text=f"{number} " * (number % 50 + 1))
        node.wait_for_agent()
    return node
