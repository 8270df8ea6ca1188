"""``config validate``: the agent's own program judges its settings, so that there is one judgement only."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from k3s_ha_agent.ctl.client import Client
from k3s_ha_agent.ctl.output import Output
from k3s_ha_agent.errors import AgentError, ConfigurationError

AGENT = "k3s-ha-agent"
TIMEOUT = 60.0


def agent_program(called_as: str) -> list[str]:
    """The daemon beside this program; else, in a checkout, the module."""
    program = Path(called_as).with_name(AGENT)
    if program.is_file() and os.access(program, os.X_OK):
        return [str(program)]
    return [sys.executable, "-m", "k3s_ha_agent"]


def check(config: Path | None = None, conf_d: Path | None = None) -> dict[str, Any]:
    """What the daemon says of its settings: ``ok``, ``settings`` and ``problems``. AgentError when it cannot."""
    command = [*agent_program(sys.argv[0]), "--check-config"]
    command += [] if config is None else ["--config", str(config)]
    command += [] if conf_d is None else ["--conf-d", str(conf_d)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT)
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise AgentError(
            f"{command[0]} --check-config did not answer ({type(error).__name__}).",
            next_step="Run it by hand, or reinstall the package.",
        ) from error
    if not isinstance(found, dict):
        raise AgentError(f"{command[0]} --check-config answered something else.")
    return found


def config(arguments: argparse.Namespace, client: Client, output: Output) -> int:
    """0 when they are valid, 2 when not."""
    for path in (arguments.config, arguments.conf_d):
        if path is not None and not path.exists():
            raise ConfigurationError(f"There is no {path}.")
    found = check(arguments.config, arguments.conf_d)
    if output.as_json:
        output.json(found)
    else:
        for problem in found["problems"]:
            output.note(f"error: {problem['detail']}")
            if problem["next_step"]:
                output.note(f"  next: {problem['next_step']}")
        if found["ok"]:
            output.facts((name, "null" if value is None else str(value)) for name, value in found["settings"].items())
            output.line("The settings are valid. They are in force after: systemctl restart k3s-ha-agent")
    return 0 if found["ok"] else ConfigurationError.exit_code
