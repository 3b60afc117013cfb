"""docker-compose.yaml from empty volumes: the demo's story, deaths during a canary, a backup, down and up."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from demo.acts import RISK
from model_store.installation import ROOT as REPOSITORY
from serving.monitoring.config import dashboards
from tests.docker.conftest import Project

pytestmark = pytest.mark.docker
MODEL = "credit_risk"
INFER = f"/v2/models/{MODEL}/infer"
ROW = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 29], "data": [0.0] * 29}]}
ENDED = {"secrets", "databases", "setup", "webhooks", "pod-image"}
# Each dies by itself during a canary. What users' connections go through is another test.
BEHIND = (
    "postgres", "redis", "store", "mlflow", "controller", "launcher", "airflow-api-server",
    "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-worker",
)  # fmt: skip


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(2)


def up(project: Project, *arguments: str) -> None:
    project.done(*arguments, "up", "--wait", "--wait-timeout", "1700", "--no-build", seconds=1800)


@pytest.fixture(scope="module")
def running(project: Project) -> Iterator[Project]:
    if project.is_ours:
        up(project, "--profile", "demo")
    yield project
    if project.is_ours:
        project.done("--profile", "demo", "down", "--timeout", "30")


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


def kill(project: Project, name: str) -> None:
    """As a crash: what `docker kill` ends stays ended. Returns when it is started again, and well."""
    container = {one["Service"]: one["ID"] for one in project.containers()}[name]
    psutil.Process(project.pid_of(container)).kill()
    until(lambda: project.restarts_of(container) >= 1, seconds=180, what=f"Docker to start {name} again")
    until(lambda: project.health_of(container) == "healthy", seconds=300, what=f"{name} to be well")


def test_everything_is_healthy_and_what_ends_has_ended_well(running: Project) -> None:
    states = {one["Service"]: (one["State"], one["Health"], one["ExitCode"]) for one in running.containers()}
    ended = {name for name, (state, _, _) in states.items() if state == "exited"}
    assert ended == ENDED
    assert all(states[name][2] == 0 for name in ended)
    assert all(health == "healthy" for name, (_, health, _) in states.items() if name not in ended), states


def test_the_demos_story_was_told_and_every_claim_held(running: Project) -> None:
    said = running.done("--profile", "demo", "logs", "--no-log-prefix", "demo")
    for act in RISK.acts:
        assert f"v{act.version}: {act.ending.replace('_', ' ')} after" in said, said[-5000:]
    assert running.version_of(MODEL, "champion") == "2"
    assert served_by(running) == "2"


def test_the_page_is_where_the_demo_says_it_is(running: Project) -> None:
    said = running.done("--profile", "demo", "logs", "--no-log-prefix", "demo")
    (link,) = {word.rstrip(";") for word in said.split() if "/plugin/" in word}
    assert link.startswith(running.airflow_url.replace("127.0.0.1", "localhost"))
    user, password = running.login()
    with httpx.Client(trust_env=False, follow_redirects=True) as visitor:
        account = {"username": user, "password": password}
        made = visitor.post(f"{running.airflow_url}/auth/token", json=account)
        visitor.headers["Authorization"] = f"Bearer {made.json()['access_token']}"
        assert visitor.get(link).status_code == 200
        # What Airflow shows in its frame there.
        assert visitor.get(f"{running.airflow_url}/slipway/").status_code == 200
        assert MODEL in visitor.get(f"{running.airflow_url}/slipway/api/v1/models").text


def test_nothing_that_was_made_is_in_a_log_or_in_what_docker_tells(running: Project) -> None:
    made = json.loads(
        running.done("run", "--rm", "--no-deps", "secrets", "cat", "/run/slipway-secrets/values.json")
    )
    made["login"] = running.login()[1]
    told = running.done("--profile", "demo", "logs") + running.done("config") + running.inspected()
    assert [name for name, value in made.items() if value in told] == []


def test_whoever_has_no_account_is_let_in_nowhere(running: Project) -> None:
    mlflow = httpx.get(f"{running.mlflow_url}/api/2.0/mlflow/registered-models/search", trust_env=False)
    airflow = httpx.get(f"{running.airflow_url}/api/v2/dags", trust_env=False)
    assert (mlflow.status_code, airflow.status_code) == (401, 401)
    redis = running.compose("exec", "--no-TTY", "redis", "valkey-cli", "keys", "*")
    assert "NOAUTH" in redis.stdout + redis.stderr


def test_somebody_who_is_made_may_log_in_at_once(running: Project) -> None:
    made = json.loads(running.slipway("users", "add", "rita", "--role", "releaser", "--json"))
    account = {"username": "rita", "password": made["password"]}
    assert httpx.post(f"{running.airflow_url}/auth/token", json=account, trust_env=False).status_code == 201
    running.slipway("users", "remove", "rita")
    assert httpx.post(f"{running.airflow_url}/auth/token", json=account, trust_env=False).status_code == 401


def test_mlflow_tells_airflow_its_news(running: Project) -> None:
    said = json.loads(running.slipway("webhooks", "sync", "--test", "--json"))
    assert said["webhook"] == "unchanged"


def test_status_tells_what_there_is_and_what_is_away(running: Project) -> None:
    said = json.loads(running.slipway("status", "--json"))
    told = {each["name"]: each["healthy"] for each in said["programs"]}
    assert said["healthy"]
    assert {"controller", "mlflow", "postgres", "airflow-scheduler", "envoy-b"} <= told.keys()
    assert [name for name in told if name.startswith("pods ")]
    running.done("stop", "mlflow")
    try:
        ended = running.compose("exec", "--no-TTY", "airflow-api-server", "slipway", "status", "--json")
        assert ended.returncode == 1
        told = {each["name"]: each["healthy"] for each in json.loads(ended.stdout)["programs"]}
        assert [name for name, healthy in told.items() if not healthy] == ["mlflow"]
    finally:
        running.done("up", "--detach", "--wait", "--no-build", "mlflow")


@pytest.fixture(scope="module")
def canary(running: Project) -> Iterator[Project]:
    """The champion registered once more, with a share of the traffic, and held there."""
    running.register_again(MODEL, 2)
    running.set_alias(MODEL, "candidate", 5)
    with traffic(running):
        until(lambda: bool(running.releases()), seconds=900, what="the canary")
        (release,) = running.releases()
        running.slipway("pause", release["release_id"], "--reason", "a test looks at it")
    yield running
    running.slipway("resume", release["release_id"], "--reason", "the test is over")
    with traffic(running) as answered:
        until(lambda: running.version_of(MODEL, "champion") == "5", seconds=600, what="its promotion")
    assert set(answered) == {200}


@pytest.mark.parametrize("name", BEHIND)
def test_who_asks_notices_no_death_behind_the_gateway(canary: Project, name: str) -> None:
    with traffic(canary) as answered:
        kill(canary, name)
    assert set(answered) == {200}
    (release,) = canary.releases()
    assert release["phase"] == "running"


def test_who_asks_notices_no_death_of_a_pod(canary: Project) -> None:
    for pod in canary.pods():
        with traffic(canary) as answered:
            before = canary.restarts_of(pod)
            psutil.Process(canary.pid_of(pod)).kill()
            until(lambda: canary.restarts_of(pod) > before, seconds=60, what="Docker to start the pod again")  # noqa: B023
            time.sleep(5)
        assert set(answered) == {200}


@pytest.mark.parametrize("name", ["envoy-a", "envoy-b", "gateway"])
def test_the_death_of_what_carries_traffic_costs_connections_and_nothing_else(
    canary: Project, name: str
) -> None:
    with traffic(canary) as answered:
        kill(canary, name)
    assert set(answered) <= {0, 200}
    # Once, and then no more.
    last = max((place for place, status in enumerate(answered) if status == 0), default=-1)
    assert len(answered) - last > 10


def test_every_query_of_the_dashboards_finds_our_data(canary: Project) -> None:
    watching = ("--profile", "observability", "up", "--detach", "--wait", "--no-build")
    canary.done(*watching, "prometheus", "alertmanager")
    with traffic(canary):
        until(lambda: not empty_panels(canary), seconds=300, what="every panel to show something")


def empty_panels(project: Project) -> list[str]:
    """Titles of Grafana's panels that Prometheus has nothing for. There is no GPU, and the spec has no cache:
    theirs are left out."""
    found = []
    for text in dashboards().values():
        for panel in json.loads(text)["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
                said = httpx.get(
                    f"{project.prometheus_url}/api/v1/query", params={"query": query}, trust_env=False
                ).json()
                assert said["status"] == "success", said
                is_expected = not any(lacking in panel["title"] for lacking in ("GPU", "Cache"))
                if is_expected and not said["data"]["result"]:
                    found.append(panel["title"])
    return found


def test_a_backup_brings_another_project_to_where_this_one_is(running: Project, tmp_path: Path) -> None:
    other = running.beside()
    saved = [str(REPOSITORY / "deploy" / "backup"), "save", str(tmp_path / "saved")]
    subprocess.run(saved, cwd=REPOSITORY, env=running.environ, check=True, timeout=600)
    try:
        load = [saved[0], "load", saved[2]]
        subprocess.run(load, cwd=REPOSITORY, env=other.environ, check=True, timeout=900)
        up(other)
        until(lambda: served_by(other) == served_by(running), seconds=300, what="the version that serves")
        assert other.version_of(MODEL, "champion") == running.version_of(MODEL, "champion")
        assert other.login() == running.login()
        assert len(json.loads(other.slipway("audit", "--json"))) >= 1
        # Two installations of one host have nothing of each other.
        assert not set(other.pods()) & set(running.pods())
    finally:
        other.compose("down", "--volumes", "--timeout", "30")


def test_down_takes_the_pods_along_and_up_brings_everything_back(running: Project) -> None:
    before = served_by(running)
    running.done("--profile", "demo", "down", "--timeout", "30")
    assert running.pods() == []
    up(running)
    until(lambda: served_by(running) == before, seconds=180, what="the version that served")


def test_every_profile_is_read_without_a_warning(project: Project) -> None:
    for profile in ("demo", "observability", "gpu", "backup"):
        read = project.compose("--profile", profile, "config", "--quiet")
        assert (read.returncode, read.stdout, read.stderr) == (0, "", "")
