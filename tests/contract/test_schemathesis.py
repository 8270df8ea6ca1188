"""The contract from outside: schemathesis makes requests of openapi.json and judges what comes back.

The agent is a process of its own with the manager of the tests, reached over its TCP port. In
``.venv-newest`` only (``make contract``): schemathesis needs a newer rich than Debian has.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.api.contract import PATH, parse
from tests.api.callers import TOKEN, free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = 12
"""Of each kind for each operation; the whole takes about half a minute."""


@pytest.fixture(params=[{}, {"refused": True, "writes_since": True}], ids=str)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An agent whose operations run through, or that refuses them all."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    port = free_port()
    config = tmp_path / "config.yaml"
    config.write_text(f"listen_tcp: 127.0.0.1:{port}\ntcp_token_file: {token}\n")
    agent = [sys.executable, str(ROOT / "tests/api/agent.py"), "--socket", str(tmp_path / "s")]
    agent += ["--directory", str(tmp_path), "--config", str(config), "--changes", "100000"]
    with (tmp_path / "agent.log").open("w") as log:
        process = subprocess.Popen(
            [*agent, "--play", json.dumps(request.param)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            while f"listens on 127.0.0.1:{port}" not in (tmp_path / "agent.log").read_text():
                assert process.poll() is None
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate(timeout=60)
    assert "Traceback" not in (tmp_path / "agent.log").read_text()


def test_the_agent_keeps_to_its_contract(url: str, tmp_path: Path) -> None:
    # From a file: of a document it was given by URL it does not ask for that URL.
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(parse(PATH.read_bytes())))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
            *("run", str(document), "--url", url, "--header", f"Authorization: Bearer {TOKEN}"),
            *(
                "--max-examples",
                str(EXAMPLES),
                "--seed",
                "1",
                "--request-timeout",
                "60",
                "--generation-database",
                "none",
                "--no-color",
            ),
        ],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.contract.hooks",
        },
        capture_output=True,
        text=True,
        timeout=550,
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stderr[-2000:]
    # That nothing was found must not be because nothing was asked.
    methods = [m for item in parse(PATH.read_bytes())["paths"].values() for m in item]
    count = len([m for m in methods if m in ("get", "post", "delete")])
    tested = re.search(r"Tested: (\d+)", done.stdout)
    cases = re.search(r"(\d+) generated", done.stdout)
    assert tested and cases
    assert int(tested[1]) == count
    assert int(cases[1]) >= 10 * count
