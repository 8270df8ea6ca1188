from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from k3s_ha_agent.errors import TokenError
from k3s_ha_agent.k3s import token as module
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.token import Token
from tests.unit.k3s.pki import Authority

PASSWORD = "291f82fcc379cd84d851a9dcd96263b3"


def test_recorded_token_opens_the_recorded_datastore(recordings: Path, recorded_db: Path) -> None:
    token = Token.parse((recordings / "token").read_text())
    assert token.ca_hash == "79c2b71539776cc8406d76a57135b43edcb20537cf7f72f8c465cd5501a71704"
    assert token.username == "server"
    assert token.password == PASSWORD
    with contextlib.closing(sqlite3.connect(recorded_db)) as database:
        ((key,),) = database.execute("SELECT name FROM kine WHERE name LIKE '/bootstrap/%'")
    assert key == token.bootstrap_key == f"/bootstrap/{token.short_hash}"


def test_forms() -> None:
    ca = "0" * 64
    assert Token.parse("just a password\n") == Token("", "", "just a password")
    assert Token.parse(f"K10{ca}::server:pass:word::x") == Token(ca, "server", "pass:word::x")
    assert Token.parse("K10::node:x") == Token("", "node", "x")
    assert Token.parse("a:b::c").password == "a:b::c"
    assert Token.parse("K10server:x") == Token("", "server", "x")
    assert Token.parse(PASSWORD).short_hash == Token.parse(f"K10{ca}::server:{PASSWORD}").short_hash


@pytest.mark.parametrize(
    "text",
    ["", " \n", "K10", "K10abc", "K10abc::server:x", "K10::server", "K10::server:", f"K10{'G' * 64}::server:x",
     "abcdef.0123456789abcdef", f"K10{'0' * 64}::abcdef.0123456789abcdef"],
)  # fmt: skip
def test_not_a_token(text: str) -> None:
    with pytest.raises(TokenError) as error:
        Token.parse(text)
    assert "0123456789abcdef" not in str(error.value)


def test_never_shown(recordings: Path) -> None:
    token = Token.parse((recordings / "token").read_text())
    assert PASSWORD not in f"{token!r} {token} {[token]}"


def test_read(tmp_path: Path, recordings: Path) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(TokenError, match="cannot be read"):
        module.read(layout)
    layout.server.mkdir()
    layout.token_file.write_bytes((recordings / "token").read_bytes())
    assert module.read(layout).password == PASSWORD
    layout.token_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenError):
        module.read(layout)


def test_hash_of_one_certificate_is_that_of_the_file() -> None:
    pem = Authority("k3s-server-ca").pem
    assert module.ca_hash(pem) == hashlib.sha256(pem).hexdigest()


def test_hash_of_a_chain_is_that_of_its_root() -> None:
    """The root by issuer, wherever it stands in the bundle and whatever else is in it."""
    root = Authority("root")
    middle = Authority("middle", root)
    leaf = Authority("k3s-server-ca", middle)
    stranger = Authority("stranger")
    expected = root.certificate.fingerprint(hashes.SHA256()).hex()
    for bundle in ((leaf, middle, root), (leaf, root, middle), (leaf, stranger, middle, root), (middle, root)):
        assert module.ca_hash(b"".join(a.pem for a in bundle)) == expected
    # One that leads nowhere is hashed as it is, as k3s does.
    cut = leaf.pem + stranger.pem
    assert module.ca_hash(cut) == hashlib.sha256(cut).hexdigest()


def test_hash_of_nonsense() -> None:
    begin, end = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"
    for pem in (b"", b"hello", 2 * (begin + b"MIIB" + end), 2 * (begin + b"A" + end), 2 * (begin + end)):
        with pytest.raises(TokenError):
            module.ca_hash(pem)
