"""The durable records: one directory per operation, one JSON document that is replaced whole.

``<state_dir>/operations/<id>/record.json`` is the truth about an operation. ``events.jsonl`` beside
it is what ``/events`` replays; it is appended without a sync, because losing its tail loses no
decision. Everything here blocks; the engine calls it in a thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import NotFound, RecordUnreadable
from k3s_ha_agent.model import Event, Operation, operation_from_record, operation_to_record, to_json


class Journal:
    """Records below ``<state_dir>/operations``."""

    def __init__(self, state_dir: Path) -> None:
        self.directory = state_dir / "operations"
        self._made: set[str] = set()
        """Operations whose directory this process has made durable."""

    def record_path(self, operation_id: str) -> Path:
        return self.directory / operation_id / "record.json"

    def prepare(self) -> None:
        durable.make_directory(self.directory)

    def remove_never_begun(self) -> None:
        """Remove the directories of operations that have no record: the first one was cut off, perhaps with a token
        beside it. Only under the lock."""
        for directory in self.directory.iterdir():
            if directory.is_dir() and not (directory / "record.json").exists():
                for name in ("record.json", "token"):
                    durable.remove(directory / name)
                durable.remove_directory_if_empty(directory)

    def save(self, operation: Operation) -> None:
        """Replace the record; on return it survives a power failure. OSError when it cannot."""
        path = self.record_path(operation.id)
        if operation.id not in self._made:
            durable.make_directory(path.parent)
            self._made.add(operation.id)
        text = json.dumps(operation_to_record(operation), indent=1, sort_keys=True)
        durable.write(path, text.encode() + b"\n")

    def discard(self, operation_id: str) -> None:
        """Take back the first record of an operation: it could not be made durable, and nobody was promised it."""
        durable.remove(self.record_path(operation_id))

    def load(self, operation_id: str) -> Operation:
        """One record. NotFound, or RecordUnreadable when it is damaged or of another format."""
        path = self.record_path(operation_id)
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"There is no operation {operation_id!r}.") from error
        try:
            return operation_from_record(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise RecordUnreadable(
                f"The record {path} cannot be read ({type(error).__name__}: {error}).",
                next_step=f"Nothing is started or undone until this is settled; look at {path.parent}, "
                "then see docs/runbook.md#record-unreadable.",
            ) from error

    def load_all(self) -> list[Operation]:
        """Every record, oldest first. RecordUnreadable when one cannot be read: unknown is not empty.

        A directory without a record is an operation that was never begun (the power failed before
        its first record), and is passed over.
        """
        if not self.directory.is_dir():
            return []
        found = [self.load(d.name) for d in self.directory.iterdir() if (d / "record.json").exists()]
        return sorted(found, key=lambda o: (o.created_at, o.id))

    # --- events ------------------------------------------------------------------------------

    def _events_path(self, operation_id: str) -> Path:
        return self.directory / operation_id / "events.jsonl"

    def append_event(self, operation_id: str, event: Event) -> None:
        path = self._events_path(operation_id)
        with path.open("ab") as file:
            file.write(json.dumps(to_json(event), sort_keys=True).encode() + b"\n")

    def events(self, operation_id: str) -> Iterator[Event]:
        """Events in order; a last line torn by a power failure is passed over."""
        try:
            lines = self._events_path(operation_id).read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield Event(**json.loads(line))
            except (ValueError, TypeError):
                continue
