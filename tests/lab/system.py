"""What the lab needs of Linux: child processes, network namespaces, cgroups, mounts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

CGROUP_ROOT = "k3s-ha-agent-lab"
"""Name of the lab's own cgroup in every hierarchy (used only where no systemd runs the machine)."""


_NSPAWN = Path("/run/systemd/nspawn")


class LabError(AssertionError):
    """The lab could not do what a test asked for. An AssertionError, so that a test fails by it."""


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002 as subprocess.run has it
    check: bool = True,
    timeout: float = 60.0,
    directory: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine. LabError with what it printed when it fails; ``timeout`` in seconds."""
    done = subprocess.run(
        argv, input=input, stdin=subprocess.DEVNULL if input is None else None, capture_output=True, text=True,
        errors="replace", timeout=timeout, cwd=directory, check=False,
    )  # fmt: skip
    if check and done.returncode != 0:
        raise LabError(describe(argv, done))
    return done


def describe(argv: Sequence[str], done: subprocess.CompletedProcess[str]) -> str:
    """A command and what came of it, for the message of a failure."""
    output = "\n".join(part.rstrip()[-4000:] for part in (done.stdout, done.stderr) if part)
    return f"{' '.join(argv)[:500]} ended with {done.returncode}\n{output}"


def booted_by_systemd() -> bool:
    """Whether systemd runs this machine (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


# --- processes ---------------------------------------------------------------------------------


def processes() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def start_time(pid: int) -> str | None:
    """When a process started (clock ticks since boot), or None when there is none. Tells a pid from its reuse."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# --- network namespaces ------------------------------------------------------------------------


def namespace_path(name: str) -> Path:
    return Path("/run/netns") / name


def network_namespaces() -> list[str]:
    try:
        return sorted(entry.name for entry in Path("/run/netns").iterdir())
    except FileNotFoundError:
        return []


def in_namespaces(names: Sequence[str]) -> list[int]:
    """The processes in any of these network namespaces."""
    wanted = set()
    for name in names:
        try:
            status = namespace_path(name).stat()
        except FileNotFoundError:
            continue
        wanted.add((status.st_dev, status.st_ino))
    found = []
    for pid in processes():
        try:
            status = os.stat(f"/proc/{pid}/ns/net")
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted:
            found.append(pid)
    return found


def ip(namespace: str, *arguments: str) -> None:
    run(["ip", "-n", namespace, *arguments])


# --- cgroups -----------------------------------------------------------------------------------


def cgroup_mounts() -> list[Path]:
    """Where the cgroup hierarchies are mounted, version 1 and 2."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            mounts.append(Path(_unescape(before.split()[4])))
    return mounts


def make_cgroup(name: str) -> list[Path]:
    """Make the cgroup in every hierarchy; the ``cgroup.procs`` files a process joins it by."""
    joined = []
    for mount in cgroup_mounts():
        directory = mount
        for part in (CGROUP_ROOT, *name.split("/")):
            parent, directory = directory, directory / part
            directory.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                # A new cpuset of version 1 is empty and takes no process.
                path = directory / setting
                if path.exists() and not path.read_text().strip():
                    path.write_text((parent / setting).read_text())
        joined.append(directory / "cgroup.procs")
    return joined


def remove_cgroups(name: str) -> None:
    """Remove the cgroup and all below it. OSError when a process is still in one."""
    for mount in cgroup_mounts():
        top = mount / CGROUP_ROOT
        for directory, _, _ in os.walk(top / name, topdown=False):
            os.rmdir(directory)
        try:
            top.rmdir()
        except OSError:  # another lab's cgroup is in it, or it was never made
            continue


def leader_cgroups(pid: int) -> list[Path]:
    """The ``cgroup.procs`` files of the hierarchies systemd manages, for the cgroup a process is in."""
    mounts = cgroup_mounts()
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            names = ["systemd"]
        elif controllers == "":
            names = ["cgroup", "unified"]
        else:
            continue
        found += [mount / path.lstrip("/") / "cgroup.procs" for mount in mounts if mount.name in names]
    return [path for path in found if path.exists()]


# --- mounts ------------------------------------------------------------------------------------


def mounts_below(directory: Path) -> list[Path]:
    """Mount points in a directory, the deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(_unescape(line.split()[4]))
        if directory in point.parents:
            found.append(point)
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def unmount_root(point: Path, *, lazy: bool = False, check: bool = True) -> None:
    """Unmount a node's root, and remove what a killed systemd-nspawn has left of it in /run."""
    status = point.stat()
    run(["umount", *(["--lazy"] if lazy else []), str(point)], check=check)
    (_NSPAWN / f"locks/inode-{status.st_dev}:{status.st_ino}").unlink(missing_ok=True)


def nspawn_directories(prefix: str) -> list[Path]:
    """The directories systemd-nspawn made for machines whose names begin so; it leaves them when it is killed."""
    return sorted((_NSPAWN / "propagate").glob(f"{prefix}*"))


def mount_overlay(target: Path, *, lower: Sequence[Path], upper: Path, work: Path) -> None:
    """Mount ``upper`` over the layers of ``lower`` (the first one on top)."""
    for directory in (target, upper, work):
        directory.mkdir(parents=True, exist_ok=True)
    layers = ":".join(str(layer) for layer in lower)
    # volatile: unmounting does not sync the machine's whole disk first, which takes seconds when others write to it.
    options = f"lowerdir={layers},upperdir={upper},workdir={work},index=off,xino=off,volatile"
    done = run(["mount", "-t", "overlay", "k3s-ha-agent-lab", "-o", options, str(target)], check=False)
    if done.returncode != 0:
        raise LabError(
            f"An overlay cannot be mounted on {target}: {done.stderr.strip()}. The directory must lie on a plain disk "
            "file system (ext4, xfs, btrfs), not on an overlay or tmpfs; set K3S_HA_AGENT_LAB_DIR to one that does."
        )


def _unescape(path: str) -> str:
    r"""A path of mountinfo, where blanks are written \040."""
    return path.encode().decode("unicode_escape")
