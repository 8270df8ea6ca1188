"""Fixtures: a node in a network of its own, used again by the tests of a module while it is left as it should be;
and servers that have not met yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.cluster import ClusterNode, cluster
from tests.crash.matrix import Station, station
from tests.standin.networks import own_network


@pytest.fixture(scope="module")
def place() -> Iterator[Station]:
    with station() as mine:
        yield mine


@pytest.fixture
def two() -> Iterator[list[ClusterNode]]:
    with own_network(), cluster(2) as nodes:
        yield nodes
        tell(nodes)


@pytest.fixture
def three() -> Iterator[list[ClusterNode]]:
    with own_network(), cluster(3) as nodes:
        yield nodes
        tell(nodes)


def tell(nodes: list[ClusterNode]) -> None:
    """Shown by pytest when the test failed."""
    for node in nodes:
        print(f"===== {node.name}\n{node.diagnosis()}")
