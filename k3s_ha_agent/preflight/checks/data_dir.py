"""The agent looks at the data dir k3s uses, and its gate can name what lies there."""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.k3s.layout import DEFAULT_DATA_DIR
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject
from k3s_ha_agent.settings import PLAIN_PATH

NAME = "data-dir"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="`data-dir` in k3s's configuration, and `data_dir` in the agent's",
    refuses="they differ: the agent would guard another database than the one k3s converts; or it or the path of "
    "k3s's configuration has characters that the gate cannot hold, such as a space",
    warns="",
    remedy="set `data_dir:` in `/etc/k3s-ha-agent/config.yaml`",
    facts="4.1, 4.4",
)


def check(subject: Subject) -> CheckResult:
    setting = known(subject.configuration).get("data-dir")
    used = Path(setting.value) if setting is not None and setting.value else DEFAULT_DATA_DIR
    ours = subject.settings.data_dir
    if used != ours:
        by = f" ({setting.source})" if setting is not None and setting.value else ", its default"
        return refused(
            NAME,
            f"k3s uses the data dir {used}{by}; the agent looks at {ours}.",
            "The same directory.",
            f"Put data_dir: {used} into /etc/k3s-ha-agent/config.yaml; systemctl restart k3s-ha-agent.service",
        )
    for path in (ours, subject.settings.k3s_config):
        if not PLAIN_PATH.fullmatch(str(path)):
            return refused(
                NAME,
                f"The path {str(path)!r} has characters that the gate cannot hold safely.",
                "Letters, digits and . _ / @ + - only: the gate names it to systemd and to a shell.",
                "Stop k3s, move the directory, set data-dir in k3s's and data_dir: in the agent's configuration",
            )
    return passed(NAME, f"k3s and the agent use {ours}.")
