"""Fixtures: a node in a network of its own, used again by the tests of a module while it is left as it should be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.matrix import Station, station


@pytest.fixture(scope="module")
def place() -> Iterator[Station]:
    with station() as mine:
        yield mine
