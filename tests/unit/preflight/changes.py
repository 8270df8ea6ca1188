"""Ways to change one thing in a good Subject, and what a case is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from k3s_ha_agent.host.resources import Disk, FsyncProbe
from k3s_ha_agent.k3s.apiserver import Node
from k3s_ha_agent.k3s.configuration import Configuration, effective
from k3s_ha_agent.k3s.etcd import Member
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.model import CheckStatus, Kind
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.subject import Addresses, Places, Subject, TokenFacts
from tests.unit.preflight.subjects import CONFIG, GIB, configuration, files

Change = Callable[[Subject], Subject]
REFUSED, WARNED = CheckStatus.REFUSED, CheckStatus.WARNED


class Case(NamedTuple):
    check: str
    kind: Kind
    status: CheckStatus
    change: Change
    words: tuple[str, ...]
    """What ``found``, ``needs`` and ``remedy`` together must say."""
    label: str


def replaced(**changes: Any) -> Change:
    return lambda subject: dataclasses.replace(subject, **changes)


def with_files(**changes: Any) -> Change:
    return lambda subject: files(subject, **changes)


def configured(*flags: str, **more: Any) -> Change:
    """More flags on top of what the good Subject's kind has."""

    def change(subject: Subject) -> Subject:
        yaml = dict(more.get("yaml") or {})
        if subject.kind is Kind.ROLLBACK:
            yaml[str(subject.drop_in)] = "cluster-init: true\n"
        found = configuration(*flags, yaml=dict(sorted(yaml.items())), environment=more.get("environment"))
        return dataclasses.replace(subject, configuration=found)

    return change


def with_kine(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.kine, KineSummary)
        return dataclasses.replace(subject, kine=dataclasses.replace(subject.kine, **changes))

    return change


def with_node(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.node, Node)
        return dataclasses.replace(subject, node=dataclasses.replace(subject.node, **changes))

    return change


def with_addresses(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.addresses, Addresses)
        return dataclasses.replace(subject, addresses=dataclasses.replace(subject.addresses, **changes))

    return change


def data_dir_with_a_space(subject: Subject) -> Subject:
    path = Path("/mnt/k3s data")
    changed = configured(f"--data-dir={path}")(subject)
    return dataclasses.replace(changed, settings=dataclasses.replace(subject.settings, data_dir=path))


def both(*changes: Change) -> Change:
    def change(subject: Subject) -> Subject:
        for each in changes:
            subject = each(subject)
        return subject

    return change


def small(place: str, free: int) -> Change:
    """One place on a file system of its own with so much free."""

    def change(subject: Subject) -> Subject:
        assert isinstance(subject.places, Places)
        old = getattr(subject.places, place)
        new = dataclasses.replace(old, disk=Disk(total=GIB, free=free, device=77))
        return dataclasses.replace(subject, places=dataclasses.replace(subject.places, **{place: new}))

    return change


def with_token(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.server_token, TokenFacts)
        return dataclasses.replace(subject, server_token=dataclasses.replace(subject.server_token, **changes))

    return change


def configured_token(short_hash: str, ca_hash: str | None = None) -> Change:
    return replaced(configured_tokens=(TokenFacts(f"token ({CONFIG})", short_hash, ca_hash),))


ENV = "/etc/systemd/system/k3s.service.env"


def plain(*flags: str) -> Change:
    """A command line of its own, without the recorded ``--node-ip``."""
    return replaced(configuration=effective(["/usr/local/bin/k3s", "server", *flags], [], []))


unpinned = plain()


def other_config_file(subject: Subject) -> Subject:
    assert isinstance(subject.configuration, Configuration)
    other = dataclasses.replace(subject.configuration, config_file=Path("/etc/k3s/config.yaml"))
    return dataclasses.replace(subject, configuration=other)


def slow(p99: float) -> Change:
    return replaced(fsync=FsyncProbe(rounds=100, p50=p99 / 2, p99=p99, max=p99))


def member(name: str) -> Member:
    return Member(7, name, ("https://10.99.0.12:2380",), (), True)


def two_members(subject: Subject) -> Subject:
    assert not isinstance(subject.members, Missing)
    return dataclasses.replace(subject, members=(*subject.members, member("n2-12345678")))


def for_both(check: str, status: CheckStatus, change: Change, words: tuple[str, ...], label: str) -> Iterator[Case]:
    for kind in (Kind.MIGRATE, Kind.ROLLBACK):
        yield Case(check, kind, status, change, words, f"{check}-{label}-{kind}")


def migrate(check: str, status: CheckStatus, change: Change, words: tuple[str, ...], label: str) -> Case:
    return Case(check, Kind.MIGRATE, status, change, words, f"{check}-{label}")


def rollback(check: str, status: CheckStatus, change: Change, words: tuple[str, ...], label: str) -> Case:
    return Case(check, Kind.ROLLBACK, status, change, words, f"{check}-{label}")


def anywhere(check: str, flag: str, variable: str | None, value: str) -> Iterator[Case]:
    """The same thing said on the command line, in config.yaml, in a drop-in and in the environment."""
    places: dict[str, tuple[Change, str]] = {
        "command-line": (configured(f"--{flag}={value}"), "command line of k3s.service"),
        "config": (configured(yaml={CONFIG: f"{flag}: {value}\n"}), CONFIG),
        "drop-in": (configured(yaml={f"{CONFIG}.d/a.yaml": f"{flag}: {value}\n"}), f"{CONFIG}.d/a.yaml"),
    }
    if variable:
        places["environment"] = (configured(environment={variable: value}), ENV)
    for label, (change, source) in places.items():
        yield from for_both(check, REFUSED, change, (flag, source, "systemctl daemon-reload"), f"{flag}-{label}")
