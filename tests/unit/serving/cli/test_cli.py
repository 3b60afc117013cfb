from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from model_store.installation import ROOT as REPOSITORY
from serving.cli import output, releases, stack
from serving.cli.app import app
from serving.control.audit import AuditTrail, take_late
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home
from serving.ledger.memory import MemoryLedger
from serving.local_stack import apis
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot, TrafficSplit

SPEC = REPOSITORY / "dags" / "releases" / "credit_risk.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_PORT_BASE", "1900")
    return Home.locate()


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error; lines as they would be without a terminal's width."""
    done = CliRunner(env={"COLUMNS": "500"}).invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_without_arguments_it_says_what_it_can_do() -> None:
    _, out, _ = run("--help")
    for command in (
        "up",
        "down",
        "status",
        "doctor",
        "release",
        "rollback",
        "validate",
        "replay",
        "demo",
        "test",
        "bench",
    ):
        assert command in out


def test_no_command_hides_another_of_the_same_name() -> None:
    group = typer.main.get_group(app)
    written = [each.name or str(each.callback and each.callback.__name__) for each in app.registered_commands]
    written += [str(each.name) for each in app.registered_groups]
    assert len(written) == len(set(written)) == len(group.commands)


def test_a_preview_is_asked_for_with_the_headers_that_are_printed(home: Home) -> None:
    code, out, _ = run("preview-token", "credit_risk")
    assert code == 0
    arm, token = out.splitlines()
    assert arm == "x-slipway-arm: candidate"
    assert token.startswith("x-slipway-preview: ey")


def test_addresses_are_told_of_a_stack_that_never_ran(home: Home) -> None:
    code, out, _ = run("addresses", "--json")
    said = json.loads(out)
    assert (code, said["home"], said["gateway"]) == (0, str(home.root), "http://127.0.0.1:1902")
    # Nothing is made, and nobody's password told.
    assert list(home.root.iterdir()) == []
    assert "login" not in said


@pytest.mark.parametrize("command", [["status"], ["release", "m"], ["rollback", "m"]])
def test_what_needs_a_running_stack_says_how_to_start_it(home: Home, command: list[str]) -> None:
    status, _, err = run(*command)
    assert status == 1
    assert "remedy: " in err
    assert "./slipway up" in err
    assert "Traceback" not in err


def test_failures_are_json_for_machines(home: Home) -> None:
    status, out, err = run("status", "--json")
    error = json.loads(out)["error"]
    assert status == 1
    assert "not running" in error["problem"]
    assert error["remedy"] == "Start it: ./slipway up"
    assert error["retryable"] is True
    assert err == ""


def test_a_fault_of_ours_is_told_without_a_traceback(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(stack, "status", broken)
    status, _, err = run("status")
    assert status == 1
    assert "unexpected ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    assert "ZeroDivisionError" in (home.logs / "cli.log").read_text()


@pytest.mark.parametrize("base", ["80", "seven"])
def test_a_port_base_that_is_no_port_is_refused(home: Home, base: str) -> None:
    status, _, err = run("--port-base", base, "status")
    assert status != 0
    assert "Traceback" not in err


def test_down_of_nothing_succeeds(home: Home) -> None:
    status, out, _ = run("down", "--json")
    assert (status, json.loads(out)) == (0, {"ended_processes": 0})


def test_a_valid_spec_is_valid(home: Home) -> None:
    status, out, _ = run("validate", str(SPEC))
    assert status == 0
    assert "credit_risk" in out


def test_a_wrong_spec_is_refused_with_file_and_line(home: Home, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SPEC.read_text() + "\nunheard_of: 1\n")
    status, _, err = run("validate", str(wrong))
    assert status == 1
    assert f"{wrong}:" in err
    assert "unheard_of" in err


def test_the_doctor_names_a_broken_thing_and_fails(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.root.chmod(stat.S_IRWXU)
    home.credentials.write_text("{}")
    home.credentials.chmod(0o644)
    status, out, _ = run("doctor", "--json")
    found = {(d["subject"], d["level"]) for d in json.loads(out)["diagnoses"]} if status == 0 else set()
    assert status == 0, out
    assert ("directory", "warning") in found
    monkeypatch.setenv("SLIPWAY_HOME", str(home.root / "50%"))
    status, out, _ = run("doctor", "--json")
    assert (status, json.loads(out)["healthy"]) == (1, False)
    status, out, err = run("doctor")
    assert status == 1
    assert "SLIPWAY_HOME" in out
    assert "broken: directory" in err


# -- with an Airflow that answers from a table ---------------------------------------------------------------


BACK = "m-rollback-20260101T000000Z"
ASKED = {"state": "requested", "words": "asked for; version 3 is not started yet", "returned_at": None}
STARTING = {"state": "under_way", "words": "version 3 is being started", "returned_at": None}
BACK_SINCE = {
    "state": "traffic_returned",
    "words": "all requests go to version 3 since 2026-01-01 12:00:00 UTC",
    "returned_at": "2026-01-01T12:00:00Z",
}


class Airflow:
    """Answers as Airflow's REST API does; `runs` are the states that one run goes through."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)
        self.asked: list[dict[str, Any]] = []
        # So many requests come before Airflow has read the DAG's file, and so many find it restarting.
        self.unread = self.restarting = 0
        self.failure: str | None = "accuracy dropped by 3 % (limit 1 %)"
        # How far a rollback is, each time that somebody asks; what asking for it answers at once.
        self.returning: list[dict[str, Any]] = []
        self.at_once: dict[str, Any] | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if self.restarting > 0 and path.endswith("/taskInstances"):
            self.restarting -= 1
            raise httpx.ConnectError("refused")
        if path == "/slipway/api/v1/releases":
            return self._release(json.loads(request.content))
        if path.endswith("/rollback"):
            return self._roll_back(path, json.loads(request.content))
        if "/rollbacks/" in path:
            return httpx.Response(200, json=self.returning.pop(0))
        if path.startswith("/slipway/api/v1/releases/"):
            return httpx.Response(200, json={"airflow_state": self.states.pop(0)})
        if path.endswith("/taskInstances"):
            return httpx.Response(
                200, json={"task_instances": [self._task("gate", "failed"), self._task("a", "success")]}
            )
        if "/xcomEntries/" in path:
            return httpx.Response(200, json={"value": self.failure}) if self.failure else httpx.Response(404)
        if "/logs/" in path:
            return httpx.Response(200, json={"content": [{"event": "started"}, {"event": "Killed"}]})
        if path == "/api/v2/dags":
            return httpx.Response(200, json={"dags": [{"dag_id": "release_credit_risk"}]})
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return httpx.Response(200, json={"dag_id": "release_m", "dag_run_id": "r1", "state": state})

    def _release(self, body: dict[str, Any]) -> httpx.Response:
        if body["model"] == "nobody":
            said = {"detail": "no model nobody is released", "remedy": "models with a spec: credit_risk"}
            return httpx.Response(404, json=said)
        if self.unread > 0:
            self.unread -= 1
            said = {"detail": f"Airflow has no DAG release_{body['model']} yet", "remedy": "wait"}
            return httpx.Response(409, json=said)
        self.asked.append(body)
        run = {"dag_id": f"release_{body['model']}", "run_id": "r1", "url": ""}
        return httpx.Response(202, json={"release_id": "m-v7-20260101T000000Z", "run": run})

    def _roll_back(self, path: str, body: dict[str, Any]) -> httpx.Response:
        self.asked.append({"path": path.removeprefix("/slipway/api/v1"), **body})
        run = {"dag_id": "model_rollback", "run_id": "r1", "url": "/dags/model_rollback/runs/r1"}
        said = {"model": "m", "run": run, "release_id": None, "rollback_id": BACK, **ASKED}
        return httpx.Response(202, json=self.at_once or said)

    def _task(self, name: str, state: str) -> dict[str, Any]:
        when = {"start_date": "2026-01-01", "end_date": "2026-01-02"}
        return {"task_id": name, "map_index": -1, "try_number": 1, "state": state, **when}


@pytest.fixture
def answering(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[[Airflow], Airflow]:
    def answer(airflow: Airflow) -> Airflow:
        @contextmanager
        def signed_in(home: Home) -> Iterator[httpx.Client]:
            with httpx.Client(transport=httpx.MockTransport(airflow), base_url="http://airflow") as client:
                yield client

        monkeypatch.setattr(apis, "signed_in", signed_in)
        for module in (output, releases):
            monkeypatch.setattr(module, "POLL_SECONDS", 0)
        return airflow

    return answer


def test_a_release_is_started_with_what_was_asked(answering: Callable[[Airflow], Airflow]) -> None:
    airflow = answering(Airflow("running"))
    status, out, _ = run("release", "m", "7", "--reason", "Friday", "--json")
    assert status == 0
    assert json.loads(out)["state"] == "queued"
    assert json.loads(out)["release_id"] == "m-v7-20260101T000000Z"
    assert airflow.asked == [{"model": "m", "version": "7", "reason": "Friday"}]


def test_without_a_version_the_specs_own_alias_is_released(answering: Callable[[Airflow], Airflow]) -> None:
    airflow = answering(Airflow("running"))
    run("release", "m")
    assert airflow.asked == [{"model": "m", "reason": "asked for on the command line"}]


def test_a_release_that_is_waited_for_tells_each_task_and_succeeds(
    answering: Callable[[Airflow], Airflow],
) -> None:
    answering(Airflow("queued", "running", "success"))
    status, out, err = run("release", "m", "--wait")
    assert status == 0
    assert "release_m: success" in out
    assert err.count("a: success") == 1


def test_a_release_that_fails_says_why(answering: Callable[[Airflow], Airflow]) -> None:
    answering(Airflow("running", "failed"))
    status, _, err = run("release", "m", "--wait")
    assert status == 1
    assert "gate: accuracy dropped by 3 % (limit 1 %)" in err
    assert "/dags/release_m/runs/r1" in err


def test_a_task_that_died_without_a_word_is_quoted_from_its_log(
    answering: Callable[[Airflow], Airflow],
) -> None:
    airflow = answering(Airflow("failed"))
    airflow.failure = None
    _, _, err = run("release", "m", "--wait")
    assert "gate: Killed" in err


def test_an_unknown_model_lists_the_known(answering: Callable[[Airflow], Airflow]) -> None:
    answering(Airflow("running"))
    status, _, err = run("release", "nobody")
    assert status == 1
    assert "models with a spec: credit_risk" in err


def test_a_dag_that_airflow_has_not_read_yet_is_waited_for(answering: Callable[[Airflow], Airflow]) -> None:
    airflow = answering(Airflow("running"))
    airflow.unread = 3
    assert run("release", "credit_risk")[0] == 0
    assert len(airflow.asked) == 1


def test_a_restarting_airflow_does_not_end_the_wait(answering: Callable[[Airflow], Airflow]) -> None:
    airflow = answering(Airflow("running", "running", "success"))
    airflow.restarting = 2
    assert run("release", "m", "--wait")[0] == 0


def test_a_rollback_that_was_asked_for_is_not_called_done(answering: Callable[[Airflow], Airflow]) -> None:
    airflow = answering(Airflow("success"))
    status, out, _ = run("rollback", "m", "3", "--reason", "slow")
    assert (status, out) == (0, "Requested: asked for; version 3 is not started yet.\n")
    assert airflow.asked == [{"path": "/models/m/rollback", "version": 3, "reason": "slow"}]


def test_a_rollback_that_is_waited_for_says_when_requests_went_back(
    answering: Callable[[Airflow], Airflow],
) -> None:
    airflow = answering(Airflow("running", "success"))
    airflow.returning = [ASKED, STARTING, STARTING, BACK_SINCE]
    status, out, _ = run("rollback", "m", "3", "--wait")
    assert status == 0
    assert out.splitlines() == [
        "Requested: asked for; version 3 is not started yet.",
        "Under way: version 3 is being started.",
        "Traffic returned: all requests go to version 3 since 2026-01-01 12:00:00 UTC.",
    ]
    airflow.returning, airflow.states = [BACK_SINCE], ["success"]
    told = json.loads(run("rollback", "m", "3", "--wait", "--json")[1])
    assert (told["state"], told["returned_at"]) == ("traffic_returned", "2026-01-01T12:00:00Z")


def test_a_rollback_whose_run_ends_without_moving_requests_fails(
    answering: Callable[[Airflow], Airflow],
) -> None:
    airflow = answering(Airflow("failed"))
    airflow.returning = [{"state": "failed", "words": "its run ended", "returned_at": None}]
    status, _, err = run("rollback", "m", "--wait")
    assert status == 1
    assert "failed: its run ended" in err
    assert "gate: accuracy dropped" in err


def test_a_rollback_that_is_done_at_once_is_waited_for_until_it_is_settled(
    answering: Callable[[Airflow], Airflow],
) -> None:
    airflow = answering(Airflow("running", "running", "failed"))
    airflow.at_once = {"model": "m", "run": None, "release_id": "m-v3-20260101T000000Z", **BACK_SINCE}
    status, out, _ = run("rollback", "m", "--wait")
    assert (status, airflow.states) == (0, [])
    assert out == "Traffic returned: all requests go to version 3 since 2026-01-01 12:00:00 UTC.\n"


def test_a_version_that_is_no_number_is_not_gone_back_to(answering: Callable[[Airflow], Airflow]) -> None:
    airflow = answering(Airflow("running"))
    assert run("rollback", "m", "champion")[0] == 1
    assert airflow.asked == []


# -- with Airflow down ---------------------------------------------------------------------------------------


@pytest.fixture
def half(home: Home) -> Home:
    """A candidate of m has half of the traffic: version 2, and version 1 the other half."""
    stable = Deployment(DeploymentRef("m", Slot.BLUE, "1", 1), (Endpoint("127.0.0.1", 9001),))
    candidate = Deployment(DeploymentRef("m", Slot.GREEN, "2", 2), (Endpoint("127.0.0.1", 9002),))
    router = EnvoyFileRouter(home)
    router.write("m", ALL_STABLE, stable=stable, candidate=None, at=0)
    router.write("m", TrafficSplit(50, 50), stable=stable, candidate=candidate, at=1)
    return home


@pytest.mark.parametrize("version", [[], ["1"]])
def test_while_airflow_is_down_a_rollback_returns_the_traffic_itself(half: Home, version: list[str]) -> None:
    status, out, err = run("rollback", "m", *version, "--reason", "slow")
    assert status == 0, err
    assert "returned directly" in out
    # There is no controller whose ledger would have it: it takes it up when it is there again.
    ledger = MemoryLedger()
    assert take_late(ledger, half.late) == 1
    (entry,) = AuditTrail(ledger, half.late).entries()
    assert (entry.action, entry.model, entry.version, entry.reason) == ("rollback", "m", 1, "slow")
    assert entry.who.endswith("on the command line")
    assert EnvoyFileRouter(half).read("m").split == ALL_STABLE


def test_a_rollback_does_not_wait_for_its_line_in_the_audit_trail(
    half: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("serving.control.audit.write_file", full)
    status, _, err = run("rollback", "m", "--reason", "slow")
    assert (status, "not in the audit trail: the controller does not" in " ".join(err.split())) == (0, True)
    assert EnvoyFileRouter(half).read("m").split == ALL_STABLE


@pytest.mark.parametrize("asked", [["m", "7"], ["other"]])
def test_what_cannot_be_returned_without_airflow_is_left_alone(half: Home, asked: list[str]) -> None:
    status, _, err = run("rollback", *asked)
    assert status == 1
    assert "./slipway up" in err
    assert EnvoyFileRouter(half).read("m").split == TrafficSplit(50, 50)


def test_what_a_command_does_is_imported_when_it_runs() -> None:
    """Help is what a person asks for most often, and numpy alone takes longer to import than all of it."""
    code = "import sys, serving.cli.app; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert "serving.cli.app" in imported
    heavy = {"numpy", "pydantic", "sqlalchemy", "supervisor", "onnxruntime", "pandas", "mlflow"}
    assert imported & heavy == set()
    assert (
        imported & {"serving.composition", "serving.control", "serving.gateway", "model_store.build"} == set()
    )
