"""From a request to an operation that may begin: preflight, deadline, facts, and what must be confirmed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from k3s_ha_agent.errors import AgentError, Conflict, InvalidBody, LostWritesNotConfirmed, PreflightFailed, TokenError
from k3s_ha_agent.k3s import bootstrap
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.token import Token
from k3s_ha_agent.model import (
    CheckResult,
    CheckStatus,
    ClusterView,
    Kind,
    NodeState,
    Operation,
    StepRecord,
    now,
    to_json,
)
from k3s_ha_agent.operations import join_lock, requests
from k3s_ha_agent.operations.history import last_commitment
from k3s_ha_agent.operations.lost_writes import lost_writes
from k3s_ha_agent.operations.planner import Planner, forward_timeout
from k3s_ha_agent.operations.threads import in_thread
from k3s_ha_agent.settings import Settings

JOIN_TIMEOUT_MIN = 300.0
"""Seconds: a join waits for the leader's 15 s tick, and for a learner to be given five minutes (k3s-facts 4.5)."""


WAITED_FOR = frozenset({"pending-learner", "server-ports", "members-healthy"})
"""Checks that refuse because another server is joining just now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """What preflight found out: the checks, and the facts a plan needs."""

    checks: tuple[CheckResult, ...]
    facts: Mapping[str, Any]
    """``node_name``, ``api_port``, ``k3s_version``, and by kind ``live_rows``, ``live_bytes``, ``fsync_p99``,
    ``members`` (names) or ``target``, ``node_ip``."""


class Inspector(Protocol):
    """Looks at the node; ``k3s_ha_agent.preflight`` through ``__main__``."""

    async def examine(
        self,
        kind: Kind,
        *,
        accept_slow_disk: bool,
        history: Sequence[Operation],
        target: tuple[str, Token] | None = None,
    ) -> Findings:
        """``target``: URL and token of the server a join goes to."""

    async def survey(self) -> NodeState: ...

    async def cluster(self) -> ClusterView: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """An operation as it would begin, and what was found on the way to it."""

    operation: Operation
    findings: Findings
    token: str | None = dataclasses.field(default=None, repr=False)

    @property
    def refused(self) -> tuple[CheckResult, ...]:
        return tuple(c for c in self.findings.checks if c.status is CheckStatus.REFUSED)

    @property
    def warned(self) -> tuple[CheckResult, ...]:
        return tuple(c for c in self.findings.checks if c.status is CheckStatus.WARNED)

    def require_passed(self) -> None:
        """PreflightFailed with every check, when one of them refuses; Conflict when another server is joining, or
        when others would be left behind by the rollback of a migration."""
        names = {check.name for check in self.refused}
        members = self.findings.facts.get("members") or ()
        if "sole-member" in names and len(members) > 1:
            sole = next(check for check in self.refused if check.name == "sole-member")
            raise Conflict(
                sole.found, next_step=sole.remedy, members=list(members), checks=to_json(self.findings.checks)
            )
        if "pending-learner" in names and names <= WAITED_FOR:
            learner = next(check for check in self.refused if check.name == "pending-learner")
            raise Conflict(learner.found, next_step=learner.remedy, checks=to_json(self.findings.checks))
        if self.refused:
            raise PreflightFailed(
                f"{len(self.refused)} of {len(self.findings.checks)} checks refuse the {self.operation.kind}: "
                + "; ".join(f"{c.name}: {c.found}" for c in self.refused),
                next_step=self.refused[0].remedy,
                checks=to_json(self.findings.checks),
            )


def _whole(token: str, key: str) -> str:
    """The token. InvalidBody names the key of the body when it can be none of any cluster."""
    try:
        Token.parse(token)
    except TokenError as error:
        raise InvalidBody(
            error.detail,
            next_step=error.next_step or "It is /var/lib/rancher/k3s/server/token of a server of the cluster.",
            key=key,
        ) from error
    return token


class Intake:
    """Turns requests into drafts; changes nothing."""

    def __init__(self, settings: Settings, planner: Planner, inspector: Inspector) -> None:
        self._settings = settings
        self._layout = Layout(settings.data_dir)
        self._planner = planner
        self._inspector = inspector

    async def draft(
        self, kind: Kind, request: requests.Request, *, operation_id: str, history: Sequence[Operation], boot_id: str
    ) -> Draft:
        """Look at the server and make the operation. InvalidBody, NotImplementedYet, Conflict."""
        token = await self._token(request)
        findings = await self._examine(kind, request, history, token)
        facts = {**findings.facts, **self._undone(kind, history)}
        facts["timeout"] = self._timeout(kind, request, findings)
        operation = Operation(
            id=operation_id,
            kind=kind,
            parameters=requests.parameters(request),
            created_at=now(),
            steps=(),
            facts=facts,
            boot_id=boot_id,
        )
        draft = Draft(operation, findings, token)
        if draft.refused:
            return draft  # what a plan needs may be missing
        steps = tuple(StepRecord(step.name) for step in self._planner.plan(operation).steps)
        return dataclasses.replace(draft, operation=dataclasses.replace(operation, steps=steps))

    async def refuse_conflict(self, request: requests.Request, draft: Draft) -> None:
        """Conflict when another server is changing the members of the cluster to be joined, unless it is waited for.

        Asked before the checks have their say: a server that has just got its vote is not ready yet, which they refuse.
        """
        if not isinstance(request, requests.JoinRequest) or request.on_conflict == "wait":
            return
        if {check.name for check in draft.refused} <= WAITED_FOR:
            await self._require_free(request, Token.parse(draft.token or ""))

    async def _require_free(self, request: requests.JoinRequest, token: Token) -> None:
        async with await bootstrap.admin(request.server, token, self._settings.runtime_dir) as api:
            await join_lock.require_free(api)

    async def _busy(self, request: requests.JoinRequest, token: Token) -> bool:
        """Whether another server is changing the members of the cluster; False when nobody says."""
        try:
            await self._require_free(request, token)
        except Conflict:
            return True
        except AgentError:
            return False
        return False

    async def _token(self, request: requests.Request) -> str | None:
        if not isinstance(request, requests.JoinRequest):
            return None
        if request.token is not None:
            return _whole(request.token, "token")
        path = Path(str(request.token_file))
        try:
            return _whole((await in_thread(path.read_text)).strip(), "token_file")
        except (OSError, ValueError) as error:  # ValueError: what is not text, and a name with a zero byte
            why = getattr(error, "strerror", None) or "it is not text"
            raise InvalidBody(
                f"token_file {path} cannot be read: {why}.",
                next_step="The agent's sandbox has a /tmp of its own: put the file below "
                "/etc/rancher, 0600, or send the token itself as token.",
                key="token_file",
            ) from error

    async def _examine(
        self, kind: Kind, request: requests.Request, history: Sequence[Operation], token: str | None
    ) -> Findings:
        if isinstance(request, requests.JoinRequest):
            target = (request.server, Token.parse(token or ""))
            found = await self._inspector.examine(kind, accept_slow_disk=False, history=history, target=target)
            refused = {c.name for c in found.checks if c.status is CheckStatus.REFUSED}
            if request.on_conflict != "wait" or not refused or not refused <= WAITED_FOR:
                return found
            return waited_for(found, busy=await self._busy(request, target[1]))
        if isinstance(request, requests.RollbackRequest):
            undone = last_commitment(history)
            if undone is not None and undone.kind is Kind.JOIN:
                requests.refuse_discard(request)
                # Leaving is looked at by its first step, with the rest of the cluster: there is no pre-image to check.
                known = ("node_name", "api_port", "k3s_version", "node_ip", "target", "unit_file_state_before")
                facts = {k: undone.facts[k] for k in known}
                peers = self._planner.peers(undone.id, str(facts["target"]), str(facts["node_name"]))
                peers = await peers.elsewhere(str(facts["node_ip"]), int(facts["api_port"]))
                return Findings((), {**facts, "target": peers.url})
            requests.refuse_keep(request)
        slow = isinstance(request, requests.MigrateRequest) and request.accept_slow_disk
        return await self._inspector.examine(kind, accept_slow_disk=slow, history=history)

    def _undone(self, kind: Kind, history: Sequence[Operation]) -> dict[str, Any]:
        """What a rollback has to know of the operation it undoes."""
        undone = last_commitment(history)
        if kind is not Kind.ROLLBACK or undone is None:
            return {}
        facts: dict[str, Any] = {"undoes": undone.id, "undoes_kind": undone.kind.value}
        if undone.kind is Kind.MIGRATE:
            facts |= {k: undone.facts[k] for k in ("sealed", "sealed_sha256")}
        return facts

    def _timeout(self, kind: Kind, request: requests.Request, findings: Findings) -> float:
        stability = self._settings.stability_window if request.stability is None else request.stability
        timeout = request.timeout
        if timeout is None:
            timeout = forward_timeout(
                self._settings,
                live_rows=int(findings.facts.get("live_rows") or 0),
                live_bytes=int(findings.facts.get("live_bytes") or 0),
                fsync_p99=float(findings.facts.get("fsync_p99") or 0.0),
                stability=stability,
            )
            return max(timeout, JOIN_TIMEOUT_MIN) if kind is Kind.JOIN else timeout
        if timeout <= stability:
            raise InvalidBody(
                f"timeout ({timeout:.0f} s) must be longer than stability ({stability:.0f} s), which is part of it.",
                key="timeout",
            )
        return timeout

    # --- rollback ----------------------------------------------------------------------------------

    async def confirm_losses(self, request: requests.Request, operation: Operation) -> None:
        """LostWritesNotConfirmed when going back would lose writes and nobody said so."""
        if not isinstance(request, requests.RollbackRequest) or request.confirm_lost_writes:
            return
        if "sealed" not in operation.facts:
            return
        losses = await lost_writes(self._layout, Path(operation.facts["sealed"]))
        if losses.total:
            raise LostWritesNotConfirmed(
                f"Going back would lose {losses.sentence()} ({losses.total} keys).",
                next_step='Send {"confirm_lost_writes": true} (k3s-ha-agentctl rollback --writes discard '
                "--confirm-lost-writes) if that is what you want.",
                lost_keys=losses.total,
                examples=list(losses.examples),
            )

    async def describe(self, draft: Draft) -> Mapping[str, Any]:
        """A draft as the answer to a dry run."""
        operation, facts = draft.operation, draft.findings.facts
        result: dict[str, Any] = {
            "kind": operation.kind.value,
            "would_be_refused": bool(draft.refused),
            "refused_by": [c.name for c in draft.refused],
            "checks": to_json(draft.findings.checks),
            "parameters": to_json(operation.parameters),
            "steps": [],
            "estimates": {
                "live_keys": facts.get("live_rows"),
                "live_bytes": facts.get("live_bytes"),
                "fsync_p99_seconds": facts.get("fsync_p99"),
                "timeout_seconds": operation.facts["timeout"],
            },
        }
        if draft.refused:
            return result
        plan = self._planner.plan(operation)
        after = plan.index(plan.commitment)
        result["steps"] = [{"name": s.name, "after_commitment": n > after} for n, s in enumerate(plan.steps)]
        if "sealed" in operation.facts:
            losses = await lost_writes(self._layout, Path(operation.facts["sealed"]))
            result["lost_writes"] = {"keys": losses.total, "sentence": losses.sentence()}
        return result


def waited_for(findings: Findings, *, busy: bool = False) -> Findings:
    """A server that is joining just now is no refusal for who is ready to wait: a step of the join waits for it.

    Its ports and its health are not what they will be either. ``busy``: the cluster says that somebody changes its
    members, who may have got a vote and not be ready yet; without that a learner tells.
    """
    pending = {c.name for c in findings.checks if c.status is CheckStatus.REFUSED}
    if not busy and "pending-learner" not in pending:
        return findings
    checks = tuple(
        dataclasses.replace(c, status=CheckStatus.WARNED)
        if c.status is CheckStatus.REFUSED and c.name in WAITED_FOR
        else c
        for c in findings.checks
    )
    return dataclasses.replace(findings, checks=checks)
