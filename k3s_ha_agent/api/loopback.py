"""Loopback TCP: programs on this server that cannot use a unix socket, with a token.

A port on the loopback interface is reached by every user of the server and by every web page opened on
it. So nobody is let in without the token; a page cannot have it, and is turned away earlier, by the headers a
browser cannot be made to leave out: a Host that is not one of ours (DNS rebinding), an Origin at all.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from pathlib import Path

from aiohttp import web

from k3s_ha_agent.api.access import EVERY_ROLE, Caller
from k3s_ha_agent.errors import ConfigurationError, Forbidden, Unauthorized
from k3s_ha_agent.settings import Address

_TOKEN = re.compile(rb"[\x21-\x7e]{32,512}")
_LONGEST = 1024


def read_token(path: Path) -> bytes:
    """The token of a file. ConfigurationError unless it is a plain file, ours alone, with a token in it. Blocks."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(
            f"The token file {path} cannot be opened: {error.strerror}.",
            next_step=f"To make one: (umask 077; head -c 32 /dev/urandom | base64 >{path})",
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"The token file {path} is not a plain file.")
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o177:
            raise ConfigurationError(
                f"The token file {path} could be read by others (mode {stat.S_IMODE(status.st_mode):04o}, "
                f"owner {status.st_uid}).",
                next_step=f"Make a new token, the old one may be known, and: chown root {path}; chmod 600 {path}",
            )
        token = os.read(fd, _LONGEST).strip()
    finally:
        os.close(fd)
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            f"The token file {path} does not hold one word of 32 to 512 visible ASCII characters.",
            next_step=f"To make one: (umask 077; head -c 32 /dev/urandom | base64 >{path})",
        )
    return token


def require_no_origin(request: web.Request) -> None:
    """No web page asks here, whatever it sends besides."""
    if "Origin" in request.headers:
        raise Forbidden("Web pages may not ask here (the request has an Origin).")


class TokenDoor:
    def __init__(self, address: Address) -> None:
        self._hosts = {str(address), f"127.0.0.1:{address.port}", f"[::1]:{address.port}", f"localhost:{address.port}"}
        self._digest: bytes | None = None

    def set_token(self, token: bytes | None) -> None:
        """None: nobody is let in."""
        self._digest = None if token is None else hashlib.sha256(token).digest()

    def identify(self, request: web.Request, /) -> Caller:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Forbidden("The request is for another host.", next_step=f"Ask {min(self._hosts)}.")
        require_no_origin(request)
        given = request.headers.getall("Authorization", [])
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        # Digests of equal length: the time of the comparison says nothing, not even how long the token is.
        found = hashlib.sha256(token.strip().encode(errors="surrogateescape")).digest()
        if self._digest is None or scheme.lower() != "bearer" or not hmac.compare_digest(found, self._digest):
            raise Unauthorized(
                "The request has no token." if not given else "The token is not this agent's.",
                next_step="Send the header Authorization: Bearer, with the content of the token file.",
            )
        return Caller("token", EVERY_ROLE, 0, "tcp")
