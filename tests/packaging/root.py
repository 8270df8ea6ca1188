"""A root to install packages into: this machine's /usr, /etc and dpkg database with a layer of its own on top.

Each command runs in a mount namespace of its own, so that nothing stays mounted whatever happens. In the root
``systemctl`` is a stand-in (the file ``systemctl`` beside this one): what it is asked to start "runs", with its
RuntimeDirectory=, until it is stopped. Enabling and presets are done by the real systemctl, which works on files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.packaging.build import run

UNIT = "k3s-ha-agent.service"
STATE = "var/lib/k3s-ha-agent"
FLAG = "run/k3s-ha-agent/restart-wanted"
LAYERED = ("usr", "etc", "var/lib/dpkg")

_ENTER = """\
set -eu
root=$1 layers=$2; shift 2
for name in usr etc var/lib/dpkg; do
    layer=$layers/$(echo $name | tr / -)
    options=lowerdir=/$name,upperdir=$layer/upper,workdir=$layer/work,index=off,xino=off
    mount -t overlay root -o "$options" "$root/$name"
done
mount --bind /proc "$root/proc"
mount --rbind /dev "$root/dev"
exec "$@"
"""


class Root:
    """``path`` as the root looks from outside, except for what is layered: ask with :meth:`inside`."""

    def __init__(self, directory: Path) -> None:
        assert os.geteuid() == 0, "installing a package into a root needs root"
        self.path = directory / "root"
        self._layers = directory / "layers"
        for name in LAYERED:
            for part in ("upper", "work"):
                (self._layers / name.replace("/", "-") / part).mkdir(parents=True)
            (self.path / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.path / name).symlink_to(f"usr/{name}")
        for name in ("proc", "dev", "tmp", "root", "var/log", "var/cache", "var/lib/systemd", "run/systemd/system"):
            (self.path / name).mkdir(parents=True)
        program = self._layer("usr/bin/systemctl")
        program.parent.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("systemctl"), program)
        shutil.copy("/usr/bin/systemctl", program.with_name("systemctl.real"))
        self.allow_services(True)

    def _layer(self, path: str) -> Path:
        """Where a file of the root that was written in it, or by us, lies."""
        for name in LAYERED:
            if path == name or path.startswith(f"{name}/"):
                return self._layers / name.replace("/", "-") / "upper" / path[len(name) :].lstrip("/")
        return self.path / path

    def run(
        self, *argv: str, check: bool = True, chroot: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root, or beside it with the root mounted (``chroot=False``)."""
        prefix = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.path), str(self._layers)]
        command = [*prefix, *(["chroot", str(self.path)] if chroot else []), *argv]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        return run(command, environment={**clean, **(environment or {})}, check=check)

    def allow_services(self, allowed: bool) -> None:
        """What policy-rc.d(8) says in the root; this machine's own may forbid starting services."""
        policy = self._layer("usr/sbin/policy-rc.d")
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(f"#!/bin/sh\nexit {0 if allowed else 101}\n")
        policy.chmod(0o755)

    def inside(self, path: str) -> Path:
        """A file that was written in the root; a file of this machine that was not touched is not seen."""
        return self._layer(path)

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", f"/{path}", check=False).returncode == 0

    # --- the agent that "runs" ---------------------------------------------------------------------

    @property
    def starts(self) -> int:
        """How often the agent was started; unchanged: it was left alone."""
        path = self.path / f"run/starts.{UNIT}"
        return len(path.read_text()) if path.exists() else 0

    @property
    def active(self) -> bool:
        return (self.path / f"run/active.{UNIT}").exists()

    @property
    def asked(self) -> list[str]:
        """What systemctl was asked, in order."""
        path = self.path / "run/systemctl.log"
        return path.read_text().splitlines() if path.exists() else []

    def kill_agent(self) -> None:
        """The agent is gone and nobody has started it again yet."""
        (self.path / f"run/active.{UNIT}").unlink()
        shutil.rmtree(self.path / "run/k3s-ha-agent")

    # --- what it left on disk ----------------------------------------------------------------------

    def record(self, **changes: Any) -> None:
        """An operation's durable record."""
        path = self.path / STATE / "operations/migrate-1/record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**UNFINISHED, **changes}))

    def backup(self) -> Path:
        path = self.path / STATE / "backups/migrate-1/sealed.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"the only copy")
        return path


UNFINISHED: dict[str, Any] = {
    "format": 1,
    "id": "migrate-1",
    "kind": "migrate",
    "phase": "doing",
    "outcome": None,
    "committed": False,
    "steps": [{"name": "stop-k3s", "status": "doing"}],
}
FINISHED: dict[str, Any] = {
    "phase": "finished",
    "outcome": "succeeded",
    "committed": True,
    "steps": [{"name": "stop-k3s", "status": "done"}],
}
ROLLED_BACK: dict[str, Any] = {
    "phase": "finished",
    "outcome": "rolled_back",
    "steps": [{"name": "stop-k3s", "status": "undone"}],
}
ROLLBACK_FAILED: dict[str, Any] = {**ROLLED_BACK, "outcome": "rollback_failed"}
