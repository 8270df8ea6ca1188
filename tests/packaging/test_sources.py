"""The files of packaging/ agree with the rest of the checkout."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.packaging import sources
from tests.packaging.build import CHECKOUT, run

SCRIPTS = ["prepare", "common.sh", "build-deb", "build-rpm", "install-files", "debian/k3s-ha-agent.postinst",
           "debian/k3s-ha-agent.prerm", "debian/k3s-ha-agent.postrm"]  # fmt: skip


def test_one_version_everywhere() -> None:
    changelog = re.match(r"k3s-ha-agent \((.+?)\)", (CHECKOUT / "packaging/debian/changelog").read_text())
    spec = re.search(r"^Version: *(.+)$", (CHECKOUT / "packaging/rpm/k3s-ha-agent.spec").read_text(), re.MULTILINE)
    assert changelog and spec
    assert changelog[1] == spec[1] == sources.version()


def test_every_program_is_packaged() -> None:
    """Those of setup.cfg are for pip; the packages have their own, which run isolated."""
    directory = CHECKOUT / "packaging/bin"
    assert {p.name for p in directory.iterdir()} == set(sources.programs())
    for name, where in sources.programs().items():
        module, function = where.split(":")
        text = (directory / name).read_text()
        assert text.startswith("#!/usr/bin/python3 -I\n")
        assert f"from {module} import {function}" in text
        assert text.endswith(f"sys.exit({function}())\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_of_the_posix_shell(name: str) -> None:
    run(["dash", "-n", str(CHECKOUT / "packaging" / name)])


def test_the_bundle_is_named_in_the_spec() -> None:
    listed = re.findall(r"^([a-z-]+) == (\S+)$", (CHECKOUT / "packaging/rpm/bundle.txt").read_text(), re.MULTILINE)
    spec = (CHECKOUT / "packaging/rpm/k3s-ha-agent.spec").read_text()
    assert listed
    assert re.findall(r"^Provides: +bundled\(python3dist\((.+)\)\) = (\S+)$", spec, re.MULTILINE) == listed


# --- an agent that runs on while its files are replaced ---------------------------------------------


def test_no_module_of_ours_is_imported_late() -> None:
    """An agent that is left alone by an upgrade must not load a module of the new version into the old process."""
    late = []
    for path in sources.modules():
        if path.suffix != ".py":
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                late += [
                    f"{path.relative_to(CHECKOUT)}:{node.lineno}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.Import | ast.ImportFrom) and "k3s_ha_agent" in ast.unparse(node)
                ]
    assert late == []


def test_the_daemon_has_all_its_modules_when_it_is_imported() -> None:
    """Also those found by name at run time (preflight's registry)."""
    apart = (
        "k3s_ha_agent.ctl",
        "k3s_ha_agent.rescue",
        "k3s_ha_agent.__main__",
        "k3s_ha_agent.client",
        "k3s_ha_agent.fleet",
        "k3s_ha_agent.operations.interruptions",
        "k3s_ha_agent.preflight.document",
    )
    names = {
        ".".join(p.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
        for p in sources.modules()
        if p.suffix == ".py"
    }
    expected = {n for n in names if not n.startswith(apart)}
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import k3s_ha_agent.__main__; print(*sys.modules)"
    loaded = run([sys.executable, "-c", code]).stdout.split()
    assert expected - set(loaded) == set()


def test_the_rescue_needs_nothing_but_python(tmp_path: Path) -> None:
    """As its unit starts it, on a server where nothing was ever done."""
    unit = (CHECKOUT / "systemd/k3s-ha-agent-rescue.service").read_text()
    assert re.search(rf"^ExecStart=/usr/bin/python3 -I -S /{sources.PRIVATE}/rescue$", unit, re.MULTILINE)
    run(["/usr/bin/python3", "-I", "-S", str(CHECKOUT / "k3s_ha_agent/rescue.py"), str(tmp_path)])
