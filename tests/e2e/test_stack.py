"""The local stack as its user meets it: started, hurt, and ended."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serving.home import REPOSITORY
from serving.stack.airflow_api import airflow_api
from serving.stack.processes import owned_by
from serving.stack.supervisor import Supervisor
from tests.e2e.stack import Stack, prepared_stack, run, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

COMPONENTS = [
    "airflow-api-server",
    "airflow-dag-processor",
    "airflow-scheduler",
    "airflow-triggerer",
    "envoy",
    "guard",
    "mlflow",
]


def test_every_component_is_healthy_and_counted(stack: Stack) -> None:
    status = stack.slipway_json("status")
    assert status["healthy"]
    assert sorted(program["name"] for program in status["programs"]) == COMPONENTS
    assert all(program["memory_bytes"] > 1e6 for program in status["programs"])


def test_nothing_listens_outside_this_machine(stack: Stack) -> None:
    assert stack.listening() == {"127.0.0.1"}


def test_starting_twice_is_safe(stack: Stack) -> None:
    before = {program.name: program.pid for program in Supervisor(stack.home).programs()}
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: stack.slipway_json("up"), range(2))
    assert (first["started"], second["started"]) == (False, False)
    assert {program.name: program.pid for program in Supervisor(stack.home).programs()} == before


def test_a_dag_runs_to_its_end(stack: Stack) -> None:
    assert stack.run_dag("probe_chain").state == "success"


def test_killed_components_come_back_and_the_stack_works_on(stack: Stack) -> None:
    killed = {name: stack.kill(name).pid for name in COMPONENTS}
    for name, pid in killed.items():
        wait_until(
            lambda n=name, p=pid: stack.program(n).pid not in (0, p), seconds=120, what=f"a new {name}"
        )
    stack.wait_until_healthy()
    assert stack.run_dag("probe_chain").state == "success"
    orphans = [
        owned for name in COMPONENTS for owned in owned_by(stack.home, name) if owned.process.ppid() == 1
    ]
    assert orphans == []


def test_a_task_whose_scheduler_is_killed_is_taken_over_at_once(stack: Stack) -> None:
    with airflow_api(stack.home) as api:
        long = api.trigger("probe_long", {"seconds": 20})
        wait_until(
            lambda: "running" in [task.state for task in api.tasks(long)], seconds=120, what="its start"
        )
        (before,) = api.tasks(long)
        stack.kill("airflow-scheduler")
        # Airflow by itself would notice after scheduler_health_check_threshold and the next check: minutes.
        wait_until(
            lambda: (
                api.tasks(long)[0].try_number > before.try_number and api.tasks(long)[0].state == "running"
            ),
            seconds=45,
            what="the task's next try",
        )
        assert stack.wait_for(api, long).state == "success"


def test_a_deferred_task_survives_its_triggerer(stack: Stack) -> None:
    with airflow_api(stack.home) as api:
        long = api.trigger("probe_deferred", {})
        wait_until(
            lambda: "deferred" in [task.state for task in api.tasks(long)], seconds=120, what="deferral"
        )
        stack.kill("airflow-triggerer")
        assert stack.wait_for(api, long, seconds=120).state == "success"


def test_a_task_log_can_be_read_without_a_log_server(stack: Stack) -> None:
    ended = stack.run_dag("probe_chain")
    with airflow_api(stack.home) as api:
        task = api.tasks(ended)[0]
        assert any("Returned value was: said" in line for line in api.log(ended, task))


def test_mlflow_keeps_models_artifacts_and_webhooks(stack: Stack, tmp_path: Path) -> None:
    script = f"""
import mlflow, mlflow.artifacts, pathlib
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
client.create_webhook("probe", "http://127.0.0.1:9/", [event], secret="hush")
pathlib.Path({str(tmp_path / "done")!r}).touch()
"""
    environ = stack.environ | {"MLFLOW_TRACKING_URI": stack.home.mlflow_url}
    done = run([sys.executable, "-c", script], environ=environ, cwd=tmp_path)
    assert (tmp_path / "done").exists(), done.stderr
    assert any((stack.home.mlflow / "artifacts").rglob("note.txt"))


def test_the_gateway_answers_for_unknown_models(stack: Stack) -> None:
    answer = httpx.post(f"{stack.home.gateway_url}/v2/models/nobody/infer", json={})
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
    other = prepared_stack(tmp_path, SLIPWAY_PORT_MLFLOW=str(stack.home.ports.mlflow))
    done = other.slipway("up")
    assert done.returncode == 1
    assert f"port {stack.home.ports.mlflow} (mlflow) is taken by pid {stack.program('mlflow').pid}" in (
        " ".join(done.stderr.split())
    )
    assert "SLIPWAY_PORT_MLFLOW" in done.stderr
    assert owned_by(other.home) == []
    report = json.loads(other.slipway("doctor", "--json").stdout)
    assert "ports" in [
        diagnosis["subject"] for diagnosis in report["diagnoses"] if diagnosis["level"] == "broken"
    ]


def test_a_killed_supervisor_is_noticed_and_the_stack_starts_again(stack: Stack) -> None:
    stack.kill_supervisor()
    left = {owned.process.pid for owned in owned_by(stack.home)}
    assert len(left) >= len(COMPONENTS)
    assert stack.slipway("status").returncode == 1
    assert "stale processes" in stack.slipway("doctor").stdout
    stack.start()
    assert not left & {owned.process.pid for owned in owned_by(stack.home)}
    assert stack.run_dag("probe_chain").state == "success"


def test_the_command_runs_from_anywhere(stack: Stack, tmp_path: Path) -> None:
    environ = stack.environ | {"SLIPWAY_VENV": str(Path(sys.prefix))}
    done = run([REPOSITORY / "slipway", "status", "--json"], environ=environ, cwd=tmp_path)
    assert json.loads(done.stdout)["healthy"], done.stderr
