"""``make demo``: a server goes from SQLite to etcd; then a second one is sabotaged and comes back by itself.

Everything the agent says is checked here by other means: sqlite3 before, etcdctl after, key by key.
"""

from __future__ import annotations

import os
import sys
import time

from tests.lab.datastore import VOLATILE, Keys, differences
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.servers import make_server

ROWS = 1500
LOST = "/registry/configmaps/seeded/seed-00042"


def main() -> int:
    began = time.monotonic()
    title("Making two servers: Debian 12 with systemd in a container each, k3s on SQLite, the agent")
    lab = Lab()
    try:
        healthy = make_server(lab.node("n1"), rows=ROWS, agent={"stability_window": "5s"}, speed={"put_delay": 0.002})
        good = migrate(healthy)
        healthy.destroy()
        sabotaged = make_server(
            lab.node("n2"), rows=ROWS, agent={"stability_window": "5s"},
            faults={"skip_keys": [LOST]}, speed={"put_delay": 0.002},
        )  # fmt: skip
        good = sabotage(sabotaged) and good
    finally:
        lab.close()
    title(f"{'Done' if good else 'FAILED'}, in {time.monotonic() - began:.0f} s. Nothing is left of the servers.")
    return 0 if good else 1


def migrate(node: Node) -> bool:
    title("1. A healthy migration")
    before = node.kine_live()
    say(f"sqlite3 counts {len(before)} live keys in state.db. {in_words(node)}")
    code = command(node, "k3s-ha-agentctl", "migrate", "--yes")
    say(f"exit code {code}. {in_words(node)}")
    return code == 0 and compare("etcdctl finds", before, node.etcd_live()) and "etcd" in node.roles()


def sabotage(node: Node) -> bool:
    title("2. A sabotaged migration: k3s's copy leaves out one key, and nobody tells")
    before = node.kine_live()
    say(f"sqlite3 counts {len(before)} live keys. The copy will leave out {LOST}.")
    code = command(node, "k3s-ha-agentctl", "migrate", "--yes")
    say(f"exit code {code}: 3 means rolled back. {in_words(node)}")
    if code != 3:
        return False
    node.wait_for_k3s()
    return compare("sqlite3 finds", before, node.kine_live()) and "etcd" not in node.roles()


def compare(who: str, before: Keys, after: Keys) -> bool:
    """Key by key, but for what a running cluster writes all the time by itself."""
    ignored = (*VOLATILE, "/registry/minions/")
    lines = differences(before, after, ignored)
    say(f"{who} {len(lines)} keys differ:" if lines else f"{who} every key, name and value ({len(after)}).")
    for line in lines[:10]:
        say(f"  {line}")
    return not lines


def in_words(node: Node) -> str:
    return f"The roles of {node.name}: {', '.join(sorted(node.roles()))}."


def command(node: Node, *argv: str) -> int:
    print(f"\n{bold(f'{node.name}#')} {' '.join(argv)}", flush=True)
    return node.interact(argv, {"TERM": os.environ.get("TERM", "dumb"), "COLUMNS": os.environ.get("COLUMNS", "100")})


def title(text: str) -> None:
    print(f"\n{bold(f'=== {text}')}", flush=True)


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def say(text: str) -> None:
    print(f"    {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
