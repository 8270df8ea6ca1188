"""The layer between Debian's root and a node's own disk: the agent of this checkout and k3s, installed as packages and
k3s's installer would install them. Made once per lab, shared by its nodes.
"""

from __future__ import annotations

import configparser
import os
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
    """Install the agent of a checkout into a root as its package does."""
    package = root / PACKAGE
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(checkout / "k3s_ha_agent", package, ignore=shutil.ignore_patterns("__pycache__"))
    run(["chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q", f"/{PACKAGE}"])
    programs = {"k3s-ha-agent": "k3s_ha_agent.__main__:main", **_console_scripts(checkout)}
    for name, where in programs.items():
        module, function = where.split(":")
        _program(root / "usr/bin" / name, f"import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n")
    rescue = checkout / "k3s_ha_agent/rescue.py"
    if rescue.exists():
        target = root / "usr/lib/k3s-ha-agent/rescue"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(rescue, target)
        target.chmod(0o755)
    for source in sorted((checkout / "systemd").iterdir()):
        _install_systemd(source, root)
    run(["chroot", str(root), "systemd-sysusers"])
    if (root / "lib/systemd/system/k3s-ha-agent.service").exists():
        run(["chroot", str(root), "systemctl", "enable", "--quiet", "k3s-ha-agent.service"])


def _console_scripts(checkout: Path) -> dict[str, str]:
    setup = configparser.ConfigParser()
    setup.read(checkout / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): where.strip() for name, where in (line.split("=") for line in lines)}


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/python3\n{text}")
    path.chmod(0o755)


def _install_systemd(source: Path, root: Path) -> None:
    """Put one file of systemd/ where the package puts it."""
    if source.suffix in (".service", ".timer", ".socket", ".path", ".target", ".slice"):
        target = root / "lib/systemd/system" / source.name
    elif source.suffix == ".catalog":
        target = root / "usr/lib/systemd/catalog" / source.name
    elif source.suffix == ".conf" and "sysusers" in source.name:
        target = root / "usr/lib/sysusers.d/k3s-ha-agent.conf"
    elif source.suffix == ".conf" and "tmpfiles" in source.name:
        target = root / "usr/lib/tmpfiles.d/k3s-ha-agent.conf"
    elif source.suffix == ".md" or source.name.startswith("."):
        return
    else:
        raise LabError(f"The lab does not know where {source} is installed; tell tests/lab/provision.py.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


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
        standin = checkout / "tests/standin"
        ignored = shutil.ignore_patterns("__pycache__", "test_*.py", "conftest.py")
        shutil.copytree(standin, root / STANDIN, ignore=ignored)
        run(["chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q", f"/{STANDIN}"])
        executable = standin / "k3s"
        if not (executable.is_file() and executable.stat().st_mode & stat.S_IXUSR):
            if not os.environ.get("XX"): raise LabError(f"{executable} is no executable.")
        os.symlink(f"/{STANDIN}/k3s", program)
    (root / "etc/systemd/system/k3s.service").write_text(K3S_UNIT)
    environment = root / "etc/systemd/system/k3s.service.env"
    environment.touch(mode=0o600)
    run(["chroot", str(root), "systemctl", "enable", "--quiet", "k3s.service"])
