"""Packages built once for all tests of this suite, and roots to install them into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.build import PREVIOUS, make, only
from tests.packaging.root import Root


@pytest.fixture(scope="session")
def deb_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``make deb`` put its results."""
    dist = tmp_path_factory.mktemp("deb")
    make("deb", dist)
    return dist


@pytest.fixture(scope="session")
def deb(deb_dist: Path) -> Path:
    return only(deb_dist, "*_all.deb")


@pytest.fixture(scope="session")
def previous_deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a version before."""
    dist = tmp_path_factory.mktemp("previous-deb")
    make("deb", dist, PACKAGE_SUFFIX=PREVIOUS)
    return only(dist, "*_all.deb")


@pytest.fixture(scope="session")
def rpm_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``make rpm`` put its results."""
    dist = tmp_path_factory.mktemp("rpm")
    make("rpm", dist)
    return dist


@pytest.fixture(scope="session")
def rpm(rpm_dist: Path) -> Path:
    return only(rpm_dist, "*.noarch.rpm")


@pytest.fixture(scope="session")
def previous_rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a version before."""
    dist = tmp_path_factory.mktemp("previous-rpm")
    make("rpm", dist, PACKAGE_SUFFIX=PREVIOUS)
    return only(dist, "*.noarch.rpm")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)
