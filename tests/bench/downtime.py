"""How long the API server is away while a server goes to etcd: by the agent, and by hand.

    python -m tests.bench.downtime [--pairs N] [--rows N]

By hand is what a careful person does: a drop-in with ``cluster-init``, ``systemctl restart k3s``. Both on fresh nodes
of the lab with the same stand-in (or K3S_BIN), seen from outside the node by ``probe.py``, in turn, each way first
every other time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

from tests.lab.lab import CHECKOUT, Lab
from tests.lab.node import K3S, SERVER, Node
from tests.lab.scenarios import DROP_IN, others
from tests.lab.servers import make_server


def by_agent(node: Node) -> None:
    done = node.ctl("migrate", "--yes", "--output", "json")
    assert done.returncode == 0, done.stdout + done.stderr


def by_hand(node: Node) -> None:
    node.write(DROP_IN, "cluster-init: true\n")
    node.systemctl("restart", K3S, timeout=300)


Way = Callable[[Node], None]
WAYS: tuple[Way, Way] = (by_agent, by_hand)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.downtime")
    parser.add_argument("--pairs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=1000, help="ConfigMaps besides the recording; default: %(default)s")
    options = parser.parse_args()
    print(f"API server away, in seconds, {options.rows} ConfigMaps and the recording:", flush=True)
    print(f"{'pair':>6}  {'agent':>7}  {'by hand':>7}  {'agent / by hand':>15}")
    ratios, seconds = [], {way: [] for way in WAYS}  # type: tuple[list[float], dict[Way, list[float]]]
    lab = Lab()
    try:
        for pair in range(options.pairs):
            found = {way: once(lab, way, options.rows) for way in (WAYS if pair % 2 == 0 else WAYS[::-1])}
            for way in WAYS:
                seconds[way].append(found[way])
            ratios.append(found[by_agent] / found[by_hand])
            print(f"{pair + 1:>6}  {found[by_agent]:>7.2f}  {found[by_hand]:>7.2f}  {ratios[-1]:>15.2f}", flush=True)
    finally:
        lab.close()
    for name, summary in (("min", min), ("median", statistics.median), ("max", max)):
        row = [summary(seconds[by_agent]), summary(seconds[by_hand]), summary(ratios)]
        print(f"{name:>6}  {row[0]:>7.2f}  {row[1]:>7.2f}  {row[2]:>15.2f}")
    return 0


def once(lab: Lab, way: Way, rows: int) -> float:
    """Seconds the API server was away in one migration on a fresh node."""
    node = make_server(lab.node("n1"), rows=rows, agent={"stability_window": "1s"})
    try:
        before = node.kine_live()
        with probing(node) as seen:
            way(node)
            node.wait_for(lambda: node.k3s_ready() and "etcd" in node.roles(), what="the node is well on etcd")
        assert others(node, before) == others(node, node.etcd_live()), "a migration that lost something is no figure"
        assert seen["outages"] and not seen["away_at_the_end"], seen
        return float(sum(seen["outages"]))  # type: ignore[arg-type]
    finally:
        node.destroy()


@contextlib.contextmanager
def probing(node: Node) -> Iterator[dict[str, object]]:
    """What the probe saw in the block; filled in at its end."""
    tls = node.path(f"{SERVER}/tls")
    files = [str(tls / name) for name in ("server-ca.crt", "client-admin.crt", "client-admin.key")]
    probe = subprocess.Popen(
        [*node.lab.outside_prefix(), sys.executable, "-m", "tests.bench.probe", node.address, *files],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT,
    )  # fmt: skip
    try:
        assert probe.stdout is not None and probe.stdout.readline() == "ready\n"
        seen: dict[str, object] = {}
        yield seen
        said, _ = probe.communicate(timeout=30)
        seen |= json.loads(said)
    finally:
        probe.kill()
        probe.wait()


if __name__ == "__main__":
    sys.exit(main())
