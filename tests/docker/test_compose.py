"""The whole stack in containers: up, one release under traffic, down, and up again as it was."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.docker.conftest import Project

pytestmark = pytest.mark.docker
MODEL, SLIPWAY = "credit_risk", ("python", "-m", "serving.cli")
INFER = f"/v2/models/{MODEL}/infer"
ROW = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 29], "data": [0.0] * 29}]}


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(1)


def up(project: Project) -> None:
    project.done("up", "--wait", "--wait-timeout", "570", "--no-build")


@pytest.fixture(scope="module")
def running(project: Project) -> Iterator[Project]:
    up(project)
    yield project
    project.done("down")


def login(project: Project) -> str:
    """What `docker compose logs prepare` says to people."""
    said = project.done("logs", "--no-log-prefix", "prepare")
    found = re.search(r"Airflow's login: (\{.*\})", said)
    assert found, said
    return str(json.loads(found[1])["admin"])


def infer(project: Project) -> httpx.Response:
    return httpx.post(project.home.gateway_url + INFER, json=ROW, timeout=10, trust_env=False)


@contextmanager
def traffic(project: Project) -> Iterator[list[int]]:
    """Somebody who asks all the time: the statuses of the answers."""
    statuses, over = list[int](), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=project.home.gateway_url, timeout=10, trust_env=False) as client:
            while not over.wait(0.02):
                statuses.append(client.post(INFER, json=ROW).status_code)

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
    assert ended == {"prepare", "webhooks"}
    assert all(states[name][2] == 0 for name in ended)
    assert all(health == "healthy" for name, (_, health, _) in states.items() if name not in ended), states


def test_nobody_is_root_and_nothing_listens_beyond_this_machine(running: Project) -> None:
    assert running.inside("id", "-u").strip() == "10001"
    ports = range(running.ports.airflow, running.ports.airflow + 100)
    found = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {next(iter(c.laddr)) for c in found if c.laddr and c.laddr[1] in ports} == {"127.0.0.1"}


def test_the_login_that_is_told_logs_in(running: Project) -> None:
    account = {"username": "admin", "password": login(running)}
    answer = httpx.post(f"{running.home.airflow_url}/auth/token", json=account, trust_env=False)
    assert answer.status_code == 201


def test_mlflow_tells_airflow_its_news(running: Project) -> None:
    said = json.loads(running.inside(*SLIPWAY, "webhooks", "sync", "--test", "--json"))
    assert said["webhook"] == "unchanged"


def test_a_release_reaches_users_and_is_there_when_everything_is_started_again(running: Project) -> None:
    running.inside("python", "-m", "demo.models", "1")
    with traffic(running) as answered:
        run = released(running)
        served = infer(running)
    assert (served.status_code, served.json()["model_version"]) == (200, "1")
    # None before a first version serves, and all from then on.
    assert set(answered[answered.index(200) :]) == {200}

    running.done("down")
    up(running)
    until(lambda: served_by(running) == "1", seconds=120, what="the version that served")
    assert state(running, **run) == "success"


def released(project: Project) -> dict[str, str]:
    """Version 1, by a release that has ended well: its run. Its watch is skipped as soon as it may be."""
    said = json.loads(project.inside(*SLIPWAY, "release", MODEL, "1", "--json"))
    run = {"dag_id": said["dag_id"], "run_id": said["run_id"]}
    skip = (
        "exec",
        "--no-TTY",
        "pods",
        *SLIPWAY,
        "skip",
        said["release_id"],
        "--reason",
        "a test has no time",
    )

    def is_over() -> bool:
        project.compose(*skip)
        return state(project, **run) not in ("queued", "running")

    until(is_over, seconds=500, what="the release's end")
    assert state(project, **run) == "success"
    return run


def state(project: Project, *, dag_id: str, run_id: str) -> str:
    account = {"username": "admin", "password": login(project)}
    with httpx.Client(base_url=project.home.airflow_url, timeout=30, trust_env=False) as client:
        token = client.post("/auth/token", json=account).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        run = client.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", headers=headers)
        return str(run.raise_for_status().json()["state"])


@pytest.mark.parametrize("name", ["pods", "envoy", "controller"])
def test_what_is_killed_is_started_again_and_users_are_served(running: Project, name: str) -> None:
    """After the test before: version 1 serves."""
    began = {one["Service"]: one["ID"] for one in running.containers()}
    (process,) = psutil.Process(running.pid_of(began[name])).children()
    process.kill()
    psutil.wait_procs([process], timeout=30)
    until(lambda: running.restarts_of(began[name]) == 1, seconds=120, what=f"Docker to start {name} again")
    until(lambda: served_by(running) == "1", seconds=120, what="version 1")


def served_by(project: Project) -> str | None:
    """The version that answers, None while none does."""
    try:
        answer = infer(project)
    except httpx.TransportError:
        return None
    return str(answer.json()["model_version"]) if answer.status_code == 200 else None
