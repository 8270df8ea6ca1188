"""Child processes: one that dies with k3s (etcd), one that outlives it (a container's shim)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Any


def spawn_bound(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """A child that the kernel kills when this process ends, however it ends.

    PDEATHSIG belongs to the thread that forks: call this from the main thread, which lives as
    long as the process.
    """
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], stdin=subprocess.DEVNULL, **options)


def spawn_shim() -> None:
    """A child in a session of its own that stays when k3s stops (KillMode=process, 4.4)."""
    sleep = shutil.which("sleep") or "/bin/sleep"
    subprocess.Popen(
        ["containerd-shim-runc-v2", "infinity"],
        executable=sleep,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
