"""Takes labs down, whatever state they are in; knows them by their stamp in /run/k3s-ha-agent-lab.

``python -m tests.lab.clean`` takes down every lab whose run is gone, and says so.
``python -m tests.lab.clean --when-over ID`` waits for the end of its standard input, then takes lab ID down:
the keeper that each lab starts, so that even a run killed with SIGKILL leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.lab import system
from tests.lab.system import LabError

PREFIX = "k3sha-"


def stamps_directory() -> Path:
    """Where the stamps are; another one only in the lab's own tests, so that no other lab cleans up for them."""
    return Path(os.environ.get("K3S_HA_AGENT_LAB_STAMPS", "/run/k3s-ha-agent-lab"))


@dataclasses.dataclass(frozen=True, slots=True)
class Stamp:
    """What must be known of a lab to take it down: everything else follows from its id."""

    id: str
    directory: str
    """Where the nodes' files are; removed with all that is in it."""
    pid: int
    """The process the lab belongs to."""
    started: str
    """When that process started, in clock ticks since boot."""
    boot_id: str

    @property
    def path(self) -> Path:
        return stamps_directory() / self.id

    def write(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / ".lab.json"
        temporary.write_text(json.dumps(dataclasses.asdict(self)))
        temporary.rename(self.path / "lab.json")

    def over(self) -> bool:
        """Whether the process it belongs to is gone."""
        there = self.boot_id == boot_id() and system.alive(self.pid) and system.start_time(self.pid) == self.started
        return not there


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def namespace(lab: str, node: str | None = None) -> str:
    """Name of a lab's network namespace, or of a node's."""
    return f"{PREFIX}{lab}" if node is None else f"{PREFIX}{lab}-{node}"


def machine(lab: str, node: str) -> str:
    """The name systemd-nspawn knows a node by; unique on this machine."""
    return f"{PREFIX}{lab}-{node}"


def stamps() -> list[Stamp]:
    found = []
    for path in sorted(stamps_directory().glob("*/lab.json")):
        try:
            found.append(Stamp(**json.loads(path.read_text())))
        except FileNotFoundError:  # its lab was taken down meanwhile
            continue
    return found


def take_down(stamp: Stamp) -> None:
    """Remove everything a lab is made of. Safe to run twice, and at the same time. LabError names what is left."""
    _kill(stamp.id)
    _unmount(Path(stamp.directory))
    for name in _namespaces(stamp.id):
        system.run(["ip", "netns", "delete", name], check=False)
    _remove_cgroups(stamp.id)
    for directory in system.nspawn_directories(machine(stamp.id, "")):
        directory.rmdir()
    if not system.mounts_below(Path(stamp.directory)):
        shutil.rmtree(stamp.directory, ignore_errors=True)
    left = leftovers(stamp)
    if left:
        # The stamp stays: the next sweep tries again.
        raise LabError(f"Of lab {stamp.id} is left: {', '.join(left)}")
    shutil.rmtree(stamp.path, ignore_errors=True)


def sweep() -> list[str]:
    """Take down the labs whose run is gone. Their ids."""
    gone = [stamp for stamp in stamps() if stamp.over()]
    for stamp in gone:
        take_down(stamp)
    return [stamp.id for stamp in gone]


def leftovers(stamp: Stamp) -> list[str]:
    """What is still there of a lab beside its stamp: processes, mounts, namespaces, cgroups, files."""
    found = [f"process {pid} {' '.join(system.command_line(pid))[:80]}" for pid in lab_processes(stamp.id)]
    found += [f"mount {point}" for point in system.mounts_below(Path(stamp.directory))]
    found += [f"network namespace {name}" for name in _namespaces(stamp.id)]
    found += [f"cgroup {path}" for path in _cgroups(stamp.id)]
    found += [f"directory {path}" for path in system.nspawn_directories(machine(stamp.id, ""))]
    if Path(stamp.directory).exists():
        found.append(f"files {stamp.directory}")
    return found


def lab_processes(lab: str) -> list[int]:
    """All processes of a lab: those in its namespaces (each node has one) and systemd-nspawn itself."""
    found = set(system.in_namespaces(_namespaces(lab)))
    machines = f"--machine={machine(lab, '')}"
    found |= {p for p in system.processes() if any(a.startswith(machines) for a in system.command_line(p))}
    for path in _cgroups(lab):
        found |= set(_members(path))
    return sorted(pid for pid in found if pid != os.getpid() and system.alive(pid))


def _kill(lab: str) -> None:
    deadline = time.monotonic() + 30
    while left := lab_processes(lab):
        if time.monotonic() > deadline:
            return  # leftovers() names them
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def _unmount(directory: Path) -> None:
    deadline = time.monotonic() + 30
    while points := system.mounts_below(directory):
        lazy = time.monotonic() > deadline
        for point in points:
            system.unmount_root(point, lazy=lazy, check=False)
        if lazy:
            return
        time.sleep(0.02)


def _namespaces(lab: str) -> list[str]:
    own = namespace(lab)
    return [name for name in system.network_namespaces() if name == own or name.startswith(f"{own}-")]


def _cgroups(lab: str) -> list[Path]:
    tops = (mount / system.CGROUP_ROOT / lab for mount in system.cgroup_mounts())
    return [top for top in tops if top.is_dir()]


def _members(cgroup: Path) -> list[int]:
    found: list[int] = []
    for directory, _, _ in os.walk(cgroup):
        try:
            found += [int(line) for line in (Path(directory) / "cgroup.procs").read_text().split()]
        except OSError:  # removed meanwhile
            continue
    return found


def _remove_cgroups(lab: str) -> None:
    deadline = time.monotonic() + 10
    while _cgroups(lab) and time.monotonic() < deadline:
        try:
            system.remove_cgroups(lab)
        except OSError:  # a killed process is still on its way out
            time.sleep(0.02)


def _keep(lab: str) -> None:
    """Wait until the lab's run lets go of our standard input, by whatever end, then take the lab down."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    for stamp in stamps():
        if stamp.id == lab:
            take_down(stamp)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--when-over"]:
        _keep(arguments[1])
        return 0
    if os.geteuid() != 0:
        if stamps():
            print("clean: the labs of killed runs can only be removed as root", file=sys.stderr)
            return 1
        return 0
    for lab in sweep():
        print(f"clean: removed what a killed run had left of lab {lab}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
