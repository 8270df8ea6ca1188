"""A machine whose power can be cut: a kernel of its own (User-Mode Linux, Debian's ``user-mode-linux``) with a disk.

The machine runs this computer's programs, from its root file system, read-only. What it writes goes to an ext4 on a
disk of its own, through its own page cache: when its processes are killed, everything in it that was not synced is
gone, as when the power fails. What was written to the disk stays; a disk that lies about flushes is not simulated.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
DISK = Path("/mnt")
"""Where the machine sees its disk."""
LIMIT = 600.0
"""Seconds for what is done between two cuts."""

# ext4 writes by itself every 5 s, and what is renamed over a file at once: both would hide a missing fsync.
MOUNT = "noatime,commit=3600,noauto_da_alloc"
INIT = f"""#!/bin/sh
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/ LANG=C.UTF-8
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t tmpfs tmpfs /run || exit 1
mountpoint -q /dev || mount -t devtmpfs dev /dev || exit 1
mkdir -p /dev/pts /dev/shm /run/tmp && mount -t devpts pts /dev/pts && mount -t tmpfs shm /dev/shm
mount -t ext4 -o {MOUNT} /dev/ubda {DISK} || exit 1
echo 360000 >/proc/sys/vm/dirty_expire_centisecs
echo 0 >/proc/sys/vm/dirty_writeback_centisecs
export TMPDIR=/run/tmp PYTHONPATH={REPOSITORY} PYTHONPYCACHEPREFIX={DISK}/bytecode PYTHONUNBUFFERED=1
export K3S_HA_AGENT_TESTS_BYTECODE={DISK}/bytecode
cd /
/usr/bin/python3 {REPOSITORY}/tests/crash/power/guest.py $GUEST
echo "GUEST ENDED $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


class Lost(AssertionError):
    """The machine did not do what it was asked."""


class Machine:
    """One machine and its disk, in a directory of its own."""

    def __init__(self, directory: Path, megabytes: int = 768) -> None:
        self._directory = directory
        self._disk = directory / "disk"
        with self._disk.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._disk)], check=True)
        self._init = directory / "init"
        self.said = ""

    def run(self, *words: str, until: str = "GUEST ENDED 0") -> str:
        """Boot, run ``guest.py`` with the words, and cut the power when it has said ``until``; what it said. Lost
        when it ended without."""
        self._init.write_text(INIT.replace("$GUEST", " ".join(f"'{w}'" for w in words)))
        self._init.chmod(0o755)
        command = [
            *("linux.uml", "mem=1500M", "quiet", f"ubd0={self._disk}", f"init={self._init}", "con=null"),
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "con0=null,fd:1"),
        ]
        with tempfile.TemporaryDirectory(prefix="k3s-ha-power-", dir=_memory()) as memory:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": memory}, process_group=0,
            )  # fmt: skip
            watchdog = threading.Timer(LIMIT, self._cut, [child])
            watchdog.start()
            try:
                self.said = self._listen(child, until)
            finally:
                watchdog.cancel()
                self._cut(child)
        if until not in self.said:
            raise Lost(f"{until!r} was not said:\n{self.said[-6000:]}")
        return self.said

    @staticmethod
    def _listen(child: subprocess.Popen[bytes], until: str) -> str:
        said = []
        assert child.stdout is not None
        for line in child.stdout:
            said.append(line.decode(errors="replace").rstrip())
            if said[-1].startswith(until):
                break
        return "\n".join(said)

    @staticmethod
    def _cut(child: subprocess.Popen[bytes]) -> None:
        """Its kernel, its disk driver and every process on it, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _memory() -> str | None:
    """Where the machine's memory lies, a file that is never all used; None: where temporary files lie."""
    return "/dev/shm" if shutil.disk_usage("/dev/shm").free > 4 << 30 else None


def answer(said: str) -> str:
    """What the guest found, behind ``RESULT``."""
    found = re.search(r"^RESULT (.*)$", said, re.M)
    if not found:
        raise Lost(f"no result:\n{said[-6000:]}")
    return found[1]


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="k3s-ha-power-") as directory:
        yield Machine(Path(directory))
