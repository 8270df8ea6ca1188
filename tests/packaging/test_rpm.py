"""What is in the .rpm, and that rpmlint has nothing to say about it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.packaging import sources
from tests.packaging.build import assert_reproducible, make, only, run

FEDORA_NAMES = {"pyyaml": "python3-pyyaml"}
BUNDLED = {"pydbus", "rich", "structlog", "watchdog"}
"""What --with bundle takes out of the dependencies."""


def unpack(package: Path, directory: Path) -> Path:
    directory.mkdir(parents=True)
    archive = subprocess.run(["rpm2cpio", str(package)], capture_output=True, timeout=60, check=True).stdout
    subprocess.run(
        ["cpio", "--extract", "--make-directories", "--preserve-modification-time", "--quiet"],
        input=archive, cwd=directory, timeout=60, check=True,
    )  # fmt: skip
    return directory


def query(package: Path, what: str) -> list[str]:
    return run(["rpm", "--query", "--package", what, str(package)]).stdout.splitlines()


def rpmlint(checkout: Path, dist: Path, *options: str) -> str:
    """What rpmlint says about package, source package and spec."""
    spec = checkout / "packaging/rpm/k3s-ha-agent.spec"
    packages = [str(p) for p in sorted(dist.glob("*.rpm"))]
    return run(["rpmlint", *options, *packages, str(spec)], check=False, timeout=300).stdout


@pytest.fixture(scope="module")
def tree(rpm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(rpm, tmp_path_factory.mktemp("rpm-tree") / "tree")


def test_rpmlint_is_silent(checkout: Path, rpm_dist: Path) -> None:
    said = rpmlint(checkout, rpm_dist, "--strict", "--config", str(checkout / "packaging/rpm/rpmlint.toml"))
    assert "2 packages and 1 specfiles checked; 0 errors, 0 warnings" in said, said


def test_every_filter_is_explained_and_needed(checkout: Path, rpm_dist: Path, tmp_path: Path) -> None:
    text = (checkout / "packaging/rpm/rpmlint.toml").read_text()
    unfiltered = tmp_path / "rpmlint.toml"
    unfiltered.write_text(text[: text.index("Filters = [")])
    said = rpmlint(checkout, rpm_dist, "--config", str(unfiltered))
    filters = tomllib.loads(text)["Filters"]
    assert filters
    assert [f for f in filters if not re.search(f, said)] == [], said
    explained = False
    for line in text[text.index("Filters = [") :].splitlines()[1:-1]:
        explained = explained or line.startswith("    # ")
        assert explained, f"no explanation above {line!r}"


def test_the_files_are_those_of_the_checkout(checkout: Path, tree: Path) -> None:
    assert sources.differences(checkout, tree, sources.PRIVATE, "usr/lib/systemd/system") == []
    assert (tree / "etc/k3s-ha-agent/conf.d").is_dir()
    preset = (tree / "usr/lib/systemd/system-preset/90-k3s-ha-agent.preset").read_text()
    assert preset.endswith("\nenable k3s-ha-agent.service\n")


def test_the_pages_can_be_read_where_they_are(checkout: Path, tree: Path) -> None:
    assert sources.pages(tree) == sources.pages_of(checkout)
    assert sources.broken_links(tree) == []


def test_owners_and_modes(rpm: Path) -> None:
    """As the package says it; rpm2cpio cannot give files away."""
    show = "[%{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]"
    lines = run(["rpm", "--query", "--package", f"--queryformat={show}", str(rpm)]).stdout.splitlines()
    for line in lines:
        mode, owner, name = line.split(" ", 2)
        executable = name.startswith("/usr/bin/") or name.endswith(("/rescue", "/unfinished"))
        directory = mode.startswith("4")
        assert owner == "root:root", line
        assert mode == ("40755" if directory else "100755" if executable else "100644"), line
    assert len(lines) > 100


def test_configuration_is_kept(rpm: Path) -> None:
    assert query(rpm, "--configfiles") == ["/etc/k3s-ha-agent/config.yaml"]
    flags = run(["rpm", "--query", "--package", "--queryformat=[%{FILEFLAGS:fflags} %{FILENAMES}\n]", str(rpm)]).stdout
    assert "cn /etc/k3s-ha-agent/config.yaml\n" in flags


def test_dependencies_are_those_of_setup_cfg(rpm: Path) -> None:
    required = {line for line in query(rpm, "--requires") if not line.startswith(("rpmlib(", "config(", "/"))}
    wanted = {
        f"{FEDORA_NAMES.get(name, f'python3-{name}')} >= {lowest}" for name, lowest in sources.requirements().items()
    }
    assert required == wanted | {"python3", "python3 >= 3.11", "python3-gobject-base", "dbus", "systemd"}


def test_no_python_version_is_built_in(rpm: Path) -> None:
    """One package for Fedora 42 to 44, whose Pythons differ."""
    everything = "\n".join([*query(rpm, "--requires"), *query(rpm, "--provides"), *query(rpm, "--list")])
    assert not re.search(r"python\(abi\)|python3\.\d+|site-packages|__pycache__", everything)
    assert run(["rpm", "--query", "--package", "--queryformat=%{ARCH}", str(rpm)]).stdout == "noarch"


def test_no_macro_is_left_in_a_script(rpm: Path) -> None:
    """What rpm does not know it leaves as it stands."""
    scripts = "\n".join(query(rpm, "--scripts"))
    assert "postinstall scriptlet" in scripts
    assert not re.search(r"%[a-z_{]", scripts), scripts


def test_the_same_files_make_the_same_package(checkout: Path, rpm_dist: Path, tmp_path: Path) -> None:
    """From another directory, with other time stamps, in another zone and language, by another umask."""
    assert_reproducible("rpm", checkout, rpm_dist, tmp_path, ("*.noarch.rpm", "*.src.rpm"))


def test_what_a_distribution_lacks_can_be_bundled(checkout: Path, tmp_path: Path) -> None:
    make("rpm", tmp_path / "dist", checkout, BUNDLE="1")
    package = only(tmp_path / "dist", "*.noarch.rpm")
    said = rpmlint(checkout, tmp_path / "dist", "--strict", "--config", str(checkout / "packaging/rpm/rpmlint.toml"))
    assert "0 errors, 0 warnings" in said, said
    required = "\n".join(query(package, "--requires"))
    for name in sources.requirements():
        assert (FEDORA_NAMES.get(name, f"python3-{name}") in required) == (name not in BUNDLED), name
    tree = unpack(package, tmp_path / "tree")
    private = tree / sources.PRIVATE
    for name in BUNDLED:
        assert f"bundled(python3dist({name}))" in "\n".join(query(package, "--provides"))
        # Isolated, so that this machine's own module is found only after the bundled one.
        code = f"import sys; sys.path.insert(0, {str(private)!r}); import {name}; print({name}.__file__)"
        assert run(["/usr/bin/python3", "-I", "-B", "-c", code]).stdout.startswith(str(private)), name
    assert list(private.rglob("*.so")) == []


def test_the_macros_of_the_distribution_are_used_where_there_are_any(checkout: Path) -> None:
    """As on Fedora, with systemd-rpm-macros; the spec's own are for machines without."""
    spec = str(checkout / "packaging/rpm/k3s-ha-agent.spec")
    names = ("systemd_post", "systemd_preun", "systemd_postun", "sysusers_create", "tmpfiles_create")
    defines = [f"--define={name}() theirs-{name} %*" for name in names]
    parsed = run(["rpmspec", "--parse", *defines, spec]).stdout
    for name in names:
        argument = "k3s-ha-agent.service" if name.startswith("systemd_") else "k3s-ha-agent.conf"
        assert re.search(rf"^theirs-{name} {argument}$", parsed, re.MULTILINE), name
    assert "disable --now" not in parsed
