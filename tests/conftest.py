"""What all suites share."""

from __future__ import annotations

import signal
from types import FrameType

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """End a run that is asked to stop as Ctrl-C does, so that fixtures still clean up."""

    def stop(number: int, frame: FrameType | None) -> None:
        pytest.exit(f"{signal.Signals(number).name} received", returncode=128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
