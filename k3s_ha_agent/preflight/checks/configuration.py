"""k3s's configuration can be read as k3s reads it, and is where the agent writes its drop-in."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "configuration"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="the unit's command line and environment, its environment files, `config.yaml` and `config.yaml.d`",
    refuses="one of them cannot be read or is not valid, or k3s reads another configuration file than the one "
    "the agent "
    "puts its drop-in beside",
    warns="",
    remedy="correct the file named, or set `k3s_config:` in `/etc/k3s-ha-agent/config.yaml`",
    facts="M4, M16, 4.4",
)


def check(subject: Subject) -> CheckResult:
    # What cannot be read is Missing, with this check's name in ``see``.
    configuration = known(subject.configuration)
    if configuration.config_file != subject.settings.k3s_config:
        return refused(
            NAME,
            f"k3s reads {configuration.config_file}, the agent would write beside {subject.settings.k3s_config}.",
            "The same file: k3s would not see the agent's drop-in.",
            f"Put k3s_config: {configuration.config_file} into /etc/k3s-ha-agent/config.yaml; "
            "systemctl restart k3s-ha-agent.service",
        )
    sources = ", ".join(configuration.config_sources) or "no configuration file"
    return passed(NAME, f"Read: the command line and environment of {subject.settings.unit}, {sources}.")
