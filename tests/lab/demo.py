"""``make demo``: a server goes from SQLite to etcd before your eyes; a second one, sabotaged, comes back by itself.

What the agent says of it is checked here by other means: sqlite3 before, etcdctl and sqlite3 after, key by key and
row by row, the same way the lab's scenarios do it. Exit code 0 when all of it was so, 1 otherwise.
"""

from __future__ import annotations

import os
import sys
import time
import traceback

from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.scenarios import (
    DONE,
    ROLLED_BACK,
    kine_rows,
    look,
    on_etcd_with_all,
    on_sqlite_as_before,
    others,
    retired_sqlite,
)
from tests.lab.servers import make_server

ROWS = 3000
KILLED_AFTER = 1700
SPEED: dict[str, object] = {"put_delay": 0.002, "role_delay": 2.7}
"""A copy slow enough to be watched, and the role as late as on a real server (k3s-facts, "Seen" 9)."""


def main() -> int:
    began = time.monotonic()
    title("Two servers of Debian 12, each with a systemd of its own, with k3s on SQLite and the agent")
    lab = Lab()
    try:
        results = {
            "a healthy migration: on etcd, every key proven": shown(healthy, lab),
            "a sabotaged migration: rolled back by itself, nothing lost": shown(sabotaged, lab),
        }
    finally:
        lab.close()
    title(f"Summary, after {time.monotonic() - began:.0f} s; nothing is left of the servers")
    for what, good in results.items():
        say(f"{'yes' if good else 'NO '}  {what}")
    return 0 if all(results.values()) else 1


def shown(scene: object, lab: Lab) -> bool:
    """Play a scene; what does not hold is printed and makes it fail."""
    assert callable(scene)
    try:
        scene(lab)
    except Exception:  # the summary must be reached whatever happened
        traceback.print_exc()
        return False
    return True


def healthy(lab: Lab) -> None:
    title("1. A healthy migration")
    node = make_server(lab.node("n1"), rows=ROWS, agent={"stability_window": "4s"}, speed=SPEED)
    before = look(node)
    count_sqlite(node)
    code = command(node, "k3s-ha-agentctl", "migrate", "--yes")
    assert code == DONE, f"exit code {code}"
    operation = node.operation()
    on_etcd_with_all(node, before, operation)

    stopped = retired_sqlite(node, operation)
    revision = 1 + len(stopped)
    copied, now = node.etcd_live(revision=revision), node.etcd_live()
    differing = sum(copied.get(key) != value for key, value in stopped.items()) + len(copied.keys() - stopped.keys())
    say(f"etcdctl, at revision {revision} where the copy ended: {len(copied)} keys, {differing} of them differ")
    say("  from what sqlite3 reads in the files k3s left, the WAL included.")
    users = others(node, before.keys)
    say(f"etcdctl, now: {len(now)} keys; of the {len(users)} that k3s does not write by itself")
    say(f"  {sum(now.get(key) != value for key, value in users.items())} differ from before the migration.")
    report = operation["facts"]["report"]
    say(f"k3s was away for {report['downtime_seconds']:.1f} s, most of it the copy, which is slowed down here.")
    command(node, "k3s-ha-agentctl", "status")
    node.destroy()


def sabotaged(lab: Lab) -> None:
    title("2. The same, but k3s is killed in the middle of the copy")
    faults = {"die_after_keys": KILLED_AFTER}
    node = make_server(lab.node("n2"), rows=ROWS, faults=faults, speed=SPEED)
    before = look(node)
    count_sqlite(node)
    say(
        f"k3s will be killed (SIGKILL) after {KILLED_AFTER} keys. By itself systemd would start it again 5 s later, and"
    )
    say("  the node would be Ready, with the etcd role, on those keys alone.")
    code = command(node, "k3s-ha-agentctl", "migrate", "--yes")
    say(f"exit code {code}; {ROLLED_BACK} means: rolled back.")
    assert code == ROLLED_BACK
    on_sqlite_as_before(node, before)

    count_sqlite(node)
    rows, users, now = kine_rows(node), others(node, before.keys), node.kine_live()
    same = sum(rows.get(number) == row for number, row in before.rows.items())
    say(f"sqlite3: {same} of the {len(before.rows)} rows there were are there, in every column;")
    differ = sum(now.get(k) != v for k, v in users.items())
    say(f"  of the {len(users)} live keys k3s does not write by itself {differ} differ from before.")
    command(node, "k3s-ha-agentctl", "status")
    node.destroy()


def count_sqlite(node: Node) -> None:
    rows, live = kine_rows(node), node.kine_live()
    served = node.kubectl("/api/v1/configmaps").json["items"]
    say(f"sqlite3: {len(rows)} rows, {len(live)} live keys, {sum(map(len, live.values())):,} bytes of values.")
    say(f"API server: {len(served)} ConfigMaps; roles of {node.name}: {', '.join(sorted(node.roles()))}.")


def command(node: Node, *argv: str) -> int:
    """Run a program in the node on our own terminal, where it may draw; its exit code."""
    print(f"\n{bold(f'{node.name}#')} {' '.join(argv)}", flush=True)
    # The size is the terminal's own; COLUMNS only when somebody has set it.
    code = node.interact(argv, {name: os.environ[name] for name in ("TERM", "COLUMNS") if name in os.environ})
    print(flush=True)
    return code


def title(text: str) -> None:
    print(f"\n{bold(f'=== {text}')}\n", flush=True)


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def say(text: str) -> None:
    print(f"    {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
