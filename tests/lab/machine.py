"""One container with a systemd of its own: boots, runs programs, dies, and boots again with its files kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tests.lab import clean, system
from tests.lab.disk import ON_DISK, Disk
from tests.lab.system import LabError, describe

if TYPE_CHECKING:
    from tests.lab.lab import Lab

T = TypeVar("T")

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
_ASSIGNED = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
_CONTROL = re.compile(r"\r|\x1b\[[0-9;]*m")
"""What systemd writes to a console besides text."""
_JOIN = 'for group in $1; do echo $$ >"$group"; done; shift; exec "$@"'
"""Shell: join the cgroups of the first argument, then become the rest."""


class Machine(Disk):
    """The container itself. Knows nothing of k3s."""

    def __init__(self, lab: Lab, name: str, address: str) -> None:
        super().__init__(lab.directory / name, name, address)
        self.lab = lab
        self.boot_seconds = 0.0
        """How long the last boot took, from the start of systemd-nspawn until basic.target."""
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._children: list[subprocess.Popen[str]] = []

    def __repr__(self) -> str:
        return f"<node {self.name} {self.address}{'' if self.running else ', off'}>"

    # --- its life ------------------------------------------------------------------------------

    def create(self) -> None:
        """Put a fresh disk under the node and connect it to the network. It is not booted."""
        self.make_disk((self.lab.layer, self.lab.root))
        self.lab.connect(self)

    def destroy(self) -> None:
        """Kill the node and forget its disk."""
        self.kill()
        self.discard()
        del self.lab.nodes[self.name]

    def discard(self) -> None:
        """Take away what ``create`` made, as far as it came."""
        self.remove_disk()
        self.lab.disconnect(self)

    def renew(self) -> None:
        """Kill the node and give it a fresh disk, as if it had just been installed. It is not booted."""
        self.kill()
        self.remove_disk()
        self.make_disk((self.lab.layer, self.lab.root))

    def boot(self, timeout: float = 120.0) -> None:
        """Boot and wait until basic.target is reached and D-Bus answers; services may still be starting."""
        if self.running:
            raise LabError(f"{self.name} is running already.")
        began = time.monotonic()
        groups: list[Path] = []
        argv = [*_NSPAWN, f"--machine={clean.machine(self.lab.id, self.name)}", f"--hostname={self.name}"]
        argv += [f"--directory={self.root}", f"--network-namespace-path={self._network}"]
        argv += [f"--bind={self.directory / own}:{inside}" for inside, own in ON_DISK.items()]
        environment = dict(os.environ)
        if not system.booted_by_systemd():
            # Nobody manages cgroups here: systemd-nspawn would put all nodes into one.
            argv.append("--keep-unit")
            groups = system.make_cgroup(f"{self.lab.id}/{self.name}")
        if self.lab.k3s_binary is not None:
            argv += _FOR_REAL_K3S
            if Path("/lib/modules").is_dir():
                argv.append("--bind-ro=/lib/modules")
            environment |= _ENVIRONMENT_FOR_REAL_K3S
        with (self.directory / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", _JOIN, "sh", " ".join(map(str, groups)), *argv],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, start_new_session=True,
            )  # fmt: skip
        self.wait_for(self._is_up, timeout=timeout, poll=0.03, what="the node has booted")
        self.boot_seconds = time.monotonic() - began

    def _is_up(self) -> bool:
        if self._nspawn is not None and self._nspawn.poll() is not None:
            raise LabError(
                f"{self.name} does not boot; systemd-nspawn ended with {self._nspawn.returncode}:\n{self.console()}"
            )
        if self.leader() is None:
            return False
        done = self.exec(["systemctl", "is-active", "dbus.service", "basic.target"], check=False)
        return done.stdout.split() == ["active", "active"]

    def kill(self) -> None:
        """End everything in the node at once with SIGKILL, as a power failure does; its files stay as they are.

        The page cache is the machine's and is not lost: what was written but not synced is still there.
        """
        if self._nspawn is not None:
            # Killing systemd-nspawn would leave the container's PID 1 running; its death takes all with it.
            while self._nspawn.poll() is None and (leader := self.leader()) is not None:
                os.kill(leader, signal.SIGKILL)
                time.sleep(0.01)
            try:
                self._nspawn.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self._nspawn.pid, signal.SIGKILL)
                self._nspawn.wait(timeout=10)
        for child in self._children:
            _kill(child)
        self._children.clear()
        self._nspawn = None

    def power_off(self, timeout: float = 120.0) -> None:
        """Shut down in good order."""
        self.systemctl("poweroff", "--no-block")
        assert self._nspawn is not None
        try:
            self._nspawn.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not power off within {timeout:g} s:\n{self.console()}") from None
        self.kill()

    def reboot_hard(self) -> None:
        """Kill the node whole and boot it again on the same disk."""
        self.kill()
        self.boot()

    def reboot(self) -> None:
        """Shut down in good order and boot again."""
        self.power_off()
        self.boot()

    @property
    def running(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def abandon(self) -> None:
        """The lab is being taken down: kill quickly, clean nothing."""
        try:
            self.kill()
        except (OSError, subprocess.TimeoutExpired):
            self._nspawn = None  # clean.take_down kills by namespace and says what it could not

    @property
    def _network(self) -> Path:
        return system.namespace_path(clean.namespace(self.lab.id, self.name))

    def leader(self) -> int | None:
        """The container's PID 1 as this machine numbers it."""
        if self._nspawn is None:
            return None
        for pid in system.children(self._nspawn.pid):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            # Before systemd, a part of systemd-nspawn itself is PID 1 in there.
            if numbers[1:] == ["1"] and Path(system.command_line(pid)[0]).name in ("systemd", "init"):
                return pid
        return None

    # --- programs ------------------------------------------------------------------------------

    def exec(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002 as subprocess.run has it
        check: bool = True,
        timeout: float = 120.0,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the node as root, in all its namespaces and in PID 1's cgroup; wait for its end.

        LabError with what it printed when it fails and ``check`` is true, or when it does not end within
        ``timeout`` seconds (it is killed then).
        """
        child = self._popen(argv, environment, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE)
        try:
            stdout, stderr = child.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {' '.join(argv)[:300]} did not end within {timeout:g} s") from None
        finally:
            if child.poll() is None:
                _kill(child)
        done = subprocess.CompletedProcess(list(argv), child.returncode, stdout, stderr)
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {describe(argv, done)}")
        return done

    def spawn(self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a program in the node and do not wait for it. It is killed with the node at the latest."""
        child = self._popen(argv, environment, stdin=subprocess.DEVNULL)
        self._children.append(child)
        return child

    def interact(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Run a program in the node on this process's own terminal; its exit code."""
        return subprocess.run(self._entering(argv), env={**ENVIRONMENT, **(environment or {})}, check=False).returncode

    def _popen(
        self, argv: Sequence[str], environment: Mapping[str, str] | None, *, stdin: int
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._entering(argv), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", env={**ENVIRONMENT, **(environment or {})}, start_new_session=True,
        )  # fmt: skip

    def _entering(self, argv: Sequence[str]) -> list[str]:
        leader = self.leader()
        if leader is None:
            raise LabError(f"{self.name} is not running; nothing can be run in it.")
        groups = " ".join(map(str, system.leader_cgroups(leader)))
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        enter = ["nsenter", "--target", str(leader), *namespaces, "--"]
        return ["sh", "-c", _JOIN, "sh", groups, *enter, *argv]

    def chroot(self, argv: Sequence[str], timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a program on the disk of a node that is off."""
        if self.running:
            raise LabError(f"{self.name} is running; use exec.")
        binds = "".join(f'mount --bind "{self.directory / own}" "{self.root}{top}"; ' for top, own in ON_DISK.items())
        script = (
            f'set -e; {binds}mount --bind /dev "{self.root}/dev"; exec env -i {_ASSIGNED} chroot "{self.root}" "$@"'
        )
        return system.run(["unshare", "--mount", "sh", "-c", script, "sh", *argv], timeout=timeout)

    # --- systemd -------------------------------------------------------------------------------

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 120.0) -> str:
        """What ``systemctl`` printed."""
        return self.exec(["systemctl", "--no-pager", *arguments], check=check, timeout=timeout).stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as ``systemctl show`` writes them."""
        wanted = [f"--property={name}" for name in properties]
        lines = self.systemctl("show", *wanted, unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def active(self, unit: str) -> bool:
        return self.show(unit, "ActiveState")["ActiveState"] == "active"

    def journal(self, unit: str | None = None, *, output: str = "short-iso-precise") -> str:
        """The journal of all boots of a unit, or of all units; readable also when the node is off."""
        argv = ["--no-pager", "--quiet", f"--output={output}"]
        if unit is not None:
            argv.append(f"--unit={unit}")
        if self.running:
            self.exec(["journalctl", "--sync"], check=False)
            return self.exec(["journalctl", *argv]).stdout
        return system.run(["journalctl", f"--directory={self.path('/var/log/journal')}", *argv]).stdout

    def messages(self, unit: str) -> list[str]:
        """The lines a unit wrote, without times and names."""
        return self.journal(unit, output="cat").splitlines()

    # --- waiting -------------------------------------------------------------------------------

    def wait_for(self, predicate: Callable[[], T], *, timeout: float = 90.0, poll: float = 0.2, what: str = "") -> T:
        """The first true answer of ``predicate``; LabError with the end of the journals when there is none in time."""
        deadline = time.monotonic() + timeout
        while True:
            answer = predicate()
            if answer:
                return answer
            if time.monotonic() > deadline:
                wanted = what or getattr(predicate, "__name__", "the condition")
                raise LabError(f"{self.name}: waited {timeout:g} s in vain until {wanted}\n{self.diagnosis()}")
            time.sleep(poll)

    def diagnosis(self) -> str:
        """What a person would look at when something went wrong here."""
        return f"--- console of {self.name}\n{self.console()}"

    def console(self, characters: int = 3000) -> str:
        path = self.directory / "console.log"
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        return _CONTROL.sub("", text)[-characters:]


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill what ``nsenter`` runs and all of its process group."""
    # The program first: nsenter reaps it then. Killed together with nsenter it would wait for the reaper of the
    # machine, and the node's end would wait for that.
    for program in system.children(child.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)
    try:
        child.wait(timeout=2)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # what the program had started
    child.communicate(timeout=30)


_NSPAWN = [
    "systemd-nspawn",
    "--quiet",
    "--boot",
    "--register=no",
    "--settings=no",
    "--link-journal=no",
    "--resolv-conf=off",
    "--timezone=off",
    "--console=read-only",
    # The network namespace is the lab's: the node may do with it what it likes.
    "--capability=CAP_NET_ADMIN",
]
_FOR_REAL_K3S = ["--capability=all", "--bind=/dev/kmsg"]
_ENVIRONMENT_FOR_REAL_K3S = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1", "SYSTEMD_SECCOMP": "0"}
