"""The API's contract: ``openapi.yaml`` of this package, as JSON.

``packaging/openapi.yaml`` is a link to the same file. It is read when the agent starts: an agent that
runs on while its package is upgraded keeps to the contract it was started with.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).with_name("openapi.yaml")


def parse(text: bytes) -> dict[str, Any]:
    # libyaml where PyYAML was built with it; the loader in Python takes a second for this file.
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe ones
    if not isinstance(document, dict):
        raise TypeError(f"{PATH} holds no mapping")
    return document


class Contract:
    def __init__(self) -> None:
        self._text = PATH.read_bytes()
        self._json: bytes | None = None

    async def as_json(self) -> bytes:
        """The document as JSON, made when it is first asked for."""
        if self._json is None:
            self._json = await asyncio.to_thread(lambda: json.dumps(parse(self._text)).encode())
        return self._json
