"""Asking a source that may not answer: every question has its own time limit and never raises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.errors import AgentError
from k3s_ha_agent.preflight.results import Missing

T = TypeVar("T")

LIMIT = 10.0
"""Seconds for a source that answers out of memory or a few files."""


async def answer(what: str, question: Awaitable[T], *, limit: float = LIMIT, see: str = "") -> T | Missing:
    """The answer, or Missing with the reason when there is none within ``limit`` seconds.

    ``what`` names the fact for people; ``see`` is the check that refuses for its absence. A blocking
    question belongs in a thread, which goes on in the background when it is too late.
    """
    try:
        async with asyncio.timeout(limit):
            return await question
    except TimeoutError:
        return Missing(f"{what} could not be found out within {format_duration(limit)}.", see)
    except AgentError as error:
        return Missing(error.detail, see, error.next_step)
    except (OSError, UnicodeError) as error:
        return Missing(f"{what} could not be found out: {error}.", see)
