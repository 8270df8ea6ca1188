"""The hash of a node's password."""

from __future__ import annotations

import base64
import hashlib

import pytest

from k3s_ha_agent.k3s.node_password import matches, secret_path

SALT = b"12345678"


def kept(password: bytes, *, padded: bool = True) -> str:
    made = base64.b64encode(hashlib.scrypt(password, salt=SALT, n=1 << 10, r=8, p=3, dklen=64)).decode()
    return f"$1:{SALT.hex()}:10:8:3:{made if padded else made.rstrip('=')}"


@pytest.mark.parametrize("padded", [True, False])
def test_the_right_and_a_wrong_password(padded: bool) -> None:
    assert matches(b"right", kept(b"right", padded=padded)) is True
    assert matches(b"wrong", kept(b"right", padded=padded)) is False


@pytest.mark.parametrize(
    "text",
    ["", "$1", "$2:00:10:8:1:AAAA", "$1:zz:10:8:1:AAAA", "$1:00:99:8:1:AAAA", "$1:00:10:8:1:", "$1:00:30:8:1:AA=="],
)
def test_a_hash_of_another_form_is_not_known(text: str) -> None:
    assert matches(b"right", text) is None


def test_where_it_is_kept() -> None:
    assert secret_path("n2") == "/api/v1/namespaces/kube-system/secrets/n2.node-password.k3s"
