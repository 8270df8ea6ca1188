"""Who says what in k3s's configuration, put into words for a result.

The checks that forbid a flag forbid it wherever it stands, also where something stronger overrides
it today: the next edit of the stronger place would bring it into force.
"""

from __future__ import annotations

from collections.abc import Iterable

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.k3s.configuration import Configuration, Setting, is_true


def set_anywhere(configuration: Configuration, flag: str) -> list[Setting]:
    """Everyone who gives a value to a flag that takes one; an empty value is none."""
    return [setting for setting in configuration.all(flag) if setting.value]


def on_anywhere(configuration: Configuration, flag: str) -> list[Setting]:
    """Everyone who turns a boolean flag on. A value that is neither true nor false counts as on."""
    return [setting for setting in configuration.all(flag) if not off(setting)]


def off(setting: Setting) -> bool:
    """Whether this saying of a boolean flag turns it off for certain."""
    try:
        return not is_true(setting)
    except ConfigurationError:
        return False


def said_by(settings: Iterable[Setting]) -> str:
    """``cluster-init in /etc/rancher/k3s/config.yaml and on the command line of k3s.service``; never a value."""
    words = dict.fromkeys(
        f"{setting.flag} {'on the' if setting.source.startswith('command line') else 'in'} {setting.source}"
        for setting in settings
    )
    return " and ".join(words)


def take_out(settings: Iterable[Setting], unit: str, *, restart: bool = True) -> str:
    """The commands that take flags out of the places where they stand."""
    edits = dict.fromkeys(
        f"systemctl edit --full {unit}"
        if setting.source.startswith(("command line", "Environment="))
        else f"${{EDITOR:-vi}} {setting.source}"
        for setting in settings
    )
    after = f"systemctl daemon-reload; systemctl restart {unit}" if restart else "systemctl daemon-reload"
    return f"Take it out: {'; '.join(edits)}; then {after}"
