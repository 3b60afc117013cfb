"""What runs in the local stack: each component's command and environment, and whether it does its work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from model_store import NO_TELEMETRY
from model_store.errors import Permanent
from model_store.installation import name_here, python_path
from model_store.locks import locked
from serving import gateway
from serving.credentials import Credentials, credentials_of
from serving.home import Home
from serving.ledger.base import URL_VARIABLE
from serving.local_stack import airflow_config, mlflow_config
from serving.platforms import pods
from serving.supervision.component import Component
from serving.supervision.supervisor import RUNNING, ProgramState

BIN = Path(sys.executable).parent
# What the stack is started with and not everybody may see: the ledger is the controller's alone.
SECRETS = frozenset({URL_VARIABLE})


def components(home: Home) -> dict[str, Component]:
    """Every fixed component by name (pods come and go: `serving.platforms.local`)."""
    credentials = credentials_of(home)
    found = [_envoy(home), _controller(), _mlflow(home, credentials), *_airflow(home)]
    return {component.name: component for component in found}


def supervised(home: Home) -> dict[str, Component]:
    """Those that this machine runs: what moves traffic may be elsewhere, and its proxies then are as well."""
    elsewhere = {"envoy", "controller"} if home.controller_at else set()
    return {name: each for name, each in components(home).items() if name not in elsewhere}


def component(home: Home, name: str) -> Component:
    """One component. Raises `Permanent` listing what exists."""
    known = components(home)
    if name not in known:
        raise Permanent(f"no component {name!r}", remedy=f"Known components: {', '.join(known)}.")
    return known[name]


def common_environment(home: Home) -> dict[str, str]:
    """What every component and pod gets, so that all of them find the same installation."""
    return {
        "SLIPWAY_HOME": str(home.root),
        **python_path(),
        "MLFLOW_TRACKING_URI": home.mlflow_url,
        # A proxy for the world outside must not see what the components say to each other.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        # Nothing here tells its makers anything.
        **NO_TELEMETRY,
        "GX_ANALYTICS_ENABLED": "False",
        # Airflow renames its processes; without this the new name overwrites the marks in their environment.
        "SPT_NOENV": "1",
        **airflow_config.environment(home),
    }


def _mlflow(home: Home, credentials: Credentials) -> Component:
    return Component(
        "mlflow",
        mlflow_config.command(home),
        env=mlflow_config.environment(home, credentials),
        prepare=lambda: mlflow_config.make_folders(home),
    )


def _envoy(home: Home) -> Component:
    return Component("envoy", tuple(gateway.command(home)), prepare=lambda: gateway.prepare(home))


def _controller() -> Component:
    """The loop that takes a bad version out of traffic; it needs neither Airflow nor MLflow."""
    argv = (sys.executable, "-m", name_here("serving.controller"))
    return Component("controller", argv, secrets=(URL_VARIABLE,))


def _airflow(home: Home) -> list[Component]:
    def airflow(
        name: str,
        *arguments: str,
        job: str | None = None,
        niceness: int = 0,
        env: dict[str, str] | None = None,
    ) -> Component:
        def prepare() -> None:
            migrate_airflow(home)
            if job:
                airflow_config.end_running(airflow_config.database(home), job)

        argv = (sys.executable, "-m", "airflow", name, *arguments)
        return Component(f"airflow-{name}", argv, env=env or {}, prepare=prepare, niceness=niceness)

    return [
        # As `slipway_airflow.page` asks for it: it must not read a home in a test's API server.
        airflow("api-server", env={"SLIPWAY_WARM_PAGES": "1"}),
        # Airflow's log servers listen on every interface; here the API server reads the files itself.
        # Tasks inherit the niceness: building the next version must not slow down the one that serves.
        airflow("scheduler", "--skip-serve-logs", job="SchedulerJob", niceness=5),
        airflow("dag-processor", job="DagProcessorJob", niceness=5),
        airflow("triggerer", "--skip-serve-logs", job="TriggererJob"),
    ]


def migrate_airflow(home: Home) -> None:
    """Bring Airflow's database to this version's schema, once, however many components ask at once."""
    with locked(home.airflow / "migration.lock"):
        if not airflow_config.is_migrated(home):
            subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True)
            airflow_config.record_migrated(home)


# A probe says None when all is well, otherwise what is missing.
Probe = Callable[[httpx.Client, Home, ProgramState], str | None]

AIRFLOW_HEALTH = "/api/v2/monitor/health"
# Airflow's own name of the loop whose heartbeat proves the component.
HEARTBEATS = {
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
    loop = HEARTBEATS[program.group]
    report: Mapping[str, Any] = client.get(f"{home.airflow_url}{AIRFLOW_HEALTH}").raise_for_status().json()
    beat = report[loop][f"latest_{loop}_heartbeat"]
    if beat is None or datetime.fromisoformat(beat) < datetime.fromtimestamp(program.started_at, UTC):
        return "no heartbeat yet"
    return None if report[loop]["status"] == "healthy" else f"last heartbeat {beat}"


_PROBES: dict[str, Probe] = {
    "mlflow": _answers(lambda home: f"{home.mlflow_url}/health"),
    "envoy": _answers(lambda home: f"{home.envoy_stats_url}/ready"),
    # The part that tasks speak to builds itself when it is first asked, for seconds: here, not in a release.
    "airflow-api-server": _answers(lambda home: f"{home.airflow_url}/execution/health"),
    "controller": _answers(lambda home: f"http://127.0.0.1:{home.ports.controller}/health"),
    **dict.fromkeys(HEARTBEATS, _beats),
}
