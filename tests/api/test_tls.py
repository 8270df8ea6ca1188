"""TLS: who is let in by which certificate, and certificates that change while the agent runs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog.testing

from k3s_ha_agent.api.access import Role
from k3s_ha_agent.api.tls import make_context, matches, names_of, roles_of
from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.settings import Settings
from tests.api.callers import ask, client_context, revocation_list, uri_certificate, with_tls
from tests.api.conftest import Running, Start
from tests.api.test_tcp import QUICK, reached, until
from tests.unit.k3s.pki import Authority


@dataclasses.dataclass
class Scene:
    authority: Authority
    directory: Path
    settings: Settings
    running: Running
    url: str

    def client(self, name: str | None, by: Authority | None = None) -> ssl.SSLContext:
        return client_context(self.authority, self.directory, name, by)

    async def ask(self, method: str, target: str, context: ssl.SSLContext, **options: Any) -> Any:
        return await ask(method, self.url + target, context=context, **options)


@pytest.fixture
async def scene(start: Start, rundir: Path) -> Scene:
    authority = Authority("fleet-ca")
    settings = with_tls(rundir, authority)
    running = await start(settings=settings, limits=QUICK)
    url = (await reached(settings)).replace("http:", "https:")
    return Scene(authority, rundir, settings, running, url)


ROLES = [
    ("fleet-1", 200, 200, 202),
    ("reader", 200, 200, 403),
    ("prom", 403, 200, 403),
    ("stranger", 403, 403, 403),
    ("xfleet-1", 403, 403, 403),
    ("FLEET-1", 403, 403, 403),
]


@pytest.mark.parametrize(("name", "read", "metrics", "change"), ROLES, ids=lambda v: str(v))
async def test_roles(scene: Scene, name: str, read: int, metrics: int, change: int) -> None:
    context = scene.client(name)
    assert (await scene.ask("GET", "/livez", context)).status == 200
    assert (await scene.ask("GET", "/v1/status", context)).status == read
    assert (await scene.ask("GET", "/metrics", context)).status == metrics
    answer = await scene.ask("POST", "/v1/migrate", context)
    assert answer.status == change
    if change == 403:
        assert f"CN:{name}" in answer.body["detail"] and "tls_admin" in answer.body["next_step"]
        assert not scene.running.manager.operations
    else:
        assert scene.running.manager.list()[0].requested_by == f"CN:{name}"


async def refused(scene: Scene, context: ssl.SSLContext) -> bool:
    """Whether the connection ends without an answer. In TLS 1.3 a client is told only when it reads."""
    try:
        await scene.ask("GET", "/livez", context)
    except (aiohttp.ClientError, ssl.SSLError, ConnectionError):
        return True
    return False


async def answered(scene: Scene, context: ssl.SSLContext) -> bool:
    return bool((await scene.ask("GET", "/livez", context)).status == 200)


async def test_without_a_certificate_nobody_is_heard(scene: Scene) -> None:
    assert await refused(scene, scene.client(None))


async def test_certificates_of_others_are_not_taken(scene: Scene) -> None:
    assert await refused(scene, scene.client("fleet-1", by=Authority("fleet-ca")))


async def test_older_tls_is_not_spoken(scene: Scene) -> None:
    context = scene.client("fleet-1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await refused(scene, context)


async def test_plain_http_is_not_spoken(scene: Scene) -> None:
    with pytest.raises(aiohttp.ClientError):
        await ask("GET", scene.url.replace("https", "http") + "/livez")


async def test_web_pages_are_refused(scene: Scene) -> None:
    context = scene.client("fleet-1")
    answer = await scene.ask("GET", "/v1/status", context, headers={"Origin": "https://evil.example"})
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_a_token_in_a_body_may_travel_here(scene: Scene) -> None:
    answer = await scene.ask(
        "POST", "/v1/join", scene.client("fleet-1"), server="https://n1:6443", token="K10abc::server:hunter2"
    )
    assert answer.status == 202 and "hunter2" not in str(answer.body)


async def test_names_by_uri(start: Start, rundir: Path) -> None:
    authority = Authority("fleet-ca")
    settings = with_tls(rundir, authority, tls_admin=("URI:spiffe://fleet/*/controller",))
    running = await start(settings=settings, limits=QUICK)
    url = (await reached(settings)).replace("http:", "https:")
    for uri, status in (("spiffe://fleet/prod/controller", 202), ("spiffe://fleet/prod/controllerx", 403)):
        context = client_context(authority, rundir, None)
        context.load_cert_chain(*uri_certificate(authority, rundir / "uri", uri))
        assert (await ask("POST", f"{url}/v1/migrate", context=context)).status == status
    assert running.manager.list()[0].requested_by == "URI:spiffe://fleet/prod/controller"


async def test_a_new_certificate_is_shown_without_a_restart(scene: Scene) -> None:
    async def shown() -> bytes:
        host, _, port = scene.url.removeprefix("https://").rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=scene.client("reader"))
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return bytes(found)

    before = await shown()
    _, key = scene.authority.issue(scene.directory, "server")
    key.chmod(0o600)

    async def changed() -> bool:
        return await shown() != before

    await until(changed)


async def test_files_that_do_not_fit_leave_the_old_ones_in_force(scene: Scene) -> None:
    with structlog.testing.capture_logs() as logs:
        scene.settings.tls_certificate.write_text("nonsense")
        while not any("cannot use the changed files" in entry["event"] for entry in logs):
            await asyncio.sleep(0.02)
    assert (await scene.ask("GET", "/livez", scene.client("reader"))).status == 200


async def test_an_authority_that_was_taken_away_is_not_trusted_any_more(scene: Scene) -> None:
    """Neither by new connections nor on old ones."""
    host, _, port = scene.url.removeprefix("https://").rpartition(":")
    old = scene.client("fleet-1")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=old)
    writer.write(f"GET /livez HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert b"200" in await reader.readline()
    other = Authority("other-ca")
    scene.settings.tls_client_ca.write_bytes(other.pem)
    with contextlib.suppress(ConnectionResetError):
        await reader.read()
    writer.close()
    assert await refused(scene, old)
    await until(lambda: answered(scene, scene.client("fleet-1", by=other)))


async def test_revoked_certificates(start: Start, rundir: Path) -> None:
    authority = Authority("fleet-ca")
    crl = rundir / "crl.pem"
    crl.write_bytes(revocation_list(authority))
    settings = with_tls(rundir, authority, tls_client_crl=crl)
    running = await start(settings=settings, limits=QUICK)
    url = (await reached(settings)).replace("http:", "https:")
    scene = Scene(authority, rundir, settings, running, url)
    good, bad = scene.client("reader"), scene.client("fleet-1")
    assert (await scene.ask("GET", "/livez", bad)).status == 200
    crl.write_bytes(revocation_list(authority, rundir / "clients/fleet-1.crt"))
    await until(lambda: refused(scene, bad))
    await until(lambda: answered(scene, good))
    crl.write_bytes(revocation_list(authority, days=-1))
    await until(lambda: refused(scene, good))


# --- what needs no connection -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patterns", "fits"),
    [
        ("CN:a", ["CN:a"], True),
        ("CN:ab", ["CN:a"], False),
        ("CN:ab", ["CN:a*"], True),
        ("CN:a", ["URI:a"], False),
        ("CN:a.b", ["CN:a?b"], False),
        ("CN:a[b]", ["CN:a[b]"], True),
        ("CN:ab", ["CN:a[b]"], False),
        ("CN:a\nb", ["CN:a*"], True),
        ("CN:a\n", ["CN:a"], False),
        ("CN:x", [], False),
    ],
)
def test_patterns(name: str, patterns: list[str], fits: bool) -> None:
    assert matches(name, patterns) is fits


def test_names_and_roles() -> None:
    certificate = {
        "subject": ((("organizationName", "o"),), (("commonName", "a"),)),
        "subjectAltName": (("DNS", "a"), ("URI", "spiffe://x")),
    }
    assert names_of(certificate) == ("URI:spiffe://x", "CN:a")
    settings = dataclasses.replace(Settings(), tls_admin=("CN:a",), tls_metrics=("URI:*",))
    assert roles_of(["CN:a"], settings) == frozenset(Role)
    assert roles_of(["URI:q"], settings) == {Role.ANYONE, Role.METRICS}
    assert roles_of([], settings) == {Role.ANYONE}


def test_files_that_make_no_context(tmp_path: Path) -> None:
    authority = Authority("ca")
    settings = with_tls(tmp_path, authority)
    make_context(settings)
    other, _ = authority.issue(tmp_path, "other")
    broken = [
        dataclasses.replace(settings, tls_certificate=other),
        dataclasses.replace(settings, tls_certificate=tmp_path / "none"),
        dataclasses.replace(settings, tls_client_ca=tmp_path / "none"),
        dataclasses.replace(settings, tls_client_ca=settings.tls_key),
        dataclasses.replace(settings, tls_client_crl=settings.tls_client_ca),
    ]
    for each in broken:
        with pytest.raises(ConfigurationError):
            make_context(each)
    settings.tls_key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="read by others"):
        make_context(settings)
