"""What the agent answered when it could not do what it was asked, as the classes of ``errors.py``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from k3s_ha_agent.errors import AgentError, AgentUnreachable, UnknownProblem

MEMBERS = frozenset({"type", "code", "title", "status", "detail", "next_step", "instance"})
"""What every problem document has; the rest are extensions of the problem."""


class AnswerLost(AgentUnreachable):
    """The question was sent and no answer came: it may have been heard."""


class AnswerUnreadable(AgentUnreachable):
    """Something answered, and not as an agent of this version does. Asking again does not help."""


@functools.cache
def classes() -> Mapping[str, type[AgentError]]:
    """The class of each code, from ``errors.py`` alone."""
    found: dict[str, type[AgentError]] = {}
    waiting: list[type[AgentError]] = [AgentError]
    while waiting:
        known = waiting.pop()
        if "code" in vars(known):
            found[known.code] = known
        waiting += known.__subclasses__()
    return found


def error_of(status: int, document: Any) -> AgentError | None:
    """The error of a problem document; None when it is none.

    A code this version does not know becomes UnknownProblem, with the code among the extensions.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("code"), str):
        return None
    code, detail = document["code"], document.get("detail")
    next_step = document.get("next_step")
    extensions = {name: value for name, value in document.items() if name not in MEMBERS}
    found = classes().get(code)
    if found is None:
        found = UnknownProblem
        extensions |= {"code": code, "status": status}
    error = found(
        detail if isinstance(detail, str) else str(document.get("title", code)),
        next_step=next_step if isinstance(next_step, str) else "",
    )
    # Not as keyword arguments: their names are the agent's to choose.
    error.extensions = extensions
    return error
