"""The agent's unix socket: appears whole, replaces that of a dead agent, never takes a living one's.

Who may open it is the mode of the file, so the mode must be right before the first caller can
connect: the socket is bound under another name, given owner and mode, made to listen, and only then
renamed into place. A rename keeps a bound socket working, since a connection looks up the inode.
Everything here blocks for a moment; the server calls it in a thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import grp
import os
import socket
import stat
from pathlib import Path

import structlog

from k3s_ha_agent.errors import ConfigurationError, Conflict

PATH_LIMIT = 107
"""Bytes of a path in ``sockaddr_un`` on Linux, without the closing zero."""
BACKLOG = 64
PROBE_TIMEOUT = 2.0

log = structlog.get_logger("k3s_ha_agent.api")


@dataclasses.dataclass(slots=True)
class UnixSocket:
    """A listening socket in its place, and the lock that keeps a second agent away from it."""

    listening: socket.socket
    path: Path
    gid: int | None
    """The group that may change things; None when the configured one does not exist."""
    inode: tuple[int, int]
    lock: int

    def withdraw(self) -> None:
        """Take the name away, if it is still ours: nobody new can connect. Safe to run twice."""
        with contextlib.suppress(FileNotFoundError):
            if _inode(self.path) == self.inode:
                self.path.unlink()

    def close(self) -> None:
        """Stop listening and let the lock go, after the event loop has let go of the socket."""
        self.withdraw()
        self.listening.close()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def group_id(name: str) -> int | None:
    """The gid of a group, None when there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def open_socket(path: Path, group: str) -> UnixSocket:
    """The agent's socket, 0660 and owned by ``group``; without such a group 0600.

    Raises Conflict when another agent listens there, ConfigurationError when there is something at
    the path that is no socket, and OSError when the directory cannot be written.
    """
    gid = group_id(group)
    if gid is None:
        log.warning(f"There is no group {group!r}: only root can use {path}.", group=group)
    temporary = path.with_name(f".{path.name}.new")
    if len(os.fsencode(temporary)) > PATH_LIMIT:
        raise ConfigurationError(
            f"{path} is too long for a unix socket.", next_step="Set runtime_dir to a shorter path."
        )
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = _lock(path)
    try:
        _require_free(path)
        temporary.unlink(missing_ok=True)
        listening = _listen(temporary, gid)
        try:
            inode = _inode(temporary)
            temporary.rename(path)
        except BaseException:
            listening.close()
            raise
    except BaseException:
        os.close(lock)
        raise
    return UnixSocket(listening, path, gid, inode, lock)


def _lock(path: Path) -> int:
    """Held as long as we live, by the kernel: two agents cannot both find the socket free."""
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise _taken(path) from error
    return fd


def _require_free(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} is there and is no socket.", next_step=f"Look at it: ls -l {path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            # It may be alive and too busy to answer: not ours to take.
            raise _taken(path) from error
    raise _taken(path)


def _taken(path: Path) -> Conflict:
    return Conflict(f"Another agent listens on {path}.", next_step="See `systemctl status k3s-ha-agent.service`.")


def _listen(path: Path, gid: int | None) -> socket.socket:
    """Nobody can connect between bind and listen, so the mode in between does not matter."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(os.fspath(path))
        path.chmod(0o600)
        if gid is not None:
            os.chown(path, -1, gid)
            path.chmod(0o660)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
