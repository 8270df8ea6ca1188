"""Small file systems of a test's own, that can be full or read-only; seen by this thread and its children alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_NEWNS, _FS = 0x00020000, 0x00000200
_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def own_mounts() -> Iterator[None]:
    """What is mounted inside is gone afterwards, with the last process that began inside. Processes in a mount
    namespace of their own see it too, when that is made with ``--propagation slave``."""
    before, directory = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY), os.getcwd()
    try:
        _call(_libc.unshare(_NEWNS | _FS))
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "--make-rshared", "/"], check=True)
            yield
        finally:
            _call(_libc.setns(before, _NEWNS))
            os.chdir(directory)
    finally:
        os.close(before)


class SmallDisk:
    """A tmpfs of its own at a directory. Inside ``own_mounts``."""

    def __init__(self, at: Path, megabytes: int) -> None:
        self.at = at
        at.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(at)], check=True)

    def fill(self) -> None:
        """Not a byte is left, as somebody else's log would do it."""
        fd = os.open(self.at / "somebody-elses.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for block in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(fd, b"x" * block)
        finally:
            os.close(fd)

    def empty(self) -> None:
        (self.at / "somebody-elses.log").unlink()

    def read_only(self, on: bool) -> None:
        """For whoever opens a file from now on; as with an ext4 after an error, what is open for writing stays so."""
        view = self.at.with_name(f"{self.at.name}-read-only")
        if on:
            # A copy of a read-only mount is one in every namespace it comes to; a remount would be seen in ours alone.
            view.mkdir()
            subprocess.run(["mount", "--bind", str(self.at), str(view)], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
            subprocess.run(["mount", "--bind", str(view), str(self.at)], check=True)
        else:
            subprocess.run(["umount", str(self.at)], check=True)
            subprocess.run(["umount", str(view)], check=True)
            view.rmdir()

    def unmount(self) -> None:
        """Take it away from under whoever still has a file open; what it holds is gone."""
        subprocess.run(["umount", "--lazy", "--recursive", str(self.at)], check=True)
