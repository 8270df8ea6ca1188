"""Fixtures of the lab; README.md says how scenarios use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.servers import make_server

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
