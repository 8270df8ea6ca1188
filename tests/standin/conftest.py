"""Fixtures of the stand-in's own tests: a network of its own for each test, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.standin.harness import K3s
from tests.standin.networks import machines, own_network


@pytest.fixture
def network() -> Iterator[None]:
    with own_network("10.99.0.11"):
        yield


@pytest.fixture
def k3s(tmp_path: Path, network: None) -> Iterator[K3s]:
    """A stand-in on the recorded database, not started."""
    server = K3s(tmp_path / "n1")
    try:
        yield server
    finally:
        server.clean()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[[], list[K3s]]]:
    """Three stand-ins, each in a network of its own on one bridge; n2 and n3 are empty."""
    made: list[K3s] = []

    def make() -> list[K3s]:
        return made

    addresses = ("10.99.0.11", "10.99.0.12", "10.99.0.13")
    with own_network(), machines(*addresses) as enters:
        try:
            for number, (address, enter) in enumerate(zip(addresses, enters, strict=True), start=1):
                made.append(K3s(tmp_path / f"n{number}", f"n{number}", address, enter))
            yield make
        finally:
            for server in made:
                server.clean()
