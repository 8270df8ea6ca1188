"""TLS between nodes, set up by the commands of docs/remote-access.md alone."""

from __future__ import annotations

from tests.lab.documents import REMOTE, block, commands, shell, typed
from tests.lab.node import Node

CONFIG = "/etc/k3s-ha-agent/config.yaml"
HOME = "/root"
FOR_CALLERS = "extendedKeyUsage=clientAuth"


def make_authority(controller: Node) -> str:
    """The authority, in root's home of ``controller``; the shell function that signs there."""
    authority, function, *_ = commands(REMOTE, "openssl req")
    shell(controller, authority)
    return function


def documented_certificates(controller: Node) -> None:
    """Every certificate of the page: n1, controller, dashboard-1."""
    for command in commands(REMOTE, "openssl req")[2:]:
        shell(controller, f"{signing()}\n{command}")


def signing() -> str:
    return commands(REMOTE, "openssl req")[1]


def issue(controller: Node, name: str, extension: str = FOR_CALLERS) -> None:
    """Another certificate by the same function."""
    shell(controller, f"{signing()}\nissue {name} {extension}")


def hand_over(controller: Node, server: Node, *names: str) -> None:
    """What a person copies with scp."""
    for name in names:
        server.write(f"{HOME}/{name}", controller.read(f"{HOME}/{name}"), mode=0o600)


def server_files(name: str = "n1") -> list[str]:
    """The commands that put the files of the server ``name`` where its agent looks."""
    return [command.replace("n1.", f"{name}.") for command in typed(REMOTE, "install -d")]


def listen(controller: Node, server: Node) -> None:
    """The agent of ``server`` listens with TLS, with the settings of the page; controller has its certificates."""
    hand_over(controller, server, "ca.crt", f"{server.name}.crt", f"{server.name}.key")
    for command in server_files(server.name):
        shell(server, command)
    server.write(CONFIG, server.read(CONFIG) + block(REMOTE, "listen_tls:"))
    for command in typed(REMOTE, "config validate"):
        shell(server, command)
    server.wait_for_agent()


def known_by_name(controller: Node, *servers: Node) -> None:
    """``n1.example.org`` and so on lead to the servers; in the field a DNS does that."""
    lines = [f"{server.address} {server.name}.example.org\n" for server in servers]
    controller.write("/etc/hosts", controller.read("/etc/hosts") + "".join(lines))


def url(server: Node) -> str:
    return f"https://{server.name}.example.org:9581"
