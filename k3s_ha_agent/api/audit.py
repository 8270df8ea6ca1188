"""The audit log: who asked for which change, and what came of it. Append-only, one JSON object a line.

Each change has two entries with one ``id``: ``asked``, on disk before anything is done, and ``answered``,
on disk before the answer is sent. When the first cannot be written nothing is done. An ``asked`` without
its ``answered`` is an agent that was killed, or a disk that was full, in between: the operation's own
record says what became of it. No bodies are written here, and so no secrets.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import threading
from pathlib import Path
from typing import Any

import structlog

from k3s_ha_agent import durable
from k3s_ha_agent.api.access import Caller
from k3s_ha_agent.errors import AuditUnavailable
from k3s_ha_agent.host.messages import Message
from k3s_ha_agent.model import now

log = structlog.get_logger("k3s_ha_agent.api")


class AuditLog:
    def __init__(self, path: Path) -> None:
        self._path = path
        # Entries come from threads; a line is never inside another.
        self._writing = threading.Lock()

    async def asked(self, caller: Caller, method: str, path: str) -> str:
        """Write that a change is asked for; the id of the entry. AuditUnavailable when it cannot be written."""
        identity = secrets.token_hex(8)
        entry = {"event": "asked", "who": caller.name, "via": caller.via, "pid": caller.pid or None}
        try:
            await self._write({"id": identity, **entry, "method": method, "path": path})
        except OSError as error:
            log.error(
                f"The audit log {self._path} cannot be written, so nothing is changed: {error}.",
                message_id=Message.AUDIT_UNWRITABLE,
            )
            raise AuditUnavailable(
                f"The audit log {self._path} cannot be written ({error.strerror}), so nothing was done.",
                next_step="Make room on its file system, or look at its mode and attributes: lsattr, ls -l.",
            ) from error
        return identity

    async def answered(self, identity: str, *, status: int, code: str | None, operation: str | None) -> None:
        """Write what came of it. What was done is done: when this cannot be written it is said aloud only."""
        entry = {"id": identity, "event": "answered", "status": status, "code": code, "operation": operation}
        try:
            await self._write(entry)
        except OSError as error:
            log.critical(
                f"What came of {identity} cannot be written to the audit log {self._path}: {error}.",
                status=status,
                code=code,
                operation=operation,
                message_id=Message.AUDIT_UNWRITABLE,
            )

    async def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"time": now(), **entry}, ensure_ascii=True).encode() + b"\n"
        await asyncio.to_thread(self._append, line)

    def _append(self, line: bytes) -> None:
        with self._writing:
            durable.append(self._path, (b"" if self._ends_whole() else b"\n") + line)

    def _ends_whole(self) -> bool:
        """False when a power failure or a full disk cut the last line off."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) == 0:
                    return True
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
        except FileNotFoundError:
            return True
