"""docker-compose.yaml from empty volumes: up, a release under traffic, deaths, down, and up as it was."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.docker.conftest import Project

pytestmark = pytest.mark.docker
MODEL = "credit_risk"
INFER = f"/v2/models/{MODEL}/infer"
ROW = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 29], "data": [0.0] * 29}]}
ENDED = {"secrets", "databases", "setup", "webhooks", "pod-image"}


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(2)


def up(project: Project) -> None:
    project.done("up", "--wait", "--wait-timeout", "1100", "--no-build", seconds=1200)


@pytest.fixture(scope="module")
def running(project: Project) -> Iterator[Project]:
    up(project)
    yield project
    project.done("down", "--timeout", "30")


def infer(project: Project) -> httpx.Response:
    return httpx.post(project.gateway_url + INFER, json=ROW, timeout=10, trust_env=False)


def served_by(project: Project) -> str | None:
    """The version that answers, None while none does."""
    try:
        answer = infer(project)
    except httpx.TransportError:
        return None
    return str(answer.json()["model_version"]) if answer.status_code == 200 else None


@contextmanager
def traffic(project: Project) -> Iterator[list[int]]:
    """Somebody who asks all the time: the statuses of the answers, 0 for a connection that ended."""
    statuses, over = list[int](), threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                statuses.append(infer(project).status_code)
            except httpx.TransportError:
                statuses.append(0)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield statuses
    finally:
        over.set()
        asking.join()


def test_everything_is_healthy_and_what_ends_has_ended_well(running: Project) -> None:
    states = {one["Service"]: (one["State"], one["Health"], one["ExitCode"]) for one in running.containers()}
    ended = {name for name, (state, _, _) in states.items() if state == "exited"}
    assert ended == ENDED
    assert all(states[name][2] == 0 for name in ended)
    assert all(health == "healthy" for name, (_, health, _) in states.items() if name not in ended), states


def test_nothing_that_was_made_is_in_a_log_or_in_what_docker_tells(running: Project) -> None:
    made = json.loads(
        running.done("run", "--rm", "--no-deps", "secrets", "cat", "/run/slipway-secrets/values.json")
    )
    told = running.done("logs") + running.done("config") + running.inspected()
    assert [name for name, value in made.items() if value in told] == []


def test_whoever_has_no_account_is_let_in_nowhere(running: Project) -> None:
    mlflow = httpx.get(f"{running.mlflow_url}/api/2.0/mlflow/registered-models/search", trust_env=False)
    airflow = httpx.get(f"{running.airflow_url}/api/v2/dags", trust_env=False)
    assert (mlflow.status_code, airflow.status_code) == (401, 401)


def test_mlflow_tells_airflow_its_news(running: Project) -> None:
    said = json.loads(running.slipway("webhooks", "sync", "--test", "--json"))
    assert said["webhook"] == "unchanged"


def test_an_alias_that_moves_is_a_release_that_reaches_users(running: Project) -> None:
    running.inside("airflow-worker", "python", "-m", "serving.local_stack.containers", "run",
                   "python", "-m", "demo.models", "1")  # fmt: skip
    running.set_alias(MODEL, "candidate", 1)
    with traffic(running) as answered:
        until(lambda: served_by(running) == "1", seconds=900, what="version 1")
        until(lambda: running.version_of(MODEL, "champion") == "1", seconds=300, what="its promotion")
    # None before a first version serves, and all from then on.
    assert set(answered[answered.index(200) :]) == {200}


@pytest.mark.parametrize("name", ["controller", "launcher", "envoy-a", "redis", "airflow-worker"])
def test_what_is_killed_is_started_again_and_users_are_served(running: Project, name: str) -> None:
    """After the test before: version 1 serves. An Envoy takes the connections along that it had."""
    container = {one["Service"]: one["ID"] for one in running.containers()}[name]
    with traffic(running) as answered:
        process = psutil.Process(running.pid_of(container))
        process.kill()
        until(lambda: running.restarts_of(container) >= 1, seconds=180, what=f"Docker to start {name} again")
        until(lambda: served_by(running) == "1", seconds=120, what="version 1")
    failed = [status for status in answered if status != 200]
    assert failed == [] or name == "envoy-a"
    assert set(failed) <= {0}


def test_a_pod_that_crashes_comes_back(running: Project) -> None:
    (pod,) = running.pods()
    psutil.Process(running.pid_of(pod)).kill()
    until(lambda: running.restarts_of(pod) >= 1, seconds=60, what="Docker to start the pod again")
    until(lambda: served_by(running) == "1", seconds=60, what="version 1")


def test_down_takes_the_pods_along_and_up_brings_everything_back(running: Project) -> None:
    running.done("down", "--timeout", "30")
    assert running.pods() == []
    up(running)
    until(lambda: served_by(running) == "1", seconds=180, what="the version that served")
