"""What the parts of one running server share, and its configuration as /v1-k3s/config shows it."""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import json
import socket
from pathlib import Path
from typing import Any

from .etcd import Etcd
from .flags import Flags
from .settings import Standin
from .store import Store


@dataclasses.dataclass
class Node:
    """This server. The fields below ``address`` change while it starts."""

    standin: Standin
    flags: Flags
    server: Path
    """``<data-dir>/server``."""
    name: str
    address: str
    etcd: Etcd | None = None
    store: Store | None = None
    """Set when the datastore can be used."""
    core_ready: bool = False
    """The API server answers."""
    ready: bool = False
    """READY=1 was sent."""

    @property
    def port(self) -> int:
        return int(self.flags.get("https-listen-port", "6443"))

    @property
    def api_port(self) -> int:
        return self.port + 1

    @property
    def runs_api(self) -> bool:
        return not self.flags.on("disable-apiserver")

    @property
    def runs_agent(self) -> bool:
        return self.runs_api and not self.flags.on("disable-agent")


def default_address() -> str:
    """The address of the default route, as k3s takes without --node-ip; loopback when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def control(node: Node) -> dict[str, Any]:
    """The recorded /v1-k3s/config with this server's values put in."""
    flags = node.flags
    shown: dict[str, Any] = json.loads((Path(__file__).parent / "control.json").read_text())
    clusters = flags.all("cluster-cidr") or ["10.42.0.0/16"]
    services = flags.all("service-cidr") or ["10.43.0.0/16"]
    first_service = ipaddress.ip_network(services[0], strict=False)
    dns = flags.all("cluster-dns") or [str(first_service[10])]
    disabled = dict.fromkeys(flags.all("disable"), True)
    shown.update(
        AdvertisePort=node.port, AdvertiseIP=node.address, HTTPSPort=node.port, SupervisorPort=node.port,
        APIServerPort=node.api_port, DataDir=str(node.server), ServerNodeName=node.name, PrivateIP=node.address,
        SANs=[node.address, "127.0.0.1", "localhost", node.name, str(first_service[1])],
        ClusterIPRange=_network(clusters[0]), ClusterIPRanges=[_network(c) for c in clusters],
        ServiceIPRange=_network(services[0]), ServiceIPRanges=[_network(c) for c in services],
        ClusterDNS=dns[0], ClusterDNSs=dns, ClusterDomain=flags.get("cluster-domain", "cluster.local"),
        FlannelBackend=flags.get("flannel-backend", "vxlan"), Skips=disabled, Disables=disabled,
        DisableCCM=flags.on("disable-cloud-controller"),
        DisableNPC=flags.on("disable-network-policy"), DisableHelmController=flags.on("disable-helm-controller"),
        DisableKubeProxy=flags.on("disable-kube-proxy"), DisableAPIServer=flags.on("disable-apiserver"),
        DisableControllerManager=flags.on("disable-controller-manager"), DisableETCD=flags.on("disable-etcd"),
        DisableScheduler=flags.on("disable-scheduler"), ClusterInit=flags.on("cluster-init"),
        ClusterReset=flags.on("cluster-reset"), EncryptSecrets=flags.on("secrets-encryption"),
        JoinURL=flags.get("server"), IPSECPSK=(node.server / "cred/ipsec.psk").read_text(),
    )  # fmt: skip
    if node.standin.version.names_critical_flags:
        shown.update(
            DisableServiceLB="servicelb" in disabled, EncryptProvider=flags.get("secrets-encryption-provider"),
            EmbeddedRegistry=flags.on("embedded-registry"), FlannelIPv6Masq=flags.on("flannel-ipv6-masq"),
            FlannelExternalIP=flags.on("flannel-external-ip"),
            EgressSelectorMode=flags.get("egress-selector-mode", "agent"),
            SupervisorMetrics=flags.on("supervisor-metrics"),
        )  # fmt: skip
    return shown


CRITICAL = {
    "ClusterDNSs": "cluster-dns", "ClusterIPRanges": "cluster-cidr", "ServiceIPRanges": "service-cidr",
    "ClusterDomain": "cluster-domain", "DisableCCM": "disable-cloud-controller",
    "DisableHelmController": "disable-helm-controller", "DisableNPC": "disable-network-policy",
    "DisableServiceLB": "disable=servicelb", "EncryptSecrets": "secrets-encryption",
    "EncryptProvider": "secrets-encryption-provider", "EmbeddedRegistry": "embedded-registry",
    "FlannelBackend": "flannel-backend", "FlannelIPv6Masq": "flannel-ipv6-masq",
    "FlannelExternalIP": "flannel-external-ip", "EgressSelectorMode": "egress-selector-mode",
    "SupervisorMetrics": "supervisor-metrics",
}  # fmt: skip
"""Field -> flag of what must be equal on all servers (4.5)."""


def _network(text: str) -> dict[str, str]:
    network = ipaddress.ip_network(text, strict=False)
    mask = base64.b64encode(network.netmask.packed).decode()
    return {"IP": str(network.network_address), "Mask": mask}
