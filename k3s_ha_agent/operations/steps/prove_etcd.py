"""Prove that etcd holds exactly what SQLite held, and that k3s is well on it.

A role label, READY=1 and /readyz together prove nothing about the data (k3s-facts, "Seen" 1).
What proves it is every live key of the sealed pre-image, name and value, read from etcd at the
revision at which the copy ended.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

from k3s_ha_agent.errors import DeadlineExceeded, EtcdError, RevisionCompacted, StepFailed
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.compare import NAMED, Comparison, compare
from k3s_ha_agent.k3s.etcd import EtcdClient, Member
from k3s_ha_agent.operations.k3s_health import K3sHealth, until
from k3s_ha_agent.operations.lost_writes import volatile
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread

REGISTRY = b"/registry/"
BOOTSTRAP = b"/bootstrap/"


@dataclasses.dataclass(frozen=True, slots=True)
class ProveEtcd:
    health: K3sHealth
    role_timeout: float

    name: str = "prove"
    resumable: bool = True
    on_disk: str = "k3s runs on a complete etcd that is not proven yet; the sealed pre-image is kept."
    by_hand: str = "Start the agent: it proves or rolls back. Or: systemctl start k3s-ha-agent-rescue.service"

    async def do(self, run: Run) -> None:
        await self._copy_finished(run)
        await self._unbroken(run)
        layout = self.health.layout
        async with EtcdClient.from_layout(layout) as etcd:
            pinned, last = await self._pin(run, etcd)
            await self._data(run, etcd, pinned, last)
            await self._etcd_well(run, etcd)
            await self._health(run)
            await self._report(run, etcd, pinned)
        await self._unbroken(run)

    async def verify(self, run: Run) -> None:
        missing = [e.name for e in run.operation.evidence if not e.ok]
        if missing:
            raise StepFailed(f"Evidence is missing: {', '.join(missing)}.")

    async def undo(self, run: Run) -> None:
        """Nothing: proving changes nothing."""

    async def _copy_finished(self, run: Run) -> None:
        """The rename is the last act of k3s's copy, and keeps the inode ("ten facts" 4, "Seen" 3)."""
        layout, inode = self.health.layout, int(run.fact("inode"))

        def look() -> tuple[bool, str]:
            if layout.state_db.exists():
                return False, "state.db still has its old name: the copy did not end"
            try:
                found = layout.state_db_migrated.stat().st_ino
            except FileNotFoundError:
                return False, "neither state.db nor state.db.migrated is there"
            return found == inode, f"state.db.migrated has inode {found}"

        ok, value = await in_thread(look)
        run.evidence("copy-finished", ok, value, f"state.db renamed, inode {inode}")

    async def _unbroken(self, run: Run) -> None:
        try:
            await self.health.require_unbroken_run(run.fact("invocation_id"))
        except StepFailed as error:
            run.evidence("no-restart", False, error.detail, "one unbroken run of k3s since its start")
        run.evidence("no-restart", True, "one unbroken run of k3s since its start")

    async def _pin(self, run: Run, etcd: EtcdClient) -> tuple[int, int]:
        """The revision at which the copy ended, and the last one before the bootstrap key.

        A new etcd is at revision 1 and the copy is one Put per key, so it ends at 1 + live keys;
        ``/bootstrap/…`` is created after it (recordings: 340 keys, bootstrap at 342). The API server
        starts beside the saving of the bootstrap key (k3s pkg/cluster/cluster.go, Start) and might
        write before it, so the smaller of the two is taken.
        """

        async def bootstrap() -> int | None:
            try:
                created = [key.create_revision async for key in etcd.range(BOOTSTRAP, keys_only=True)]
            except EtcdError:
                return None
            return min(created) if created else None

        try:
            created = await until(
                bootstrap, timeout=min(self.role_timeout, run.remaining()), what="The bootstrap key in etcd"
            )
        except DeadlineExceeded as error:
            run.evidence("bootstrap-key", False, error.detail, "/bootstrap/… saved after the copy")
            raise
        run.evidence("bootstrap-key", True, f"/bootstrap/… created at revision {created}")
        return min(created - 1, 1 + int(run.fact("live_rows"))), created - 1

    async def _data(self, run: Run, etcd: EtcdClient, pinned: int, last: int) -> None:
        sealed = Path(run.fact("sealed"))
        total = int(run.fact("live_rows"))
        try:
            result = await compare(
                kine.live_rows(sealed),
                etcd.range(REGISTRY, revision=pinned),
                progress=lambda done: run.progress(done, total, "keys"),
            )
            await self._add_strays(result, etcd, pinned, last)
        except RevisionCompacted as error:
            run.evidence("data-equal", False, error.detail, f"all keys readable at revision {pinned}")
            raise
        ok = result.same and result.equal == total
        run.evidence("data-equal", ok, describe(result, pinned), f"all {total} live keys equal, name and value")

    async def _add_strays(self, result: Comparison, etcd: EtcdClient, pinned: int, last: int) -> None:
        """Count as extra what was created after the copy of all keys and still before the bootstrap key.

        The API server may write that early, but nothing new except what it always writes anew.
        """
        if last <= pinned:
            return
        async for key in etcd.range(REGISTRY, revision=last, keys_only=True):
            if key.create_revision > pinned and not volatile(key.key):
                result.extra_count += 1
                if len(result.extra) < NAMED:
                    result.extra.append(key.key.decode("utf-8", "backslashreplace"))

    async def _etcd_well(self, run: Run, etcd: EtcdClient) -> None:
        alarms = await etcd.alarms()
        run.evidence("no-alarms", not alarms, ", ".join(alarms) or "no alarm", "no alarm")
        members = await etcd.members()
        name = (await in_thread(self.health.layout.etcd_name.read_text)).strip()
        run.evidence("member-is-voter", _sole_voter(members, name), _describe_members(members), f"{name}, a voter")

    async def _health(self, run: Run) -> None:
        limit = min(self.role_timeout, run.remaining())
        try:
            await self.health.wait_api_ready(limit)
        except DeadlineExceeded as error:
            run.evidence("api-ready", False, error.detail, "/readyz ok")
        run.evidence("api-ready", True, "/readyz answers ok")
        try:
            node = await until(self.health.node_with_etcd_role, timeout=limit, what="The etcd role on the Node")
        except DeadlineExceeded as error:
            run.evidence("etcd-role", False, error.detail, f"Node {self.health.node_name} with the etcd role")
            raise
        run.evidence("etcd-role", True, f"Node {node.name} has the roles {', '.join(node.roles)}")

    async def _report(self, run: Run, etcd: EtcdClient, pinned: int) -> None:
        revision = await etcd.revision()
        # k3s sends READY=1 once its API server is ready ("ten facts" 10): that is when systemd calls it active.
        state = await self.health.state()
        stopped = datetime.fromisoformat(run.fact("stopped_at")).timestamp()
        await run.remember(
            copy_revision=pinned,
            report={
                "live_keys": run.fact("live_rows"),
                "revision_before": run.fact("max_id"),
                "revision_after": revision,
                "writes_since_copy": revision - pinned,
                "leases_lost": run.fact("leased_rows"),
                "downtime_seconds": round(state.active_enter_timestamp - stopped, 3),
                "restart": "Watches held since before see revisions from the future: restart k3s agents and "
                "controllers that do not recover by themselves (k3s-facts, 'ten facts' 7).",
            },
        )


def describe(result: Comparison, revision: int) -> str:
    """The comparison in one sentence, with the first keys that are wrong; never a value."""
    if result.same:
        return f"{result.equal} keys equal at revision {revision}"
    parts = [f"{result.equal} keys equal at revision {revision}"]
    for count, keys, word in (
        (result.missing_count, result.missing, "missing"),
        (result.different_count, result.different, "different"),
        (result.extra_count, result.extra, "not in SQLite"),
    ):
        if count:
            parts.append(f"{count} {word} ({', '.join(keys[:3])}{', …' if count > 3 else ''})")
    return "; ".join(parts)


def _sole_voter(members: list[Member], name: str) -> bool:
    return len(members) == 1 and members[0].name == name and not members[0].is_learner


def _describe_members(members: list[Member]) -> str:
    return ", ".join(f"{m.name} ({'learner' if m.is_learner else 'voter'})" for m in members) or "no member"
