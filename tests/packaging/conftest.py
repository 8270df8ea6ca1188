"""Packages built once for all tests of this suite, and roots to install them into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.build import PREVIOUS, copy_checkout, make, only
from tests.packaging.root import Root


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as they were when the tests began: what packages are built from and compared with."""
    return copy_checkout(tmp_path_factory.mktemp("sources") / "checkout")


@pytest.fixture(scope="session")
def deb_dist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``make deb`` put its results."""
    dist = tmp_path_factory.mktemp("deb")
    make("deb", dist, checkout)
    return dist


@pytest.fixture(scope="session")
def deb(deb_dist: Path) -> Path:
    return only(deb_dist, "*_all.deb")


@pytest.fixture(scope="session")
def previous_deb(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a version before."""
    dist = tmp_path_factory.mktemp("previous-deb")
    make("deb", dist, checkout, PACKAGE_SUFFIX=PREVIOUS)
    return only(dist, "*_all.deb")


@pytest.fixture(scope="session")
def rpm_dist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``make rpm`` put its results."""
    dist = tmp_path_factory.mktemp("rpm")
    make("rpm", dist, checkout)
    return dist


@pytest.fixture(scope="session")
def rpm(rpm_dist: Path) -> Path:
    return only(rpm_dist, "*.noarch.rpm")


@pytest.fixture(scope="session")
def previous_rpm(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a version before."""
    dist = tmp_path_factory.mktemp("previous-rpm")
    make("rpm", dist, checkout, PACKAGE_SUFFIX=PREVIOUS)
    return only(dist, "*.noarch.rpm")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)
