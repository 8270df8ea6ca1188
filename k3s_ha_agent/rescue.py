"""The last resort: brings k3s back to the datastore it was on, whatever became of the agent.

Started by the transient timer ``k3s-ha-agent-rescue.timer`` at the deadline, by ``OnFailure=`` of the
agent's unit, or by a person. Standard library only, and it shares no code with what it rescues but
the format of the record (``model.py``, format 1), because it must work when the agent's package is
half upgraded, and without D-Bus (systemctl talks to PID 1 directly). Every act is safe to run twice.

    rescue [STATE_DIR [GRACE]]

Reads ``<state_dir>/operations/*/record.json`` and acts on records that are not committed, or whose
rollback failed. Of such a record it uses ``rescue``:

``goal``             the datastore to bring back: ``sqlite`` or ``etcd``; ``none`` for a join
``unit``             the k3s unit; ``gate``, ``drop_in`` our files; ``drop_in_content`` for goal etcd
``db``               k3s's ``server/db``; ``quarantine`` where things are moved aside
``sealed``, ``sealed_sha256``, ``inode``  the sealed pre-image and the inode of the ``state.db`` it was made of,
                     absent before it was sealed
``token_file``, ``unit_file_state``  of a join: our token file, and whether the unit was enabled

Of a record that is committed and not finished it only opens the gate: its data is not touched.
What it did is told by the files themselves, so it does not depend on the record being written: when the disk takes
none, the node is brought back all the same, that is said aloud, and a later run settles the record.

Exit status: 0 nothing to do or brought back, 1 not brought back, or not recorded.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FORMAT = 1
STATE_DIR = Path("/var/lib/k3s-ha-agent")
LOCK_GRACE = 30.0
"""Seconds an agent that still holds the lock may take before it is taken for hung and killed."""
PATIENCE = 900.0
"""Seconds to wait for another rescue that is at work; it is never killed."""
STOP_TIMEOUT = 90.0
START_TIMEOUT = 300.0
START_ATTEMPTS = 3
START_PAUSE = 5.0
LEAVE_LIMIT = 120.0
"""Seconds for a voter to leave its cluster."""
PROMOTION = 50.0
"""Seconds for a learner to become a voter, so that it can leave: three of the leader's ticks of 15 s."""
TIMER = "k3s-ha-agent-rescue.timer"
RESTORED = "restored-inode"
"""In the quarantine of an operation: the inode of the pre-image that was put back, by us or by the agent."""
RECORD: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "kind": str,
    "committed": bool,
    "outcome": (str, type(None)),
    "phase": str,
    "steps": list,
    "rescue": dict,
}
"""What of a record is used."""
PATHS = ("gate", "drop_in", "db", "quarantine")


class RescueError(Exception):
    """Why the node could not be brought back."""


def say(sentence: str) -> None:
    print(f"k3s-ha-agent-rescue: {sentence}", flush=True)


# --- durable changes ---------------------------------------------------------------------------


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")  # as the agent's: the next write takes it, whoever left it
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file, and what a write to it left that was cut off."""
    for name in (path.name, f".{path.name}.tmp"):
        path.with_name(name).unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_directory(path.parent)


def remove_directory_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EBUSY):  # somebody else's files, or no directory
            raise
        return
    sync_directory(path.parent)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """With its missing parents, durable; also when it is there, for an earlier run may not have come to that."""
    if not path.is_dir():
        make_directory(path.parent, mode)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
            path.chmod(mode)  # whatever our umask
    sync_directory(path.parent)


def move_aside(path: Path, quarantine: Path) -> None:
    """Rename into the quarantine under a free name; nothing when it is not there."""
    if not os.path.lexists(path):
        # Moved by an earlier run, which may have ended before that was durable.
        for directory in (quarantine, path.parent):
            if directory.is_dir():
                sync_directory(directory)
        return
    make_directory(quarantine)
    target, number = quarantine / path.name, 1
    while os.path.lexists(target):
        number += 1
        target = quarantine / f"{path.name}.{number}"
    path.rename(target)
    sync_directory(quarantine)
    sync_directory(path.parent)
    say(f"moved {path} to {target}")


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1024 * 1024):
            digest.update(piece)
    return digest.hexdigest()


# --- the lock ------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, grace: float = LOCK_GRACE) -> Iterator[None]:
    """Hold the one lock. An agent that keeps it beyond ``grace`` seconds is hung, and is killed."""
    fd = open_lock(path)
    try:
        wait_for_lock(fd, path, grace)
        stamp(fd)
        yield
    finally:
        os.close(fd)


def open_lock(path: Path) -> int:
    """flock(2) needs no right to write: on a read-only file system the file that is there serves as well."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def wait_for_lock(fd: int, path: Path, grace: float) -> None:
    began, killed = time.monotonic(), False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited, owner = time.monotonic() - began, owner_of(path)
            if owner.get("who") == "rescue":
                if waited > PATIENCE:
                    raise RescueError(f"another rescue (process {owner['pid']}) holds {path}") from None
            elif waited > grace and killed:
                raise RescueError(f"somebody else holds {path} and does not let go") from None
            elif waited > grace:
                kill(path, owner)
                killed, began = True, time.monotonic()
            time.sleep(0.2)


def stamp(fd: int) -> None:
    """Say who holds the lock. For people and for another rescue: a disk that does not take it must not stop us."""
    owner = {
        "pid": os.getpid(),
        "start_time": start_time(os.getpid()),
        "boot_id": boot_id(),
        "who": "rescue",
        "since": utc_now(),
    }
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(owner).encode(), 0)
    except OSError as error:
        say(f"the lock cannot be stamped: {error}")


def owner_of(path: Path) -> dict[str, Any]:
    """The stamp, if that very process runs still; empty when nobody who can be named holds the lock."""
    try:
        owner = json.loads(path.read_bytes())
        alive = owner["boot_id"] == boot_id() and start_time(int(owner["pid"])) == int(owner["start_time"]) != 0
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(owner) if alive else {}


def kill(path: Path, owner: dict[str, Any]) -> None:
    """SIGKILL to the process that stamped the lock, if it is still that process."""
    if not owner:
        raise RescueError(f"{path} is held, and its stamp names no process that lives; see who has it: fuser -v {path}")
    say(f"{owner.get('who', 'process')} {owner['pid']} holds the lock past the deadline; killing it")
    with contextlib.suppress(ProcessLookupError):
        # By descriptor: between a look at its start time and the signal a number may pass to another process.
        fd = os.pidfd_open(int(owner["pid"]))
        try:
            if owner_of(path) == owner:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)


def start_time(pid: int) -> int:
    """Start of a process in clock ticks after boot, 0 when there is none (proc(5), field 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# --- systemd -------------------------------------------------------------------------------------


def systemctl(*arguments: str, timeout: float = 30.0) -> str:
    """Run systemctl; RescueError with what it said when it fails or takes too long."""
    try:
        done = subprocess.run(
            ["systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise RescueError(f"systemctl {' '.join(arguments)} did not end within {timeout:.0f} s") from error
    if done.returncode != 0:
        raise RescueError(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def show(unit: str, name: str) -> str:
    return systemctl("show", "--value", f"--property={name}", unit).strip()


def stop(unit: str) -> None:
    """Stop k3s, kill its main process if it does not end."""
    try:
        systemctl("stop", unit, timeout=STOP_TIMEOUT)
    except RescueError as error:
        say(f"{error}; killing it")
        with contextlib.suppress(RescueError):  # systemd's own limit may have ended it just now
            systemctl("kill", "--kill-who=main", "--signal=KILL", unit)
        systemctl("stop", unit, timeout=STOP_TIMEOUT)
    if show(unit, "MainPID") != "0":
        raise RescueError(f"{unit} still has a main process")


def start(unit: str) -> None:
    """Start k3s, more than once when it dies on the way; it is behind the gate, so systemd does not."""
    for attempt in range(1, START_ATTEMPTS + 1):
        with contextlib.suppress(RescueError):
            systemctl("reset-failed", unit)  # fails when there is nothing to reset
        try:
            systemctl("start", unit, timeout=START_TIMEOUT)
            state = show(unit, "ActiveState")
            if state != "active":
                raise RescueError(f"{unit} is {state} after its start")
            return
        except RescueError as error:
            if attempt == START_ATTEMPTS:
                raise
            say(f"{error}; trying again")
            time.sleep(START_PAUSE)


# --- bringing back ---------------------------------------------------------------------------------


def is_home(rescue: dict[str, Any]) -> bool:
    """Whether the files are those the node came from, in place and whole, with the configuration for them.

    SQLite is whole under its name when it is the very ``state.db`` that was sealed, or the one that was put back, and
    no etcd was begun beside it: k3s's conversion begins with ``member/wal`` and ends by renaming ``state.db``.
    """
    db, drop_in = Path(rescue["db"]), Path(rescue["drop_in"])
    wal_directory, state_db = db / "etcd" / "member" / "wal", db / "state.db"
    if rescue["goal"] == "etcd":
        wanted = rescue.get("drop_in_content")
        configured = wanted is None or (drop_in.exists() and drop_in.read_bytes() == wanted.encode())
        kept = Path(rescue["quarantine"]) / "etcd"
        return configured and wal_directory.exists() and not kept.exists() and not state_db.exists()
    return not drop_in.exists() and sqlite_is_whole(rescue)


def sqlite_is_whole(rescue: dict[str, Any]) -> bool:
    db, quarantine = Path(rescue["db"]), Path(rescue["quarantine"])
    if (db / "etcd" / "member" / "wal").exists() or not (db / "state.db").exists():
        return False
    if "sealed" not in rescue:
        return True
    inode = (db / "state.db").stat().st_ino
    never_begun = not any(quarantine.glob("etcd*/member/wal"))
    return inode == restored_inode(rescue) or (never_begun and inode == rescue.get("inode"))


def restored_inode(rescue: dict[str, Any]) -> int:
    try:
        return int((Path(rescue["quarantine"]) / RESTORED).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def bring_back_sqlite(rescue: dict[str, Any]) -> None:
    """The sealed pre-image in place, etcd and its traces aside. k3s is stopped."""
    db, quarantine = Path(rescue["db"]), Path(rescue["quarantine"])
    state_db, wal_directory = db / "state.db", db / "etcd" / "member" / "wal"
    temporary = db / ".state.db.rescue"
    drop_in = Path(rescue["drop_in"])
    remove(drop_in)
    remove_directory_if_empty(drop_in.parent)
    remove(db / ".state.db.k3s-ha-agent")  # of an agent that was cut off
    if "sealed" not in rescue and wal_directory.exists():
        raise RescueError(f"{wal_directory} exists although the pre-image was never sealed; a person must look")
    if sqlite_is_whole(rescue):
        sync_directory(db)
        remove(temporary)
        say(f"{state_db} was not converted, or is back already; it stays as it is")
        return
    if "sealed" not in rescue:
        raise RescueError(f"{state_db} is not there although the pre-image was never sealed; a person must look")
    sealed = Path(rescue["sealed"])
    check(sealed, rescue["sealed_sha256"])
    # Before anything is moved: a full disk then leaves everything where it was.
    copy(sealed, temporary)
    check(temporary, rescue["sealed_sha256"])
    move_aside(db / "etcd", quarantine)
    # state.db first: without it the gate refuses, and it must never lie there without its WAL.
    for name in ("state.db", "state.db.migrated", "state.db-wal", "state.db-shm"):
        move_aside(db / name, quarantine)
    make_directory(quarantine)
    write(quarantine / RESTORED, f"{temporary.stat().st_ino}\n".encode(), 0o600)
    temporary.rename(state_db)
    sync_directory(db)
    say(f"the sealed pre-image is back in {state_db}")


def set_aside_remains(rescue: dict[str, Any]) -> None:
    """What a start on etcd left that was cut off before there was an etcd: the next conversion would meet it."""
    db = Path(rescue["db"])
    for name in ("tmp-etcd", "etcd-tmp", *(() if (db / "etcd/member/wal").exists() else ("etcd/member",))):
        if os.path.lexists(db / name):
            move_aside(db / name, Path(rescue["quarantine"]))


def check(path: Path, sha256: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise RescueError(f"{path} is damaged: SHA-256 {found}, sealed was {sha256}")


def copy(source: Path, target: Path) -> None:
    """The data, with the mode k3s itself gives it; durable."""
    shutil.copyfile(source, target)
    target.chmod(0o644)
    fd = os.open(target, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def bring_back_etcd(rescue: dict[str, Any]) -> None:
    """etcd's directory back in place, SQLite aside. k3s is stopped."""
    db, quarantine = Path(rescue["db"]), Path(rescue["quarantine"])
    kept, etcd = quarantine / "etcd", db / "etcd"
    remove(db / ".state.db.k3s-ha-agent")  # of an agent that was cut off
    if kept.exists():
        if (etcd / "member" / "wal").exists():
            raise RescueError(f"both {etcd} and {kept} hold an etcd; a person must look")
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            move_aside(db / name, quarantine / "sqlite")
        move_aside(etcd, quarantine / "empty-etcd")
        kept.rename(etcd)
        say(f"etcd is back in {etcd}")
    if not (etcd / "member" / "wal").exists():
        raise RescueError(f"there is no etcd datastore in {etcd}")
    sync_directory(db)
    if quarantine.is_dir():
        sync_directory(quarantine)
    if rescue.get("drop_in_content") is not None:
        drop_in = Path(rescue["drop_in"])
        make_directory(drop_in.parent, 0o755)  # as the agent makes it
        write(drop_in, rescue["drop_in_content"].encode(), 0o600)


def leave_etcd(unit: str, db: Path) -> None:
    """Remove our own voter through our own etcd; k3s is started for it when it is dead.

    A learner is waited for: etcd promotes one that has caught up whether it lives or not (k3s-facts 4.9). One that
    has left already is not started: k3s would move db/etcd away and join again (k3s-facts 4.1, tombstone).
    RescueError when it stays a voter: then k3s is better left running than stopped.
    """
    began = time.monotonic()
    why = "etcd did not answer"
    while time.monotonic() < began + LEAVE_LIMIT:
        if (db / "etcd/tombstone").exists():
            say("etcd's member of this server has left its cluster already")
            return
        if show(unit, "MainPID") == "0":
            systemctl("start", "--no-block", unit)
        try:
            name = (db / "etcd/name").read_text().strip()
            members = ask_etcd(db, "cluster/member/list", {})["members"]
            ours = [m for m in members if m.get("name") == name]
            if not ours:
                return
            if ours[0].get("isLearner"):
                raise OSError("rpc not supported for learner")
            ask_etcd(db, "cluster/member/remove", {"ID": ours[0]["ID"]})
            say(f"etcd's member {name} has left its cluster")
            return
        except (OSError, ValueError, KeyError) as error:
            why = str(error)
            if "not supported for learner" in why and time.monotonic() > began + PROMOTION:
                say("this server's learner is not promoted; it is stopped")
                return
        time.sleep(0.5)
    raise RescueError(
        f"this server may still be a voter and cannot leave ({why}); k3s is left as it is, and the agent asks the rest "
        "of the cluster: systemctl restart k3s-ha-agent.service"
    )


def ask_etcd(db: Path, what: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call of etcd's JSON gateway on this server. OSError with etcd's own words when it refuses."""
    tls = db.parent / "tls/etcd"
    context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
    context.load_cert_chain(str(tls / "client.crt"), str(tls / "client.key"))
    # Newer k3s serves the gateway on 2382 (k3s-facts, "Seen" 5).
    port = 2382 if "listen-client-http-urls" in (db / "etcd/config").read_text() else 2379
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}/v3/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        raise OSError(error.read().decode(errors="replace")[:300]) from error


def undo_join(rescue: dict[str, Any]) -> None:
    """This server as it was before it began to join.

    A voter leaves through its own etcd before k3s is stopped: the second voter of two would take the quorum with it
    (k3s-facts J11). So does a learner once it votes; the record is left for the agent, which asks another server to
    drop what is left and to delete the Node. k3s itself removes a learner that does not catch up after five minutes.
    """
    db = Path(rescue["db"])
    wal = db / "etcd/member/wal"
    while True:
        joined = wal.exists()
        if joined:
            leave_etcd(rescue["unit"], db)
        stop(rescue["unit"])
        if joined or not wal.exists():  # else it became a member while it was being stopped
            break
    move_aside(db.parent, Path(rescue["quarantine"]))
    remove(Path(rescue["drop_in"]))
    remove_directory_if_empty(Path(rescue["drop_in"]).parent)
    remove(Path(rescue["token_file"]))
    if rescue["unit_file_state"] not in ("enabled", "enabled-runtime", "static", "alias", "indirect"):
        systemctl("disable", rescue["unit"])
    open_gate(rescue)
    say(
        "k3s is stopped and this server is as it was; the agent removes what the cluster may still have of it: "
        "systemctl restart k3s-ha-agent.service"
    )


def restore_contexts(rescue: dict[str, Any]) -> None:
    """SELinux contexts as the policy wants them, where SELinux is in use; k3s may not read them otherwise."""
    if Path("/sys/fs/selinux/enforce").exists():
        drop_ins = str(Path(rescue["drop_in"]).parent)
        done = subprocess.run(
            ["/usr/sbin/restorecon", "-R", "--", rescue["db"], drop_ins], timeout=60, check=False, capture_output=True
        )
        if done.returncode != 0:
            say(f"restorecon failed: {done.stderr.decode(errors='replace').strip()}")


def open_gate(rescue: dict[str, Any]) -> None:
    gate = Path(rescue["gate"])
    remove(gate)
    remove_directory_if_empty(gate.parent)
    systemctl("daemon-reload")


def keep_up(unit: str) -> None:
    """Start k3s when it died behind the gate, whose Restart=no kept systemd from it."""
    if show(unit, "ActiveState") == "failed":
        start(unit)


def bring_back(record: dict[str, Any]) -> None:
    """One operation, all the way."""
    rescue = record["rescue"]
    unit, goal = rescue["unit"], rescue["goal"]
    say(f"bringing {unit} back (goal: {goal}) for {record['kind']} {record['id']}")
    if goal == "none":
        undo_join(rescue)
        return
    if is_home(rescue) and show(unit, "ActiveState") == "active":
        say(f"{unit} runs on {goal} already")
    else:
        stop(unit)
        if goal == "sqlite":
            bring_back_sqlite(rescue)
        else:
            bring_back_etcd(rescue)
        restore_contexts(rescue)
        start(unit)
    if not is_home(rescue):
        raise RescueError(
            f"{unit} was started on {goal} and has begun another datastore: look for cluster-init, server or "
            "datastore-endpoint in its configuration, take it out, and start the rescue again"
        )
    if goal == "sqlite":
        set_aside_remains(rescue)
    open_gate(rescue)
    keep_up(unit)
    say(f"{unit} runs on {goal} again")


def save(path: Path, record: dict[str, Any]) -> None:
    write(path, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n", 0o600)


def end(path: Path, record: dict[str, Any], outcome: str, why: str) -> None:
    reason = record.get("reason") or "The agent did not end the operation before its deadline"
    record.update(
        outcome=outcome,
        phase="finished",
        reason=f"{reason.rstrip('.')}; {why}.",
        finished_at=utc_now(),
        finished_by="rescue",
    )
    if outcome == "rolled_back":
        record["rescue"] = {}
        for step in record["steps"]:
            if step["status"] not in ("pending", "undone"):
                step["status"] = "undone"
    save(path, record)


def leave_to_agent(path: Path, record: dict[str, Any], rescue: dict[str, Any]) -> None:
    """The agent goes on taking a join back: it can ask the rest of the cluster, which the rescue cannot.

    ``rescue`` is empty when this server is as it was, and only the cluster may have something of it.
    """
    reason = record.get("reason") or "The agent did not end the join before its deadline."
    record.update(phase="undoing", outcome=None, finished_at=None, finished_by=None, reason=reason, rescue=rescue)
    save(path, record)


# --- which operations ------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """A record, whole and of the format this rescue reads; RescueError with what to do about any other.

    What is used later is looked at here, so that nothing ends half-way because of it.
    """
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise RescueError(f"it is of format {record['format']}, this rescue reads {FORMAT}")
        rescue = record["rescue"]
        wrong = [n for n, kind in RECORD.items() if not isinstance(record[n], kind)]
        wrong += [n for n in wanted(rescue) if not isinstance(rescue[n], str)]
        wrong += [n for n in PATHS if rescue and not Path(rescue[n]).is_absolute()]
        wrong += [step["name"] for step in record["steps"] if not isinstance(step["status"], str)]
        if wrong:
            raise RescueError(f"it says nothing that can be used of {', '.join(wrong)}")
    except (OSError, ValueError, KeyError, TypeError, RescueError) as error:
        raise RescueError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Nothing was changed for it, and a "
            "closed gate stays closed: start the version of the agent that wrote it, or see "
            "docs/runbook.md#record-unreadable"
        ) from error
    return dict(record)


def wanted(rescue: dict[str, Any]) -> list[str]:
    """What the section ``rescue`` must say for its goal."""
    if not rescue:
        return []
    if rescue["goal"] not in ("sqlite", "etcd", "none"):
        raise RescueError(f"{rescue['goal']!r} is no goal")
    more = ["token_file", "unit_file_state"] if rescue["goal"] == "none" else []
    return ["unit", *PATHS, *more, *(n for n in ("sealed", "sealed_sha256") if "sealed" in rescue)]


def needs_rescue(record: dict[str, Any]) -> bool:
    """Not committed, with something to bring back, and not ended or ended badly."""
    if record["committed"] or not record["rescue"]:
        return False
    return record["outcome"] is None or record["outcome"] == "rollback_failed"


def needs_opening(record: dict[str, Any]) -> bool:
    """Committed, and the agent has not come to the tidying up: k3s is still behind the gate."""
    return bool(record["committed"] and record["rescue"] and record["phase"] != "finished")


def main(arguments: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # as in the unit; a person may start this by hand
    state_dir = Path(arguments[0]) if arguments else STATE_DIR
    grace = float(arguments[1]) if len(arguments) > 1 else LOCK_GRACE
    failed = False
    if not state_dir.is_dir():
        say(f"there is no {state_dir}, so the agent has never begun anything here")
        return 0
    try:
        with locked(state_dir / "lock", grace):
            paths = sorted((state_dir / "operations").glob("*/record.json"))
            for path in paths:
                failed |= not rescue_one(path)
            if not failed:
                disarm()
    except (RescueError, OSError) as error:
        say(f"FAILED: {error}")
        return 1
    say(f"looked at {len(paths)} operations below {state_dir}")
    return 1 if failed else 0


def rescue_one(path: Path) -> bool:
    """True when nothing was to do or the node was brought back and that is recorded."""
    try:
        record = read(path)
    except RescueError as error:
        say(f"FAILED: {error}")
        return False
    back = needs_rescue(record)
    try:
        if needs_opening(record):
            say(f"{record['kind']} {record['id']} is committed; opening the gate, the agent tidies up the rest")
            open_gate(record["rescue"])
            keep_up(record["rescue"]["unit"])
        if back:
            bring_back(record)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said, and the other records have their turn
        why = str(error) if isinstance(error, RescueError | OSError) else f"{type(error).__name__}: {error}"
        say(f"FAILED for {record['id']}: {why}. The gate stays closed if k3s was not brought up. Nothing was deleted.")
        return not_brought_back(path, record, why)
    try:
        if back and record["rescue"]["goal"] == "none":
            leave_to_agent(path, record, {})
        elif back:
            end(path, record, "rolled_back", "brought back by the rescue")
    except OSError as error:
        say(
            f"FAILED to record it: {error}. k3s was brought back; make room on, or repair, the file system of {path}, "
            "then start the rescue again: it settles the record and leaves k3s alone."
        )
        return False
    return True


def not_brought_back(path: Path, record: dict[str, Any], why: str) -> bool:
    """False. What is committed stays so in its record: the agent, or another rescue, opens the gate."""
    if record["committed"]:
        return False
    try:
        if record["rescue"]["goal"] == "none":
            leave_to_agent(path, record, record["rescue"])
        else:
            end(path, record, "rollback_failed", f"the rescue failed too: {why}")
    except OSError as second:  # the disk may be the very thing that failed
        say(f"FAILED to record that: {second}")
    return False


def disarm() -> None:
    """Stop our own timer when it was not what started us: it would stand against the next operation."""
    with contextlib.suppress(RescueError):
        if show(TIMER, "ActiveState") == "active":
            systemctl("stop", TIMER)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
