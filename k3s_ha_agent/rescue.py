"""The last resort: brings k3s back to the datastore it was on, whatever became of the agent.

Started by the transient timer ``k3s-ha-agent-rescue.timer`` at the deadline, by ``OnFailure=`` of the
agent's unit, or by a person. Standard library only, and it shares no code with what it rescues but
the format of the record (``model.py``, format 1), because it must work when the agent's package is
half upgraded, and without D-Bus (systemctl talks to PID 1 directly). Every act is safe to run twice.

Reads ``<state_dir>/operations/*/record.json`` and acts on records that are not committed, or whose
rollback failed. Of such a record it uses ``rescue``:

``goal``             the datastore to bring back: ``sqlite`` or ``etcd``; ``none`` for a join
``unit``             the k3s unit; ``gate``, ``drop_in`` our files; ``drop_in_content`` for goal etcd
``db``               k3s's ``server/db``; ``quarantine`` where things are moved aside
``sealed``, ``sealed_sha256``  the sealed pre-image, absent before it was sealed; ``inode`` of ``state.db`` then
``token_file``, ``unit_file_state``  of a join: our token file, and whether the unit was enabled

Exit status: 0 nothing to do or brought back, 1 not brought back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
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
STOP_TIMEOUT = 90.0
START_TIMEOUT = 300.0
LEAVE_LIMIT = 120.0
"""Seconds for a voter to leave its cluster."""
TIMER = "k3s-ha-agent-rescue.timer"


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
    temporary = path.with_name(f".{path.name}.rescue")
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
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if path.parent.is_dir():
        sync_directory(path.parent)


def move_aside(path: Path, quarantine: Path) -> None:
    """Rename into the quarantine under a free name; nothing when it is not there."""
    if not os.path.lexists(path):
        return
    quarantine.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    """Hold the one lock. An owner that keeps it beyond ``grace`` seconds is hung, and is killed."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + grace
        killed = False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    if killed:
                        raise RescueError(f"somebody else holds {path} and does not let go") from None
                    kill_owner(path)
                    killed, end = True, time.monotonic() + grace
                time.sleep(0.2)
        owner = {
            "pid": os.getpid(),
            "start_time": start_time(os.getpid()),
            "boot_id": boot_id(),
            "who": "rescue",
            "since": utc_now(),
        }
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(owner).encode(), 0)
        os.fsync(fd)
        yield
    finally:
        os.close(fd)


def kill_owner(path: Path) -> None:
    """SIGKILL to the process that stamped the lock, if it is still that process."""
    try:
        owner = json.loads(path.read_bytes())
        pid, began, boot = int(owner["pid"]), int(owner["start_time"]), owner["boot_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RescueError(f"{path} is held, and does not say by whom ({error})") from error
    if boot == boot_id() and start_time(pid) == began:
        say(f"{owner.get('who', 'process')} {pid} holds the lock past the deadline; killing it")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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
        systemctl("kill", "--kill-who=main", "--signal=KILL", unit)
        systemctl("stop", unit, timeout=STOP_TIMEOUT)
    if show(unit, "MainPID") != "0":
        raise RescueError(f"{unit} still has a main process")


def start(unit: str) -> None:
    with contextlib.suppress(RescueError):
        systemctl("reset-failed", unit)  # fails when there is nothing to reset
    systemctl("start", unit, timeout=START_TIMEOUT)
    state = show(unit, "ActiveState")
    if state != "active":
        raise RescueError(f"{unit} is {state} after its start")


# --- bringing back ---------------------------------------------------------------------------------


def bring_back_sqlite(rescue: dict[str, Any], restored: bool) -> None:
    """The sealed pre-image in place, etcd and its traces aside. k3s is stopped."""
    db, quarantine = Path(rescue["db"]), Path(rescue["quarantine"])
    state_db, wal_directory = db / "state.db", db / "etcd" / "member" / "wal"
    drop_in = Path(rescue["drop_in"])
    remove(drop_in)
    with contextlib.suppress(OSError):
        drop_in.parent.rmdir()  # only when it is empty
    began = wal_directory.exists() or any(quarantine.glob("etcd*/member/wal"))
    if not began and state_db.exists() and state_db.stat().st_ino == rescue.get("inode"):
        say("k3s never began to convert; its SQLite stays as it is")
        return
    if "sealed" not in rescue:
        if wal_directory.exists():
            raise RescueError(f"{wal_directory} exists although the pre-image was never sealed; a person must look")
        say("the pre-image was never sealed, so SQLite was never touched")
        return
    if restored and state_db.exists() and not wal_directory.exists():
        say("the pre-image was already back in place")
        return
    sealed = Path(rescue["sealed"])
    found = sha256_of(sealed)
    if found != rescue["sealed_sha256"]:
        raise RescueError(f"{sealed} is damaged: SHA-256 {found}, sealed was {rescue['sealed_sha256']}")
    move_aside(db / "etcd", quarantine)
    # state.db first: without it the gate refuses, and it must never lie there without its WAL.
    for name in ("state.db", "state.db.migrated", "state.db-wal", "state.db-shm"):
        move_aside(db / name, quarantine)
    temporary = db / ".state.db.rescue"
    shutil.copyfile(sealed, temporary)
    temporary.chmod(0o644)
    fd = os.open(temporary, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    if sha256_of(temporary) != rescue["sealed_sha256"]:
        raise RescueError("the copy of the pre-image differs from it right after it was written")
    temporary.rename(state_db)
    sync_directory(db)
    say(f"the sealed pre-image is back in {state_db}")


def bring_back_etcd(rescue: dict[str, Any]) -> None:
    """etcd's directory back in place, SQLite aside. k3s is stopped."""
    db, quarantine = Path(rescue["db"]), Path(rescue["quarantine"])
    kept, etcd = quarantine / "etcd", db / "etcd"
    if kept.exists():
        if (etcd / "member" / "wal").exists():
            raise RescueError(f"both {etcd} and {kept} hold an etcd; a person must look")
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            move_aside(db / name, quarantine / "sqlite")
        move_aside(etcd, quarantine / "empty-etcd")
        kept.rename(etcd)
        sync_directory(db)
        sync_directory(quarantine)
        say(f"etcd is back in {etcd}")
    if not (etcd / "member" / "wal").exists():
        raise RescueError(f"there is no etcd datastore in {etcd}")
    if rescue.get("drop_in_content") is not None:
        drop_in = Path(rescue["drop_in"])
        if not drop_in.parent.is_dir():
            drop_in.parent.mkdir(parents=True)
            drop_in.parent.chmod(0o755)  # as the agent makes it, whatever our umask
        write(drop_in, rescue["drop_in_content"].encode(), 0o600)


def leave_etcd(unit: str, db: Path) -> None:
    """Remove our own voter through our own etcd; k3s is started for it when it is dead.

    RescueError when it stays a voter: then k3s is better left running than stopped.
    """
    name = (db / "etcd/name").read_text().strip()
    end = time.monotonic() + LEAVE_LIMIT
    why = "etcd did not answer"
    while time.monotonic() < end:
        if show(unit, "MainPID") == "0":
            systemctl("start", "--no-block", unit)
        try:
            members = ask_etcd(db, "cluster/member/list", {})["members"]
            ours = [m for m in members if m.get("name") == name]
            if not ours or ours[0].get("isLearner"):
                return
            ask_etcd(db, "cluster/member/remove", {"ID": ours[0]["ID"]})
            say(f"etcd's member {name} has left its cluster")
            return
        except (OSError, ValueError, KeyError) as error:
            why = str(error)
            if "not supported for learner" in why:
                return
        time.sleep(0.5)
    raise RescueError(f"this server may still be a voter and cannot leave ({why}); k3s is left as it is")


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


def undo_join(path: Path, record: dict[str, Any], rescue: dict[str, Any]) -> None:
    """This server as it was before it began to join.

    A voter leaves through its own etcd before k3s is stopped: the second voter of two would take the quorum with it
    (k3s-facts J11). A learner has no vote; the record is left for the agent, which asks another server to drop it
    and to delete the Node, and k3s itself removes a learner after five minutes (4.5).
    """
    db = Path(rescue["db"])
    if (db / "etcd/member/wal").exists():
        leave_etcd(rescue["unit"], db)
    stop(rescue["unit"])
    move_aside(Path(rescue["db"]).parent, Path(rescue["quarantine"]))
    remove(Path(rescue["drop_in"]))
    with contextlib.suppress(OSError):
        Path(rescue["drop_in"]).parent.rmdir()  # only when it is empty
    remove(Path(rescue["token_file"]))
    if rescue["unit_file_state"] not in ("enabled", "enabled-runtime", "static", "alias", "indirect"):
        systemctl("disable", rescue["unit"])
    open_gate(rescue)
    reason = record.get("reason") or "The agent did not end the join before its deadline."
    record.update(phase="undoing", reason=reason, rescue={})
    save(path, record)
    say(
        "k3s is stopped and this server is as it was; start the agent, it removes what the cluster may still have of it"
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
    with contextlib.suppress(OSError):
        gate.parent.rmdir()  # only when it is empty
    systemctl("daemon-reload")


def disarm() -> None:
    """Stop the timer when it was not what started us: it would stand against the next operation."""
    with contextlib.suppress(RescueError):  # gone already
        systemctl("stop", TIMER)


def bring_back(path: Path, record: dict[str, Any]) -> None:
    """One operation, all the way; the record says at every moment how far it came."""
    rescue = record["rescue"]
    unit = rescue["unit"]
    say(f"bringing {unit} back (goal: {rescue['goal']}) for {record['kind']} {record['id']}")
    if rescue["goal"] == "none":
        undo_join(path, record, rescue)
        return
    stop(unit)
    seal_undone = any(s["name"] == "seal-pre-image" and s["status"] == "undone" for s in record["steps"])
    if rescue["goal"] == "sqlite":
        bring_back_sqlite(rescue, restored=seal_undone or rescue.get("restored", False))
    else:
        bring_back_etcd(rescue)
    rescue["restored"] = True
    save(path, record)
    restore_contexts(rescue)
    start(unit)
    open_gate(rescue)
    disarm()
    end(path, record, "rolled_back", "brought back by the rescue")
    say(f"{unit} runs on {rescue['goal']} again")


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


# --- which operations ------------------------------------------------------------------------------


def needs_rescue(record: dict[str, Any]) -> bool:
    """Not committed, with something to bring back, and not ended or ended badly."""
    if record["format"] != FORMAT:
        raise RescueError(f"a record of format {record['format']}, this rescue reads {FORMAT}")
    if record["committed"] or not record["rescue"]:
        return False
    return record["outcome"] is None or record["outcome"] == "rollback_failed"


def main(arguments: list[str]) -> int:
    state_dir = Path(arguments[0]) if arguments else STATE_DIR
    failed = False
    try:
        with locked(state_dir / "lock"):
            for path in sorted((state_dir / "operations").glob("*/record.json")):
                failed |= not rescue_one(path)
    except (RescueError, OSError) as error:
        say(f"FAILED: {error}")
        return 1
    return 1 if failed else 0


def rescue_one(path: Path) -> bool:
    """True when nothing was to do or the node was brought back; the failure is in the record otherwise."""
    try:
        record = json.loads(path.read_bytes())
        if not needs_rescue(record):
            return True
    except (OSError, ValueError, KeyError, TypeError, RescueError) as error:
        say(f"FAILED: {path} cannot be read ({type(error).__name__}: {error}); a person must look")
        return False
    try:
        bring_back(path, record)
    except (RescueError, OSError, KeyError) as error:
        say(
            f"FAILED for {record['id']}: {error}. The gate stays closed if k3s was not brought up. Nothing was deleted."
        )
        with contextlib.suppress(OSError):  # the disk may be the very thing that failed
            end(path, record, "rollback_failed", f"the rescue failed too: {error}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
