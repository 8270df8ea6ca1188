"""A Subject of a server that may join: n3, and a cluster of n1 and n2 made from the recordings."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

from k3s_ha_agent.host.resources import Disk
from k3s_ha_agent.k3s.apiserver import MEMBER_NAME, Node, Readiness, parse_node
from k3s_ha_agent.k3s.configuration import Configuration, effective
from k3s_ha_agent.k3s.etcd import Member
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.model import Datastore, Kind
from k3s_ha_agent.preflight.cluster import Admission, ClusterFacts, EtcdFacts, JoinerFacts, Port, Proxies
from k3s_ha_agent.preflight.critical import critical_of
from k3s_ha_agent.preflight.results import OTHER_KIND
from k3s_ha_agent.preflight.subject import Addresses, Places, Subject
from tests.unit.preflight.changes import Change
from tests.unit.preflight.subjects import MIB, RECORDINGS, TOKEN, VERSION, files, good, unit

URL = "https://10.99.0.11:6443"
CONTROL = json.loads((RECORDINGS / "v1-k3s-config.json").read_text())
ETCD_NODE = json.loads((RECORDINGS / "node-n1-etcd.json").read_text())
DISABLED = ["--disable=coredns", "--disable=local-storage,metrics-server", "--disable", "traefik"]
"""As the recorded server was given it."""


def member(name: str, last: int, *, learner: bool = False) -> Member:
    host = f"https://10.99.0.{last}"
    return Member(last, name, (f"{host}:2380",), () if learner else (f"{host}:2379",), learner)


def node(name: str, last: int, **changes: Any) -> Node:
    made = dataclasses.replace(
        parse_node(ETCD_NODE),
        name=name,
        internal_ip=f"10.99.0.{last}",
        annotations={MEMBER_NAME: f"{name}-0000000{last % 10}"},
        kubelet_version=VERSION,
    )
    return dataclasses.replace(made, **changes)


def joining(
    *flags: str, address: str = "10.99.0.13", yaml: dict[str, str] | None = None, role: str = "server"
) -> Configuration:
    node_ip = [f"--node-ip={address}"] if address else []
    argv = ["/usr/local/bin/k3s", role, "--node-name=n3", *node_ip, *DISABLED, *flags]
    return effective(argv, [], list((yaml or {}).items()))


def may_join(summary: KineSummary) -> Subject:
    here = files(
        good(Kind.MIGRATE, summary), datastore=Datastore.NONE, datastore_detail="Nothing is there.", sqlite_bytes=0
    )
    cluster = ClusterFacts(
        url=URL,
        host="10.99.0.11",
        token_short_hash=TOKEN.short_hash,
        token_ca_hash=TOKEN.ca_hash,
        url_problem=None,
        host_addresses=("10.99.0.11",),
        ca_hash=TOKEN.ca_hash,
        clock_offset=0.4,
        certificate_problem=None,
        admission=Admission(200, "", True),
        critical=critical_of(CONTROL),
        encryption=None,
        members=(member("n1-00000001", 11), member("n2-00000002", 12)),
        version=VERSION,
        api_ready=Readiness(True, "ok"),
        nodes=(node("n1", 11), node("n2", 12)),
        node_password=None,
        ports={Port(f"n{n}", f"10.99.0.1{n}", port): None for n in (1, 2) for port in (2379, 2380, 6443)},
        etcd=EtcdFacts((), 20 * MIB),
    )
    return dataclasses.replace(
        here,
        kind=Kind.JOIN,
        unit=unit(active_state="inactive", sub_state="dead", main_pid=0, unit_file_state="disabled"),
        configuration=joining(),
        version=Version.parse(VERSION),
        running_version=OTHER_KIND,
        kine=OTHER_KIND,
        addresses=Addresses(("127.0.0.1", "10.99.0.13"), (), "10.99.0.13"),
        server_token=OTHER_KIND,
        server_ca_hash=OTHER_KIND,
        node_name="n3",
        node=OTHER_KIND,
        api_ready=OTHER_KIND,
        members=OTHER_KIND,
        pre_image=OTHER_KIND,
        cluster=cluster,
        joiner=JoinerFacts((), (), False, Proxies((), ())),
    )


# --- changes ---------------------------------------------------------------------------------------


def with_cluster(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.cluster, ClusterFacts)
        return dataclasses.replace(subject, cluster=dataclasses.replace(subject.cluster, **changes))

    return change


def with_joiner(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.joiner, JoinerFacts)
        return dataclasses.replace(subject, joiner=dataclasses.replace(subject.joiner, **changes))

    return change


def flags(*words: str, **more: Any) -> Change:
    return lambda subject: dataclasses.replace(subject, configuration=joining(*words, **more))


def theirs(**changes: Any) -> Change:
    return with_cluster(critical=critical_of({**CONTROL, **changes}))


def one_node(**changes: Any) -> Change:
    return with_cluster(nodes=(node("n1", 11), node("n2", 12, **changes)))


def also(name: str, last: int, *, learner: bool = False) -> Change:
    """One more member; its Node, too, when it votes."""
    members = (member("n1-00000001", 11), member("n2-00000002", 12), member(name, last, learner=learner))
    return with_cluster(members=members)


def alone(subject: Subject) -> Subject:
    """A cluster of one server."""
    return with_cluster(members=(member("n1-00000001", 11),), nodes=(node("n1", 11),))(subject)


unpinned = flags(address="")


def left_over(subject: Subject) -> Subject:
    """n2's member bears our name."""
    ours = member("n3-deadbeef", 12)
    nodes = (node("n1", 11), node("n2", 12, annotations={MEMBER_NAME: "n3-deadbeef"}))
    return with_cluster(members=(member("n1-00000001", 11), ours), nodes=nodes)(subject)


def two_families(subject: Subject) -> Subject:
    """The same pods' networks here and there, an IPv6 one among them, and no node-ip."""
    six = {"IP": "2001:cafe:42::", "Mask": base64.b64encode(b"\xff" * 7 + b"\0" * 9).decode()}
    subject = theirs(ClusterIPRanges=[*CONTROL["ClusterIPRanges"], six])(subject)
    return flags("--cluster-cidr=10.42.0.0/16,2001:cafe:42::/56", address="")(subject)


def small_disk(subject: Subject) -> Subject:
    assert isinstance(subject.places, Places)
    place = dataclasses.replace(subject.places.db, disk=Disk(total=MIB, free=100 * MIB, device=9))
    return dataclasses.replace(subject, places=dataclasses.replace(subject.places, db=place))
