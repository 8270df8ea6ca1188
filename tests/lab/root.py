"""The Debian 12 root all nodes stand on: made once by debootstrap, kept in a cache, never written to again.

``python -m tests.lab.root`` makes it when it is not there and prints where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path

from tests.lab.system import LabError, run

SUITE = "bookworm"
PACKAGES = Path(__file__).parent.parent / "setup" / "packages-node.txt"

MASKED = (
    "etcd.service",  # Debian's own etcd would take the ports k3s needs
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "getty.target",
    "console-getty.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-firstboot.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "dev-hugepages.mount",
)
"""Units of Debian that a node does not need; without them it boots in a third of a second."""


def cache_directory() -> Path:
    return Path(os.environ.get("K3S_HA_AGENT_LAB_CACHE", "/var/cache/k3s-ha-agent-lab"))


def packages() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in PACKAGES.read_text().splitlines())
    return sorted(line for line in lines if line)


def key() -> str:
    """Changes when anything the root is made of changes."""
    return hashlib.sha256("\n".join((SUITE, *packages(), *MASKED)).encode()).hexdigest()[:16]


def cached_root() -> Path:
    """The root, made now (about a minute) if there is none. LabError when it cannot be made."""
    cache = cache_directory()
    root = cache / f"root-{key()}"
    if root.is_dir():
        return root
    if os.geteuid() != 0:
        raise LabError("The lab needs root: it makes a Debian root, mounts and network namespaces. Use sudo.")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _make(root)
    return root


def _make(root: Path) -> None:
    unfinished = root.with_name(f"{root.name}.unfinished")
    for leftover in root.parent.glob("*.unfinished"):  # of a killed run; the lock is ours
        shutil.rmtree(leftover)
    print(f"lab: making a Debian root in {root}; this takes about a minute, once", file=sys.stderr, flush=True)
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(packages())}", SUITE, str(unfinished)]
    mirror = _mirror()
    if mirror is not None:
        argv.append(mirror)
    done = run(argv, timeout=1800, check=False)
    if done.returncode != 0:
        log = unfinished / "debootstrap/debootstrap.log"
        why = log.read_text(errors="replace")[-2000:] if log.exists() else done.stderr
        raise LabError(f"debootstrap cannot make the nodes' root ({' '.join(argv)}):\n{why}")
    shutil.rmtree(unfinished / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(unfinished / "var/lib/apt/lists", ignore_errors=True)
    units = unfinished / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (unfinished / "etc/machine-id").write_text("")
    (unfinished / "etc/resolv.conf").unlink(missing_ok=True)
    unfinished.rename(root)


def _mirror() -> str | None:
    """The mirror this machine's apt takes the suite from; None leaves the choice to debootstrap."""
    fields = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)"
    listing = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"], check=False)
    for line in listing.stdout.splitlines():
        found = line.split()
        if len(found) == 4 and found[1:] == [SUITE, "main", "Debian"] and found[0].startswith(("http", "file:")):
            return found[0]
    return None


if __name__ == "__main__":
    print(cached_root())
