"""No proxy stands between the servers."""

from __future__ import annotations

import urllib.parse

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import own
from k3s_ha_agent.preflight.proxies import is_exempt
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "proxies"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="HTTP_PROXY, HTTPS_PROXY and NO_PROXY in k3s's environment, and the addresses of all servers",
    refuses="a proxy is set and NO_PROXY does not leave out every server: k3s and etcd would send their traffic to it",
    warns="",
    remedy="put the servers' addresses, or their network, into NO_PROXY",
    facts="J8",
)


def check(subject: Subject) -> CheckResult:
    proxies = known(known(subject.joiner).proxies)
    if not proxies.variables:
        return passed(NAME, "k3s gets no proxy.")
    cluster = known(subject.cluster)
    hosts = dict.fromkeys([cluster.host])
    for member in known(cluster.members):
        hosts.update(dict.fromkeys(urllib.parse.urlsplit(url).hostname or "" for url in member.peer_urls))
    hosts.update(dict.fromkeys(node.internal_ip for node in known(cluster.nodes)))
    address = own(known(subject.configuration), known(subject.addresses).default)
    hosts[address or ""] = None
    left = [host for host in hosts if host and not is_exempt(host, proxies.exempt)]
    if left:
        return refused(
            NAME,
            f"{' and '.join(proxies.variables)} would be used for {', '.join(left)}.",
            "NO_PROXY with every server in it.",
            f"Add {','.join(left)} to NO_PROXY where the proxy is set",
        )
    return passed(NAME, f"{' and '.join(proxies.variables)}; NO_PROXY leaves out all servers.")
