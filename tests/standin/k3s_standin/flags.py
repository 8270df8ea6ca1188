"""``k3s server`` flags from command line, configuration files and environment (facts 4.4).

Precedence: command line > config.yaml.d/*.yaml by name > config.yaml > environment. As k3s does it,
configuration values are put right after ``server`` and the command line follows, so the last one
of a scalar wins and lists add up. ``key+`` in a file appends to what earlier files said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import log

ALIASES = {"c": "config", "d": "data-dir", "t": "token", "s": "server", "i": "node-ip", "o": "write-kubeconfig"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BOOLEANS = _words(
    """cluster-init cluster-reset disable-agent disable-apiserver disable-cloud-controller
    disable-controller-manager disable-etcd disable-helm-controller disable-kube-proxy
    disable-network-policy disable-scheduler docker embedded-registry enable-pprof
    etcd-disable-snapshots etcd-expose-metrics etcd-s3 etcd-s3-insecure etcd-s3-skip-ssl-verify
    etcd-snapshot-compress flannel-external-ip flannel-ipv6-masq multi-cluster-cidr
    prefer-bundled-bin protect-kernel-defaults rootless secrets-encryption selinux
    servicelb-disable supervisor-metrics alsologtostderr debug with-node-id"""
)

VALUES = _words(
    """config data-dir token token-file server agent-token agent-token-file datastore-endpoint
    datastore-cafile datastore-certfile datastore-keyfile node-name node-ip node-external-ip
    advertise-address advertise-port bind-address https-listen-port cluster-cidr service-cidr
    service-node-port-range cluster-dns cluster-domain flannel-backend flannel-iface flannel-conf
    egress-selector-mode secrets-encryption-provider write-kubeconfig write-kubeconfig-mode
    cluster-reset-restore-path etcd-snapshot-name etcd-snapshot-schedule-cron etcd-snapshot-dir
    etcd-snapshot-retention etcd-s3-endpoint etcd-s3-endpoint-ca etcd-s3-access-key
    etcd-s3-secret-key etcd-s3-bucket etcd-s3-region etcd-s3-folder default-local-storage-path
    container-runtime-endpoint pause-image snapshotter private-registry resolv-conf
    kube-apiserver-arg kube-controller-manager-arg kube-scheduler-arg
    kube-cloud-controller-manager-arg kubelet-arg kube-proxy-arg etcd-arg disable node-label
    node-taint tls-san system-default-registry log lb-server-port airgap-extra-registry
    supervisor-port apiserver-port kine-tls vmodule v vpn-auth"""
)

ENVIRONMENT = {
    "K3S_TOKEN": "token",
    "K3S_TOKEN_FILE": "token-file",
    "K3S_URL": "server",
    "K3S_CLUSTER_INIT": "cluster-init",
    "K3S_CLUSTER_RESET": "cluster-reset",
    "K3S_DATASTORE_ENDPOINT": "datastore-endpoint",
    "K3S_NODE_NAME": "node-name",
    "K3S_DATA_DIR": "data-dir",
    "K3S_AGENT_TOKEN": "agent-token",
}


class UsageError(Exception):
    """The command line cannot be read."""


class Flags:
    """The effective flags of this start."""

    def __init__(self, arguments: Sequence[tuple[str, str]], shown: Sequence[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for flag, value in arguments:
            self._values.setdefault(flag, []).append(value)
        self.shown = tuple(shown)
        """The arguments as the annotation k3s.io/node-args shows them, secrets masked."""

    def get(self, flag: str, default: str = "") -> str:
        values = self._values.get(flag)
        return values[-1] if values else default

    def all(self, flag: str) -> list[str]:
        return [part for value in self._values.get(flag, ()) for part in value.split(",") if part]

    def on(self, flag: str) -> bool:
        return self.get(flag, "false").lower() in ("true", "1", "t", "yes")


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Flags:
    """The flags of ``k3s server ARGV``. UsageError for what the command line cannot mean."""
    given = list(_arguments(argv, strict=True))
    explicit = next((v for f, v in reversed(given) if f == "config"), environment.get("K3S_CONFIG_FILE", ""))
    path = Path(explicit or "/etc/rancher/k3s/config.yaml")
    configured = list(_arguments(_config_arguments(path, required=bool(explicit)), strict=False))
    both = configured + given
    named = {flag for flag, _ in both}
    inherited = [(f, environment[n]) for n, f in ENVIRONMENT.items() if environment.get(n) and f not in named]
    return Flags(inherited + both, list(_shown(both)))


def _arguments(argv: Sequence[str], *, strict: bool) -> Iterator[tuple[str, str]]:
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            raise UsageError(f"unexpected argument {word!r}")
        name, equals, value = word.lstrip("-").partition("=")
        flag = ALIASES.get(name, name)
        if flag in BOOLEANS:
            yield flag, value if equals else "true"
        elif flag in VALUES:
            if not equals:
                if not rest:
                    raise UsageError(f"flag needs an argument: --{flag}")
                value = rest.pop(0)
            yield flag, value
        elif strict:
            raise UsageError(f"flag provided but not defined: -{flag}")


def _config_arguments(path: Path, *, required: bool) -> list[str]:
    files = [path] if path.exists() else []
    if not files and required:
        raise UsageError(f"open {path}: no such file or directory")
    directory = path.with_name(path.name + ".d")
    if directory.is_dir():
        files += sorted(p for p in directory.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
    if not files:
        return []
    values: dict[str, Any] = {}
    for file in files:
        for key, value in _yaml(file).items():
            name, append = key.removesuffix("+"), key.endswith("+")
            if append and name in values:
                values[name] = [*_list(values[name]), *_list(value)]
            else:
                values[name] = value
    arguments = []
    for key, value in values.items():
        flag = ALIASES.get(key, key)
        if flag not in BOOLEANS and flag not in VALUES:
            log.warning(f"Unknown flag --{key} found in config.yaml, skipping")
            continue
        for part in _list(value) if isinstance(value, list) else [value]:
            arguments.append(f"--{flag}={_text(part)}")
    return arguments


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise UsageError(f"yaml: {path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"yaml: {path}: not a mapping")
    return {str(key): value for key, value in content.items()}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _shown(arguments: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "server"
    for flag, value in arguments:
        yield f"--{flag}"
        if flag in ("token", "agent-token", "datastore-endpoint"):
            yield "********"
        elif flag not in BOOLEANS or value != "true":
            yield value
