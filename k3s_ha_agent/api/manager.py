"""What the API needs from the one who runs operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from k3s_ha_agent.model import CheckResult, ClusterView, Event, Kind, NodeState, Operation


class OperationManager(Protocol):
    """Runs operations and answers questions about them.

    Methods without ``async`` answer from memory and do not block. What cannot be done is raised as
    an ``AgentError``; anything else that escapes is answered as a bug.
    """

    async def submit(
        self, kind: Kind, body: Mapping[str, Any], /, *, requested_by: str, idempotency_key: str | None
    ) -> tuple[Operation, bool]:
        """Begin an operation, durable before this returns.

        The second value is True when the operation was begun earlier under the same key. Raises
        PreflightFailed (with ``checks``), OperationInProgress (with ``operation``), InvalidBody,
        IdempotencyKeyReused, LostWritesNotConfirmed, Conflict or NotImplementedYet.
        """

    async def dry_run(self, kind: Kind, body: Mapping[str, Any], /) -> Mapping[str, Any]:
        """The plan with its estimates, as JSON values; nothing is changed. Raises as ``submit``."""

    async def preflight(self, kind: Kind, /) -> Sequence[CheckResult]:
        """Every check made now. NotImplementedYet when this kind cannot be done yet."""

    def get(self, operation_id: str, /) -> Operation:
        """NotFound when there is none."""

    def list(self) -> Sequence[Operation]:
        """Newest first."""

    def running(self) -> Operation | None: ...

    async def wait(self, operation_id: str, timeout: float, /) -> Operation | None:
        """The finished operation, None when it has not finished after ``timeout`` seconds."""

    async def abort(self, operation_id: str, /, *, requested_by: str) -> Operation:
        """Raises NotFound, AlreadyCommitted, or Conflict when the operation has finished."""

    def events(self, operation_id: str, after: int = 0, /) -> AsyncIterator[Event]:
        """Events with an id above ``after``; ends after the ``finished`` one."""

    async def status(self) -> NodeState: ...

    async def members(self) -> ClusterView:
        """The members of this server's cluster as it sees them; no members where there is no etcd."""

    async def backups(self) -> Sequence[Mapping[str, Any]]:
        """Kept pre-images, newest first, as JSON values; nothing of their content.

        Each with ``operation``, ``path``, ``sealed``, ``bytes``, ``created_at`` and ``outcome`` (None when
        nothing is known of the operation any more), ``k3s_version``, and ``needed``: something could still
        have to be brought back from it.
        """

    async def backup(self, operation_id: str, /, *, verify: bool) -> Mapping[str, Any]:
        """One of them, with ``verified`` (None when not asked for) and ``problem``. NotFound."""

    async def remove_backup(self, operation_id: str, /) -> Mapping[str, Any]:
        """Remove one that is not needed; returns what it was.

        Raises NotFound, Conflict when it is needed, OperationInProgress or LockHeld.
        """
