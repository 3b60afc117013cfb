"""The commands that act over the REST API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serving.cli.app import app
from serving.home import Home

RELEASE = "m-v2-20260101T000000Z"
STATE = {"release_id": RELEASE, "phase": "progressing", "candidate_weight": 25.0, "paused": "by ci: x"}


class Server:
    """Answers `answers[method path]`; remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, Any, dict[str, str]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = f"{request.method} {request.url.path.removeprefix('/slipway/api/v1')}"
        body = json.loads(request.content) if request.content else dict(request.url.params)
        self.asked.append((name, body, dict(request.headers)))
        status, said = self.answers[name]
        return httpx.Response(status, json=said)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    made = httpx.Client

    def client(**settings: Any) -> httpx.Client:
        # Airflow's alone has one; Envoy, asked by its socket, is not there.
        if "base_url" not in settings:
            return made(**settings)
        return made(transport=httpx.MockTransport(server), base_url=settings["base_url"])

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    for name in ("SLIPWAY_URL", "SLIPWAY_TOKEN", "SLIPWAY_USER", "SLIPWAY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(httpx, "Client", client)
    server.answers["POST /auth/token"] = (201, {"access_token": "t-1"})
    return server


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "500"}).invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["pause", "resume", "skip", "abort"])
def test_an_act_is_sent_with_its_reason_and_told(server: Server, name: str) -> None:
    server.answers[f"POST /releases/{RELEASE}/{name}"] = (200, STATE)
    status, out, _ = run(name, RELEASE, "--reason", "x")
    assert (status, out) == (0, f"{RELEASE} is paused, progressing, 25 % on the candidate.\n")
    assert server.asked[-1][1] == {"reason": "x"}


@pytest.mark.parametrize(("name", "word"), [("approve", "approved"), ("reject", "rejected")])
def test_an_answer_says_how_many_more_are_needed(server: Server, name: str, word: str) -> None:
    said = {"release_id": RELEASE, "answer": word, "still_needed": 1}
    server.answers[f"POST /releases/{RELEASE}/{name}"] = (200, said)
    status, out, _ = run(name, RELEASE, "--reason", "x")
    assert (status, out) == (0, f"{RELEASE} is {word}, 1 more must approve.\n")


def test_nothing_is_done_without_a_reason(server: Server) -> None:
    assert run("pause", RELEASE)[0] == 2
    assert server.asked == []


def test_a_refusal_is_told_in_the_servers_words(server: Server) -> None:
    said = {"detail": "m is paused already, paused by ada", "remedy": "look again"}
    server.answers[f"POST /releases/{RELEASE}/pause"] = (409, said)
    status, _, err = run("pause", RELEASE, "--reason", "x")
    assert status == 1
    assert "paused by ada" in err
    assert "remedy: look again" in err
    assert "Traceback" not in err


def test_a_token_of_the_environment_is_used_as_it_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_TOKEN", "t-2")
    monkeypatch.setenv("SLIPWAY_URL", "https://slipway.example/")
    server.answers["GET /freezes"] = (200, [])
    assert run("freezes")[0] == 0
    (asked,) = server.asked
    assert (asked[2]["authorization"], asked[2]["host"]) == ("Bearer t-2", "slipway.example")


def test_the_installations_own_password_goes_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_URL", "https://slipway.example")
    status, _, err = run("freezes")
    assert (status, "SLIPWAY_TOKEN" in err, server.asked) == (1, True, [])


def test_an_account_of_the_environment_is_signed_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_USER", "ci")
    monkeypatch.setenv("SLIPWAY_PASSWORD", "a word")
    server.answers["GET /freezes"] = (200, [])
    assert run("freezes", "--json")[:2] == (0, "[]\n")
    assert server.asked[0][1] == {"username": "ci", "password": "a word"}
    server.answers["POST /auth/token"] = (401, {"detail": "Invalid credentials"})
    status, _, err = run("freezes")
    assert (status, "refuses this account" in err, "a word" in err) == (1, True, False)


def test_freezing_says_how_to_lift_it(server: Server) -> None:
    said = {"id": "0123456789ab", "model": None, "words": "frozen until somebody lifts it: sales (ci)"}
    server.answers["POST /freezes"] = (201, said)
    status, out, _ = run("freeze", "--reason", "sales", "--hours", "2")
    assert (status, server.asked[-1][1]) == (0, {"reason": "sales", "hours": 2.0})
    assert "Lift it: 0123456789ab" in out
    server.answers["POST /freezes/0123456789ab/lift"] = (200, said)
    assert run("unfreeze", "0123456789ab", "--reason", "over")[0] == 0


def test_what_people_wrote_is_no_markup_of_ours(server: Server) -> None:
    entry = {
        "at": "2026-01-01T00:00:00Z",
        "who": "ada",
        "action": "freeze",
        "model": None,
        "release_id": None,
    }
    server.answers["GET /audit"] = (200, [{**entry, "reason": "[bold]x[/bold] [/nonsense]"}])
    status, out, _ = run("audit")
    assert (status, "[bold]x[/bold] [/nonsense]" in out) == (0, True)


def test_a_preview_tells_the_steps_and_the_warnings(server: Server) -> None:
    said = {
        "version": 3,
        "steps": [{"weight": 5.0, "hold_seconds": 60.0}],
        "approval": {"required": 1, "approvers": ["ada", "grace"]},
        "warnings": ["version 3 serves already"],
    }
    server.answers["GET /releases/preview"] = (200, said)
    _, out, _ = run("preview", "m", "3")
    assert "m version 3 would roll out: 5 % for 60 s." in out
    assert "1 of ada, grace have to approve." in out
    assert "! version 3 serves already" in out


def test_users_are_added_shown_and_removed(server: Server, tmp_path: Path) -> None:
    server.answers["GET /api/v2/version"] = (503, {})
    status, out, _ = run("users", "add", "rita", "--role", "releaser", "--json")
    made = json.loads(out)
    assert (status, made["user"], made["role"]) == (0, "rita", "releaser")
    _, out, _ = run("users", "list")
    assert "rita" in out
    assert made["password"] not in out
    assert run("users", "remove", "rita")[0] == 0
    assert "rita" not in run("users", "list")[1]
    assert made["password"] not in "".join(
        path.read_text(errors="replace") for path in Home.locate().root.rglob("*") if path.is_file()
    )


def test_a_password_from_standard_input_is_not_repeated(server: Server) -> None:
    server.answers["GET /api/v2/version"] = (503, {})
    done = CliRunner().invoke(
        app, ["users", "add", "rita", "--role", "viewer", "--password-stdin"], input="a long word\n"
    )
    assert done.exit_code == 0
    assert "a long word" not in done.stdout


STILL = {
    "model": "m",
    "version": 2,
    "release_id": RELEASE,
    "kind": "dag_paused",
    "words": "release_m is paused in Airflow: the split stays as it is",
    "way_out": "unpause it: ./slipway unpause m",
}


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack whose programs are all well, wherever they run."""
    monkeypatch.setattr("serving.local_stack.lifecycle.program_statuses", lambda home: [])
    monkeypatch.setattr("serving.local_stack.elsewhere.statuses", lambda home: [])


@pytest.mark.usefixtures("running")
def test_status_says_what_stands_still_and_how_it_goes_on(server: Server) -> None:
    server.answers["GET /standing-still"] = (200, [STILL, {**STILL, "release_id": None, "version": None}])
    _, out, _ = run("status")
    assert f"{RELEASE}: {STILL['words']}.\n  to go on: {STILL['way_out']}" in out
    assert f"m: {STILL['words']}." in out
    _, told, _ = run("status", "--json")
    assert json.loads(told)["standing_still"][0] == STILL


@pytest.mark.usefixtures("running")
def test_status_does_not_take_silence_for_nothing_standing_still(server: Server) -> None:
    server.answers["GET /standing-still"] = (503, {"detail": "busy", "remedy": "wait"})
    assert "What stands still is not known" in run("status")[1]
    assert json.loads(run("status", "--json")[1])["standing_still"] is None


@pytest.mark.parametrize(("name", "dag_id"), [("m", "release_m"), ("model_rollback", "model_rollback")])
def test_a_dag_is_unpaused(server: Server, name: str, dag_id: str) -> None:
    path = f"/api/v2/dags/{dag_id}"
    server.answers |= {
        f"GET {path}": (200, {"is_paused": True}),
        f"PATCH {path}": (200, {"is_paused": False}),
    }
    status, out, _ = run("unpause", name)
    assert (status, out) == (0, f"{dag_id} goes on.\n")
    assert server.asked[-1][:2] == (f"PATCH {path}", {"is_paused": False})


def test_who_asks_for_a_release_of_a_paused_dag_is_told_so(server: Server) -> None:
    run_asked = {"dag_id": "release_m", "run_id": "r", "url": "u"}
    said = {
        "release_id": RELEASE,
        "run": run_asked,
        "stands_still": "release_m is paused in Airflow",
        "way_out": "./slipway unpause m",
    }
    server.answers["POST /releases"] = (202, said)
    status, out, err = run("release", "m", "2")
    assert (status, RELEASE in out) == (0, True)
    assert "release_m is paused in Airflow.\n  to go on: ./slipway unpause m" in err
