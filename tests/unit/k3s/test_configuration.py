"""What k3s is told, out of all its places, and who said it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.k3s.configuration import (
    Configuration,
    cluster_init_drop_in,
    drop_in_path,
    effective,
    parse_config_yaml,
    parse_environment_file,
    parse_exec,
    read,
    server_drop_in,
)
from k3s_ha_agent.k3s.environment_file import expand

K3S = "/usr/local/bin/k3s"


def test_command_line_of_the_recording() -> None:
    argv = [
        K3S,
        "server",
        "--disable",
        "traefik",
        "--disable",
        "metrics-server",
        "--node-ip",
        "10.99.0.11",
        "--cluster-init",
    ]
    assert parse_exec(argv) == (
        "server",
        [("disable", "traefik"), ("disable", "metrics-server"), ("node-ip", "10.99.0.11"), ("cluster-init", "true")],
    )


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--token=a=b"], [("token", "a=b")]),
        (["-t", "secret", "-d", "/data", "-c", "/c.yaml", "-s", "https://x:6443"], [
            ("token", "secret"), ("data-dir", "/data"), ("config", "/c.yaml"), ("server", "https://x:6443"),
        ]),
        (["-cluster-init", "-token", "x"], [("cluster-init", "true"), ("token", "x")]),
        (["--cluster-init=false"], [("cluster-init", "false")]),
        (["--cluster-init", "false"], [("cluster-init", "true")]),  # the word belongs to nothing
        (["--disable", "traefik", "servicelb"], [("disable", "traefik")]),
        (["--token", "x", "stray", "--", "--cluster-init"], [("token", "x")]),
        (["--kubelet-arg", "--v=4", "--debug"], [("kubelet-arg", "--v=4"), ("debug", "true")]),
        (["--token", "--cluster-init"], [("token", "--cluster-init")]),
        (["--brand-new-flag", "value", "--token", "x"], [("brand-new-flag", "value"), ("token", "x")]),
        (["--brand-new-switch", "--token", "x"], [("brand-new-switch", "true"), ("token", "x")]),
        (["--", "--cluster-init"], []),
        (["--data-dir"], [("data-dir", "")]),
        ([], []),
    ],
)  # fmt: skip
def test_forms_of_flags(words: list[str], given: list[tuple[str, str]]) -> None:
    assert parse_exec([K3S, "server", *words]) == ("server", given)


@pytest.mark.parametrize(
    "words",
    [
        ["--cluster-init", "false", "--token", "x"],
        ["--disable", "traefik", "servicelb", "--datastore-endpoint=mysql://x"],
        ["", "--server", "https://x:6443"],  # what ${K3S_EXTRA} leaves when it is not set
        ["-", "--data-dir", "/data"],
    ],
)
def test_flags_behind_a_stray_word_are_not_guessed(words: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="belongs to no flag") as caught:
        parse_exec([K3S, "server", *words])
    assert "mysql" not in str(caught.value)


def test_role() -> None:
    assert parse_exec([K3S, "agent"])[0] == "agent"
    assert parse_exec([K3S, "--debug", "server", "--cluster-init"]) == (
        "server",
        [("debug", "true"), ("cluster-init", "true")],
    )
    assert parse_exec(["/usr/bin/taskset", "-c", "1", K3S, "server"]) == ("server", [])
    for argv in ([], [K3S], [K3S, "etcd-snapshot"], ["/usr/local/bin/start-k3s.sh"]):
        with pytest.raises(ConfigurationError):
            parse_exec(argv)


# --- config.yaml ---


def test_yaml_values_as_go_prints_them() -> None:
    text = (
        'cluster-init: yes\nhttps-listen-port: 6443\ntoken: "007"\n'
        'disable: [traefik, servicelb]\nserver:\n"disable+": x\n'
    )
    assert parse_config_yaml(text) == [
        ("cluster-init", False, ["true"]),
        ("https-listen-port", False, ["6443"]),
        ("token", False, ["007"]),
        ("disable", False, ["traefik", "servicelb"]),
        ("server", False, [""]),
        ("disable", True, ["x"]),
    ]
    assert parse_config_yaml("") == parse_config_yaml("# only this\n") == []


def test_yaml_that_is_not_valid_never_shows_its_text() -> None:
    for text in ("token: [s3cr3t", "- s3cr3t", "s3cr3t", "a: 2001-99-99", "a: &x s3cr3t\nb: *y"):
        with pytest.raises(ConfigurationError) as error:
            parse_config_yaml(text, "/etc/rancher/k3s/config.yaml")
        assert "/etc/rancher/k3s/config.yaml" in str(error.value)
        assert "s3cr3t" not in str(error.value)


# --- precedence ---


def config(*argv: str, env: dict[str, str] | None = None, files: list[tuple[str, str]] | None = None) -> Configuration:
    return effective([K3S, "server", *argv], [("env", env or {})], files or [])


def test_the_order_of_strength() -> None:
    env = {"K3S_TOKEN": "env"}
    base, drop_in = ("config.yaml", "token: base"), ("a.yaml", "token: drop-in")

    def token(found: Configuration) -> tuple[str, str]:
        setting = found.get("token")
        assert setting is not None
        return setting.value, setting.source

    assert config().get("token") is None
    assert token(config(env=env)) == ("env", "env")
    assert token(config(env=env, files=[base])) == ("base", "config.yaml")
    assert token(config(env=env, files=[base, drop_in])) == ("drop-in", "a.yaml")
    everything = config("--token", "argv", env=env, files=[base, drop_in])
    assert token(everything) == ("argv", "command line of k3s.service")
    assert [s.value for s in everything.all("t")] == ["env", "base", "drop-in", "argv"]


def test_later_drop_in_replaces_and_plus_appends() -> None:
    files = [
        ("config.yaml", "disable: [traefik]\nnode-label: [a=1]\n"),
        ("a.yaml", '"disable+": [servicelb]\nnode-label: [b=2]\n'),
        ("b.yaml", '"disable+": local-storage\n"tls-san+": x\n'),
    ]
    found = config("--disable=coredns", files=files)
    assert [(s.value, s.source) for s in found.values("disable")] == [
        ("traefik", "config.yaml"),
        ("servicelb", "a.yaml"),
        ("local-storage", "b.yaml"),
        ("coredns", "command line of k3s.service"),
    ]
    assert [s.value for s in found.values("node-label")] == ["b=2"]
    assert [s.value for s in found.all("node-label")] == ["a=1", "b=2"]
    assert [s.value for s in found.values("tls-san")] == ["x"]


def test_environment_counts_only_without_a_flag() -> None:
    assert not config("--cluster-init=false", env={"K3S_CLUSTER_INIT": "true"}).flag("cluster-init")
    assert config(env={"K3S_CLUSTER_INIT": "true"}).flag("cluster-init")
    assert config(env={"K3S_URL": "https://x"}).get("server") is not None
    assert config(env={"K3S_URL": ""}).get("server") is None, "an empty variable says nothing"
    assert config(env={"K3S_DATASTORE_ENDPOINT": "mysql://"}).get("datastore-endpoint") is not None
    assert config(env={"K3S_CLUSTER_RESET": "1"}).flag("cluster-reset")


def test_later_environment_wins() -> None:
    found = effective([K3S, "server"], [("a", {"K3S_TOKEN": "1"}), ("b", {"K3S_TOKEN": "2"})], [])
    setting = found.get("token")
    assert setting is not None
    assert (setting.value, setting.source) == ("2", "b")


def test_booleans() -> None:
    for text in ("true", "True", "yes", "on", "1", '"1"', "t", "y"):
        assert config(files=[("c", f"cluster-init: {text}")]).flag("cluster-init"), text
    for text in ("false", "no", "off", "0", "f"):
        assert not config(files=[("c", f"cluster-init: {text}")]).flag("cluster-init"), text
    for text in ("maybe", '""', ""):
        with pytest.raises(ConfigurationError, match="cluster-init"):
            config(files=[("c", f"cluster-init: {text}")]).flag("cluster-init")
    assert not config().flag("cluster-init")


def test_variables_in_the_command_line() -> None:
    found = effective(
        [K3S, "server", "$K3S_ARGS", "--node-ip=${IP}"],
        [("e", {"K3S_ARGS": "--cluster-init --token 'a b'", "IP": "10.0.0.1"})],
        [],
    )
    assert found.flag("cluster-init")
    assert [s.value for s in found.all("token")] == ["a b"]
    assert [s.value for s in found.all("node-ip")] == ["10.0.0.1"]


def test_secrets_are_not_shown() -> None:
    found = config("--token", "s3cr3t", "--datastore-endpoint=mysql://u:s3cr3t@h/", "--node-name", "n1")
    assert "s3cr3t" not in repr(found)
    assert "s3cr3t" not in f"{found.get('token')}"
    assert "n1" in repr(found)


# --- files ---


def test_all_six_places(tmp_path: Path) -> None:
    texts = {
        "etc/default/k3s": "K3S_TOKEN=default\nK3S_NODE_NAME=default\n",
        "etc/sysconfig/k3s": "K3S_TOKEN=sysconfig\nK3S_DATA_DIR=/from/sysconfig\n",
        "etc/systemd/system/k3s.service.env": "K3S_TOKEN='unit'\n",
        "etc/rancher/k3s/config.yaml": "cluster-init: false\nwrite-kubeconfig-mode: '0644'\n",
        "etc/rancher/k3s/config.yaml.d/10-a.yaml": "cluster-init: true\ndata-dir: /from/a\n",
        "etc/rancher/k3s/config.yaml.d/20-b.YML": "data-dir: /from/b\n",
        "etc/rancher/k3s/config.yaml.d/30-c.yaml.bak": "data-dir: /from/c\n",
        "etc/rancher/k3s/config.yaml.d/40-d.txt": "data-dir: /from/d\n",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "etc/rancher/k3s/config.yaml.d/50-directory.yaml").mkdir()
    environment_files = [
        Path("/etc/default/k3s"),
        Path("/etc/sysconfig/k3s"),
        Path("/etc/systemd/system/k3s.service.env"),
    ]
    found = read([K3S, "server", "--node-ip", "10.0.0.1"], {"K3S_RESOLV_CONF": "/r"}, environment_files, tmp_path)

    def who(flag: str) -> tuple[str, str]:
        setting = found.get(flag)
        assert setting is not None
        return setting.value, setting.source

    assert who("node-ip") == ("10.0.0.1", "command line of k3s.service")
    assert who("data-dir") == ("/from/b", "/etc/rancher/k3s/config.yaml.d/20-b.YML")
    assert who("cluster-init") == ("true", "/etc/rancher/k3s/config.yaml.d/10-a.yaml")
    assert who("write-kubeconfig-mode") == ("0644", "/etc/rancher/k3s/config.yaml")
    assert who("token") == ("unit", "/etc/systemd/system/k3s.service.env")
    assert who("node-name") == ("default", "/etc/default/k3s")
    assert who("resolv-conf") == ("/r", "Environment= of k3s.service")
    assert [s.value for s in found.all("token")] == ["default", "sysconfig", "unit"]
    assert found.config_file == Path("/etc/rancher/k3s/config.yaml")
    assert found.role == "server"


def test_which_config_file(tmp_path: Path) -> None:
    for name in ("flag", "env", "default"):
        (tmp_path / f"{name}.yaml").write_text(f"node-name: {name}")
        directory = tmp_path / f"{name}.yaml.d"
        directory.mkdir()
        (directory / "x.yaml").write_text(f"node-label: {name}")

    def found(argv: list[str], env: dict[str, str]) -> tuple[str | None, Path, Path]:
        configuration = read([K3S, "server", *argv], env, [], tmp_path, Path("/default.yaml"))
        name, label = configuration.get("node-name"), configuration.get("node-label")
        assert name is not None
        assert label is not None
        assert name.value == label.value
        return name.value, configuration.config_file, drop_in_path(configuration.config_file)

    assert found([], {}) == ("default", Path("/default.yaml"), Path("/default.yaml.d/zz-k3s-ha-agent.yaml"))
    for argv in (["--config", "/flag.yaml"], ["-c", "/flag.yaml"], ["--config=/flag.yaml"], ["-c=/flag.yaml"]):
        assert found(argv, {})[:2] == ("flag", Path("/flag.yaml"))
        assert found(argv, {"K3S_CONFIG_FILE": "/env.yaml"})[:2] == ("env", Path("/env.yaml"))


def test_nothing_there(tmp_path: Path) -> None:
    found = read([K3S, "server"], {}, [Path("/etc/default/k3s")], tmp_path)
    assert found.in_effect == {}
    assert found.config_sources == ()


def test_drop_ins_without_a_config_file(tmp_path: Path) -> None:
    directory = tmp_path / "etc/rancher/k3s/config.yaml.d"
    directory.mkdir(parents=True)
    (directory / "zz-k3s-ha-agent.yaml").write_bytes(cluster_init_drop_in())
    assert read([K3S, "server"], {}, [], tmp_path).flag("cluster-init")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "etc/rancher/k3s/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ConfigurationError, match=r"/etc/rancher/k3s/config\.yaml is not YAML"):
        read([K3S, "server"], {}, [], tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read([K3S, "server"], {}, [], tmp_path)
    with pytest.raises(ConfigurationError, match="https://example"):
        read([K3S, "server", "--config", "https://example.com/x"], {}, [], tmp_path)


def test_our_drop_ins_are_what_k3s_reads() -> None:
    text = cluster_init_drop_in().decode()
    assert yaml.safe_load(text) == {"cluster-init": True}
    assert "k3s-ha-agent, which owns this file" in text.splitlines()[0]
    joined = server_drop_in("https://10.0.0.1:6443", Path("/etc/rancher/k3s/to ken"))
    assert yaml.safe_load(joined) == {"server": "https://10.0.0.1:6443", "token-file": "/etc/rancher/k3s/to ken"}
    assert drop_in_path() == Path("/etc/rancher/k3s/config.yaml.d/zz-k3s-ha-agent.yaml")


# --- environment files ---

ENVIRONMENT_FILE = r"""
# comment with = sign
; another
K3S_TOKEN='it is K10::server:x'
  INDENTED = spaced out @
DOUBLE="a \"quoted\" \$x \n back\\slash"
JOINED='one'"two"three
CONTINUED=first \
second
EMPTY=
PLAIN=has 'quotes' inside
ESCAPED=a\ b\\c
MULTI="line one
line two"
nothing here
LAST=1
LAST=2
HASH=a#b
""".replace("@", "  ")


def test_environment_file() -> None:
    assert parse_environment_file(ENVIRONMENT_FILE) == {
        "K3S_TOKEN": "it is K10::server:x",
        "INDENTED": "spaced out",
        "DOUBLE": 'a "quoted" $x \\n back\\slash',
        "JOINED": "onetwothree",
        "CONTINUED": "first second",
        "EMPTY": "",
        "PLAIN": "has 'quotes' inside",
        "ESCAPED": "a b\\c",
        "MULTI": "line one\nline two",
        "LAST": "2",
        "HASH": "a#b",
    }
    for cut in range(len(ENVIRONMENT_FILE)):
        parse_environment_file(ENVIRONMENT_FILE[:cut])  # ends, whatever is cut off


def test_expansion() -> None:
    env = {"A": "1 2", "Q": "'x y' z", "OPEN": "it's", "EMPTY": ""}
    assert expand(["$A", "$A", "${A}", "x${A}y", "x$A", "$$A", "$Q", "$NONE", "${NONE}", "$EMPTY", "$OPEN"], env) == [
        "$A", "1", "2", "1 2", "x1 2y", "x$A", "$A", "x y", "z", "", "it's",
    ]  # fmt: skip
    assert expand([], {}) == []


def test_what_the_installer_writes(tmp_path: Path) -> None:
    """install.sh quotes values with sed; a shell reads them back as we do."""
    path = tmp_path / "k3s.service.env"
    path.write_text("K3S_TOKEN='a \"b\" $c \\d'\nHTTP_PROXY='http://u:p@h:1'\n")
    shell = subprocess.run(
        ["/bin/sh", "-c", f'. "{path}"; printf %s "$K3S_TOKEN"'], capture_output=True, text=True, check=True, timeout=60
    )
    assert parse_environment_file(path.read_text())["K3S_TOKEN"] == shell.stdout


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("cluster-cidr: 10.42.0.0/16\t\ntoken:\tx\t# ours\n", ["cluster-cidr", "token"]),
        ("---\ndisable: traefik\n---\ndatastore-endpoint: mysql://x\n", ["disable"]),
        ("disable: traefik\n---\n", ["disable"]),
        ("\ufeffdisable: traefik\r\n", ["disable"]),
        ("---\n", []),
        ("# nothing\n", []),
        ("", []),
    ],
)
def test_yaml_that_k3s_takes_is_taken(text: str, keys: list[str]) -> None:
    """k3s's parser is libyaml's grammar: a tab may part tokens; and it reads the first document only."""
    assert [name for name, _, _ in parse_config_yaml(text)] == keys


@pytest.mark.parametrize("depth", [100, 3000, 200_000])
def test_yaml_without_end_is_no_end_of_ours(depth: int) -> None:
    with pytest.raises(ConfigurationError, match="nested"):
        parse_config_yaml("disable: " + "[" * depth + "]" * depth)


def test_yaml_that_holds_itself() -> None:
    assert [name for name, _, _ in parse_config_yaml("disable: &x [*x]\ntoken: y\n")] == ["disable", "token"]


def test_values_have_no_tab_of_the_line() -> None:
    assert parse_config_yaml("cluster-cidr: 10.42.0.0/16\t\n") == [("cluster-cidr", False, ["10.42.0.0/16"])]
