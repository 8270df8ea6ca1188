from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.host.units import Units
from tests.dbus.harness import FakeSystemd, PrivateBus


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[PrivateBus]:
    with PrivateBus(tmp_path) as bus:
        yield bus


@pytest.fixture
def systemd(tmp_path: Path, bus: PrivateBus) -> Iterator[FakeSystemd]:
    with FakeSystemd(tmp_path, bus) as systemd:
        yield systemd


@pytest.fixture
async def units(bus: PrivateBus) -> AsyncIterator[Units]:
    async with Units(bus.address) as units:
        yield units
