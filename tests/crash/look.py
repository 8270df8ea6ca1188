"""Looking at what is left when an operation has ended: the promise, as assertions."""

from __future__ import annotations

import fcntl
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.crash.datastores import difference
from tests.crash.quick_node import RESCUE_TIMER, QuickNode, wait_for
from tests.crash.ways import Way


class Broken(AssertionError):
    """The promise does not hold."""


def look(node: QuickNode, way: Way, before: Mapping[bytes, bytes], operation: str | None) -> str:
    """Assert the end state; the outcome in words. ``operation`` None: it was never recorded."""
    record = node.record(operation) if operation is not None else None
    outcome = str(record["outcome"]) if record else "never begun"
    if outcome not in ("succeeded", "rolled_back", "never begun"):
        raise Broken(f"outcome {outcome}: {record['reason'] if record else ''}")
    if outcome == "succeeded" and way.ends != "succeeded":
        raise Broken(f"declared a success although {way.faults}")
    one_datastore(node, way.on_etcd_after(outcome), before)
    nothing_left(node)
    if record:
        truthful(record)
        chain(node.trace_text().splitlines(), [s["name"] for s in record["steps"]])
    return outcome


def one_datastore(node: QuickNode, on_etcd: bool, before: Mapping[bytes, bytes]) -> None:
    """Exactly one datastore is there, the right one, with the right keys, k3s on it and its configuration beside it."""
    if node.on_etcd() != on_etcd:
        raise Broken(f"on etcd: {node.on_etcd()}, expected: {on_etcd}")
    if (node.db / "state.db").exists() == on_etcd:
        raise Broken(f"on etcd: {on_etcd}, state.db exists: {not on_etcd}")
    # After a boot k3s may still be starting, when nothing had to be undone.
    state = wait_for(lambda: (found := node.k3s_state()) not in ("activating", "reloading") and found, "k3s is up")
    if state != "active":
        raise Broken(f"k3s.service is {state}")
    if node.drop_in.exists() != on_etcd:
        raise Broken(f"our drop-in exists: {node.drop_in.exists()}, on etcd: {on_etcd}")
    left = [name for name in ("state.db-wal", "state.db-shm", "state.db.migrated") if (node.db / name).exists()]
    if on_etcd and left:
        raise Broken(f"{left} are left in server/db")
    changed = difference(before, node.keys())
    if changed:
        raise Broken(changed)


def nothing_left(node: QuickNode) -> None:
    """No gate, no timer, no lock, no temporary file."""
    if node.gate.exists():
        raise Broken("the gate is still closed")
    if node.systemd.unit(RESCUE_TIMER).get("active_state", "inactive") != "inactive":
        raise Broken("the rescue is still armed")
    temporary = temporary_files(node)
    if temporary:
        raise Broken(f"temporary files are left: {temporary}")
    with (node.state / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Broken("somebody still holds the lock") from error


def temporary_files(node: QuickNode) -> list[Path]:
    places = (node.db, node.state, node.systemd.units, node.root / "etc")
    return [
        path
        for place in places
        for path in place.rglob("*")
        if (path.name.endswith((".tmp", ".part", ".rescue")) or path.name.startswith("."))
        and node.db / "etcd" not in path.parents  # etcd keeps a 0.tmp of its own
    ]


def truthful(record: Mapping[str, Any]) -> None:
    """The record says of every step what its outcome implies."""
    statuses = {s["status"] for s in record["steps"]}
    allowed = {"done"} if record["outcome"] == "succeeded" else {"undone", "pending"}
    if not statuses <= allowed:
        raise Broken(f"{record['outcome']}, but steps are {statuses}")
    if record["committed"] != (record["outcome"] == "succeeded"):
        raise Broken(f"committed: {record['committed']} with outcome {record['outcome']}")
    if record["phase"] != "finished" or record["rescue"] or not record["finished_at"] or not record["finished_by"]:
        raise Broken(f"{record['outcome']}, but {record['phase']}, rescue {record['rescue']}")


def chain(trace: Sequence[str], steps: Sequence[str]) -> None:
    """Steps begin in the order of the plan, and are undone in the reverse one; a resumption repeats only the last."""
    points = [" ".join(line.split()[1:3]) for line in trace if line.startswith("before ")]
    done = [steps.index(p.removeprefix("do ")) for p in points if p.startswith("do ")]
    undone = [steps.index(p.removeprefix("undo ")) for p in points if p.startswith("undo ")]
    for earlier, later in itertools.pairwise(done):
        if later not in (earlier, earlier + 1):
            raise Broken(f"{steps[later]} was begun after {steps[earlier]}")
    for earlier, later in itertools.pairwise(undone):
        if later not in (earlier, earlier - 1):
            raise Broken(f"{steps[later]} was undone after {steps[earlier]}")
    # Its record comes first: killed right after that, a step may be undone that was never begun.
    if done and undone and undone[0] > done[-1] + 1:
        raise Broken(f"{steps[undone[0]]} was undone and never begun")


def rest_is_quiet(node: QuickNode) -> None:
    """A further start of the agent, and a rescue that still fires, change nothing."""
    files = {path: path.read_bytes() for path in node.state.glob("operations/*/record.json")}
    passed, run = node.trace_text().count("\n"), node.systemd.unit("k3s.service")["main_pid"]
    node.start_agent()
    node.stop_agent()
    if {path: path.read_bytes() for path in files} != files or node.trace_text().count("\n") != passed:
        raise Broken("a second resumption did something")
    if not node.fire_rescue() or {path: path.read_bytes() for path in files} != files:
        raise Broken("a rescue that fired late did something")
    if node.systemd.unit("k3s.service")["main_pid"] != run:
        raise Broken("k3s was restarted for nothing")
