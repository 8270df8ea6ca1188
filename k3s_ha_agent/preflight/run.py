"""The registry of checks, and running them on a Subject."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable

from k3s_ha_agent.errors import NotImplementedYet
from k3s_ha_agent.model import CheckResult, CheckStatus, Kind
from k3s_ha_agent.preflight import checks as checks_package
from k3s_ha_agent.preflight.results import About, Missing, NotKnown
from k3s_ha_agent.preflight.results import refused as refused_result
from k3s_ha_agent.preflight.subject import Subject


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    name: str
    kinds: frozenset[Kind]
    about: About
    look: Callable[[Subject], CheckResult]


@functools.cache
def registry() -> tuple[Check, ...]:
    """Every module of ``checks``, by name. ValueError when one does not carry its module's name."""
    found = []
    for info in pkgutil.iter_modules(checks_package.__path__):
        module = importlib.import_module(f"{checks_package.__name__}.{info.name}")
        if info.name.replace("_", "-") != module.NAME:
            raise ValueError(f"{module.__name__} calls its check {module.NAME!r}")
        found.append(Check(module.NAME, module.FOR, module.ABOUT, module.check))
    return tuple(sorted(found, key=lambda check: check.name))


def checks_for(kind: Kind) -> tuple[Check, ...]:
    """The checks made for ``kind``, by name.

    NotImplementedYet when there is none: nothing looked at is not nothing found.
    """
    chosen = tuple(check for check in registry() if kind in check.kinds)
    if not chosen:
        raise NotImplementedYet(f"There is no preflight for {kind} yet.")
    return chosen


async def run(kind: Kind, subject: Subject) -> tuple[CheckResult, ...]:
    """The result of every check made for ``kind``, by name.

    NotImplementedYet when there is none, ValueError when the Subject was gathered for another kind.
    """
    if subject.kind is not kind:
        raise ValueError(f"a Subject gathered for {subject.kind} cannot be checked for {kind}")
    chosen = checks_for(kind)
    results: dict[str, CheckResult] = {}
    passed_over: dict[str, Missing] = {}
    for check in chosen:
        try:
            results[check.name] = check.look(subject)
        except NotKnown as error:
            if error.missing.see in ("", check.name):
                results[check.name] = _not_known(check, error.missing)
            else:
                passed_over[check.name] = error.missing
    for check in chosen:
        if check.name in passed_over:
            results[check.name] = _passed_over(check, passed_over[check.name], results)
    return tuple(results[check.name] for check in chosen)


def refused(results: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    """The results that forbid the operation."""
    return tuple(result for result in results if result.status is CheckStatus.REFUSED)


def _not_known(check: Check, missing: Missing) -> CheckResult:
    return refused_result(
        check.name, missing.reason, "To be known before anything is changed.", missing.remedy or check.about.remedy
    )


def _passed_over(check: Check, missing: Missing, results: dict[str, CheckResult]) -> CheckResult:
    """A check whose fact is missing because of what another check refuses; refused itself when that
    one did not."""
    other = results.get(missing.see)
    if other is not None and other.status is CheckStatus.REFUSED:
        return CheckResult(check.name, CheckStatus.OK, f"Not looked at: see the check {missing.see}.")
    return _not_known(check, missing)


registry()  # now, and not when first asked: an upgrade may replace the files of a running agent
