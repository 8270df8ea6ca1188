"""A process that writes to a kine database as k3s does: one connection in WAL mode, left open.

``python kine_writer.py DATABASE``: prints ``ready`` after its first write and then writes until
``stop`` comes on standard input; prints how many rows it wrote. A line ``write`` makes it write one
row and answer ``written``; ``run`` lets it write freely.
"""

from __future__ import annotations

import select
import sqlite3
import sys


def main() -> None:
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    count = 0

    def write() -> None:
        nonlocal count
        count += 1
        connection.execute(
            "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
            " VALUES (?, 1, 0, 0, 0, 0, ?, NULL)",
            (f"/registry/writer/{count:06d}", bytes(2000)),
        )

    write()
    print("ready", flush=True)
    running = False
    while True:
        if running and not select.select([sys.stdin], [], [], 0)[0]:
            write()
            continue
        match sys.stdin.readline().strip():
            case "write":
                write()
                print("written", flush=True)
            case "run":
                running = True
                print("running", flush=True)
            case _:
                break
    # k3s does not checkpoint when it stops (k3s-facts, "Seen" 2): neither does this.
    print(count, flush=True)
    import os

    os._exit(0)


main()
