"""The local stack as its user meets it: started, hurt, and ended."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.clients import DagRun
from tests.e2e.stack import COMMANDS, LAUNCHER, Stack, prepared_stack, run, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.at_length, pytest.mark.timeout(900)]

COMPONENTS = [
    "airflow-api-server",
    "airflow-dag-processor",
    "airflow-scheduler",
    "airflow-triggerer",
    "controller",
    "envoy",
    "mlflow",
]


def test_every_component_is_healthy_and_counted(stack: Stack) -> None:
    status = stack.slipway_json("status")
    assert status["healthy"]
    components = [name for name in _names(status) if not name.startswith("pod-")]
    assert components == COMPONENTS
    assert all(program["memory_bytes"] > 1e6 for program in status["programs"])


def _names(status: dict[str, Any]) -> list[str]:
    return sorted(program["name"] for program in status["programs"])


def test_nothing_listens_outside_this_machine(stack: Stack) -> None:
    assert stack.listening() == {"127.0.0.1"}


def test_starting_twice_is_safe(stack: Stack) -> None:
    before = _pids(stack)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: stack.slipway_json("up"), range(2))
    assert (first["started"], second["started"]) == (False, False)
    assert _pids(stack) == before


def _pids(stack: Stack) -> dict[str, int]:
    return {name: program["pid"] for name, program in stack.programs().items()}


@pytest.fixture(scope="module")
def chain(stack: Stack) -> DagRun:
    """A run of the chain of tasks that has ended."""
    return stack.run_dag("probe_chain")


def test_a_dag_runs_to_its_end(chain: DagRun) -> None:
    assert chain.state == "success"


def test_killed_components_come_back_and_the_stack_works_on(stack: Stack) -> None:
    killed = {name: stack.kill(name) for name in COMPONENTS}
    wait_until(lambda: _are_others(stack, killed), seconds=120, what="a new process of each", every=COMMANDS)
    stack.wait_until_healthy()
    assert stack.run_dag("probe_chain").state == "success"
    orphans = [process for process in stack.processes() if process.ppid() == 1]
    assert [process.pid for process in orphans] in ([], [stack.supervisor_pid])


def _are_others(stack: Stack, killed: dict[str, int]) -> bool:
    now = _pids(stack)
    return all(now[name] not in (0, pid) for name, pid in killed.items())


def test_a_task_whose_scheduler_is_killed_is_taken_over_at_once(stack: Stack) -> None:
    long = stack.platform.trigger("probe_long", {"seconds": 20})
    wait_until(lambda: _states(stack, long) == ["running"], seconds=120, what="its start")
    (before,) = stack.platform.tasks(long)
    stack.kill("airflow-scheduler")
    # Airflow by itself would notice after scheduler_health_check_threshold and the next check: minutes.
    wait_until(
        lambda: _tries(stack, long) > before["try_number"] and _states(stack, long) == ["running"],
        seconds=45,
        what="the task's next try",
    )
    assert stack.wait_for(long).state == "success"


def _states(stack: Stack, run: DagRun) -> list[str | None]:
    return [task["state"] for task in stack.platform.tasks(run)]


def _tries(stack: Stack, run: DagRun) -> int:
    return max(int(task["try_number"]) for task in stack.platform.tasks(run))


def test_a_deferred_task_survives_its_triggerer(stack: Stack) -> None:
    long = stack.platform.trigger("probe_deferred", {})
    wait_until(lambda: _states(stack, long) == ["deferred"], seconds=120, what="deferral")
    stack.kill("airflow-triggerer")
    assert stack.wait_for(long, seconds=120).state == "success"


def test_a_task_log_can_be_read_without_a_log_server(stack: Stack, chain: DagRun) -> None:
    task = next(task for task in stack.platform.tasks(chain) if task["task_id"] == "say")
    assert any("Returned value was: said" in line for line in stack.platform.log(chain, task))


def test_mlflow_keeps_models_artifacts_and_webhooks(stack: Stack, tmp_path: Path) -> None:
    script = f"""
import mlflow, mlflow.artifacts, mlflow.exceptions, pathlib
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
client = MlflowClient()
with mlflow.start_run() as run:
    mlflow.log_text("kept", "note.txt")
assert mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt") == "kept"
client.create_registered_model("probe")
version = client.create_model_version("probe", run.info.artifact_uri, run.info.run_id)
client.set_registered_model_alias("probe", "candidate", version.version)
event = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)
[ours] = client.list_webhooks()
assert ours.url.endswith("/slipway/webhooks/mlflow")
try:
    client.create_webhook("probe", "http://127.0.0.1:9/", [event], secret="hush")
except mlflow.exceptions.MlflowException as refused:
    assert ours.url in str(refused)
else:
    raise AssertionError("it would fetch any address")
pathlib.Path({str(tmp_path / "done")!r}).touch()
"""
    environ = stack.environ | {"MLFLOW_TRACKING_URI": stack.mlflow_url}
    done = run([sys.executable, "-c", script], environ=environ, cwd=tmp_path)
    assert (tmp_path / "done").exists(), done.stderr
    assert any((stack.root / "mlflow" / "artifacts").rglob("note.txt"))


def test_the_gateway_answers_for_unknown_models(stack: Stack) -> None:
    answer = httpx.post(f"{stack.gateway_url}/v2/models/nobody/infer", json={})
    assert answer.status_code == 404


def test_releasing_an_unknown_model_lists_the_known(stack: Stack) -> None:
    done = stack.slipway("release", "nobody")
    assert done.returncode == 1
    assert "models with a spec: credit_risk" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_finds_nothing_wrong(stack: Stack) -> None:
    diagnoses = stack.slipway_json("doctor")["diagnoses"]
    assert [diagnosis for diagnosis in diagnoses if diagnosis["level"] == "broken"] == []


def test_a_taken_port_is_named_before_anything_starts(stack: Stack, tmp_path: Path) -> None:
    port = httpx.URL(stack.mlflow_url).port
    other = prepared_stack(tmp_path, SLIPWAY_PORT_MLFLOW=str(port))
    done = other.slipway("up")
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"port {port} (mlflow) is taken by pid {stack.programs()['mlflow']['pid']}" in said
    assert "SLIPWAY_PORT_MLFLOW" in done.stderr
    assert other.processes() == []
    report = json.loads(other.slipway("doctor", "--json").stdout)
    broken = [one["subject"] for one in report["diagnoses"] if one["level"] == "broken"]
    assert "ports" in broken


def test_a_killed_supervisor_is_noticed_and_the_stack_starts_again(stack: Stack) -> None:
    stack.kill_supervisor()
    left = {process.pid for process in stack.processes()}
    assert len(left) >= len(COMPONENTS)
    assert stack.slipway("status").returncode == 1
    assert "stale processes" in stack.slipway("doctor").stdout
    stack.start()
    assert not left & {process.pid for process in stack.processes()}
    assert stack.run_dag("probe_chain").state == "success"


def test_the_command_runs_from_anywhere(stack: Stack, tmp_path: Path) -> None:
    done = run([LAUNCHER, "status", "--json"], environ=stack.environ, cwd=tmp_path)
    assert json.loads(done.stdout)["healthy"], done.stderr
