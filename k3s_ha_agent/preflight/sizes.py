"""How much room the conversion needs: estimates that are upper bounds, and where each comes from.

Pure arithmetic, used by the checks and by the estimates of a dry run.
"""

from __future__ import annotations

MIB = 1024 * 1024
GIB = 1024 * MIB

WAL_SEGMENT = 64_000_000
"""etcd allocates its WAL in segments of this size, one in use and one ahead (k3s-facts 4.5; seen:
``0000…0.wal`` and ``0.tmp`` of 64,000,000 bytes each in listing-migrated.txt)."""

DEFAULT_QUOTA = 2 * GIB
"""quota-backend-bytes when none is set (k3s-facts 4.5, M10)."""

DEFAULT_MAX_REQUEST = 1536 * 1024
"""max-request-bytes when none is set: 1.5 MiB (M9)."""

CLIENT_SEND_LIMIT = 2 * MIB
"""What k3s's own etcd client sends at most, whatever max-request-bytes says: k3s sets no
MaxCallSendMsgSize (getClientConfig, pkg/etcd/etcd.go), and etcd's clientv3 then takes 2 MiB."""

REQUEST_OVERHEAD = 4 * 1024
"""What a Put adds to name and value: protobuf and raft headers, well below this."""

SMALL_FILES = 16 * MIB
"""Copies of unit, configuration, token, cred and tls, the manifest, the records and events."""

CONFIG_FILES = MIB
"""Drop-ins, with room to spare."""


def backend(live_bytes: int, live_rows: int) -> int:
    """etcd's database after the copy, at most.

    Measured with etcd 3.4.23, one Put per key: 1.04 to 1.97 times the values for values of 300 B to
    900 kB, the worst where two do not fit into a page of 4 KiB.
    """
    return 2 * live_bytes + 256 * live_rows + MIB


def wal(live_bytes: int) -> int:
    """etcd's WAL after the copy, at most: every value once, in whole segments, and one ahead."""
    return (live_bytes // WAL_SEGMENT + 2) * WAL_SEGMENT


def etcd(live_bytes: int, live_rows: int) -> int:
    """``db/etcd`` after the copy, at most."""
    return backend(live_bytes, live_rows) + wal(live_bytes)
