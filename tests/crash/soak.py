"""One round of the soak: an operation, and what happens to it, by the dice; then a look at what is left."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping

from tests.crash import look
from tests.crash.datastores import Keys
from tests.crash.look import Broken
from tests.crash.matrix import Station, settled
from tests.crash.quick_node import K3S, QuickNode, wait_for
from tests.crash.ways import DISCARD, Way
from tests.crash.writer import Writer

SPEED: Mapping[str, object] = {"put_delay": 0.002}
"""So that some of it happens in the copy."""
LAST_POINT = 130
KEYS = 340
ROWS = b"/registry/configmaps/default/soak-"
"""What is written during rounds begins with this and the datastore that took it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Blow:
    """Something that happens ``after`` the engine's n-th point, and ``seconds`` more."""

    what: str
    after: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    way: Way
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        return f"{self.way.name}; " + ", then ".join(
            f"{b.what} after {b.after} + {b.seconds:.2f} s" for b in self.blows
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    outcome: str
    hit: tuple[str, ...]
    """Blows that fell while the operation was not finished."""
    rows: int
    """Acknowledged during the round."""


def throw(dice: random.Random) -> Round:
    faults: Mapping[str, Mapping[str, object]] = {
        "k3s dies in the copy": {"die_after_keys": dice.randrange(1, KEYS), "once": True},
        "a key is left out": {"skip_key_number": dice.randrange(1, KEYS)},
        "a value differs": {"alter_key_number": dice.randrange(1, KEYS)},
    }
    if dice.random() < 0.5:
        fault = dice.choice(("", "", "", *faults))
        way = Way("migrate", "migrate", "sqlite", "rolled_back" if fault else "succeeded", faults=faults.get(fault, {}))
    else:
        fault = dice.choice(("", "", "k3s cannot open SQLite"))
        bad = {"exit_at": "sqlite-open"} if fault else {}
        way = Way("rollback", "rollback", "etcd", "rolled_back" if fault else "succeeded", DISCARD, faults=bad)
    blows = sorted(
        (
            Blow(dice.choice(tuple(BLOWS)), dice.randrange(1, LAST_POINT), dice.choice((0.0, dice.random() * 0.4)))
            for _ in range(dice.choice((1, 1, 2, 3)))
        ),
        key=lambda blow: blow.after,
    )
    return Round(dataclasses.replace(way, name=f"{way.name}, {fault}" if fault else way.name), tuple(blows))


# --- what may happen -------------------------------------------------------------------------------


def _agent_killed(node: QuickNode, _: str) -> None:
    node.stop_agent(signal.SIGKILL)
    node.start_agent()


def _agent_stopped(node: QuickNode, _: str) -> None:
    node.stop_agent()
    node.start_agent()


def _k3s_killed(node: QuickNode, _: str) -> None:
    if not node.kill_k3s():
        raise Missed


def _k3s_restarted(node: QuickNode, _: str) -> None:
    node.try_systemctl("restart", "--no-block", K3S)


def _aborted(node: QuickNode, operation: str) -> None:
    status, answer = node.api("POST", f"/v1/operations/{operation}/abort")
    if status != 202 and answer["code"] not in ("already-committed", "conflict", "unavailable"):
        raise Broken(f"abort: {status} {answer}")
    if not answer.get("abort_requested"):  # it is past the commitment, or on its way back already
        raise Missed


def _rescue(node: QuickNode, _: str) -> None:
    node.stop_agent(signal.SIGKILL)
    if not node.fire_rescue():
        raise Broken("the rescue did not bring the node back")
    node.start_agent()


def _reboot(node: QuickNode, _: str) -> None:
    node.power_fails()
    node.power_returns()


class Missed(Exception):
    """There was nothing to hit."""


BLOWS: Mapping[str, Callable[[QuickNode, str], None]] = {
    "agent killed": _agent_killed,
    "agent stopped": _agent_stopped,
    "k3s killed": _k3s_killed,
    "k3s restarted": _k3s_restarted,
    "aborted": _aborted,
    "agent killed, rescue": _rescue,
    "reboot": _reboot,
}
HARMLESS = {"agent killed", "agent stopped"}
"""Never a reason to go back: later is not undo."""


# --- a round -----------------------------------------------------------------------------------------


def play(place: Station, this: Round, name: str, quiet: bool) -> Ended:
    """``name`` is in the rows of this round; ``quiet``: look also whether a further start changes nothing."""
    with place.at(this.way) as node, _slowed(node):
        before, earlier = node.keys(), {r["id"] for r in node.records()}
        node.start_agent()
        with Writer(node, f"soak-{this.way.begins_on}-{name}") as writer:
            operation = this.way.begin(node)
            hit = tuple(blow.what for blow in this.blows if operation and _falls(node, blow, operation))
            wait_for(lambda: not node.agent_lives() or settled(node, earlier), "every operation has ended")
        if operation is None or not node.agent_lives():
            raise Broken("the agent died by itself")
        node.stop_agent()
        record = node.record(operation)
        outcome = record["outcome"]
        if outcome not in ("succeeded", "rolled_back"):
            raise Broken(f"{outcome}: {record['reason']}")
        rows_are_there(node, before, writer, given_up=outcome == "succeeded" and this.way.begins_on == "etcd")
        expected = {k: v for k, v in before.items() if not k.startswith(ROWS)} | rows_of(node.keys())
        look.one_datastore(node, this.way.on_etcd_after(outcome), expected)
        look.nothing_left(node)
        look.truthful(record)
        look.chain(node.trace_text().splitlines(), [s["name"] for s in record["steps"]])
        if "aborted" in hit and outcome != "rolled_back":
            raise Broken(f"ended as {outcome} although the abort was promised")
        if set(hit) <= HARMLESS and outcome != this.way.ends:
            raise Broken(f"ended as {outcome} after {hit}, expected {this.way.ends}: {record['reason']}")
        if quiet:
            look.rest_is_quiet(node)
        return Ended(outcome, hit, len(writer.acknowledged))


def rows_of(keys: Keys) -> Keys:
    return {k: v for k, v in keys.items() if k.startswith(ROWS)}


def rows_are_there(node: QuickNode, before: Keys, writer: Writer, *, given_up: bool) -> None:
    """Every acknowledged row; ``given_up``: but for those etcd took, which the rollback was told to discard."""
    wait_for(lambda: node.k3s_state() not in ("activating", "reloading"), "k3s is up")
    keys = node.keys()
    earlier = {k: v for k, v in rows_of(before).items() if not (given_up and k.startswith(ROWS + b"etcd-"))}
    lost = [k.decode() for k, v in earlier.items() if keys.get(k) != v]
    lost += [] if given_up else writer.lost(keys)
    if lost:
        raise Broken(f"{len(lost)} of {len(earlier) + len(writer.acknowledged)} acknowledged rows are lost: {lost[:3]}")


def _falls(node: QuickNode, blow: Blow, operation: str) -> bool:
    """Wait for its moment; whether it fell while the operation was not finished."""

    def over() -> bool:
        return not node.agent_lives() or bool(node.record(operation)["phase"] == "finished")

    wait_for(lambda: over() or node.trace_text().count("\n") >= blow.after, f"point {blow.after}")
    time.sleep(blow.seconds)
    if over():
        return False
    try:
        BLOWS[blow.what](node, operation)
    except Missed:
        return False
    return True


@contextlib.contextmanager
def _slowed(node: QuickNode) -> Iterator[None]:
    usual, node.speed = node.speed, {**node.speed, **SPEED}
    try:
        yield
    finally:
        node.speed = usual
