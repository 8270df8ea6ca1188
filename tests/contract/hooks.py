"""Loaded by schemathesis: what the contract can only say in prose, so that no 422 need be allowed for a valid body.

A valid Idempotency-Key is a new one each time, because the same key with another body is refused. A valid
duration is one between nothing and 24h, and ``timeout`` is longer than ``stability``.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import schemathesis

DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|min|m|h|d))+")
FITTING = {"timeout": "10m", "stability": "1m"}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch(r"[!-~]{1,255}", key):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    for given in (case.body, case.query):
        if isinstance(given, dict):
            for name, value in FITTING.items():
                if isinstance(given.get(name), str) and DURATION.fullmatch(given[name]):
                    given[name] = value
