"""What the demo starts, and what it leaves to a stack that is somebody else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from demo import stage
from demo.__main__ import _addresses
from demo.acts import RISK
from demo.place import DemoHome
from demo.stage import Stage, StandingStack
from model_store.errors import Permanent
from serving.home import Home, Ports
from serving.platforms.docker.platform import faults_file


def home_in(root: Path) -> DemoHome:
    return DemoHome(root, "", "", "")


def test_containers_read_the_faults_where_the_demo_writes_them(tmp_path: Path) -> None:
    StandingStack(home_in(tmp_path), RISK, lambda _: None)._let_pods_fail()
    assert faults_file(Home(tmp_path, Ports())).read_text() == RISK.faults


def test_a_stack_that_does_not_start_says_why_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "echo '  envoy: healthy' >&2; echo 'port 8480 is taken' >&2; echo '  remedy: move it' >&2; exit 1"
    monkeypatch.setattr(stage, "COMMAND", ("sh", "-c", said))
    told: list[str] = []
    with pytest.raises(Permanent, match="port 8480 is taken") as refused:
        Stage(home_in(tmp_path), replace(RISK), told.append)._bring_up()
    assert refused.value.remedy == "move it"
    assert told[0] == "starting the stack: envoy: healthy"


def test_addresses_of_a_stack_that_is_elsewhere_are_told_without_its_envoys_counters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_COMPONENTS", "mlflow=tcp://127.0.0.1:9")
    found = _addresses()
    assert found["login"]["user"]
    assert "envoy_stats" not in found
