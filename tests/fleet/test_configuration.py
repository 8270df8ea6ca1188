"""``fleet.yaml``: the example of the documentation, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from k3s_ha_agent.client import unix_socket
from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.fleet.agents import endpoints, read_secret, tokens
from k3s_ha_agent.fleet.arguments import EPILOG
from k3s_ha_agent.fleet.configuration import parse
from k3s_ha_agent.fleet.outcome import EXIT_CODES
from k3s_ha_agent.fleet.waves import split
from tests.fleet.conftest import ROOT

PAGE = (ROOT / "docs/how-to/fleet.md").read_text()
EXAMPLE = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
SMALL = """
fleet: f
clusters:
  - name: c
    servers: [{name: a, agent: "unix:/a.sock"}]
"""


def test_the_example_of_the_documentation() -> None:
    fleet = parse(EXAMPLE, Path("/etc/fleet/fleet.yaml"))
    assert [cluster.name for cluster in fleet.clusters] == ["berlin-1", "hamburg-1", "munich-1", "lab"]
    berlin, _, munich, lab = fleet.clusters
    assert fleet.tls is not None and fleet.tls.key == Path("/etc/fleet/pki/fleet-controller.key")
    assert (fleet.waves.size, fleet.waves.at_once, fleet.waves.stop_after_failures) == (40, 10, 3)
    assert (fleet.limits.away, fleet.limits.operation) == (600.0, 7200.0)
    assert (berlin.options.migrate_timeout, berlin.options.accept_slow_disk) == (600.0, None)
    assert berlin.options.token_file == "/etc/k3s-ha-agent/join-token"
    assert (munich.options.migrate_timeout, munich.options.accept_slow_disk) == (600.0, True)
    assert munich.options.token_file is None
    assert munich.options.controller_token_file == Path("/etc/fleet/secrets/munich-1.token")
    assert lab.first.bearer_token_file == Path("/etc/fleet/secrets/lab.bearer")
    assert lab.first.tunnel_to == "127.0.0.1:9580"
    waves = split(fleet.clusters, fleet.waves)
    assert [[c.name for c in wave.clusters] for wave in waves] == [["berlin-1"], ["hamburg-1", "munich-1", "lab"]]


def test_the_exit_codes_are_those_documented() -> None:
    rows = [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
    helped = [int(code) for code in re.findall(r"^  (\d) ", EPILOG, re.MULTILINE)]
    assert rows == [code for _, code in EXIT_CODES] + [0]
    assert helped == [*rows, 2]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fleet: f", "fleet: f\nwaves: {sise: 3}", "waves: sise: not known"),
        ("fleet: f", "fleet: f\nfleet: g", "'fleet' stands twice"),
        ("fleet: f", "fleet: a b", "is not a name"),
        ("fleet: f", "name: f", "fleet is missing"),
        ("fleet: f", "fleet: f\nwaves: {size: 0}", "size: must be a number from 1"),
        ("fleet: f", "fleet: f\nwaves: {canary: [x]}", "canary names x, which is no cluster"),
        ("fleet: f", "fleet: f\nwaves: {canary: [c, c]}", "canary names c twice"),
        ("fleet: f", "fleet: f\nlimits: {away: 10}", "away: must be text"),
        ("fleet: f", "fleet: f\ntls: {ca: x}", "needs all of ca, cert and key"),
        ("unix:/a.sock", "https://a:1", "needs tls"),
        ("unix:/a.sock", "http://a:1", "needs bearer_token_file"),
        ("unix:/a.sock", "ftp://a:1", "is not https://"),
        ('/a.sock"', "/a.sock\", tunnel_to: 'a:1'", "tunnel_to is for an agent with http://"),
        ("[{name", "[{name: a, agent: 'unix:/b.sock', k3s: 'https://a:6443'}, {name", "two servers have the name a"),
        ("[{name", "[{name: b, agent: 'unix:/a.sock', k3s: 'https://a:6443'}, {name", "need either token_file"),
        ("[{name", "[{name: b, agent: 'unix:/b.sock'}, {name", "b needs k3s"),
        ("[{name", "[{name: b, agent: 'unix:/b.sock', k3s: 'http://a'}, {name", "k3s: must be like https://"),
        ("- name: c", "- name: c\n    join: {token_file: rel}", "must be a whole path"),
        ("- name: c", "- name: c\n    extra: 1", "cluster c: extra: not known"),
        (
            "clusters:",
            "clusters:\n  - {name: c, servers: [{name: a, agent: 'unix:/b'}]}",
            "two clusters have the name c",
        ),
        (
            "clusters:",
            "clusters:\n  - {name: d, servers: [{name: a, agent: 'unix:/a.sock'}]}",
            "the agent of two servers",
        ),
        ("clusters:", "clusters: {", "is not YAML"),
    ],
)
def test_a_slip_is_refused_with_its_place(old: str, new: str, said: str) -> None:
    parse(SMALL, Path("fleet.yaml"))
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        parse(SMALL.replace(old, new, 1), Path("fleet.yaml"))


def test_a_token_is_not_sent_over_a_plain_line(tmp_path: Path) -> None:
    text = SMALL.replace("[{", "[{name: b, agent: 'unix:/b.sock', k3s: 'https://a:6443'}, {").replace(
        'agent: "unix:/a.sock"', "agent: 'http://127.0.0.1:1', bearer_token_file: b"
    )
    with pytest.raises(ConfigurationError, match="sent unencrypted"):
        parse(text.replace("- name: c", "- name: c\n    join: {controller_token_file: t}"), tmp_path / "f")


def test_secrets_are_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("K10x\n")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="everybody may read it"):
        read_secret(path)
    path.chmod(0o640)
    assert read_secret(path) == "K10x"
    path.write_text("\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        read_secret(path)


def test_endpoints_and_tokens_out_of_files(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("K10x")
    (tmp_path / "t").chmod(0o600)
    text = SMALL.replace("[{", "[{name: b, agent: 'unix:/b.sock', k3s: 'https://a:6443'}, {")
    fleet = parse(text.replace("- name: c", "- name: c\n    join: {controller_token_file: t}"), tmp_path / "fleet.yaml")
    assert tokens(fleet.clusters) == {"c": "K10x"}
    assert endpoints(fleet, fleet.clusters)["c", "a"] == unix_socket(Path("/a.sock"))
