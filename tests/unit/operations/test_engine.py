"""The engine with small real steps on a real journal: order, undo, abort, commitment, cancellation."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest

from k3s_ha_agent.errors import AlreadyCommitted, RecordNotWritten, StepFailed, SystemdError
from k3s_ha_agent.model import Kind, Operation, Outcome, Phase, StepRecord, StepStatus, now
from k3s_ha_agent.operations.engine import Engine
from k3s_ha_agent.operations.journal import Journal
from k3s_ha_agent.operations.live_run import LiveRun
from k3s_ha_agent.operations.plan import Plan, Run


@dataclasses.dataclass
class Tape:
    """What was called, in order."""

    calls: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Act:
    name: str
    tape: Tape
    fails: str = ""
    """The act (do, verify, undo) that raises."""
    waits: bool = False
    undo_failures: int = 0
    resumable: bool = True
    on_disk: str = ""
    by_hand: str = ""

    async def _act(self, what: str) -> None:
        self.tape.calls.append(f"{what} {self.name}")
        if self.waits and what == "do":
            await asyncio.Event().wait()
        if self.fails == what:
            raise StepFailed(f"{what} of {self.name} failed.")

    async def do(self, run: Run) -> None:
        await self._act("do")

    async def verify(self, run: Run) -> None:
        await self._act("verify")

    async def undo(self, run: Run) -> None:
        if self.undo_failures:
            self.undo_failures -= 1
            self.tape.calls.append(f"undo {self.name} failed")
            raise OSError("once more")
        await self._act("undo")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between attempts are data, not behaviour."""
    monkeypatch.setattr("k3s_ha_agent.operations.engine.UNDO_PAUSES", (0.0, 0.0))
    monkeypatch.setattr("k3s_ha_agent.operations.engine.FINISH_PAUSE", 0.0)
    monkeypatch.setattr("k3s_ha_agent.operations.live_run.RECORD_PAUSES", (0.0, 0.0, 0.0))


def make(tmp_path: Path, *acts: Act, commitment: str = "c") -> tuple[Engine, Plan, LiveRun, Journal]:
    plan = Plan(Kind.MIGRATE, tuple(acts), commitment)
    journal = Journal(tmp_path)
    operation = Operation("op1", Kind.MIGRATE, {}, now(), tuple(StepRecord(a.name) for a in acts))
    journal.save(operation)
    engine = Engine(journal, lambda operation, event: None, undo_timeout=30.0)
    return engine, plan, engine.live(operation), journal


async def test_forward_in_order_and_committed(tmp_path: Path) -> None:
    tape = Tape()
    engine, plan, run, journal = make(tmp_path, Act("a", tape), Act("c", tape), Act("z", tape))
    await engine.run(plan, run)
    assert tape.calls == ["do a", "verify a", "do c", "verify c", "do z", "verify z"]
    saved = journal.load("op1")
    assert (saved.outcome, saved.phase, saved.committed) == (Outcome.SUCCEEDED, Phase.FINISHED, True)
    assert {s.status for s in saved.steps} == {StepStatus.DONE}


@pytest.mark.parametrize("what", ["do", "verify"])
async def test_failing_step_undoes_itself_first_then_those_before(tmp_path: Path, what: str) -> None:
    tape = Tape()
    acts = (Act("a", tape), Act("b", tape, fails=what), Act("c", tape))
    engine, plan, run, journal = make(tmp_path, *acts)
    await engine.run(plan, run)
    assert [c for c in tape.calls if c.startswith("undo")] == ["undo b", "undo a"]
    assert "do c" not in tape.calls
    saved = journal.load("op1")
    assert saved.outcome is Outcome.ROLLED_BACK
    assert saved.reason == f"{what} of b failed."
    assert saved.failed_evidence == ("b",)
    assert saved.step("c").status is StepStatus.PENDING


async def test_record_is_durable_before_each_act(tmp_path: Path) -> None:
    """At the moment an act begins, the record on disk already says so."""
    tape, seen = Tape(), []

    class Looking(Act):
        async def _act(self, what: str) -> None:
            record = json.loads((tmp_path / "operations/op1/record.json").read_text())
            status = next(s["status"] for s in record["steps"] if s["name"] == self.name)
            seen.append((what, self.name, status))
            await super()._act(what)

    engine, plan, run, _ = make(tmp_path, Looking("a", tape), Looking("b", tape, fails="do"), Act("c", tape))
    await engine.run(plan, run)
    assert seen == [
        ("do", "a", "doing"),
        ("verify", "a", "doing"),
        ("do", "b", "doing"),
        ("undo", "b", "undoing"),
        ("undo", "a", "undoing"),
    ]


async def test_nothing_is_undone_after_the_commitment(tmp_path: Path) -> None:
    tape = Tape()
    engine, plan, run, journal = make(tmp_path, Act("c", tape), Act("y", tape, fails="do"), Act("z", tape))
    await engine.run(plan, run)
    assert not [c for c in tape.calls if c.startswith("undo")]
    saved = journal.load("op1")
    assert saved.outcome is Outcome.SUCCEEDED
    assert saved.step("y").status is StepStatus.FAILED
    assert saved.step("z").status is StepStatus.DONE
    assert saved.reason is not None and "y" in saved.reason


async def test_abort_ends_a_waiting_step_and_undoes(tmp_path: Path) -> None:
    tape = Tape()
    engine, plan, run, journal = make(tmp_path, Act("a", tape), Act("b", tape, waits=True), Act("c", tape))
    task = asyncio.create_task(engine.run(plan, run))
    while "do b" not in tape.calls:
        await asyncio.sleep(0.01)
    run.abort.set()
    await task
    assert journal.load("op1").outcome is Outcome.ROLLED_BACK
    assert [c for c in tape.calls if c.startswith("undo")] == ["undo b", "undo a"]


@pytest.mark.parametrize("point", ["before do c", "before verify c", "after verify c", "after record"])
async def test_an_abort_is_promised_or_refused(tmp_path: Path, point: str) -> None:
    """Never promised and then committed, although writing either takes a while."""
    asked: list[asyncio.Task[None]] = []
    passed: list[str] = []

    def ask(at: str) -> None:
        passed.append(at)
        # "after record" is the last one: that of the commitment.
        if at == point and not asked and (at != "after record" or "after verify c" in passed):
            asked.append(asyncio.create_task(run.request_abort(None)))

    _, plan, _, journal = make(tmp_path, Act("a", Tape()), Act("c", Tape()), Act("z", Tape()))
    engine = Engine(journal, lambda operation, event: None, undo_timeout=30.0, observer=ask)
    run = engine.live(journal.load("op1"))
    await engine.run(plan, run)
    refused = (await asyncio.gather(asked[0], return_exceptions=True))[0]
    assert refused is None or isinstance(refused, AlreadyCommitted)
    promised = refused is None
    assert promised == (point in ("before do c", "before verify c"))
    assert journal.load("op1").outcome is (Outcome.ROLLED_BACK if promised else Outcome.SUCCEEDED)


@pytest.mark.parametrize("point", ["after do a", "before do b", "after do b", "after verify b"])
async def test_no_abort_where_there_is_no_way_back(tmp_path: Path, point: str) -> None:
    """Refused from the moment its beginning is on record; promised before, and then it is not begun."""
    asked: list[asyncio.Task[None]] = []
    tape = Tape()

    def ask(at: str) -> None:
        if at == point:
            asked.append(asyncio.create_task(run.request_abort("b")))

    _, plan, _, journal = make(tmp_path, Act("a", tape), Act("b", tape), Act("c", tape))
    plan = dataclasses.replace(plan, no_way_back="b")
    engine = Engine(journal, lambda operation, event: None, undo_timeout=30.0, observer=ask)
    run = engine.live(journal.load("op1"))
    await engine.run(plan, run)
    refused = (await asyncio.gather(asked[0], return_exceptions=True))[0]
    assert (refused is None) == (point == "after do a") == ("do b" not in tape.calls)
    if refused is not None:
        assert isinstance(refused, AlreadyCommitted)
        assert "can only be finished" in refused.detail
    assert journal.load("op1").outcome is (Outcome.ROLLED_BACK if refused is None else Outcome.SUCCEEDED)


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "no way back"])
async def test_an_abort_on_record_that_came_too_late_is_passed_over(tmp_path: Path, committed: bool) -> None:
    """Resumed with such a record it is finished, not left half tidied or half left."""
    tape = Tape()
    engine, plan, run, journal = make(tmp_path, Act("a", tape), Act("b", tape), Act("z", tape), commitment="b")
    plan = dataclasses.replace(plan, no_way_back=None if committed else "b")
    steps = (StepRecord("a", StepStatus.DONE), StepRecord("b", StepStatus.DONE if committed else StepStatus.DOING))
    await run.save(abort_requested=True, committed=committed, steps=(*steps, StepRecord("z")))
    await engine.run(plan, engine.live(journal.load("op1")))
    saved = journal.load("op1")
    assert (saved.outcome, saved.committed) == (Outcome.SUCCEEDED, True)
    assert [step.status for step in saved.steps] == [StepStatus.DONE] * 3
    assert not [call for call in tape.calls if call.startswith("undo")]


async def test_deadline_ends_a_waiting_step(tmp_path: Path) -> None:
    tape = Tape()
    engine, plan, run, journal = make(tmp_path, Act("b", tape, waits=True), Act("c", tape))
    await run.set_deadline(0.1)
    await engine.run(plan, run)
    saved = journal.load("op1")
    assert saved.outcome is Outcome.ROLLED_BACK
    assert saved.reason is not None and "deadline" in saved.reason


async def test_being_cancelled_changes_nothing(tmp_path: Path) -> None:
    """SIGTERM is neither a failure nor an undo."""
    tape = Tape()
    engine, plan, run, journal = make(tmp_path, Act("a", tape), Act("b", tape, waits=True), Act("c", tape))
    task = asyncio.create_task(engine.run(plan, run))
    while "do b" not in tape.calls:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [c for c in tape.calls if c.startswith("undo")]
    saved = journal.load("op1")
    assert (saved.phase, saved.outcome, saved.step("b").status) == (Phase.DOING, None, StepStatus.DOING)


async def test_undo_is_tried_again(tmp_path: Path) -> None:
    tape = Tape()
    engine, plan, run, journal = make(
        tmp_path, Act("a", tape, undo_failures=2), Act("b", tape, fails="do"), Act("c", tape)
    )
    await engine.run(plan, run)
    assert journal.load("op1").outcome is Outcome.ROLLED_BACK
    assert tape.calls[-3:] == ["undo a failed", "undo a failed", "undo a"]


async def test_undo_that_keeps_failing_stops_there(tmp_path: Path) -> None:
    tape = Tape()
    engine, plan, run, journal = make(
        tmp_path, Act("a", tape), Act("b", tape, undo_failures=9), Act("c", tape, fails="do")
    )
    await engine.run(plan, run)
    saved = journal.load("op1")
    assert saved.outcome is Outcome.ROLLBACK_FAILED
    assert saved.step("b").status is StepStatus.UNDO_FAILED
    assert saved.step("a").status is StepStatus.DONE, "what lies before the failed undo must stay as it is"
    assert saved.reason is not None and "Undoing b failed" in saved.reason


async def test_false_evidence_is_named_and_undoes(tmp_path: Path) -> None:
    tape = Tape()

    class Prove(Act):
        async def do(self, run: Run) -> None:
            run.evidence("first", True, "fine")
            run.evidence("data-equal", False, "3 keys missing", "none")

    engine, plan, run, journal = make(tmp_path, Prove("p", tape), Act("c", tape))
    await engine.run(plan, run)
    saved = journal.load("op1")
    assert saved.outcome is Outcome.ROLLED_BACK
    assert saved.failed_evidence == ("data-equal",)
    assert [(e.name, e.ok) for e in saved.evidence] == [("first", True), ("data-equal", False)]


async def test_resumed_run_skips_what_is_done(tmp_path: Path) -> None:
    tape = Tape()
    engine, plan, run, journal = make(tmp_path, Act("a", tape), Act("b", tape), Act("c", tape))
    await run.mark("a", StepStatus.DONE)
    await engine.run(plan, engine.live(journal.load("op1")))
    assert tape.calls[0] == "do b"


async def test_a_record_that_cannot_be_written_stops_everything(tmp_path: Path) -> None:
    """No act after a failed durable write."""
    tape = Tape()
    engine, plan, run, _ = make(tmp_path, Act("a", tape), Act("c", tape))
    directory = tmp_path / "operations/op1"
    (directory / "record.json").unlink()
    directory.rmdir()
    directory.write_text("a file where the directory was")
    with pytest.raises(RecordNotWritten, match="op1"):
        await engine.run(plan, run)
    assert tape.calls == []


async def test_a_record_that_cannot_be_written_while_undoing_stops_everything(tmp_path: Path) -> None:
    tape = Tape()
    directory = tmp_path / "operations/op1"

    class Breaking(Act):
        async def undo(self, run: Run) -> None:
            await super().undo(run)
            directory.rename(tmp_path / "gone")
            directory.write_text("a file where the directory was")

    engine, plan, run, _ = make(tmp_path, Act("a", tape), Breaking("b", tape, fails="do"), Act("c", tape))
    with pytest.raises(RecordNotWritten):
        await engine.run(plan, run)
    assert [c for c in tape.calls if c.startswith("undo")] == ["undo b"]
    assert run.operation.outcome is None


async def test_a_record_is_tried_again_before_anything_else_is_done(tmp_path: Path) -> None:
    """The disk takes the record at the third try: nothing is undone for that, and no act came before it."""
    tape = Tape()
    directory, aside = tmp_path / "operations/op1", tmp_path / "aside"
    passed: list[str] = []
    plan = Plan(Kind.MIGRATE, (Act("a", tape), Act("c", tape)), "c")

    class Healing(Journal):
        def save(self, operation: Operation) -> None:
            try:
                super().save(operation)
            except OSError:
                passed.append(f"failed after {len(tape.calls)} calls")
                if len(passed) == 2:
                    directory.unlink()
                    aside.rename(directory)
                raise

    journal = Healing(tmp_path)
    journal.save(Operation("op1", Kind.MIGRATE, {}, now(), (StepRecord("a"), StepRecord("c"))))
    engine = Engine(journal, lambda operation, event: None, undo_timeout=30.0)
    run = engine.live(journal.load("op1"))
    directory.rename(aside)
    directory.write_text("a file where the directory was")
    await engine.run(plan, run)
    assert passed == ["failed after 0 calls"] * 2
    assert journal.load("op1").outcome is Outcome.SUCCEEDED


async def test_undo_waits_for_systemd_to_come_back(tmp_path: Path) -> None:
    """What does not answer may answer again: more attempts than for a failure that will stay."""
    tape = Tape()

    class Silent(Act):
        silent = 7

        async def undo(self, run: Run) -> None:
            if self.silent:
                self.silent -= 1
                raise SystemdError("systemd did not answer.", dbus_error="org.freedesktop.DBus.Error.NoReply")
            await super().undo(run)

    engine, plan, run, journal = make(tmp_path, Silent("a", tape), Act("b", tape, fails="do"), Act("c", tape))
    await engine.run(plan, run)
    assert journal.load("op1").outcome is Outcome.ROLLED_BACK
    assert tape.calls[-1] == "undo a"
