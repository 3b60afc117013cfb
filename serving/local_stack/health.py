"""Whether a component does its work, beyond being a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx

from serving.home import Home
from serving.platforms import pods
from serving.supervision.supervisor import RUNNING, ProgramState

# A probe says None when all is well, otherwise what is missing.
Probe = Callable[[httpx.Client, Home, ProgramState], str | None]

# Airflow's own name of the loop whose heartbeat proves the component.
_HEARTBEATS = {
    "airflow-scheduler": "scheduler",
    "airflow-dag-processor": "dag_processor",
    "airflow-triggerer": "triggerer",
}


def shortcomings(home: Home, programs: list[ProgramState]) -> dict[str, str | None]:
    """Full program name -> None if healthy, otherwise what is wrong, for all programs at once."""
    # Only this machine is asked, so no proxy from the environment may come between.
    with httpx.Client(timeout=3, trust_env=False) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda program: _shortcoming(client, home, program), programs)
        return {program.full_name: answer for program, answer in zip(programs, answers, strict=True)}


def _shortcoming(client: httpx.Client, home: Home, program: ProgramState) -> str | None:
    if program.state != RUNNING:
        return f"{program.state.lower()} {program.problem}".strip()
    try:
        usual = _answers_for_its_models if pods.is_pod(program) else _is_a_process
        return _PROBES.get(program.group, usual)(client, home, program)
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__})"


def _is_a_process(client: httpx.Client, home: Home, program: ProgramState) -> str | None:
    return None


def _answers_for_its_models(client: httpx.Client, home: Home, program: ProgramState) -> str | None:
    """A pod says itself what it was started for and does not answer."""
    endpoint = pods.endpoint_of(home, program)
    if endpoint is None:
        return None
    answer = client.get(f"http://{endpoint}/v2/health/ready")
    return (
        None if answer.status_code == httpx.codes.OK else f"answers {answer.status_code}: {answer.text[:300]}"
    )


def _answers(url: Callable[[Home], str]) -> Probe:
    def probe(client: httpx.Client, home: Home, program: ProgramState) -> str | None:
        status = client.get(url(home)).status_code
        return None if status == httpx.codes.OK else f"answers {status}"

    return probe


def _beats(client: httpx.Client, home: Home, program: ProgramState) -> str | None:
    """Airflow reports the last heartbeat of any process of this kind: it must be of this one."""
    loop = _HEARTBEATS[program.group]
    report: Mapping[str, Any] = (
        client.get(f"{home.airflow_url}/api/v2/monitor/health").raise_for_status().json()
    )
    beat = report[loop][f"latest_{loop}_heartbeat"]
    if beat is None or datetime.fromisoformat(beat) < datetime.fromtimestamp(program.started_at, UTC):
        return "no heartbeat yet"
    return None if report[loop]["status"] == "healthy" else f"last heartbeat {beat}"


_PROBES: dict[str, Probe] = {
    "mlflow": _answers(lambda home: f"{home.mlflow_url}/health"),
    "envoy": _answers(lambda home: f"{home.envoy_admin_url}/ready"),
    # The part that tasks speak to builds itself when it is first asked, for seconds: here, not in a release.
    "airflow-api-server": _answers(lambda home: f"{home.airflow_url}/execution/health"),
    "controller": _answers(lambda home: f"http://127.0.0.1:{home.ports.controller}/health"),
    **dict.fromkeys(_HEARTBEATS, _beats),
}
