"""System calls that change files, counted and struck with strace(1): killed before the n-th, or made to fail.

strace counts for each thread by itself, so the agent is run with one thread for what blocks (tests.crash.agent), in
which every durable write is made; its event loop writes only events and the log, which decide nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.crash.quick_node import QuickNode
from tests.dbus.harness import die_with_parent, wait_until

CHANGING = (
    *("fsync", "fdatasync", "rename", "renameat2", "link", "linkat", "symlink", "unlink", "rmdir", "mkdir"),
    *("write", "pwrite64", "ftruncate"),
)
_LINE = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(.*)")
_PATH = re.compile(r"<(/[^>]*)>|\"(/[^\"]*)\"")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    name: str
    paths: tuple[str, ...]
    """Those it names, by name or by descriptor; of a rename the old and the new one."""
    done: bool
    """It succeeded."""
    injected: bool
    absent: bool = False
    """It failed because what it names is not there."""

    def what(self, root: Path) -> str:
        """What kind of file it changes."""
        path = self.paths[-1].removeprefix(f"{root}/") if self.paths else ""
        return next(kind for pattern, kind in _KINDS if re.search(pattern, path))


_KINDS = (
    (r"^state/operations/[^/]*$|/\.?record\.json|^state/operations$", "record"),
    (r"^state/backups/.*/files", "pre-image-files"),
    (r"^state/backups", "pre-image"),
    (r"^state/lock|^state$", "lock"),
    (r"k3s\.service\.d|^systemd", "gate"),
    (r"^etc", "drop-in"),
    (r"quarantine", "quarantine"),
    (r"^k3s/server/db", "datastore"),
    (r"agent\.log|journal", "log"),
    (r"", "other"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Injection:
    """What becomes of a system call, and of which."""

    name: str
    number: int
    """Of the calls of that name, counted from 1."""
    error: str = ""
    """``EIO``, ``ENOSPC``; empty: SIGKILL instead of the call."""
    lasting: bool = False
    """All later calls of that name fail as well."""

    def words(self) -> list[str]:
        what = f"error={self.error}" if self.error else "signal=SIGKILL"
        return ["-e", f"inject={self.name}:{what}:when={self.number}{'+' if self.lasting else ''}"]

    def __str__(self) -> str:
        return f"{self.error or 'killed'} at {self.name} {self.number}{' and on' if self.lasting else ''}"


def strace(log: Path, injection: Injection | None = None) -> list[str]:
    """The words that run a program with its changing calls written to ``log``."""
    options = ["-q", "-y", "-o", str(log), "-e", f"trace={','.join(CHANGING)}", "-e", "signal=none"]
    return ["strace", *options, *(injection.words() if injection else ())]


@contextlib.contextmanager
def traced_agent(node: QuickNode, log: Path, injection: Injection | None = None) -> Iterator[None]:
    """Start the agent and attach to the thread that writes, before it is asked for anything."""
    node.start_agent(one_worker=True)
    thread = int(node.worker.read_text())
    command = [*strace(log, injection), "-p", str(thread)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        status = Path(f"/proc/{thread}/status")
        attached = f"TracerPid:\t{child.pid}\n"
        wait_until(lambda: child.poll() is not None or attached in status.read_text(), "strace is attached")
        assert child.poll() is None, f"{command} ended"
        yield
    finally:
        child.send_signal(signal.SIGTERM)  # detaches
        child.wait(60)


def parse(text: str) -> list[Call]:
    """The calls of a log of strace, in order."""
    calls = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            name, arguments, result, rest = match.groups()
            paths = tuple(a or b for a, b in _PATH.findall(arguments))
            done, injected = result not in ("?",) and int(result) >= 0, "(INJECTED)" in rest
            calls.append(Call(name, paths, done, injected, "ENOENT" in rest))
    return calls


def numbered(calls: Sequence[Call], root: Path, first: int = 0) -> list[tuple[Injection, str]]:
    """An injection for each call from the ``first`` on, and what it changes."""
    counts: dict[str, int] = {}
    found = []
    for index, call in enumerate(calls):
        counts[call.name] = counts.get(call.name, 0) + 1
        if index >= first:
            found.append((Injection(call.name, counts[call.name]), call.what(root)))
    return found


def destructive(call: Call, root: Path) -> bool:
    """It takes something away from under a name that k3s starts on."""
    if call.name not in ("rename", "unlink", "rmdir") or not call.done or call.injected or not call.paths:
        return False
    return Path(call.paths[0]).is_relative_to(root / "k3s/server/db") and "/.state.db" not in call.paths[0]


def careless(calls: Sequence[Call], root: Path) -> str:
    """The first destructive call after a durable write that failed and was not made good since; "" for none.

    Made good: the same call on the same file succeeded, or had nothing to remove, or a whole new record was written
    and synced.
    """
    failed: set[tuple[str, str]] = set()
    for call in calls:
        place = (call.name, call.paths[-1] if call.paths else "")
        if place[1] in ("", f"{root}/state/lock"):
            continue  # a pipe; the stamp in the lock, which decides nothing
        if call.injected:
            failed.add(place)
        elif call.absent and call.name in ("unlink", "rmdir"):
            failed.discard(place)
        elif call.done:
            failed.discard(place)
            if call.name == "fsync" and place[1].startswith(f"{root}/state/operations/") and ".tmp" not in place[1]:
                failed.clear()
        if failed and destructive(call, root):
            return f"{call.name} {call.paths} after the failed {sorted(failed)}"
    return ""


def unsynced(calls: Sequence[Call], root: Path) -> str:
    """The first thing that was changed and not synced when a record was written after it, or a record that was not
    when something was changed after it; "" for none. A record may say only what is on the disk."""
    data: set[str] = set()
    names: set[str] = set()
    for call in calls:
        if not call.done or call.injected or not call.paths:
            continue
        path, directory = call.paths[-1], str(Path(call.paths[-1]).parent)
        if call.name in ("fsync", "fdatasync"):
            data.discard(path)
            names.discard(path)
            continue
        if not _lasts(path, root):
            continue
        if any(name.startswith(f"{root}/state/operations") for name in names):
            return f"{call.name} {path} before the names in {sorted(names)} were synced"
        if call.name in ("write", "pwrite64", "ftruncate"):
            data.add(path)
            continue
        if path.endswith("/record.json") and (data or names):
            return f"a record is put in its place before {sorted(data | names)} were synced"
        data.discard(path)
        names.discard(path)  # a directory that is gone has no names
        names.add(directory)
        if call.name == "rename":
            names.add(str(Path(call.paths[0]).parent))
            if call.paths[0] in data:
                return f"{call.paths[0]} is renamed before its data was synced"
    return ""


def _lasts(path: str, root: Path) -> bool:
    """It is relied upon later. The events, the lock's stamp and what is read from a copy are not."""
    places = ("state/operations/", "state/backups/", "k3s/server/db/", "k3s/k3s-ha-agent/", "systemd/", "etc/")
    name = path.removeprefix(f"{root}/")
    passing = name.endswith(("events.jsonl", "-journal")) or "/.state.db.read" in name
    return name.startswith(places) and not passing
