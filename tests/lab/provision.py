"""The layer between Debian's root and a node's own disk: the agent of this checkout and k3s, installed as packages and
k3s's installer would install them. Made once per lab, shared by its nodes.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from tests.lab import system
from tests.lab.system import LabError, run

PACKAGE = "usr/lib/python3/dist-packages/k3s_ha_agent"
STANDIN = "usr/local/lib/k3s-standin"

K3S_UNIT = """\
[Unit]
Description=Lightweight Kubernetes
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/etc/systemd/system/k3s.service.env
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=/bin/sh -xc '! /usr/bin/systemctl is-enabled --quiet nm-cloud-setup.service'
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/k3s \\
    server \\

"""
"""The unit k3s's installer writes (k3s-facts 4.4)."""

_WRITABLE_CGROUPS = """\
[Unit]
Description=Let k3s make cgroups (lab)
DefaultDependencies=no
Before=k3s.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'for m in $(findmnt --noheadings --output TARGET --types cgroup,cgroup2); do \
mount -o remount,bind,rw "$m"; done; mount --make-rshared /'

[Install]
WantedBy=sysinit.target
"""


def make_layer(root: Path, directory: Path, checkout: Path, k3s_binary: Path | None) -> Path:
    """Make the layer below ``directory``; ``k3s_binary`` is a real k3s in place of the stand-in. Its path."""
    layer, merged = directory / "upper", directory / "root"
    system.mount_overlay(merged, lower=[root], upper=layer, work=directory / "work")
    try:
        install_agent(checkout, merged)
        install_k3s(checkout, merged, k3s_binary)
    finally:
        run(["umount", str(merged)])
    return layer


# --- the agent ---------------------------------------------------------------------------------


def install_agent(checkout: Path, root: Path) -> None:
    """Install the agent of a checkout into a root as its package does, by the packages' own list of files."""
    package = root / PACKAGE
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(checkout / "k3s_ha_agent", package, ignore=shutil.ignore_patterns("__pycache__"))
    run(["chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q", f"/{PACKAGE}"])
    directories = ["/lib/systemd/system", "/usr/share/zsh/vendor-completions"]
    run(["packaging/install-files", str(root), *directories], directory=checkout)
    run(["chroot", str(root), "systemd-sysusers"])
    run(["chroot", str(root), "systemctl", "enable", "--quiet", "k3s-ha-agent.service"])


# --- k3s ---------------------------------------------------------------------------------------


def install_k3s(checkout: Path, root: Path, binary: Path | None) -> None:
    """Install k3s as its installer does: the program, the unit, its environment file; enabled."""
    program = root / "usr/local/bin/k3s"
    if binary is not None:
        shutil.copyfile(binary, program)
        program.chmod(0o755)
        (root / "etc/systemd/system/lab-writable-cgroups.service").write_text(_WRITABLE_CGROUPS)
        run(["chroot", str(root), "systemctl", "enable", "--quiet", "lab-writable-cgroups.service"])
    else:
        tests = checkout / "tests"
        ignored = shutil.ignore_patterns("__pycache__", "test_*.py", "conftest.py", "*.log")
        for part in ("standin", "recordings"):  # the stand-in's seeds are the recordings beside it
            shutil.copytree(tests / part, root / STANDIN / part, ignore=ignored)
        run(["chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q", f"/{STANDIN}/standin"])
        executable = root / STANDIN / "standin/k3s"
        if not (executable.is_file() and executable.stat().st_mode & stat.S_IXUSR):
            raise LabError(f"{tests}/standin/k3s is no executable.")
        program.symlink_to(f"/{STANDIN}/standin/k3s")
    (root / "etc/systemd/system/k3s.service").write_text(K3S_UNIT)
    environment = root / "etc/systemd/system/k3s.service.env"
    environment.touch(mode=0o600)
    run(["chroot", str(root), "systemctl", "enable", "--quiet", "k3s.service"])
