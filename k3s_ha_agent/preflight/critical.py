"""The flags that must be equal on all servers, theirs by ``/v1-k3s/config``, ours by our configuration.

k3s compares them by itself since 1.22.5 only and names the flag since about 1.26 (J2, "Seen" 10), so they are compared
here whatever the release. Fields are those of CriticalControlArgs (k3s-facts 4.5); one the other server's release does
not know is left out. To these come, after k3s's documentation, ``disable-kube-proxy`` and the packaged components.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.preflight.addresses import parts, pinned
from k3s_ha_agent.preflight.sayings import off

BOOLEANS: Mapping[str, str] = {
    "DisableCCM": "disable-cloud-controller",
    "DisableHelmController": "disable-helm-controller",
    "DisableKubeProxy": "disable-kube-proxy",
    "DisableNPC": "disable-network-policy",
    "EmbeddedRegistry": "embedded-registry",
    "EncryptSecrets": "secrets-encryption",
    "FlannelExternalIP": "flannel-external-ip",
    "FlannelIPv6Masq": "flannel-ipv6-masq",
    "SupervisorMetrics": "supervisor-metrics",
}
WORDS: Mapping[str, tuple[str, str]] = {
    "ClusterDomain": ("cluster-domain", "cluster.local"),
    "EgressSelectorMode": ("egress-selector-mode", "agent"),
    "EncryptProvider": ("secrets-encryption-provider", "aescbc"),
    "FlannelBackend": ("flannel-backend", "vxlan"),
}
"""Field: flag and k3s's default."""
LISTS: Mapping[str, str] = {
    "ClusterIPRanges": "cluster-cidr",
    "ServiceIPRanges": "service-cidr",
    "ClusterDNSs": "cluster-dns",
}
COMPONENTS = ("coredns", "local-storage", "metrics-server", "runtimes", "servicelb", "traefik")
FIELDS = frozenset([*BOOLEANS, *WORDS, *LISTS, "Disables"])


def critical_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a server's configuration is compared; the rest of it holds secrets."""
    return {field: config[field] for field in sorted(FIELDS & config.keys())}


def differences(ours: Configuration, theirs: Mapping[str, Any]) -> list[str]:
    """A sentence part for each flag that differs, naming it, both values and who says ours."""
    return [
        f"{flag} is {_shown(there)} there and {_shown(here)} here{_said(ours, flag)}"
        for flag, there, here in _pairs(ours, theirs)
        if there != here
    ]


def _pairs(ours: Configuration, theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for field, flag in BOOLEANS.items():
        if field in theirs:
            setting = ours.get(flag)
            yield flag, bool(theirs[field]), setting is not None and not off(setting)
    for field, (flag, default) in WORDS.items():
        if field in theirs:
            setting = ours.get(flag)
            yield flag, theirs[field] or default, (setting.value if setting is not None else "") or default
    for field, flag in LISTS.items():
        if field in theirs:
            read: Callable[[Any], str] = str if flag == "cluster-dns" else _network
            yield flag, [read(each) for each in theirs[field] or ()], _list(ours, flag)
    if "Disables" in theirs:
        there = theirs["Disables"] or {}
        here = parts(ours, "disable") + parts(ours, "no-deploy")
        for component in COMPONENTS:
            yield f"disable={component}", bool(there.get(component)), component in here


def _list(ours: Configuration, flag: str) -> list[str]:
    given = parts(ours, flag)
    fixed = pinned(ours)
    six = bool(fixed) and ":" in fixed[0]
    if flag == "cluster-cidr":
        return [_normal(each) for each in given] or (["2001:cafe:42::/56"] if six else ["10.42.0.0/16"])
    if flag == "service-cidr":
        return [_normal(each) for each in given] or (["2001:cafe:43::/112"] if six else ["10.43.0.0/16"])
    return given or [_tenth(each) for each in _list(ours, "service-cidr")]


def _normal(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return text  # k3s does not start with it; here it just differs


def _tenth(network: str) -> str:
    """The default of ``cluster-dns``: the tenth address of the services."""
    try:
        return str(ipaddress.ip_network(network)[10])
    except (ValueError, IndexError):
        return f"the tenth of {network}"


def _network(entry: Any) -> str:
    """Go's net.IPNet as JSON: the mask is base64."""
    try:
        mask = base64.b64decode(entry["Mask"], validate=True)
        bits = sum(byte.bit_count() for byte in mask)
        return _normal(f"{entry['IP']}/{bits}")
    except (KeyError, TypeError, binascii.Error):
        return "something that is not understood"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(value) if isinstance(value, list) else str(value)


def _said(ours: Configuration, flag: str) -> str:
    setting = ours.get(flag.partition("=")[0])
    return f" ({setting.source})" if setting is not None else ", by default"
