"""What is in the .deb, and that lintian has nothing to say about it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.packaging import sources
from tests.packaging.build import CHECKOUT, assert_reproducible, only, run

DEBIAN_NAMES = {"pyyaml": "python3-yaml"}
"""Where Debian's name is not python3- and PyPI's."""
MODULES = "usr/lib/python3/dist-packages"
UNITS = "lib/systemd/system"


@pytest.fixture(scope="module")
def tree(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package unpacked; its control files are in DEBIAN/."""
    directory = tmp_path_factory.mktemp("deb-tree") / "tree"
    run(["dpkg-deb", "--raw-extract", str(deb), str(directory)])
    shutil.move(directory / "DEBIAN", directory.with_name("DEBIAN"))
    return directory


def field(deb: Path, name: str) -> str:
    return run(["dpkg-deb", "--field", str(deb), name]).stdout.strip()


def lintian(dist: Path, *options: str) -> str:
    """Everything lintian says about source, binary and changes, down to what it calls pedantic."""
    changes = only(dist, "*.changes")
    return run(["lintian", "--allow-root", "--display-info", "--pedantic", *options, str(changes)], timeout=300).stdout


def test_lintian_is_silent(deb_dist: Path) -> None:
    """That includes overrides that override nothing (unused-override)."""
    said = [line for line in lintian(deb_dist, "--fail-on", "none").splitlines() if not line.startswith("N: ")]
    assert said == []


def test_every_override_is_explained_and_needed(deb_dist: Path) -> None:
    overrides = (CHECKOUT / "packaging/debian/k3s-ha-agent.lintian-overrides").read_text()
    for paragraph in overrides.strip().split("\n\n"):
        assert paragraph.startswith("# "), f"no explanation above {paragraph!r}"
    shown = lintian(deb_dist, "--show-overrides", "--fail-on", "none")
    assert shown.count("\nO: ") == len(re.findall(r"^k3s-ha-agent: ", overrides, re.MULTILINE))


def test_the_files_are_those_of_the_checkout(checkout: Path, tree: Path) -> None:
    assert sources.differences(checkout, tree, MODULES, UNITS) == []
    assert (tree / "etc/k3s-ha-agent/conf.d").is_dir()


def test_the_pages_can_be_read_where_they_are(checkout: Path, tree: Path) -> None:
    assert sources.pages(tree) == sources.pages_of(checkout)
    assert sources.broken_links(tree) == []


def test_nothing_else_is_in_it(tree: Path) -> None:
    known = re.compile(
        "|".join(
            (
                r"etc/k3s-ha-agent/config\.yaml",
                rf"{UNITS}/k3s-ha-agent(-rescue)?\.service",
                r"usr/bin/k3s-ha-[a-z]+",
                r"usr/lib/k3s-ha-agent/(rescue|unfinished)",
                rf"{MODULES}/k3s_ha_agent/(.+\.py|py\.typed|api/openapi\.yaml)",
                rf"{MODULES}/k3s_ha_agent-[0-9.]+\.dist-info/\w+(\.txt)?",
                r"usr/lib/(sysusers|tmpfiles)\.d/k3s-ha-agent\.conf",
                r"usr/lib/systemd/catalog/k3s-ha-agent\.catalog",
                r"usr/share/(doc/k3s-ha-agent/.+|lintian/overrides/k3s-ha-agent)",
                r"usr/share/man/man[158]/k3s-ha-.+\.gz",
                r"usr/share/k3s-ha-agent/(alerts\.yaml|grafana-dashboard\.json)",
                r"usr/share/(bash-completion/completions|zsh/vendor-completions|fish/vendor_completions\.d)/_?k3s-ha-.+",
            )
        )
    )
    files = [str(p.relative_to(tree)) for p in tree.rglob("*") if not p.is_dir()]
    assert [f for f in files if not known.fullmatch(f)] == []


def test_owners_and_modes(tree: Path) -> None:
    assert sources.wrong_modes(tree) == []


def test_dependencies_are_those_of_setup_cfg(deb: Path) -> None:
    depends = field(deb, "Depends").split(", ")
    wanted = {
        f"{DEBIAN_NAMES.get(name, f'python3-{name}')} (>= {lowest})" for name, lowest in sources.requirements().items()
    }
    # gi comes with pydbus and is used by name; the rest is what the units name.
    others = {"python3-gi", "python3:any", "systemd (>= 252)", "default-dbus-system-bus | dbus-system-bus"}
    assert set(depends) == wanted | others
    assert field(deb, "Architecture") == "all"


def test_debian_12_has_the_versions_it_depends_on() -> None:
    for name, lowest in sources.requirements().items():
        package = DEBIAN_NAMES.get(name, f"python3-{name}")
        installed = run(["dpkg-query", "--show", "--showformat", "${Version}", package]).stdout
        run(["dpkg", "--compare-versions", installed, "ge", lowest])


def test_the_configuration_is_the_administrators(tree: Path) -> None:
    assert (tree.with_name("DEBIAN") / "conffiles").read_text() == "/etc/k3s-ha-agent/config.yaml\n"


def test_no_script_touches_the_agent_unasked(tree: Path) -> None:
    """debhelper's own start, stop and restart are not in the scripts: ours look for an operation first."""
    for name in ("preinst", "postinst", "prerm", "postrm"):
        path = tree.with_name("DEBIAN") / name
        text = path.read_text() if path.exists() else ""
        ours = (CHECKOUT / f"packaging/debian/k3s-ha-agent.{name}").read_text() if path.exists() else ""
        calls = re.compile(r"deb-systemd-invoke (?:start|stop|restart|try-restart|#|\$)")
        assert len(calls.findall(text)) == len(calls.findall(ours)), name
        assert "rescue" not in re.sub(r"^.*(echo|#).*$", "", text, flags=re.MULTILINE), name


def test_the_same_files_make_the_same_package(checkout: Path, deb_dist: Path, tmp_path: Path) -> None:
    """From another directory, with other time stamps, in another zone and language, by another umask."""
    assert_reproducible("deb", checkout, deb_dist, tmp_path, ("*.deb", "*.tar.xz"))
