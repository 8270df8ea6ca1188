"""What the lines k3s, its etcd and systemd log about the unit mean.

Progress and bad signs only shorten a wait; no success is ever declared on a line. Lines and their
order are those of k3s-facts, "What the first etcd start logs", of its tables of failures, and of
the recordings.
"""

from __future__ import annotations

import re

from k3s_ha_agent.k3s.join_signs import JOIN_SIGNS
from k3s_ha_agent.k3s.signs import BadSign, LogSign, Migrating, Milestone

__all__ = ["BAD_SIGNS", "MILESTONES", "BadSign", "LogSign", "Migrating", "Milestone", "classify"]


_MIGRATING = re.compile(r'Migrating etcd key (/[^"\s]+)')

MILESTONES: tuple[tuple[str, str], ...] = (
    ("Managed etcd cluster initializing", "etcd-initializing"),
    ("Starting etcd for new cluster", "etcd-starting"),
    ("Migrating content from sqlite to etcd", "copy-started"),
    ("ready to serve client requests", "etcd-serving"),
    ("Connected to etcd v", "etcd-connected"),
    ("Connection to etcd is ready", "etcd-ready"),
    ("etcd data store connection OK", "etcd-ready"),
    ("Saving cluster bootstrap data to datastore", "bootstrap-saved"),
    ("ETCD server is now running", "etcd-running"),
    ("Kube API server is now running", "apiserver-running"),
    ("k3s is up and running", "k3s-running"),
)
"""Text of a line and the name of what has been reached. The names of 1.22 and of later releases."""

_RESTORE = "Nothing to do by hand: the datastore it came from is put back."
_SPACE = "Raise etcd's quota with etcd-arg: quota-backend-bytes=…, or make the data smaller first."

BAD_SIGNS: tuple[tuple[str, BadSign], ...] = (
    (
        "Managed etcd cluster bootstrap already complete and initialized",
        BadSign(
            "copy-skipped",
            "k3s found an etcd directory and starts on it without copying anything from SQLite.",
            "Move server/db/etcd away before the next try.",
            only_when_migrating=True,
        ),
    ),
    (
        "request is too large",
        BadSign(
            "value-too-big",
            "etcd refused a value as too large.",
            "Make the object smaller, or set etcd-arg: max-request-bytes=… above its size.",
            only_when_fatal=True,
        ),
    ),
    ("database space exceeded", BadSign("no-space", "etcd is out of its quota and refuses writes.", _SPACE)),
    ("etcdserver: no space", BadSign("no-space", "etcd is out of its quota and refuses writes.", _SPACE)),
    (
        "no space left on device",
        BadSign(
            "disk-full",
            "The disk is full.",
            "Free some space on the file system of the data dir.",
            only_when_fatal=True,
        ),
    ),
    (
        "failed to migrate content from sqlite to etcd",
        BadSign("copy-failed", "k3s could not copy its data to etcd and exits.", _RESTORE),
    ),
    (
        "newer than datastore and could cause a cluster outage",
        BadSign(
            "files-newer-than-datastore",
            "A certificate or password file on disk differs from the bootstrap data and is newer.",
            "Remove the file the line names, as it says, and check that the clock is synchronised.",
        ),
    ),
    (
        "no bootstrap data found in datastore",
        BadSign(
            "no-bootstrap-data",
            "etcd was initialised but holds no bootstrap data: a copy was cut short before its last act.",
            _RESTORE,
        ),
    ),
    (
        "bootstrap data already found and encrypted with different token",
        BadSign(
            "other-token",
            "The datastore was made with another token than k3s is given now.",
            "Give k3s the token the cluster was made with.",
        ),
    ),
    (
        "failed to normalize token",
        BadSign(
            "token-not-readable",
            "k3s could not read its token back: it starts on an etcd without its bootstrap data.",
            _RESTORE,
        ),
    ),
    (
        "is a not a member of the etcd cluster",
        BadSign(
            "not-a-member",
            "The address of this server is not the one its etcd member has.",
            "Set node-ip to the address the line says is expected.",
        ),
    ),
    (
        "Managed etcd cluster membership was previously reset",
        BadSign("cluster-reset-set", "cluster-reset is still set.", "Remove cluster-reset and server/db/reset-flag."),
    ),
    (
        "cannot perform cluster-reset while server URL is set",
        BadSign("cluster-reset-set", "cluster-reset and server are both set.", "Remove both."),
    ),
    (
        "tombstone file has been detected",
        BadSign("tombstone", "This server was removed from its cluster.", "Move server/db away, or set server."),
    ),
    (
        "database disk image is malformed",
        BadSign("sqlite-corrupt", "The SQLite datastore is corrupt.", "Restore it from a backup."),
    ),
    (
        "failed to parse compact revision",
        BadSign(
            "other-kine",
            "The SQLite datastore was written by another version of k3s.",
            "Use the k3s binary that wrote it.",
        ),
    ),
    (
        "address already in use",
        BadSign(
            "port-taken",
            "A port k3s needs is taken.",
            "Stop the other process; is k3s also run by hand?",
            only_when_fatal=True,
        ),
    ),
    *JOIN_SIGNS,
)
"""Text of a line and what it means, the more telling first."""

_GENERAL: tuple[tuple[re.Pattern[str], BadSign], ...] = (
    (
        re.compile(r"(?:^|: )panic: "),
        BadSign("panic", "k3s crashed.", "Look at the lines before it: journalctl -u k3s."),
    ),
    (
        re.compile(r'\blevel=fatal\b|"level":"(?:fatal|panic)"|(?:^|: )F\d{4} \d\d:\d\d:\d\d'),
        BadSign("fatal", "k3s gave up starting.", "The line itself says why."),
    ),
    (
        re.compile(r"\.service: Main process exited, "),
        BadSign("exited", "The k3s process ended.", "Look at the lines before it: journalctl -u k3s."),
    ),
    (
        re.compile(r"\.service: Scheduled restart job, "),
        BadSign("restarted", "systemd starts k3s again after it ended.", "Look why it ended: journalctl -u k3s."),
    ),
)


def classify(line: str) -> LogSign | None:
    """What a line means, with or without the journal's prefix of time and process; mostly nothing."""
    if match := _MIGRATING.search(line):
        return Migrating(match[1])
    general = next((sign for pattern, sign in _GENERAL if pattern.search(line)), None)
    for text, sign in BAD_SIGNS:
        if text in line and (general is not None or not sign.only_when_fatal):
            return sign
    if general is not None:
        return general
    for text, name in MILESTONES:
        if text in line:
            return Milestone(name)
    return None
