"""Programs that some tests need and no Python package brings: where they are, and how they come here.

A test that needs one says so with `needs` or asks for it with `require`. Without it the test is skipped, and
the end of `./slipway test` names the one command that brings it. `fetch` brings what comes without root.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

# In the environment: deleting `.venv` deletes what was fetched, too.
FETCHED = Path(sys.prefix) / "test-tools"
_LONGEST_FETCH_SECONDS = 300


@dataclass(frozen=True)
class Tool:
    """`programs`: under any of these names it may be on PATH. `package`: Debian's, which brings it.

    `folders`: a pattern of where else its package puts it, of which the last one counts.
    """

    name: str
    programs: tuple[str, ...]
    package: str
    variable: str = ""
    package_on_ubuntu: str = ""
    folders: str = ""

    @property
    def missing(self) -> str:
        """Why a test that needs it was skipped."""
        return f"{self.name} is not here"

    def path(self) -> str | None:
        """Of the program that its variable names, of the machine's own, or of the fetched one."""
        if named := os.environ.get(self.variable):
            return named
        fetched = f"{FETCHED / 'usr/bin'}{os.pathsep}{FETCHED / 'browser'}"
        others = sorted(map(str, Path("/").glob(self.folders)), reverse=True) if self.folders else []
        places = (None, fetched, *others)
        found = (shutil.which(name, path=place) for place in places for name in self.programs)
        return next(filter(None, found), None)


CHROMIUM = Tool(
    "Chromium",
    ("chromium", "chromium-browser", "google-chrome"),
    "chromium",
    variable="CHROMIUM",
    # Debian's name is not there; this one brings a snap.
    package_on_ubuntu="chromium-browser",
)
PROMETHEUS = Tool("Prometheus", ("prometheus",), "prometheus")
PROMTOOL = Tool("promtool", ("promtool",), "prometheus")
ALERTMANAGER = Tool("Alertmanager", ("prometheus-alertmanager", "alertmanager"), "prometheus-alertmanager")
AMTOOL = Tool("amtool", ("amtool",), "prometheus-alertmanager")
# Debian keeps the server's programs off PATH, as several versions may be there.
POSTGRESQL = Tool("PostgreSQL", ("initdb",), "postgresql", folders="usr/lib/postgresql/*/bin")
TOOLS = (CHROMIUM, PROMETHEUS, PROMTOOL, ALERTMANAGER, AMTOOL, POSTGRESQL)


def needs(tool: Tool) -> pytest.MarkDecorator:
    """For a whole module or test."""
    return pytest.mark.skipif(tool.path() is None, reason=tool.missing)


def require(tool: Tool) -> str:
    """The program's path. Without it, the test is skipped."""
    return tool.path() or pytest.skip(tool.missing)


def command_for(reasons: Iterable[str]) -> str | None:
    """The one command that brings every tool for want of which a test was skipped."""
    packages = {_package(tool) for tool in TOOLS if tool.missing in reasons}
    return f"sudo apt-get install -y {' '.join(sorted(packages))}" if packages else None


def _package(tool: Tool) -> str:
    is_ubuntu = "Ubuntu" in _distribution().get("NAME", "")
    return tool.package_on_ubuntu if is_ubuntu and tool.package_on_ubuntu else tool.package


def _distribution() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def fetch() -> None:
    """What an ordinary user may: Debian's packages, unpacked into the environment, and Playwright's browser.

    Installs nothing on the machine and asks for no password. What cannot be had stays missing.
    """
    FETCHED.mkdir(exist_ok=True)
    if CHROMIUM.path() is None:
        _fetch_browser()
    packages = {tool.package for tool in TOOLS if tool is not CHROMIUM and tool.path() is None}
    if packages and shutil.which("apt-get") and shutil.which("dpkg"):
        _unpack(sorted(packages))


def _unpack(packages: list[str]) -> None:
    """Their programs are linked against the C library alone, so nothing has to be installed with them."""
    with tempfile.TemporaryDirectory() as folder:
        _try("apt-get", "download", *packages, cwd=folder)
        for package in Path(folder).glob("*.deb"):
            _try("dpkg", "--extract", str(package), str(FETCHED), cwd=folder)


def _fetch_browser() -> None:
    """Linked under Debian's name if it starts: the libraries it needs are the machine's."""
    browsers = FETCHED / "browsers"
    _try(sys.executable, "-m", "playwright", "install", "--only-shell", "chromium", at=browsers)
    for program in browsers.glob("*/*/*headless*shell"):
        if _try(str(program), "--version"):
            (FETCHED / "browser").mkdir(exist_ok=True)
            (FETCHED / "browser" / "chromium").symlink_to(program)
            return


def _try(*command: str, cwd: str | None = None, at: Path = FETCHED) -> bool:
    environ = {**os.environ, "PLAYWRIGHT_BROWSERS_PATH": str(at)}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LONGEST_FETCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
