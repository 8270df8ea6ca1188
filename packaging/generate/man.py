"""Man pages in roff (man(7)): k3s-ha-agentctl(1), k3s-ha-agent(8), k3s-ha-agent-config.yaml(5)."""

from __future__ import annotations

import argparse

import commands
import facts

from k3s_ha_agent import __version__
from k3s_ha_agent.__main__ import build_parser as build_daemon_parser
from k3s_ha_agent.ctl.arguments import PROGRAM

CONFIG_PAGE = "k3s-ha-agent-config.yaml"


def escape(text: str) -> str:
    """Text for roff: no request at the beginning of a line, no backslash, minus signs as typed."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\n".join("\\&" + line if line.startswith(".") else line for line in escaped.split("\n"))


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escape(text)}\\fR"


def head(name: str, section: int, summary: str) -> list[str]:
    return [
        '.\\" Made by packaging/generate; changes are made in the sources it reads.',
        f'.TH {escape(name).upper()} {section} "{facts.released()}" "k3s\\-ha\\-agent {__version__}" "k3s\\-ha\\-agent"',
        ".SH NAME",
        f"{escape(name)} \\- {escape(summary)}",
    ]


def options(actions: list[argparse.Action]) -> list[str]:
    lines = []
    for action in actions:
        names = ", ".join(bold(name) for name in action.option_strings) or bold(commands.value_name(action))
        value = (
            f" {italic(commands.value_name(action))}" if action.option_strings and commands.takes_value(action) else ""
        )
        lines += [".TP", names + value, escape(commands.help_of(action) % vars(action))]
    return lines


def synopsis(name: str, command: commands.Command) -> str:
    parts = [bold(" ".join((name, *command.words)))]
    if command.own_options:
        parts.append("[" + italic("OPTION") + " ...]")
    parts += [italic(part) for part in command.needed]
    return " ".join(parts)


def usage(program: commands.Program, summary: str, after: str) -> list[str]:
    """What every page of a program with commands begins with."""
    name, root = program.name, program.tree
    lines = head(name, 1, summary)
    lines += [".SH SYNOPSIS", f"{bold(name)} [{italic('OPTION')} ...] {italic('COMMAND')} [{italic('OPTION')} ...]"]
    lines += [".SH DESCRIPTION", escape(root.help), ".PP", escape(after)]
    lines += [".SH OPTIONS", *options(root.options), ".SH COMMANDS"]
    for command in root.walk():
        if command.words and not command.commands:
            lines += [f".SS {escape(' '.join(command.words))}", synopsis(name, command), ".PP", escape(command.help)]
            lines += options([*command.positionals, *command.own_options])
    return lines


def agentctl() -> str:
    lines = usage(
        commands.CTL,
        "moves this k3s server from SQLite to embedded etcd and back",
        "It asks the agent over its unix socket; root and the members of the socket's group may change things. "
        "The options of the program may stand before the command or after it.",
    )
    lines.append(".SH EXIT STATUS")
    for code, text in facts.EXIT_CODES.items():
        lines += [".TP", bold(str(code)), escape(text)]
    lines += [".SH ENVIRONMENT", ".TP", bold("NO_COLOR"), "No colours, when it is set to anything."]
    lines += [".SH FILES", ".TP", italic("/run/k3s-ha-agent/api.sock"), "The agent\\(aqs socket."]
    lines += [
        *(".SH EXAMPLES", ".EX"),
        *(escape(f"{PROGRAM} {rest}") for rest in ("preflight", "migrate --dry-run", "migrate", "operations")),
        escape(f"{PROGRAM} rollback --writes discard --confirm-lost-writes"),
        ".EE",
    ]
    lines += see_also("k3s-ha-agent(8)", f"{CONFIG_PAGE}(5)", "journalctl(1)")
    return "\n".join(lines) + "\n"


def fleet() -> str:
    lines = usage(
        commands.FLEET,
        "brings many k3s clusters to embedded etcd, in waves",
        "It asks the agent of each server over TLS, loopback TCP or a socket, as fleet.yaml says.",
    )
    lines += [".SH EXIT STATUS", ".EX", escape((commands.FLEET.parser.epilog or "").strip()), ".EE"]
    lines += see_also(f"{PROGRAM}(1)", "k3s-ha-agent(8)")
    return "\n".join(lines) + "\n"


def daemon() -> str:
    lines = head("k3s-ha-agent", 8, "migrates k3s from SQLite to embedded etcd and back, with proof")
    lines += [".SH SYNOPSIS", f"{bold('k3s-ha-agent')} [{italic('OPTION')} ...]"]
    lines += [
        ".SH DESCRIPTION",
        escape(
            "A daemon on a k3s server, started by systemd as k3s-ha-agent.service. It changes nothing until it is asked to, "
            "over its API or by k3s-ha-agentctl(1). It checks first, keeps a proven copy, keeps k3s from starting on a "
            "half-copied datastore (the gate), compares every key afterwards, and goes back by itself when the proof does "
            "not come. It may be interrupted at any point: its next start, or k3s-ha-agent-rescue.service when it does not "
            "start again, brings k3s back to exactly one proven datastore."
        ),
        ".SH OPTIONS",
        *options(build_daemon_parser()._actions),
        ".SH SIGNALS",
        ".TP",
        bold("SIGTERM"),
        "Stop. An operation is neither aborted nor undone; the next start goes on with it.",
        ".SH FILES",
    ]
    for path, text in (
        ("/etc/k3s-ha-agent/config.yaml", f"Settings; see {CONFIG_PAGE}(5)."),
        ("/etc/k3s-ha-agent/conf.d/*.yaml", "Further settings, by name; later ones win per key."),
        ("/run/k3s-ha-agent/api.sock", "The API, mode 0660, group k3s-ha."),
        ("/var/lib/k3s-ha-agent/operations/", "The records of operations."),
        (
            "/var/lib/k3s-ha-agent/backups/",
            "Pre-images: the proven copies operations keep. They hold every Secret of the cluster.",
        ),
        ("/var/lib/k3s-ha-agent/audit.jsonl", "Who asked for which change, and what came of it."),
        ("/usr/share/doc/k3s-ha-agent/docs/runbook.md", "What each problem and alert means, and what to do."),
    ):
        lines += [".TP", italic(path), escape(text)]
    lines += [
        ".SH LOG",
        escape("Entries carry fields: journalctl KSHA_OPERATION=ID. Explained by: journalctl -x -u k3s-ha-agent."),
    ]
    lines += [
        ".SH EXIT STATUS",
        escape("0 when it was stopped; another one, for systemd to restart it, when it could not run."),
    ]
    lines += see_also(f"{PROGRAM}(1)", f"{CONFIG_PAGE}(5)", "systemd(1)")
    return "\n".join(lines) + "\n"


def configuration() -> str:
    lines = head(CONFIG_PAGE, 5, "settings of k3s-ha-agent")
    lines += [
        ".SH SYNOPSIS",
        f"{italic('/etc/k3s-ha-agent/config.yaml')}",
        ".br",
        f"{italic('/etc/k3s-ha-agent/conf.d/*.yaml')}",
        ".SH DESCRIPTION",
        escape(
            "YAML. Every setting has a default, so no file needs to exist. The files of conf.d are read after config.yaml, by "
            'name, and win per key. An unknown key is an error. Durations are written with their unit, like "30s" or "1h30m". '
            "Settings are in force after a restart of the agent; they are checked by: k3s-ha-agentctl config validate."
        ),
        ".SH SETTINGS",
    ]
    for setting in facts.documented_settings():
        lines += [
            ".TP",
            f"{bold(setting.name)} (default: {escape(setting.default)})",
            escape(facts.plain(setting.text)),
        ]
    lines += see_also("k3s-ha-agent(8)", f"{PROGRAM}(1)")
    return "\n".join(lines) + "\n"


def see_also(*pages: str) -> list[str]:
    shown = [f"{bold(page[:-3])}{escape(page[-3:])}" for page in pages]
    return [".SH SEE ALSO", ", ".join(shown)]


def pages() -> dict[str, str]:
    return {
        f"{PROGRAM}.1": agentctl(),
        f"{commands.FLEET.name}.1": fleet(),
        "k3s-ha-agent.8": daemon(),
        f"{CONFIG_PAGE}.5": configuration(),
    }
