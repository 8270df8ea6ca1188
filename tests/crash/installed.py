"""The rescue as the package installs it and its unit runs it, with the rest of the package in ruins around it.

``packaging/install-files`` installs below a directory; a mount namespace shows that directory as ``/usr`` and
``/var/lib``, so that the command is the unit's own, to the letter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.crash.quick_node import REPOSITORY, QuickNode

# The real systemctl is a binary and needs no module of Python's.
OUTSIDE = """#!/bin/sh
exec nsenter --mount=/proc/{pid}/ns/mnt {root}/bin/systemctl "$@"
"""
UNIT = REPOSITORY / "systemd/k3s-ha-agent-rescue.service"
SHADOWED = ("json", "ssl", "shutil", "pathlib", "subprocess", "hashlib", "urllib", "k3s_ha_agent")
"""Names of the standard library that must not be taken from the program's directory, from PYTHONPATH or from ``/``."""
PACKAGES = "/usr/lib/python3/dist-packages"
RUN = f"""#!/bin/sh
exec unshare --mount sh -ec '
mount -t overlay overlay -o lowerdir={{root}}/installed/usr:/usr /usr
mount -t overlay overlay -o lowerdir={{root}}/installed/var/lib:/var/lib /var/lib
mount --bind {{root}}/state /var/lib/k3s-ha-agent
for packages in {PACKAGES} /usr/local/lib/python3*/*-packages; do
    [ ! -d "$packages" ] || mount -t tmpfs none "$packages"
done
cp -r {{root}}/ruins {PACKAGES}/k3s_ha_agent
cd /usr/lib/k3s-ha-agent
PYTHONPATH=/usr/lib/k3s-ha-agent PYTHONHOME=/nowhere exec "$@"' sh "$@"
"""


def install(node: QuickNode) -> None:
    """As ``install-files`` does it, then the half of another version beside it."""
    root = node.root / "installed"
    subprocess.run(["packaging/install-files", root, "/usr/lib/systemd/system", "/zsh"], cwd=REPOSITORY, check=True)
    (root / "var/lib/k3s-ha-agent").mkdir(parents=True)
    for name in SHADOWED:
        (root / f"usr/lib/k3s-ha-agent/{name}.py").write_text(f"raise SystemExit('{name} is not the standard library')")
    (root / "bin").mkdir()
    for program, text in (("bin/as-installed", RUN), ("installed/bin/systemctl", OUTSIDE)):
        (node.root / program).write_text(text.format(root=node.root, pid=os.getpid()))
        (node.root / program).chmod(0o755)
    ruins(node.root / "ruins")


def ruins(directory: Path) -> None:
    """The package half-way to another version: files gone, files cut off, a new one, another version's number."""
    shutil.copytree(REPOSITORY / "k3s_ha_agent", directory, ignore=shutil.ignore_patterns("__pycache__"))
    for number, path in enumerate(sorted(p for p in directory.rglob("*") if p.is_file())):
        if number % 3 == 0:
            path.unlink()
        elif number % 3 == 1:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (directory / "__init__.py").write_text('__version__ = "99.0"\nfrom k3s_ha_agent.not_there_yet import it\n')
    (directory / "rescue.py").write_text("raise SystemExit('not this one')\n")


def unit_lines(unit: Path, name: str) -> list[str]:
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    return [value for key, _, value in lines if key == name]


def run(node: QuickNode) -> subprocess.CompletedProcess[str]:
    """The unit's ExecStart=, in the ruins."""
    (command,) = unit_lines(UNIT, "ExecStart")
    words = [node.root / "bin/in-boot", node.root / "bin/as-installed", *command.split()]
    path = {"PATH": f"{node.root}/installed/bin:/usr/bin:/bin"}
    return subprocess.run(words, env=path, capture_output=True, text=True, timeout=300, check=False)
