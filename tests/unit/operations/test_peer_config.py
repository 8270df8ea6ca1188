"""Which drop-in a migrated server should have for which members."""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.k3s.configuration import cluster_init_drop_in, server_drop_in
from k3s_ha_agent.k3s.etcd import Member
from k3s_ha_agent.operations.peer_config import wanted

TOKEN = Path("/var/lib/rancher/k3s/server/token")


def member(name: str, address: str, *, learner: bool = False) -> Member:
    return Member(1, name, (f"https://{address}:2380",), (f"https://{address}:2379",), learner)


ALONE = [member("n1-aaaa", "10.0.0.1")]
THREE = [*ALONE, member("n2-bbbb", "10.0.0.2"), member("n3-cccc", "10.0.0.3")]


def test_alone_it_is_cluster_init() -> None:
    assert wanted("n1-aaaa", ALONE, TOKEN, b"", 6443) == cluster_init_drop_in()


def test_a_learner_is_no_peer_yet() -> None:
    members = [*ALONE, member("n2-bbbb", "10.0.0.2", learner=True)]
    assert wanted("n1-aaaa", members, TOKEN, b"", 6443) == cluster_init_drop_in()


def test_with_peers_one_of_them_is_named() -> None:
    assert wanted("n1-aaaa", THREE, TOKEN, cluster_init_drop_in(), 6443) == server_drop_in(
        "https://10.0.0.2:6443", TOKEN
    )


def test_a_peer_that_is_still_there_is_kept() -> None:
    current = server_drop_in("https://10.0.0.3:6443", TOKEN)
    assert wanted("n1-aaaa", THREE, TOKEN, current, 6443) == current


def test_a_peer_that_left_is_replaced() -> None:
    current = server_drop_in("https://10.0.0.9:6443", TOKEN)
    assert wanted("n1-aaaa", THREE, TOKEN, current, 6443) == server_drop_in("https://10.0.0.2:6443", TOKEN)


def test_ipv6_stands_in_brackets() -> None:
    members = [*ALONE, Member(2, "n2-bbbb", (), ("https://[fd00::2]:2379",), False)]
    assert b"https://[fd00::2]:6443" in wanted("n1-aaaa", members, TOKEN, b"", 6443)
