"""What is taken out of texts of others, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from k3s_ha_agent.ctl.scrub import HIDDEN, Scrubber, secrets_of

SECRET = "hunter2hunter2"
K10 = "K10" + "ab12" * 16 + "::server:" + SECRET

LEAKS = [
    K10,
    f'msg="joining with {K10}"',
    f"K3S_TOKEN={SECRET}",
    f"K3S_TOKEN='{SECRET}'",
    f"K3S_AGENT_TOKEN = {SECRET}",
    f"token: {SECRET}",
    f'token: "{SECRET} with blanks"',
    f'"agent-token": "{SECRET}"',
    f"ExecStart=/usr/local/bin/k3s server --token {SECRET} --cluster-init",
    f"ExecStart=/usr/local/bin/k3s server '--token={SECRET}'",
    f'argv: ["--agent-token","{SECRET}"]',
    f'"--token", "{SECRET}"',
    f"etcd-s3-secret-key: {SECRET}",
    f"etcd-s3-access-key: {SECRET}",
    f"K3S_ETCD_S3_SECRET_KEY={SECRET}",
    f"datastore-endpoint: postgres://k3s:{SECRET}@db.example:5432/k3s",
    f"datastore-endpoint: 'mysql://k3s:{SECRET}@tcp(db:3306)/k3s'",
    f"HTTP_PROXY=http://me:{SECRET}@proxy:3128",
    f"Authorization: Bearer {SECRET}",
    f"authorization: basic {SECRET}",
    f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n-----END EC PRIVATE KEY-----",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\ncut off",
    "eyJhbGciOiJSUzI1NiIs.hunter2hunter2.sig",
    f"vpn-auth: name=tailscale,joinKey={SECRET}",
    f"password={SECRET}",
    f"db_passwd: {SECRET}",
]


@pytest.mark.parametrize("text", LEAKS, ids=lambda t: t[:40])
def test_secrets_are_taken_out(text: str) -> None:
    found = Scrubber()(f"before {text}\nafter")
    assert SECRET not in found and HIDDEN in found
    assert found.startswith("before")


@pytest.mark.parametrize(
    "text",
    [
        "The token file /etc/k3s-ha-agent/api-token cannot be opened: No such file or directory.",
        "tcp_token_file: /etc/k3s-ha-agent/api-token",
        "--token-file /etc/rancher/k3s/token",
        "token_file: /root/join-token",
        "secrets-encryption: true",
        'level=info msg="Migrating etcd key /registry/configmaps/default/a"',
        "live_keys: 1245",
        "2026-11-23T09:00:00.000Z n1 k3s-ha-agent[1]: keys-equal: 1245 = 1245.",
        "node-role.kubernetes.io/etcd=true",
        '"sha256": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"',
        "https://n1.example:6443/v1-k3s/server-bootstrap: 401 Unauthorized",
        "listen_tcp: 127.0.0.1:9580",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Scrubber()(text) == text


def test_the_secrets_of_this_server_are_known_by_themselves(tmp_path: Path) -> None:
    server = tmp_path / "server"
    (server / "cred").mkdir(parents=True)
    (server / "token").write_text(K10 + "\n")
    (server / "cred/passwd").write_text(
        "0123456789abcdef,node,node,k3s:agent\nfedcba9876543210,server,server,k3s:server\n"
    )
    own = tmp_path / "api-token"
    own.write_text("a-token-of-the-agent\n")
    scrub = Scrubber(secrets_of(tmp_path, own))
    for secret in (SECRET, "0123456789abcdef", "fedcba9876543210", "a-token-of-the-agent"):
        assert scrub(f"it said {secret}, plainly") == f"it said {HIDDEN}, plainly"
    assert scrub("server node k3s:agent") == "server node k3s:agent"


def test_no_secrets_known_and_none_readable(tmp_path: Path) -> None:
    assert list(secrets_of(tmp_path / "none")) == [] or Path("/etc/rancher/node/password").exists()
    assert Scrubber([""])("text") == "text"
