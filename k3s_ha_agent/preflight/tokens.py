"""The tokens of this server, reduced to what they say without giving them away.

Everything here blocks.
"""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.errors import TokenError
from k3s_ha_agent.k3s import token
from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.preflight.subject import TokenFacts

FLAGS = ("token", "cluster-secret")


def server_token(layout: Layout) -> TokenFacts:
    """Of ``server/token``. TokenError when there is none or it is not valid."""
    return _facts(str(layout.token_file), token.read(layout))


def configured_tokens(configuration: Configuration) -> tuple[TokenFacts, ...]:
    """Of every token in effect in k3s's configuration. TokenError when one is not valid."""
    found = []
    for flag in FLAGS:
        setting = configuration.get(flag)
        if setting is not None and setting.value:
            found.append(_parsed(f"{flag} ({setting.source})", setting.value))
    setting = configuration.get("token-file")
    if setting is not None and setting.value:
        try:
            text = Path(setting.value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenError(
                f"The token file {setting.value} ({setting.source}) cannot be read: {error}.",
                next_step=f"Put the token there, or take token-file out of {setting.source}",
            ) from None
        found.append(_parsed(f"{setting.value} (token-file, {setting.source})", text))
    return tuple(found)


def server_ca_hash(layout: Layout) -> str:
    """The hash a token of this cluster must carry. OSError or TokenError when it cannot be had."""
    return token.ca_hash(layout.server_ca.read_bytes())


def _parsed(source: str, text: str) -> TokenFacts:
    try:
        return _facts(source, token.Token.parse(text))
    except TokenError as error:
        raise TokenError(f"{source}: {error.detail}", next_step=error.next_step) from None


def _facts(source: str, found: token.Token) -> TokenFacts:
    return TokenFacts(source, found.short_hash, found.ca_hash or None)
