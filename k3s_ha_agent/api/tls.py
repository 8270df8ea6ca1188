"""TLS 1.3 with client certificates: callers on other machines, with roles by the names in their certificates."""

from __future__ import annotations

import re
import ssl
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from k3s_ha_agent.api.access import EVERY_ROLE, Caller, Role
from k3s_ha_agent.api.loopback import require_no_origin
from k3s_ha_agent.errors import ConfigurationError, Forbidden
from k3s_ha_agent.settings import Settings


def files_of(settings: Settings) -> tuple[Path, ...]:
    """The files a context is made from."""
    files = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return files if settings.tls_client_crl is None else (*files, settings.tls_client_crl)


def make_context(settings: Settings) -> ssl.SSLContext:
    """A server's context of the files as they are now. ConfigurationError when they do not make one. Blocks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would not be checked again against authorities and revocation lists that changed.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    current = settings.tls_key
    try:
        mode = stat.S_IMODE(current.stat().st_mode)
        if mode & 0o077:
            raise ConfigurationError(
                f"The key {current} could be read by others (mode {mode:04o}).",
                next_step=f"Make a new key, the old one may be known, and: chmod 600 {current}",
            )
        current = settings.tls_certificate
        # A passphrase would be asked for on a terminal nobody sits at; an empty one is refused.
        context.load_cert_chain(current, settings.tls_key, password=lambda: "")
        current = settings.tls_client_ca
        context.load_verify_locations(current)
        if settings.tls_client_crl is not None:
            current = settings.tls_client_crl
            context.load_verify_locations(current)
            if not context.cert_store_stats()["crl"]:
                raise ConfigurationError(f"{current} holds no revocation list in PEM.")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{current} cannot be used for TLS: {reason}.") from error
    return context


def names_of(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a verified certificate, as ``ssl`` shows it: ``URI:`` first, then ``CN:``."""
    uris = [f"URI:{value}" for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    return (*uris, *(f"CN:{value}" for key, value in subject if key == "commonName"))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of those meant; ``*`` stands for any characters, nothing else for anything but itself."""
    return any(re.fullmatch(".*".join(map(re.escape, p.split("*"))), name, re.DOTALL) for p in patterns)


def roles_of(names: Sequence[str], settings: Settings) -> frozenset[Role]:
    """Admin may do everything, read may read everything, metrics only those; anyone may ask for health."""
    roles = {Role.ANYONE}
    if any(matches(name, settings.tls_metrics) for name in names):
        roles.add(Role.METRICS)
    if any(matches(name, settings.tls_read) for name in names):
        roles |= {Role.READ, Role.METRICS}
    if any(matches(name, settings.tls_admin) for name in names):
        roles |= EVERY_ROLE
    return frozenset(roles)


class CertificateDoor:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def identify(self, request: web.Request, /) -> Caller:
        require_no_origin(request)
        transport = request.transport
        certificate = None if transport is None else transport.get_extra_info("peercert")
        if not certificate:
            raise Forbidden("The connection has no client certificate.")
        names = names_of(certificate)
        roles = roles_of(names, self._settings)
        shown = names[0] if names else f"serial {certificate.get('serialNumber', 'unknown')}"
        # Whoever signed it wrote the name: it must not draw in a log.
        return Caller("".join(c if c.isprintable() else "?" for c in shown), roles, 0, "tls")
