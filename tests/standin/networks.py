"""Network namespaces for tests, so that runs at the same time do not meet on 6443 or 2379."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence

_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def own_network(*addresses: str) -> Iterator[None]:
    """This thread, and every process and thread it starts, in a network of its own: loopback with ``addresses``."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call(_libc.unshare(_NEWNET))
        try:
            ip("link", "set", "lo", "up")
            for address in addresses:
                ip("address", "add", f"{address}/32", "dev", "lo")
            yield
        finally:
            _call(_libc.setns(before, _NEWNET))
    finally:
        os.close(before)


@contextlib.contextmanager
def machines(*addresses: str) -> Iterator[list[list[str]]]:
    """One namespace per address, joined by a bridge in the caller's (``own_network``), which has .254.

    Gives for each the words that put a command into it.
    """
    holders: list[subprocess.Popen[bytes]] = []
    try:
        ip("link", "add", "br0", "type", "bridge")
        ip("address", "add", f"{addresses[0].rpartition('.')[0]}.254/24", "dev", "br0")
        ip("link", "set", "br0", "up")
        words = []
        for number, address in enumerate(addresses):
            holder = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
                stdout=subprocess.PIPE,
            )
            holders.append(holder)
            holder.stdout.readline()  # type: ignore[union-attr]
            enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
            ip("link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            ip("link", "set", f"v{number}", "master", "br0", "up")
            _in(enter, "ip", "link", "set", "lo", "up")
            _in(enter, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            _in(enter, "ip", "link", "set", "eth0", "up")
            words.append(enter)
        yield words
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()  # type: ignore[union-attr]


def _in(enter: Sequence[str], *words: str) -> None:
    subprocess.run([*enter, *words], check=True, capture_output=True)
