"""Builds packages from the checkout by the same targets as a person does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PREVIOUS = "~previous"
"""Suffix of the version of a build that can be upgraded from."""


def make(target: str, dist: Path, *, checkout: Path = CHECKOUT, **environment: str) -> None:
    """``make deb`` or ``make rpm`` with the results in ``dist``. AssertionError with the output when it fails."""
    dist.mkdir(parents=True, exist_ok=True)
    run(
        ["make", "--silent", "--file", str(checkout / "packaging/packaging.mk"), target],
        environment={**os.environ, "DIST": str(dist), **environment},
        timeout=900,
    )


def only(directory: Path, pattern: str) -> Path:
    """The one file of that name."""
    found = sorted(directory.glob(pattern))
    assert len(found) == 1, f"{pattern} in {directory}: {[f.name for f in found]}"
    return found[0]


def run(
    argv: list[str], *, environment: Mapping[str, str] | None = None, timeout: float = 120, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )
    if check:
        assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done
