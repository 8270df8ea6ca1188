"""The reference pages of docs/: API, command line, settings, metrics."""

from __future__ import annotations

import json
import re
from typing import Any

import commands
import facts

from k3s_ha_agent.ctl.arguments import PROGRAM

MADE = "<!-- Made by packaging/generate (make generate); changes are made in the sources it reads. -->"


def row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def table(*heads: str) -> list[str]:
    return [row(*heads), "|" + "---|" * len(heads)]


# --- API ---------------------------------------------------------------------------------------------


def type_of(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(word) if word == '' else word}`" for word in schema["enum"])
    for several in ("anyOf", "allOf"):
        if several in schema:
            return " or ".join(type_of(each) for each in schema[several])
    kind = schema.get("type", "anything")
    kinds = kind if isinstance(kind, list) else [kind]
    if "array" in kinds:
        kinds = [f"list of {type_of(schema.get('items', {}))}" if k == "array" else k for k in kinds]
    return " or ".join(kinds)


def parameters(given: list[dict[str, Any]], document: dict[str, Any]) -> list[str]:
    lines = ["", *table("parameter", "in", "type", "meaning")]
    for parameter in given:
        if "$ref" in parameter:
            parameter = document["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
        schema = parameter["schema"]
        default = f" Default: `{json.dumps(schema['default'])}`." if "default" in schema else ""
        lines.append(
            row(f"`{parameter['name']}`", parameter["in"], type_of(schema), parameter.get("description", "") + default)
        )
    return lines


def answers(operation: dict[str, Any], document: dict[str, Any]) -> list[str]:
    lines = ["", *table("status", "answer")]
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        codes = answer["content"].get("application/problem+json", {}).get("schema", {}).get("properties", {})
        named = ", ".join(f"`{code}`" for code in codes.get("code", {}).get("enum", []))
        kinds = [k for k in answer["content"] if k != "application/problem+json"]
        shown = [type_of(answer["content"][k]["schema"]) if k == "application/json" else k for k in kinds]
        lines.append(
            row(
                status,
                answer["description"],
            )
            if not named
            else row(status, f"{named}: {answer['description']}")
        )
        if shown:
            lines[-1] = row(status, f"{answer['description']} ({', '.join(shown)})")
    return lines


def api() -> str:
    document = facts.document()
    lines = ["# API", "", MADE, "", document["info"]["description"].strip(), ""]
    lines += [
        "The contract is `packaging/openapi.yaml` (OpenAPI 3.1), which an agent serves at `/v1/openapi.json`.",
        "",
    ]
    lines += ["## Calls", ""]
    for path, item in document["paths"].items():
        for method in ("get", "post", "delete"):
            if method not in item:
                continue
            operation = item[method]
            lines += [f"### {method.upper()} {path}", "", f"{operation['summary']}. Role: {operation['x-role']}.", ""]
            lines += [operation["description"].strip()] if "description" in operation else []
            given = [*item.get("parameters", []), *operation.get("parameters", [])]
            lines += parameters(given, document) if given else []
            for content in operation.get("requestBody", {}).get("content", {}).values():
                lines += ["", f"Body: {type_of(content['schema'])}, for example:", ""]
                lines += [f"    {json.dumps(example['value'])}" for example in content["examples"].values()]
            lines += [*answers(operation, document), ""]
    lines += [
        "## Problems",
        "",
        "`application/problem+json`; the code is stable and leads to its entry in the runbook.",
        "",
    ]
    lines += table("code", "status", "exit code", "title", "meaning")
    classes = facts.error_classes()
    for code, text in document["x-problem-codes"].items():
        error = classes[code]
        lines.append(
            row(f"[`{code}`](../runbook.md#{code})", str(error.status), str(error.exit_code), error.title, text)
        )
    lines += ["", "## Values", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name}", ""]
        lines += [schema["description"].strip(), ""] if "description" in schema else []
        if "properties" in schema:
            lines += table("member", "type", "meaning")
            for member, of in schema["properties"].items():
                default = f" Default: `{json.dumps(of['default'])}`." if "default" in of else ""
                lines.append(row(f"`{member}`", type_of(of), of.get("description", "") + default))
        else:
            lines.append(f"Type: {type_of(schema)}.")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


# --- the rest ----------------------------------------------------------------------------------------


def cli() -> str:
    lines = ["# Command line", "", MADE, ""]
    for program in (commands.CTL, commands.FLEET):
        name, root = program.name, program.tree
        lines += [f"## {name}", "", root.help, "", *table("option", "meaning"), *option_rows(root.options), ""]
        for command in root.walk():
            if command.words and not command.commands:
                usage = " ".join([name, *command.words, *command.needed])
                lines += [f"### {name} {' '.join(command.words)}", "", f"`{usage}`", "", command.help, ""]
                own = [*command.positionals, *command.own_options]
                if own:
                    lines += [*table("argument", "meaning"), *option_rows(own), ""]
        if program is commands.CTL:
            lines += ["The options of the program may stand before the command or after it.", ""]
            lines += ["### Exit codes of k3s-ha-agentctl", "", *table("code", "meaning")]
            lines += [row(str(code), text) for code, text in facts.EXIT_CODES.items()]
        else:
            lines += [f"### Exit codes of {name}", "", "```", (program.parser.epilog or "").strip(), "```"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def option_rows(actions: list[Any]) -> list[str]:
    rows = []
    for action in actions:
        value = f" {commands.value_name(action)}" if action.option_strings and commands.takes_value(action) else ""
        names = ", ".join(f"`{name}{value}`" for name in action.option_strings) or f"`{commands.shown(action)}`"
        rows.append(row(names, commands.help_of(action) % vars(action)))
    return rows


def configuration() -> str:
    lines = ["# Settings", "", MADE, ""]
    lines += [
        "`/etc/k3s-ha-agent/config.yaml`, then `/etc/k3s-ha-agent/conf.d/*.yaml` by name; a later file wins per key. An unknown",
        'key is an error. Durations are written with their unit, like `"30s"`. In force after `systemctl restart k3s-ha-agent`;',
        f"checked by `{PROGRAM} config validate`. How remote access is set up: [remote access](../remote-access.md).",
        "",
        *table("setting", "default", "meaning"),
    ]
    for setting in facts.documented_settings():
        lines.append(row(f"`{setting.name}`", f"`{setting.default}`", facts.markdown(setting.text)))
    return "\n".join(lines) + "\n"


def metrics() -> str:
    lines = [
        "# Metrics",
        "",
        MADE,
        "",
        "`GET /metrics`, in the Prometheus text format. Worked out from the records when asked for,",
    ]
    lines += [
        "so figures survive a restart of the agent. `packaging/alerts.yaml` has alert rules, `packaging/grafana-dashboard.json`"
    ]
    lines += ["a dashboard.", "", *table("metric", "type", "labels", "meaning")]
    named = facts.labels()
    for name, kind, text in facts.families():
        lines.append(row(f"`{name}`", kind, ", ".join(f"`{label}`" for label in named.get(name, [])), text))
    return re.sub(r"\|  \|", "| |", "\n".join(lines)) + "\n"


def pages() -> dict[str, str]:
    return {"api.md": api(), "cli.md": cli(), "configuration.md": configuration(), "metrics.md": metrics()}
