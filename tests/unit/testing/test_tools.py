"""How programs that tests need come to a machine whose user is not root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tools
from tests.tools import PROMTOOL, command_for, fetch

APT = """
[ "$1" = download ] || exit 1
shift
for package; do echo "$package" > "$package.deb"; done
"""
DPKG = """
mkdir -p "$3/usr/bin"
case "$2" in
*prometheus.deb) printf '#!/bin/sh\\n' > "$3/usr/bin/promtool"; chmod +x "$3/usr/bin/promtool" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With nothing but what tests put there, an environment, and the shell's own commands."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "mkdir", "chmod"):
        (programs / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("CHROMIUM", "/some/chromium")
    monkeypatch.setattr(tools, "FETCHED", tmp_path / "fetched")
    return programs


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)


def test_packages_are_unpacked_beside_the_environment_and_found_there(machine: Path) -> None:
    program(machine, "apt-get", APT)
    program(machine, "dpkg", DPKG)
    assert PROMTOOL.path() is None
    fetch()
    assert PROMTOOL.path() == str(tools.FETCHED / "usr/bin/promtool")


def test_where_there_are_no_packages_it_stays_missing_and_the_command_is_named(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    assert PROMTOOL.path() is None
    assert command_for([PROMTOOL.missing]) == "sudo apt-get install -y prometheus"
    assert command_for(["no GPU here"]) is None


def test_the_machines_own_is_used_before_a_fetched_one(machine: Path) -> None:
    program(machine, "promtool", "")
    assert PROMTOOL.path() == str(machine / "promtool")


@pytest.mark.parametrize(
    ("name", "package"), [("Debian GNU/Linux", "chromium"), ("Ubuntu", "chromium-browser")]
)
def test_the_command_names_the_package_of_this_distribution(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"NAME": name})
    assert command_for([tools.CHROMIUM.missing]) == f"sudo apt-get install -y {package}"
