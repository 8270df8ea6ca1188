"""Builds packages from the checkout by the same targets as a person does."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PREVIOUS = "~previous"
"""Suffix of the version of a build that can be upgraded from."""


def copy_checkout(target: Path) -> Path:
    """What packages are built from, with time stamps of now and modes of the strictest umask."""
    shutil.copytree(
        CHECKOUT,
        target,
        copy_function=shutil.copyfile,
        ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "dist"),
    )
    for path in sorted(target.rglob("*")):
        executable = path.is_dir() or os.access(CHECKOUT / path.relative_to(target), os.X_OK)
        path.chmod(0o700 if executable else 0o600)
    return target


def make(target: str, dist: Path, checkout: Path, *, umask: int = 0o022, **environment: str) -> None:
    """``make deb`` or ``make rpm`` with the results in ``dist``. AssertionError with the output when it fails."""
    dist.mkdir(parents=True, exist_ok=True)
    run(
        ["make", "--silent", "--file", str(checkout / "packaging/packaging.mk"), target],
        environment={**os.environ, "DIST": str(dist), **environment},
        timeout=900,
        umask=umask,
    )


def only(directory: Path, pattern: str) -> Path:
    """The one file of that name."""
    found = sorted(directory.glob(pattern))
    assert len(found) == 1, f"{pattern} in {directory}: {[f.name for f in found]}"
    return found[0]


def run(
    argv: list[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
    check: bool = True,
    umask: int = 0o022,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, env=environment, umask=umask,
        check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def assert_reproducible(target: str, checkout: Path, dist: Path, directory: Path, results: tuple[str, ...]) -> None:
    """Build once more from the same files in quite another environment; the same packages must come out."""
    copy = directory / "copy"
    shutil.copytree(checkout, copy, copy_function=shutil.copyfile)
    for path in sorted(copy.rglob("*")):
        path.chmod(0o777 if path.is_dir() or os.access(checkout / path.relative_to(copy), os.X_OK) else 0o666)
        os.utime(path, (1, 1))
    elsewhere = {"TZ": "Pacific/Auckland", "LC_ALL": "C.UTF-8", "TMPDIR": str(directory), "HOME": str(directory)}
    again = directory / "dist"
    make(target, again, copy, umask=0o077, **elsewhere)
    for pattern in results:
        first, second = only(dist, pattern), only(again, pattern)
        assert first.name == second.name
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
        assert digests[0] == digests[1], f"{first.name} is another file the second time"
    left = {p.name for p in directory.iterdir()}
    assert left == {"copy", "dist"}, f"the build left something behind: {left}"
