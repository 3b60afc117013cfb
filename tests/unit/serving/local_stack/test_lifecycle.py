from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from model_store.errors import Permanent, Retryable
from serving.home import Home, Ports
from serving.local_stack import lifecycle
from serving.local_stack.components import components
from serving.local_stack.lifecycle import ProgramStatus
from serving.local_stack.prepare import prepare
from serving.platforms import pods
from serving.platforms.pods import PodRecord
from serving.supervision import supervisor
from serving.supervision.processes import owned_by
from serving.supervision.supervisor import ProgramState
from serving.types import Deployment, DeploymentRef, Endpoint, Slot


@pytest.mark.parametrize("name", ["100%", "a;b", 'a"b', "what?", "a#b"])
def test_a_home_whose_path_would_be_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Permanent, match="SLIPWAY_HOME"):
        lifecycle.up(Home(tmp_path / name, Ports()))


def test_a_taken_port_is_an_error_before_anything_is_written_or_started(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        home = Home(tmp_path, Ports(controller=server.getsockname()[1]))
        with pytest.raises(Permanent, match="controller"):
            lifecycle.up(home)
    assert owned_by(home) == []
    assert not home.config.exists()
    assert not home.credentials.exists()


def test_ending_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    assert lifecycle.down(Home(tmp_path, Ports())) == 0


def test_the_state_of_what_does_not_run_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match="slipway up"):
        lifecycle.program_statuses(Home(tmp_path, Ports()))


def test_the_port_of_a_deployed_pod_must_be_free_too(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        home = Home(tmp_path, free_fixed_ports())
        endpoint = Endpoint("127.0.0.1", server.getsockname()[1])
        deployment = Deployment(DeploymentRef("m", Slot.BLUE, "1", 1), (endpoint,))
        pods.write_record(home, PodRecord(deployment, tmp_path, ""))
        with pytest.raises(Permanent, match="pod of m"):
            lifecycle.up(home)
    assert owned_by(home) == []


def test_a_running_stack_is_not_moved_to_other_ports(tmp_path: Path) -> None:
    home = Home(tmp_path, free_fixed_ports())
    prepare(home, [])
    supervisor.start(home)
    try:
        with pytest.raises(Permanent, match="runs on other ports"):
            lifecycle.up(Home(tmp_path, Ports.from_base(1900)))
    finally:
        lifecycle.down(home)


def free_fixed_ports() -> Ports:
    with ExitStack() as opened:
        probes = [opened.enter_context(socket.socket()) for _ in range(5)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return Ports(*(probe.getsockname()[1] for probe in probes))


def test_a_pod_without_its_model_keeps_no_stack_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [ProgramStatus("pod-m-blue-0", "RUNNING", 1, 0, "answers 503: not ready: m v1: unloaded")]
    monkeypatch.setattr(lifecycle, "program_statuses", lambda home: now)
    monkeypatch.setattr(lifecycle, "Supervisor", lambda home: Running(components(home)))
    monkeypatch.setattr(lifecycle.registration, "sync", lambda home: None)
    home = Home(tmp_path, Ports())
    home.config.write_text(json.dumps({"ports": asdict(home.ports)}))
    assert not lifecycle.up(home, timeout_seconds=0)
    now.append(replace(now[0], name="envoy"))
    with pytest.raises(Permanent, match="envoy does not become healthy"):
        lifecycle.up(home, timeout_seconds=0)


class Running:
    """A supervisord that runs and of which nothing has ended."""

    def __init__(self, programs: Iterable[str]) -> None:
        self._programs = [ProgramState(name, name, "RUNNING", 1, 0, "") for name in programs]

    def is_running(self) -> bool:
        return True

    def programs(self) -> list[ProgramState]:
        return self._programs


def test_a_stack_that_an_earlier_slipway_began_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, Ports())
    before = components(home).keys() - {"controller"} | {"guard"}
    monkeypatch.setattr(lifecycle, "Supervisor", lambda home: Running(before))
    home.config.write_text(json.dumps({"ports": asdict(home.ports)}))
    with pytest.raises(Permanent, match="another version of Slipway: it has no controller") as refused:
        lifecycle.up(home, timeout_seconds=0)
    assert "slipway down" in refused.value.remedy
