"""There is memory for k3s to hold all live values at once."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, size
from k3s_ha_agent.preflight.subject import Subject

NAME = "memory"
FOR = frozenset({Kind.MIGRATE})
FACTOR = 3
"""M13: all live values are read in one List, and are in kine, in k3s and on their way to etcd at once."""
ABOUT = About(
    looks_at="available memory, and the bytes of the live keys",
    refuses=f"less is available than {FACTOR} times the live bytes: k3s reads them all at once before it writes any",
    warns="",
    remedy="stop what uses memory (`ps --sort=-rss -eo pid,rss,comm | head`), or delete objects that are not needed",
    facts="M13",
)


def check(subject: Subject) -> CheckResult:
    summary = known(subject.kine)
    memory = known(subject.memory)
    needed = FACTOR * summary.live_bytes
    if memory.available < needed:
        return refused(
            NAME,
            f"{size(memory.available)} of memory available.",
            f"{size(needed)}: {FACTOR} times the {size(summary.live_bytes)} of live keys.",
            "ps --sort=-rss -eo pid,rss,comm | head; stop what is not needed, then k3s-ha-agentctl preflight",
        )
    return passed(NAME, f"{size(memory.available)} of memory available, {size(needed)} needed.")
