"""Fixtures of the lab; README.md says how scenarios use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import provision, system
from tests.lab.lab import CHECKOUT, Lab
from tests.lab.node import K3S, Node
from tests.lab.servers import make_server
from tests.packaging.build import PREVIOUS, copy_checkout, make, only

pytest.register_assert_rewrite("tests.lab.scenarios")
LAB = pytest.StashKey[Lab]()


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab of this run: a network and a layer with the agent of this checkout. Taken down at the end."""
    made = Lab()
    request.config.stash[LAB] = made
    yield made
    made.close()


@pytest.fixture
def new_node(lab: Lab) -> Iterator[Callable[[str], Node]]:
    """Makes bare nodes by name (``n1`` …): a fresh disk, nothing seeded, not booted. Destroyed after the test."""
    made: list[Node] = []

    def make(name: str = "n1") -> Node:
        node = lab.node(name)
        made.append(node)
        return node

    yield make
    for node in made:
        node.destroy()


@pytest.fixture
def new_server(new_node: Callable[[str], Node]) -> Callable[..., Node]:
    """Makes servers: seeded, booted, k3s and agent ready. See ``servers.make_server`` for what it takes."""

    def make(name: str = "n1", **options: Any) -> Node:
        node = new_node(name)
        if node.lab.k3s_binary and {"version", "faults", "speed"} & options.keys():
            pytest.skip("needs the stand-in k3s: a real one has the version it has, and no faults to order")
        return make_server(node, **options)

    return make


@pytest.fixture
def server(new_server: Callable[..., Node]) -> Node:
    """The server ``n1``: v1.22.2 on SQLite with 200 ConfigMaps more than the recording, k3s and agent ready."""
    return new_server()


# --- packages, and nodes that never saw the checkout ---------------------------------------------


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("sources") / "checkout")


@pytest.fixture(scope="session")
def deb(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    dist = tmp_path_factory.mktemp("deb")
    make("deb", dist, sources)
    return only(dist, "*_all.deb")


@pytest.fixture(scope="session")
def previous_deb(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a version before."""
    dist = tmp_path_factory.mktemp("previous-deb")
    make("deb", dist, sources, PACKAGE_SUFFIX=PREVIOUS)
    return only(dist, "*_all.deb")


@pytest.fixture(scope="session")
def only_k3s(lab: Lab) -> Path:
    """A layer with k3s and without the agent."""
    directory = lab.directory / "only-k3s"
    layer, merged = directory / "upper", directory / "root"
    system.mount_overlay(merged, lower=[lab.root], upper=layer, work=directory / "work")
    try:
        provision.install_k3s(CHECKOUT, merged, lab.k3s_binary)
    finally:
        system.run(["umount", str(merged)])
    return layer


@pytest.fixture
def bare(new_node: Callable[[str], Node], only_k3s: Path) -> Callable[..., Node]:
    """Makes servers that never saw the agent: on SQLite, or with ``started=False`` k3s installed and never started."""

    def make_bare(name: str = "n1", *, started: bool = True, **options: Any) -> Node:
        node = new_node(name)
        if node.lab.k3s_binary:
            pytest.skip("needs the stand-in k3s, which is seeded before the first boot")
        node.remove_disk()
        node.make_disk((only_k3s, node.lab.root))
        if started:
            make_server(node, ready=False, **options)
            node.wait_for_k3s()
        else:
            # As k3s's installer leaves it with INSTALL_K3S_SKIP_ENABLE=true.
            node.chroot(["systemctl", "disable", "--quiet", K3S])
            make_server(node, rows=0, ready=False, **options)
        assert not node.exists("/usr/bin/k3s-ha-agent") and not node.exists("/usr/lib/k3s-ha-agent")
        return node

    return make_bare


@pytest.fixture
def empty(new_node: Callable[[str], Node]) -> Callable[[str], Node]:
    """Makes machines with neither k3s nor the agent, booted."""

    def make_empty(name: str) -> Node:
        node = new_node(name)
        node.remove_disk()
        node.make_disk((node.lab.root,))
        node.boot()
        return node

    return make_empty


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the journals of all nodes when a test fails, before the nodes are gone."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    made = item.config.stash.get(LAB, None)
    if report.when == "teardown" or not report.failed or made is None:
        return
    for node in made.nodes.values():
        began = time.monotonic()
        try:
            text = node.diagnosis()
        except Exception as error:  # the report must be written whatever state the node is in
            text = f"no diagnosis after {time.monotonic() - began:.1f} s: {error}"
        report.sections.append((f"node {node.name}", text))
