"""What runs on a machine whose power is cut (``machine.py``).

guest.py begin WAY POINT     a server, and an operation on it that stands at the point: says CUT
guest.py look WAY            boots the server again as systemd would, and looks at how the operation ends
guest.py write               three files: synced, not synced, renamed without a sync: says CUT
guest.py read                which of them are whole
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path

from k3s_ha_agent import durable
from tests.crash.look import look, rest_is_quiet
from tests.crash.matrix import record_of, settled
from tests.crash.quick_node import ADDRESS, QuickNode, wait_for
from tests.crash.ways import WAYS, bring
from tests.standin.networks import own_network

DISK = Path("/mnt")
BY_NAME = {way.name: way for way in WAYS}
DATA = b"what must not be lost\n" * 100


def begin(name: str, point: str) -> None:
    way = BY_NAME[name]
    node = QuickNode(root=DISK / "node")
    node.seed()
    node.start()
    bring(node, way.begins_on)
    earlier = sorted(r["id"] for r in node.records())
    (DISK / "before").write_bytes(pickle.dumps((node.keys(), earlier)))
    os.sync()  # all but what the operation does is on the disk
    node.start_agent(f"pause {point}")
    way.begin(node)
    wait_for(lambda: f"{point} PAUSED\n" in node.trace_text(), f"the agent stands {point}")
    cut()


def cut() -> None:
    print("CUT", flush=True)
    time.sleep(3600)


def again(name: str) -> None:
    way = BY_NAME[name]
    before, earlier = pickle.loads((DISK / "before").read_bytes())
    root = DISK / "node"
    # The tests' own notes, which nobody synced.
    for note in ("trace", "journal.jsonl", "agent.log"):
        (root / note).unlink(missing_ok=True)
    node = QuickNode(root=root)
    found = record_of(node, set(earlier))
    print("on disk:", found and {s["name"]: s["status"] for s in found["steps"] if s["status"] != "pending"})
    try:
        node.power_returns()
        wait_for(lambda: settled(node, set(earlier)), "every operation has ended")
        node.stop_agent()
        record = record_of(node, set(earlier))
        outcome = look(node, way, before, record["id"] if record else None)
        rest_is_quiet(node)
    except BaseException:
        print(node.diagnosis())
        raise
    print("RESULT", json.dumps([outcome, bool(found), bool(found and found["committed"])]))
    node.systemd.stop()


def write() -> None:
    durable.write(DISK / "synced", DATA)
    (DISK / "not-synced").write_bytes(DATA)
    (DISK / "new").write_bytes(DATA)
    (DISK / "new").rename(DISK / "renamed")
    cut()


def read() -> None:
    whole = {n: (DISK / n).exists() and (DISK / n).read_bytes() == DATA for n in ("synced", "not-synced", "renamed")}
    print("RESULT", json.dumps(whole))


def main(what: str, *words: str) -> None:
    with own_network(ADDRESS):
        {"begin": begin, "look": again, "write": write, "read": read}[what](*words)


if __name__ == "__main__":
    main(*sys.argv[1:])
