"""The k3s the unit would start, and its version."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import PurePath

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.k3s.version import Version, from_binary_output


def command(exec_start: Sequence[str]) -> list[str]:
    """The words of a unit's command line up to and including k3s.

    ConfigurationError when k3s is not among them.
    """
    for index, word in enumerate(exec_start):
        if PurePath(word).name.startswith("k3s"):
            return list(exec_start[: index + 1])
    raise ConfigurationError(f"The unit's command line does not name a k3s: {' '.join(exec_start[:2])}.")


async def version(exec_start: Sequence[str]) -> Version:
    """What ``k3s --version`` prints. OSError when it cannot be run; the caller sets the time limit.

    The child gets no environment but PATH: the unit's holds the token.
    """
    process = await asyncio.create_subprocess_exec(
        *command(exec_start),
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return from_binary_output(output.decode(errors="replace"))
