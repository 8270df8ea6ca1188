"""What the agent costs when it has nothing to do, how fast it starts, and how exposed it is.

    python -m tests.bench.idle [--starts N]

In a node of the lab. Memory is what the kernel counts (smaps_rollup): RSS, and PSS, where what is shared with other
processes counts by their number. The start goes from exec to READY=1, by systemd's own time stamps.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys

from tests.lab.lab import Lab
from tests.lab.node import AGENT, Node
from tests.lab.servers import make_server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.idle")
    parser.add_argument("--starts", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args()
    lab = Lab()
    try:
        node = make_server(lab.node("n1"))
        starts = [start(node) for _ in range(options.starts)]
        node.api("GET", "/v1/status")  # what a monitoring asks now and then
        memory = idle_memory(node)
        print(f"idle: RSS {memory['Rss'] / 1024:.1f} MiB, PSS {memory['Pss'] / 1024:.1f} MiB")
        print(
            f"start, exec to READY=1: min {min(starts):.2f} s, median {statistics.median(starts):.2f} s, "
            f"max {max(starts):.2f} s ({len(starts)} starts)"
        )
        print(f"systemd-analyze security: {security(node)}")
    finally:
        lab.close()
    return 0


def start(node: Node) -> float:
    """Seconds of one start."""
    node.systemctl("reset-failed", AGENT)  # or its limit of starts in a minute would be reached
    node.systemctl("restart", AGENT)
    times = node.show(AGENT, "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    began, ready = (int(times[name]) for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"))
    assert 0 < began < ready, times
    node.wait_for_agent()
    return (ready - began) / 1_000_000


def idle_memory(node: Node) -> dict[str, int]:
    """Kilobytes by name."""
    pid = node.show(AGENT, "MainPID")["MainPID"]
    text = node.exec(["cat", f"/proc/{pid}/smaps_rollup"]).stdout
    return {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}


def security(node: Node) -> str:
    said = node.exec(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"/lib/systemd/system/{AGENT}"], check=False
    ).stdout
    return said.rstrip().splitlines()[-1].partition(":")[2].strip()


if __name__ == "__main__":
    sys.exit(main())
