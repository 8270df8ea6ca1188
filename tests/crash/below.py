"""Below the process: an operation whose agent is struck at a chosen system call, by death or by a failing disk.

The calls are learnt by an undisturbed walk; ``chosen`` keeps all but the many that are alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator

from tests.crash.look import Broken, look, rest_is_quiet
from tests.crash.matrix import Result, Station, Strike, record_of, settled
from tests.crash.quick_node import QuickNode, wait_for
from tests.crash.syscalls import Injection, careless, numbered, parse, strace, traced_agent, unsynced
from tests.crash.ways import Way

ALIKE = {"pre-image-files": 25, "record": 8, "log": 0, "other": 0}
"""Of this kind of file only every n-th call (0: none)."""
ALIKE_CALLS = {"at pwrite64 pre-image": 120, "at unlink pre-image": 8}
ERRORS = {"fsync": "EIO", "rename": "EIO", "unlink": "EIO", "rmdir": "EIO", "write": "ENOSPC", "mkdir": "ENOSPC"}
"""How each call may fail; the others fail as ENOSPC."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    injection: Injection
    kind: str

    def __str__(self) -> str:
        return f"at {self.injection.name} {self.kind}"


def at_call(injection: Injection | None) -> Strike:
    """The agent dies, or its disk fails, at a system call; None: it is only watched.

    On a server the agent has worked on before, so that the n-th call is the same one in every walk.
    """

    @contextlib.contextmanager
    def strike(node: QuickNode) -> Iterator[None]:
        for directory in (node.state / "backups", node.data / "k3s-ha-agent/quarantine"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = node.root / "calls"
        log.unlink(missing_ok=True)
        with traced_agent(node, log, injection):
            yield

    return strike


def learn_calls(place: Station, way: Way) -> list[Place]:
    """The changing calls of a way from its first record on; each change synced before a record relies on it."""
    with place.at(way) as node:
        before = node.keys()
        with at_call(None)(node):
            operation = way.begin(node)
            ended = node.finish(operation)
            node.stop_agent()
        if ended["outcome"] != way.ends:
            raise Broken(f"{way.name} ended as {ended['outcome']}: {ended['reason']}")
        look(node, way, before, operation)
        calls = parse((node.root / "calls").read_text())
        if found := unsynced(calls, node.root):
            raise Broken(f"{way.name}: {found}")
        first = next(i for i, call in enumerate(calls) if any(f"operations/{operation}" in p for p in call.paths))
        return [Place(injection, kind) for injection, kind in numbered(calls, node.root, first)]


def chosen(places: list[Place]) -> list[Place]:
    """All places but those of which there are many alike; of these every n-th."""
    seen: dict[str, int] = {}
    kept = []
    for place in places:
        every = ALIKE.get(place.kind, 1)
        every = max(every, ALIKE_CALLS.get(str(place), 1)) if every else 0
        number = seen[str(place)] = seen.get(str(place), -1) + 1
        if every and number % every == 0:
            kept.append(place)
    return kept


def failing(place: Place, lasting: bool) -> Injection:
    return dataclasses.replace(place.injection, error=ERRORS.get(place.injection.name, "ENOSPC"), lasting=lasting)


def fail(place: Station, way: Way, where: Place, lasting: bool) -> Result:
    """Let a call fail, once or from then on; the operation ends proven or is loudly unfinished, and a healthy disk
    and a rescue are enough to end it."""
    injection = failing(where, lasting)
    with place.at(way) as node:
        before, earlier = node.keys(), {r["id"] for r in node.records()}
        said = len(_log(node))
        with at_call(injection)(node):
            status = way.ask(node)
            wait_for(lambda: _ended(node, earlier) or _gave_up(node, said), f"{way.name} ends, {injection}")
            calls = parse((node.root / "calls").read_text())
            node.stop_agent()
        if not any(call.injected for call in calls):
            return Result(way.name, "error", str(where), False, None, "missed")
        found = careless(calls, node.root)
        if found:
            raise Broken(f"{injection}: {found}")
        outcome = _heal(node, way, earlier, said, before)
        if status == 202 and outcome == "never begun":
            raise Broken("an operation was promised and is not recorded")
        return Result(way.name, injection.error + (" lasting" if lasting else ""), str(where), True, None, outcome)


def _heal(node: QuickNode, way: Way, earlier: set[str], said: int, before: dict[bytes, bytes]) -> str:
    """The disk is well again: the agent, and after a failed rollback the rescue, end the operation."""
    if _ended(node, earlier):
        node.trace.unlink(missing_ok=True)  # what is tidied up now comes after steps that could be done
    node.start_agent()
    wait_for(lambda: settled(node, earlier), "every operation has ended")
    node.stop_agent()
    record = record_of(node, earlier)
    failed = record is not None and record["outcome"] == "rollback_failed"
    if failed:
        if "FAILED and this server needs a person" not in _log(node)[said:]:
            raise Broken("a rollback failed and nobody was told")
        if not node.fire_rescue():
            raise Broken("the rescue did not help after the fault was gone")
    outcome = look(node, way, before, record["id"] if record else None)
    rest_is_quiet(node)
    return f"{outcome} by the rescue after a failed rollback" if failed else outcome


def _log(node: QuickNode) -> str:
    path = node.root / "agent.log"
    return path.read_text() if path.exists() else ""


def _ended(node: QuickNode, earlier: set[str]) -> bool:
    """Every operation has ended; what is committed may not be tidied up while the disk fails."""
    records = [r for r in node.records() if r["id"] not in earlier]
    return all(r["outcome"] is not None and r["phase"] == "finished" for r in records)


def _gave_up(node: QuickNode, said: int) -> bool:
    """The agent has said that it cannot go on, and the rescue, if it called one, has ended."""
    text = _log(node)[said:]
    calls = any(r["rescue"] and not r["committed"] for r in node.records() if r["outcome"] is None)
    return "stopped: " in text and (not calls or "The rescue has ended" in text or "The rescue ended as" in text)


# --- the rescue ----------------------------------------------------------------------------------


def rescue_relay(node: QuickNode, name: str, error: str = "", check: Callable[[], None] = lambda: None) -> int:
    """Rescues that are struck one after the other at their first, second, … call of a name, until one runs clean;
    how many were struck. The state of the node moves on with each. ``check`` is called after each."""
    log = node.root / "rescue-calls"
    for number in range(1, 100):
        injection = Injection(name, number, error)
        log.unlink(missing_ok=True)
        done = node.run_rescue(wrap=strace(log, injection))
        calls = parse(log.read_text())
        found = careless(calls, node.root)
        if found:
            raise Broken(f"the rescue, {injection}: {found}")
        struck = any(c.injected for c in calls) if error else done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        if not struck:
            if found := unsynced(calls, node.root):
                raise Broken(f"the rescue: {found}")
            if done.returncode != 0:
                raise Broken(f"the rescue failed though nothing was done to it: {done.stdout}")
            return number - 1
        check()
    raise Broken("the rescue never ran clean")


def in_need(node: QuickNode, way: Way, point: str) -> None:
    """Leave the node as an agent leaves it that dies at a point and does not come back."""
    node.start_agent(point)
    way.begin(node)
    wait_for(lambda: not node.agent_lives(), f"the agent's death {point}")
