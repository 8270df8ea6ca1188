"""One class per problem a caller can meet.

Each class fixes three things once, so that the API, the command line and the documentation
cannot drift apart: the stable ``code`` of the problem document, the HTTP status, and the exit
code of ``k3s-ha-agentctl``.

Exit codes: 0 done, 1 failed, 2 usage, 3 rolled back, 4 rollback failed, 5 refused by preflight,
6 conflict, 7 agent unreachable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class AgentError(Exception):
    """A problem with a name: what could not be done and why, and what to do next.

    ``detail`` says what could not be done and why; ``next_step`` is a sentence with the command
    or the change that helps; ``extensions`` are further members of the problem document. None of
    them may carry a secret.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "This is a bug in k3s-ha-agent"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str, *, next_step: str = "", **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.next_step = next_step
        self.extensions: Mapping[str, Any] = extensions

    def __str__(self) -> str:
        return f"{self.detail} {self.next_step}".strip()


# --- what a request can be told ------------------------------------------------------------


class BadRequest(AgentError):
    code, title, status, exit_code = "bad-request", "The request cannot be read", 400, 2


class InvalidBody(AgentError):
    code, title, status, exit_code = "invalid-body", "The request body is not valid", 422, 2


class IdempotencyKeyReused(AgentError):
    code, title = "idempotency-key-reused", "This Idempotency-Key belongs to another request"
    status, exit_code = 422, 2


class BodyTooLarge(AgentError):
    code, title, status, exit_code = "body-too-large", "The request body is too large", 413, 2


class UnsupportedMediaType(AgentError):
    code, title = "unsupported-media-type", "The request body is not JSON"
    status, exit_code = 415, 2


class RequestTimedOut(AgentError):
    code, title, status = "request-timed-out", "The request did not arrive in time", 408


class Unauthorized(AgentError):
    code, title, status, exit_code = "unauthorized", "The caller did not say who it is", 401, 1


class Forbidden(AgentError):
    code, title, status, exit_code = "forbidden", "The caller may not do this", 403, 1


class NotFound(AgentError):
    code, title, status, exit_code = "not-found", "There is no such thing here", 404, 2


class MethodNotAllowed(AgentError):
    code, title, status, exit_code = "method-not-allowed", "The method does not fit the path", 405, 2


class NotFinishedYet(AgentError):
    """The answer of ``wait``: the operation is still running."""

    code, title, status = "not-finished-yet", "The operation has not finished yet", 504


class NotImplementedYet(AgentError):
    code, title, status, exit_code = "not-implemented", "This agent cannot do that yet", 501, 1


class Unavailable(AgentError):
    code, title, status, exit_code = "unavailable", "The agent cannot answer now", 503, 7


class TooManyRequests(AgentError):
    code, title, status, exit_code = "too-many-requests", "The caller asks too often", 429, 1


class AuditUnavailable(AgentError):
    """Nothing is changed that could not be written down: the agent fails closed."""

    code, title, status = "audit-unavailable", "The audit log cannot be written", 503


# --- why an operation was not begun -----------------------------------------------------------


class OperationInProgress(AgentError):
    code, title = "operation-in-progress", "Another operation is running on this server"
    status, exit_code = 409, 6


class Conflict(AgentError):
    code, title, status, exit_code = "conflict", "The state of this server forbids it", 409, 6


class LockHeld(AgentError):
    code, title = "locked", "Another program is changing this server"
    status, exit_code = 409, 6


class AlreadyCommitted(AgentError):
    code, title = "already-committed", "The operation is past the point where it can be aborted"
    status, exit_code = 409, 6


class LostWritesNotConfirmed(AgentError):
    code, title = "lost-writes-not-confirmed", "Going back would lose writes"
    status, exit_code = 409, 6


class PreflightFailed(AgentError):
    code, title = "preflight-failed", "A preflight check refused the operation"
    status, exit_code = 412, 5


# --- why a step failed ------------------------------------------------------------------------


class StepFailed(AgentError):
    """The operation cannot go on; it is undone."""

    code, title = "step-failed", "A step of the operation failed"


class EvidenceMissing(StepFailed):
    """A fact that a success needs is false. ``evidence`` names it."""

    code, title = "evidence-missing", "The result could not be proven"


class DeadlineExceeded(StepFailed):
    code, title = "deadline-exceeded", "A step did not end before its deadline"


class Aborted(StepFailed):
    code, title = "aborted", "The operation was aborted on request"


class RecordUnreadable(AgentError):
    """A durable record cannot be read; the agent fails closed."""

    code, title = "record-unreadable", "A durable record of an operation cannot be read"


class RecordNotWritten(AgentError):
    """A durable record cannot be written, although it was tried for a while; nothing is done without one."""

    code, title, status = "record-not-written", "A durable record of an operation cannot be written", 503


# --- what the outside world did -----------------------------------------------------------------


class OutsideError(AgentError):
    """k3s, etcd, systemd or the disk did not answer as needed."""

    code, title, status = "outside", "Something this server depends on did not answer", 502


class SystemdError(OutsideError):
    code, title = "systemd", "systemd did not do what it was asked"


class KineError(OutsideError):
    code, title = "kine", "The SQLite datastore cannot be used"


class EtcdError(OutsideError):
    code, title = "etcd", "etcd did not answer as needed"


class RevisionCompacted(EtcdError):
    code, title = "revision-compacted", "The revision asked for has been compacted away"


class ApiserverError(OutsideError):
    code, title = "apiserver", "The Kubernetes API server did not answer as needed"


class ObjectNotFound(ApiserverError):
    """The API server answered, and there is no such object."""

    code, title = "object-not-found", "The Kubernetes API server does not have the object"


class SupervisorError(OutsideError):
    code, title = "supervisor", "The k3s supervisor did not answer as needed"


class ConfigurationError(AgentError):
    """A configuration file (k3s's or ours) cannot be read or is not valid."""

    code, title, exit_code = "configuration", "A configuration file is not valid", 2


class TokenError(AgentError):
    code, title = "token", "The server token is missing or not valid"


class UnknownProblem(AgentError):
    """Raised by clients only: the agent is newer. Its code is in ``extensions``."""

    code, title = "unknown-problem", "The agent named a problem this version does not know"


class AgentUnreachable(AgentError):
    """Raised by clients only."""

    code, title, status, exit_code = "agent-unreachable", "The agent does not answer", 503, 7
