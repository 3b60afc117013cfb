"""Releases over the controller's API, with a real Envoy, real pods under supervisord, and no Airflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from model_store.errors import Permanent
from model_store.release_spec import load
from model_store.storage.store import Store
from model_store.types import Bundle, ModelRef
from serving import composition
from serving.cli import releases as command_line
from serving.control import rollbacks
from serving.control.client import ControllerClient, ControllerDown
from serving.control.controller.api import LONGEST_BODY
from serving.control.releases import Release, Request
from serving.control.rollbacks import AlreadyRolledBack, RollbackRequest
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.traffic import RollbackPhase, RolloutPhase
from serving.control.wiring import Services
from serving.home import Home, Ports
from serving.local_stack.lifecycle import down
from serving.types import ALL_STABLE, DeploymentId
from tests.servable import publish_mlp
from tests.unit.serving.gateway_process import Gateway, free_ports, gateway_running
from tests.unit.serving.platforms.test_local_platform import start_supervisord

ROOT = Path(__file__).parents[5]
SPEC = ROOT / "dags" / "releases" / "credit_risk.yaml"
MODEL = "fraud"
ROWS = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


class Installation:
    """A home with everything but Airflow and MLflow."""

    def __init__(self, gateway: Gateway, environment: dict[str, str]) -> None:
        self.gateway, self.home, self._environment = gateway, gateway.home, environment
        self.controller: subprocess.Popen[bytes] | None = None
        self.client = ControllerClient(self.home)
        self.statuses: list[int] = []
        self._number = 0

    @property
    def services(self) -> Services:
        return composition.wire(self.home)

    @property
    def serving(self) -> int | None:
        stable = self.services.router.read(MODEL).stable
        return stable.version if stable else None

    def start(self) -> None:
        with (self.home.logs / "controller.log").open("ab") as log:
            self.controller = subprocess.Popen(
                [sys.executable, "-m", "serving.controller"], stdout=log, stderr=log, env=self._environment
            )
        self.gateway.wait(lambda: httpx.get(self.url("/health")).status_code == 200, seconds=60)

    def kill(self) -> None:
        assert self.controller
        self.controller.send_signal(signal.SIGKILL)
        self.controller.wait(10)

    def url(self, path: str) -> str:
        return self.home.controller_url + path

    def bundle(self, version: int) -> Bundle:
        return publish_mlp(Store(self.home.store), ModelRef(MODEL, version), {"replicas": 1})

    def release(self, version: int, *, hold_seconds: float = 1.0) -> Release:
        self._number += 1
        at = datetime.now(UTC)
        request = Request(
            f"release_{MODEL}", f"run-{self._number}", at, str(version), "", "ada", dry_run=False
        )
        spec = load(SPEC)
        steps = tuple(
            step.model_copy(update={"weight": weight, "hold_seconds": hold_seconds})
            for step, weight in zip(spec.rollout.steps, (50, 100), strict=False)
        )
        analysis = spec.rollout.analysis.model_copy(update={"min_requests": 20})
        rollout = spec.rollout.model_copy(
            update={"steps": steps, "watch_seconds": 2.0, "analysis": analysis, "strategy": "canary"}
        )
        serving = spec.serving.model_copy(update={"replicas": 1})
        told: dict[str, Any] = {"model": MODEL, "rollout": rollout, "serving": serving}
        told |= {"freezes": (), "notify": ()}
        return self.services.releases.open(request, spec.model_copy(update=told), lambda _: version)

    def roll_out(self, version: int, **said: float) -> RolloutState:
        """As a release's task does it, which then records its promotion in no time."""
        services, release = self.services, self.release(version, **said)
        # A release has the lock before it starts pods: what went before is cleared away by then.
        self.gateway.wait(lambda: services.lock.read(MODEL).holder is None, seconds=60)
        bundle = self.bundle(version)
        services.releases.built(release.id, bundle.id, at=datetime.now(UTC))
        began = self.client.begin(release.id, bundle.id)
        assert began.phase is RolloutPhase.STARTING
        self.gateway.wait(
            lambda: self.client.progress([release.id])[release.id].phase != began.phase, seconds=60
        )
        services.lock.release(MODEL, release.id)
        return self.client.read(release.id)

    def wait_for(
        self, release: str, phase: Phase, *, step: int | None = None, seconds: float = 60
    ) -> RolloutState:
        def there() -> bool:
            state = self.services.journal.load(release)
            return state.phase is phase and step in (None, state.step)

        self.gateway.wait(there, seconds=seconds)
        return self.services.journal.load(release)

    def released(self, version: int) -> RolloutState:
        return self.wait_for(self.roll_out(version).release_id, Phase.DONE)

    def break_candidate(self) -> None:
        """Its pods are stopped where they are, so that they answer nobody."""
        route = self.services.router.read(MODEL)
        assert route.candidate
        self.services.platform.retire(route.candidate.ref)

    def send(self, ending: Event) -> None:
        with httpx.Client(base_url=self.home.gateway_url, timeout=30) as client:
            while not ending.wait(0.01):
                answer = client.post(f"/v2/models/{MODEL}/infer", json=ROWS)
                self.statuses.append(answer.status_code)

    def ask(self, version: int | None = None, *, run_id: str = "run-back") -> RollbackRequest:
        return RollbackRequest(MODEL, version, "users complain", "", "ada", run_id, datetime.now(UTC))


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with gateway_running(tmp_path_factory.mktemp("home")) as gateway:
        (pods_from,) = free_ports(1)
        ports: Ports = replace(gateway.home.ports, pods_from=pods_from)
        gateway.home = Home(gateway.home.root, ports)
        environment = {**os.environ, "SLIPWAY_HOME": str(gateway.home.root), "PYTHONPATH": str(ROOT)}
        start_supervisord(gateway.home)
        made = Installation(gateway, environment)
        try:
            made.start()
            yield made
        finally:
            if made.controller:
                made.kill()
            down(gateway.home)


@pytest.fixture
def users(installation: Installation) -> Iterator[list[int]]:
    ending = Event()
    installation.statuses.clear()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(installation.send, ending)
        yield installation.statuses
        ending.set()
        load.result(30)


def seconds_until(condition: Callable[[], bool], *, limit: float = 30) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit
        time.sleep(0.005)
    return time.monotonic() - began


def test_a_rollout_is_started_followed_finished_and_rolled_back_with_airflow_nowhere(
    installation: Installation, users: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = installation.released(1)
    assert installation.client.read(first.release_id).phase is Phase.DONE
    users.clear()  # nobody was promised anything before

    # A healthy one goes through its steps to promotion, over a controller that is killed half way.
    second = installation.roll_out(2)
    bundle = DeploymentId.parse(second.deployment_id).bundle_id
    assert installation.client.begin(second.release_id, bundle).phase is RolloutPhase.PROGRESSING
    installation.wait_for(second.release_id, Phase.PROGRESSING, step=0)
    installation.kill()
    with pytest.raises(ControllerDown, match="does not answer"):
        installation.client.read(second.release_id)
    installation.start()
    installation.wait_for(second.release_id, Phase.DONE)
    assert installation.serving == 2
    kinds = [event.kind for event in installation.services.journal.timeline(second.release_id)]
    assert kinds == ["started", "shift", "shift", "promoted", "done"]

    # One that fails goes back by itself.
    third = installation.roll_out(3, hold_seconds=100)
    installation.wait_for(third.release_id, Phase.PROGRESSING, step=0)
    installation.break_candidate()
    installation.wait_for(third.release_id, Phase.ROLLED_BACK)
    assert installation.services.router.read(MODEL).split == ALL_STABLE
    installation.client.withdraw(third.release_id)
    assert installation.services.router.read(MODEL).candidate is None

    # A person takes a healthy one back: from the command line, Airflow's API being nowhere.
    fourth = installation.roll_out(4, hold_seconds=100)
    installation.wait_for(fourth.release_id, Phase.PROGRESSING, step=0)
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    command_line.rollback(installation.home, MODEL, None, "too slow", wait=False, as_json=True)
    assert installation.services.router.read(MODEL).split == ALL_STABLE
    assert installation.client.read(fourth.release_id).phase is Phase.ROLLED_BACK
    recorded = [
        one.request.by for one in rollbacks.unrecorded(installation.services, before=datetime.now(UTC))
    ]
    assert recorded == ["ada on the command line"]
    installation.client.withdraw(fourth.release_id)

    assert set(users) == {200}

    # Back to a version whose pods have to be started again, which a killed controller takes up again.
    progress = installation.client.roll_model_back(installation.ask(1))
    installation.kill()
    installation.start()
    seconds_until(lambda: installation.client.rollback(progress.id).phase.is_final, limit=60)
    assert installation.client.rollback(progress.id).phase is RollbackPhase.RETURNED
    assert (installation.serving, installation.client.roll_model_back(installation.ask(1)).id) == (
        1,
        progress.id,
    )
    with pytest.raises(AlreadyRolledBack):
        installation.client.roll_model_back(replace(installation.ask(run_id="late"), at=first.started_at))
    assert set(users) == {200}


def test_the_command_line_returns_traffic_itself_where_there_is_no_controller(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, users: list[int]
) -> None:
    if not installation.services.journal.releases(MODEL):
        installation.released(1)
    state = installation.roll_out(5, hold_seconds=100)
    installation.wait_for(state.release_id, Phase.PROGRESSING, step=0)
    installation.kill()
    try:
        command_line.rollback(installation.home, MODEL, None, "nobody is there", wait=False, as_json=True)
    finally:
        installation.start()
    assert installation.services.router.read(MODEL).split == ALL_STABLE
    assert installation.client.read(state.release_id).phase is Phase.ROLLED_BACK


def test_errors_arrive_as_what_they_are(installation: Installation) -> None:
    with pytest.raises(UnknownRelease, match="there is no release"):
        installation.client.read("fraud-v9-20261121T120000Z")
    with pytest.raises(Permanent, match="nothing is known of release"):
        installation.client.begin("fraud-v9-20261121T120000Z", "none")
    with pytest.raises(Permanent, match="reason is missing"):
        installation.client.roll_back("fraud-v9-20261121T120000Z", reason="")


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}])
def test_without_the_token_nothing_is_moved_or_told(
    installation: Installation, header: dict[str, str]
) -> None:
    for method, path in [
        ("GET", "/v1/rollouts/fraud-v1-20261121T120000Z"),
        ("POST", "/v1/rollouts"),
        ("POST", f"/v1/models/{MODEL}/rollbacks"),
    ]:
        answer = httpx.request(method, installation.url(path), headers=header, content=b"{}")
        assert (answer.status_code, "token" in answer.json()["problem"]) == (401, True)
    assert installation.home.controller_token.stat().st_mode & 0o777 == 0o600


def test_a_body_beyond_all_measure_or_of_nonsense_is_refused(installation: Installation) -> None:
    header = {"authorization": f"Bearer {installation.home.controller_token.read_text()}"}

    def post(content: Any) -> httpx.Response:
        return httpx.post(installation.url("/v1/rollouts"), headers=header, content=content)

    assert post(b"x" * (LONGEST_BODY + 1)).status_code == 413
    assert post(iter([b"x" * 50_000] * 200)).status_code == 413
    for nonsense in (b"{", b"[]", b"\xff", json.dumps({"release": 7, "deployment": "x"}).encode()):
        assert post(nonsense).status_code == 409
    for strange in ("../../etc/passwd", "fraud-v1-20261121T120000Z/..", "%2e%2e"):
        answer = httpx.get(installation.url(f"/v1/rollouts/{strange}"), headers=header)
        assert answer.status_code in (404, 405, 409), answer.text
