"""What differs between k3s releases, as far as the stand-in knows (facts 4.8 and "Seen" 17).

Each property names the fact. Where a fact gives a month but no release, the first release of
that month is assumed; README.md says so.
"""

from __future__ import annotations

import dataclasses
import re

_FORM = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-[0-9A-Za-z.]+)?(?:\+k3s(\d+))?")


@dataclasses.dataclass(frozen=True)
class Version:
    text: str
    numbers: tuple[int, int, int, int]

    @classmethod
    def parse(cls, text: str) -> Version:
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a k3s version like v1.22.2+k3s1")
        major, minor, patch, build = match.groups(default="1")
        return cls(text.strip(), (int(major), int(minor), int(patch), int(build)))

    def since(self, *numbers: int) -> bool:
        return self.numbers >= (*numbers, *(0,) * (4 - len(numbers)))

    # --- SQLite -----------------------------------------------------------------------------

    @property
    def marks_joined(self) -> bool:
        """``db/joined-<hash>`` (seen in listing-stopped.txt of 1.22.2, not of 2021-12)."""
        return not self.since(1, 22, 4)

    @property
    def truncates_wal(self) -> bool:
        """kine >= 0.8.1 runs wal_checkpoint(TRUNCATE) on open ("ten facts" 5)."""
        return self.since(1, 22, 4)

    @property
    def closes_sqlite(self) -> bool:
        """kine >= 0.14.1 closes the database on stop (4.8, 2025-09)."""
        return self.since(1, 34)

    # --- etcd -------------------------------------------------------------------------------

    @property
    def etcd_name_on_sqlite(self) -> bool:
        """``db/etcd/name`` on SQLite nodes, 2023-09 to 2026-03 ("ten facts" 2)."""
        return self.since(1, 28, 2) and not self.since(1, 35, 3)

    @property
    def http_on_2382(self) -> bool:
        """The JSON gateway only on 127.0.0.1:2382 since 2023-09 (4.3)."""
        return self.since(1, 28, 2)

    @property
    def temporary_etcd(self) -> str | None:
        """Name below db/ of the copy made at a start on an existing etcd; None for none."""
        if not self.since(1, 22, 4):
            return None
        return "tmp-etcd" if not self.since(1, 22, 8) else "etcd-tmp"

    @property
    def missing_bootstrap_is_token_error(self) -> bool:
        """wal without bootstrap key: "failed to normalize token" loop ("Seen" 17)."""
        return self.since(1, 22, 4) and not self.since(1, 22, 8)

    @property
    def missing_bootstrap_is_fatal(self) -> bool:
        """wal without bootstrap key: fatal since 0563fc258, Jan 2026 ("ten facts" 3)."""
        return self.since(1, 35, 1) or (self.numbers[:2] == (1, 34) and self.since(1, 34, 3, 3))

    @property
    def reconciles(self) -> bool:
        """Files on disk are compared with the bootstrap data: "newer than datastore" (M7)."""
        return self.since(1, 22, 4)

    @property
    def clears_nospace(self) -> bool:
        """NOSPACE alarms are cleared at start (4.8, 1.22.8)."""
        return self.since(1, 22, 8)

    @property
    def new_milestones(self) -> bool:
        """The log lines of 4.2 that the recordings of 2021 do not have."""
        return self.since(1, 23)

    @property
    def tombstone_needs_server(self) -> bool:
        """Fatal "tombstone file has been detected but --server is empty" (R6, >= Feb 2026)."""
        return self.since(1, 35, 2)

    # --- joining ------------------------------------------------------------------------------

    @property
    def checks_critical_flags(self) -> bool:
        """Since 1.22.5; the recording named 1.22.4 is of the same month and refuses ("Seen" 17)."""
        return self.since(1, 22, 4)

    @property
    def names_critical_flags(self) -> bool:
        """ "critical configuration mismatched: <flag>" since about 1.26 (J2)."""
        return self.since(1, 26)

    @property
    def retries_join(self) -> bool:
        """Joins wait for other learners since 1.26.5/1.27.2 (J6)."""
        return self.since(1, 27, 2) or (self.numbers[:2] == (1, 26) and self.since(1, 26, 5))

    @property
    def failure_exits_zero(self) -> bool:
        """A failed join leaves with exit 0 since the pkg/signals rework (4.7)."""
        return self.since(1, 34)

    # --- what is served -------------------------------------------------------------------------

    @property
    def local_db_info(self) -> bool:
        """Anonymous /db/info from localhost since Apr 2024 (4.3)."""
        return self.since(1, 30, 1)

    @property
    def says_etcd_disabled(self) -> bool:
        """/db/info: 400 "etcd datastore disabled" on SQLite since Nov 2024 (4.3)."""
        return self.since(1, 31, 3)

    @property
    def bootstrap_says_disabled(self) -> bool:
        """/v1-k3s/server-bootstrap: 400 on SQLite, 401 in old releases (J1, recording)."""
        return self.since(1, 23)

    @property
    def not_ready_status(self) -> int:
        """/v1-k3s/readyz while not ready: 503, 500 in old releases (4.3, recordings)."""
        return 503 if self.since(1, 30) else 500

    @property
    def snapshot_over_http(self) -> bool:
        """/db/snapshot since Apr 2024 (4.3)."""
        return self.since(1, 30, 1)

    @property
    def master_label(self) -> bool:
        """node-role.kubernetes.io/master until 1.34 (4.6)."""
        return not self.since(1, 34)

    @property
    def voter_condition(self) -> bool:
        """Node condition EtcdIsVoter since Nov 2023 (4.6)."""
        return self.since(1, 28, 4)
