from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.k3s.layout import Layout
from tests.unit.k3s.etcd_process import running_etcd

RECORDINGS = Path(__file__).parents[2] / "recordings"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The recordings of a real k3s v1.22.2; never written to."""
    return RECORDINGS / "k3s-1.22.2"


@pytest.fixture
def recorded_db(recordings: Path, tmp_path: Path) -> Path:
    """A copy of ``state.db`` as ``systemctl stop k3s`` left it, its WAL not checkpointed beside it."""
    directory = tmp_path / "server" / "db"
    shutil.copytree(recordings / "sqlite", directory)
    return directory / "state.db"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A real etcd for one module's tests; each uses a prefix of its own."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as layout:
        yield layout
