"""The demo as a newcomer runs it: every claim holds, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import LAUNCHER, REPOSITORY, environment, free_port_base, processes_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

SECONDS = 900


class Demo:
    """One run of `./slipway demo --json` in a home of its own."""

    def __init__(self, root: Path) -> None:
        own = {"SLIPWAY_HOME": str(root), "SLIPWAY_PORT_BASE": str(free_port_base())}
        self.environ = environment(**own)
        self.home = root

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [LAUNCHER, "demo", *arguments],
            env=self.environ,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    made = Demo(tmp_path / "home")
    yield made
    assert processes_of(made.home) == []


def test_every_claim_of_the_demo_holds(demo: Demo) -> None:
    process = demo.start("--json")
    out, err = process.communicate(timeout=SECONDS)
    report: dict[str, Any] = json.loads(out)
    assert "error" not in report, report["error"]
    assert [claim for claim in report["claims"] if not claim["holds"]] == []
    assert (process.returncode, report["holds"]) == (0, True)
    # Not through the claims: the figures themselves.
    assert report["requests"]["failed"] == 0 < report["requests"]["sent"]
    endings = [release["ending"] for release in report["releases"]]
    assert endings == ["promoted", "promoted", "blocked", "rolled_back"]
    assert report["releases"][3]["exposure"]["errors"] > 0
    assert err == ""


def test_a_demo_told_to_end_puts_everything_away(demo: Demo) -> None:
    process = demo.start()
    # In the middle of the start: supervisord is up, its components are not.
    deadline = time.monotonic() + 120
    while not (demo.home / "logs" / "supervisord.log").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    # 130 to a shell in either case: CPython ends by the signal itself, whatever the exit status asked for,
    # where the interrupt came while it ran a string of code, as an import that makes a dataclass does.
    assert process.returncode in (130, -signal.SIGINT)
    assert err.endswith("\nInterrupted.\n")
    assert out == ""
    assert "Traceback" not in err
    assert "\x1b" not in err
