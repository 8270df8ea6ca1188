"""When the agent cannot go on by itself: the rescue is started at once, not only at the deadline.

Without a record nothing may be done or undone, and k3s may be stopped. The rescue runs as a unit of its own,
shares nothing with the agent but the record and the lock, and brings the node back even when it cannot write
the record either.
"""

from __future__ import annotations

import asyncio

import structlog

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.model import Operation
from k3s_ha_agent.settings import RESCUE_SERVICE

RESCUE_TIMEOUT = 900.0
"""Seconds a rescue may take; TimeoutStartSec= of its unit."""
ATTEMPTS = 5
PAUSE = 3.0

log = structlog.get_logger("k3s_ha_agent.operations")


async def hand_over(units: Units, operation: Operation) -> None:
    """Have the rescue bring the node back and wait for its end; the lock must be free.

    Never raises for what the outside does: systemd that does not answer is asked a few times, and then
    it is said that the timer, or a person, is what is left.
    """
    name = f"{operation.kind} {operation.id}"
    log.critical(f"{name} cannot be gone on with; starting the rescue, which brings k3s back.", operation=operation.id)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await units.reset_failed(RESCUE_SERVICE)
            job = await units.start_unit(RESCUE_SERVICE)
            result = await job.wait(RESCUE_TIMEOUT)
        except SystemdError as error:
            log.warning(f"The rescue cannot be started: {error}", attempt=attempt)
            await asyncio.sleep(PAUSE)
            continue
        if result == "done":
            log.warning(f"The rescue has ended: k3s is back where it was before {name}.", operation=operation.id)
        else:
            log.critical(
                f"The rescue ended as {result!r} for {name}; see journalctl -u {RESCUE_SERVICE}.",
                operation=operation.id,
            )
        return
    log.critical(
        f"The rescue could not be started for {name}. Its timer starts it at the deadline; or: "
        f"systemctl start {RESCUE_SERVICE}",
        operation=operation.id,
    )
