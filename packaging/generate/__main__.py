"""Writes what is made from the sources: man pages, completion, reference pages.

    packaging/generate [DIRECTORY]        (by make generate; DIRECTORY is the checkout unless given)

A test makes them anew and compares, so they cannot drift from the parser, the settings, the contract and
the metrics they describe.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path.insert(0, str(CHECKOUT))
sys.path.insert(0, str(HERE))

import completion  # noqa: E402
import man  # noqa: E402
import reference  # noqa: E402


def everything() -> dict[str, str]:
    """Each file's path in the checkout, and its text."""
    return {
        **{f"packaging/man/{name}": text for name, text in man.pages().items()},
        **{f"packaging/completion/{name}": text for name, text in completion.files().items()},
        **{f"docs/reference/{name}": text for name, text in reference.pages().items()},
    }


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT
    for name, text in everything().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


main()
