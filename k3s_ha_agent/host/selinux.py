"""File contexts on systems with SELinux: what is moved or made keeps or gets a label that k3s may not read.

A no-op elsewhere. Moved files keep the label of where they came from, so paths are relabelled as
the policy says before k3s is started on them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from k3s_ha_agent.errors import OutsideError

ENFORCE = Path("/sys/fs/selinux/enforce")
RESTORECON = Path("/usr/sbin/restorecon")
LIMIT = 60.0
"""Seconds."""


def restore(paths: Iterable[Path]) -> None:
    """Give files and directories, recursively, the contexts the policy wants. Blocks.

    OutsideError when SELinux is in use and restorecon fails. Paths that are missing are passed over.
    """
    if not ENFORCE.exists():
        return
    there = [str(path) for path in paths if path.exists()]
    if not there:
        return
    try:
        done = subprocess.run(
            [RESTORECON, "-R", "--", *there], capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutsideError(f"restorecon could not be run on {', '.join(there)}: {error}.") from error
    if done.returncode != 0:
        raise OutsideError(f"restorecon failed on {', '.join(there)}: {done.stderr.strip()[-300:]}.")
