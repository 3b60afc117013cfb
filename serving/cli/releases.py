"""release, rollback, validate, replay: what a user asks of a model, and what another policy would have said
of the traffic a release had, and when.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from model_store.errors import Permanent, Retryable
from model_store.release_spec import Analysis, InvalidSpec, load
from model_store.release_spec.document import Document, read_document
from model_store.release_spec.pydantic_complaints import complaints
from serving import composition
from serving.cli.output import (
    POLL_SECONDS,
    RunFailed,
    console,
    errors,
    follow,
    print_json,
    report_rollback,
    why,
)
from serving.control.analysis import AnalysisPolicy, Increment
from serving.control.analysis.rules import Judged, Replay, replay
from serving.control.audit import AuditEntry, AuditTrail
from serving.control.client import ControllerClient, ControllerDown
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.from_spec import policy_of
from serving.control.rollout.journal import Journal
from serving.control.rollout.observe import between
from serving.control.rollout.plan import RolloutState
from serving.control.traffic import RollbackPhase, RollbackProgress
from serving.home import Home
from serving.local_stack.apis import ConflictAnswer, DagRun, slipway_api
from serving.types import ALL_STABLE, Outcome, Route

NEW_DAG_SECONDS = 60.0


def release(home: Home, model: str, version: str | None, reason: str, *, wait: bool, as_json: bool) -> None:
    """Ask for the release of a version. Raises `RunFailed` when waited for and it does not get there."""
    said = _asked(home, "/releases", model=model, version=version, reason=reason)
    run = DagRun(said["run"]["dag_id"], said["run"]["run_id"], "queued")
    if said.get("stands_still"):
        errors.print(Text(f"{said['stands_still']}.", style="yellow"), soft_wrap=True)
        errors.print(Text.assemble(("  to go on: ", "bold"), said["way_out"]), soft_wrap=True)
    _report(home, run, wait=wait, as_json=as_json, release=said["release_id"])


def rollback(home: Home, model: str, version: str | None, reason: str, *, wait: bool, as_json: bool) -> None:
    """Go back over the REST API; while it is down ask the controller, and while that is down, too, return the
    traffic of a release under way by ourselves.

    Raises `RunFailed` when waited for and requests do not go back.
    """
    try:
        said = _asked(home, f"/models/{model}/rollback", version=_number(version), reason=reason)
    except Retryable as airflow_is_down:
        try:
            progress = _ask_controller(home, model, version, reason, wait=wait)
        except ControllerDown as down:
            route = _return_traffic(home, model, version, reason, airflow_is_down, down)
            _say_returned(route, as_json=as_json)
        else:
            _say_progress(progress, as_json=as_json)
    else:
        report_rollback(home, said, wait=wait, as_json=as_json)


def adopt(home: Home, model: str, reason: str, *, as_json: bool) -> None:
    """Ask the controller itself: it is needed where the ledger came back older than the traffic."""
    route = ControllerClient(home).adopt(model, by=_who(), reason=reason)
    if as_json:
        print_json({"model": model, "route": route.to_json()})
        return
    arms = [
        f"{weight:g} % to version {arm.version}"
        for arm, weight in ((route.stable, route.split.stable), (route.candidate, route.split.candidate))
        if arm
    ]
    console.print(f"The ledger has what runs for {model} now: {', '.join(arms) or 'no version'}.")
    if route.candidate:
        console.print(
            f"Where it knows no rollout of version {route.candidate.version} at this weight, nobody judges "
            "it: release a version again, which begins at 0 %, or return its traffic: "
            f"`./slipway rollback {model}`."
        )


def validate(path: Path, *, as_json: bool) -> None:
    """Check a spec file. Raises `InvalidSpec` with file, line, field and the allowed values."""
    if not path.is_file():
        raise Permanent(
            f"there is no file {path}", remedy="Name a spec, e.g. dags/releases/credit_risk.yaml."
        )
    spec = load(path)
    if as_json:
        print_json({"valid": True, "spec": spec.model_dump(mode="json")})
    else:
        console.print(f"{path} is a valid spec: it releases {spec.model}.", soft_wrap=True)


def _number(version: str | None) -> int | None:
    if version is None or version.isdecimal():
        return int(version) if version else None
    raise Permanent(f"{version!r} is no version", remedy="name its number, as the model's page shows it")


def _asked(home: Home, path: str, **body: Any) -> Any:
    """Over the REST API. A DAG that Airflow has not read yet is waited for: a fresh stack needs seconds."""
    deadline = time.monotonic() + NEW_DAG_SECONDS
    with slipway_api(home) as api:
        while True:
            try:
                return api.post(path, **body)
            except ConflictAnswer as problem:
                if not problem.problem.endswith("yet") or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)


def _report(home: Home, run: DagRun, *, wait: bool, as_json: bool, release: str | None = None) -> None:
    url = f"{home.airflow_url}/dags/{run.dag_id}/runs/{run.run_id}"
    if not as_json:
        name = f"{run.dag_id} ({release})" if release else run.dag_id
        console.print(f"{name} has started: {url}", soft_wrap=True)
    if wait:
        run = follow(home, run, quiet=as_json)
    if run.state == "failed":
        raise RunFailed("\n".join([f"{run.dag_id} failed", *why(home, run)]), remedy=f"See {url}")
    if as_json:
        known = {"release_id": release} if release else {}
        print_json({"dag_id": run.dag_id, "run_id": run.run_id, "state": run.state, "url": url, **known})
    elif wait:
        console.print(f"{run.dag_id}: {run.state}")


def _ask_controller(
    home: Home, model: str, version: str | None, reason: str, *, wait: bool
) -> RollbackProgress:
    """What the page would, without Airflow. The reconciler has it recorded when Airflow is back."""
    controller, at = ControllerClient(home), datetime.now(UTC)
    request = RollbackRequest(
        model, _number(version), reason, "", _who(), f"slipway__cli__{at:%Y-%m-%dT%H:%M:%S.%f}", at
    )
    progress = controller.roll_model_back(request)
    _note(
        home,
        model,
        progress.returns,
        None,
        reason,
        {"leaves": str(progress.leaves), "run_id": request.run_id},
    )
    while wait and not progress.phase.is_final:
        time.sleep(POLL_SECONDS)
        progress = controller.rollback(progress.id)
    if progress.phase is RollbackPhase.FAILED:
        raise RunFailed(
            f"{model} was not rolled back: {progress.words}", remedy="mend it, and roll back again"
        )
    return progress


def _return_traffic(
    home: Home,
    model: str,
    version: str | None,
    reason: str,
    airflow_is_down: Retryable,
    controller_is_down: ControllerDown,
) -> Route:
    """What the controller does first: all traffic to stable. That is safe from any hand, and written down
    when the controller is back."""
    told = composition.told_of(home)
    route = told.read(model) if model in told.services() else None
    if route and route.stable and route.candidate and version in (None, str(route.stable.version)):
        said = {"leaves": str(route.candidate.version)}
        _note(home, model, route.stable.version, None, reason, said)
        return told.write(
            model, ALL_STABLE, stable=route.stable, candidate=route.candidate, at=route.revision
        )
    raise Retryable(
        f"{airflow_is_down.problem}, {controller_is_down.problem}, "
        f"and no release of {model} is under way whose traffic could be returned"
        + (f" to version {version}" if version else ""),
        remedy=f"{airflow_is_down.remedy} Then roll back again.",
    ) from airflow_is_down


def _who() -> str:
    """Nobody is signed in without Airflow: the account of this machine acts."""
    return f"{getpass.getuser()} on the command line"


def _note(
    home: Home, model: str, version: int | None, release: str | None, reason: str, said: dict[str, str]
) -> None:
    detail = {"via": "cli", **said}
    entry = AuditEntry(datetime.now(UTC), _who(), "rollback", model, version, release, reason, detail)
    if problem := AuditTrail(composition.rows_of(home), home.late).append_or_queue(entry):
        errors.print(Text(f"not in the audit trail: {problem}", style="yellow"))


def _say_progress(progress: RollbackProgress, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(progress))
        return
    console.print(f"The controller was asked directly: {progress.words}. Airflow books it when it is back.")


def _say_returned(route: Route, *, as_json: bool) -> None:
    version = route.stable.version if route.stable else None
    if as_json:
        print_json({"model": route.service, "version": version, "split": asdict(route.split)})
        return
    console.print(
        f"The controller is down, so the traffic was returned directly: version {version} of {route.service} "
        "has all of it. The controller writes it down when it is back, and Airflow books it then."
    )


IN_FORCE = "in force"


class NothingObserved(Permanent):
    """The controller wrote nothing down of this release."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One policy's words on the recorded traffic."""

    name: str
    policy: AnalysisPolicy
    found: Replay


def replay_release(home: Home, release: str, policy: Path, *, as_json: bool) -> None:
    """Judge the recorded traffic again, as the policy in force and as the one in the file `policy`.

    Raises `UnknownRelease`, `NothingObserved`, or `InvalidSpec` with every wrong line of the file.
    """
    journal = composition.journal_of(home)
    state = journal.load(release)
    other = read_policy(policy, state.plan.policy)
    seen = list(_seen(journal, state))
    judgements = [
        Judgement(IN_FORCE, state.plan.policy, replay(state.plan.policy, seen)),
        Judgement(policy.name, other, replay(other, seen)),
    ]
    began = seen[0][0]
    if as_json:
        print_json(_to_json(state, judgements, began, seen))
    else:
        _show(state, judgements, began, seen)


def read_policy(path: Path, in_force: AnalysisPolicy) -> AnalysisPolicy:
    """From a release spec, or from a file with fields of `rollout.analysis` alone: what such a file leaves
    out stays as it was in force. Raises `InvalidSpec` with every wrong line."""
    if not path.is_file():
        raise Permanent(
            f"there is no file {path}", remedy="Name a spec, or a file with fields of rollout.analysis."
        )
    document = read_document(path)
    if document.data.keys() & {"model", "rollout"}:
        return policy_of(load(path).rollout.analysis)
    analysis = _analysis(document)
    return replace(in_force, **analysis.model_dump(include=analysis.model_fields_set))


def _analysis(document: Document) -> Analysis:
    try:
        analysis = Analysis.model_validate(document.data, strict=True)
    except ValidationError as error:
        found = complaints(error.errors(include_url=False), document, Analysis)
        raise InvalidSpec(document.path, [*document.complaints, *found]) from error
    if document.complaints:
        raise InvalidSpec(document.path, document.complaints)
    return analysis


def _seen(journal: Journal, state: RolloutState) -> Iterator[tuple[datetime, Increment]]:
    before = None
    for record in journal.records(state.release_id):
        yield record.at, between(before, record)
        before = record
    if before is None:
        raise NothingObserved(
            f"nothing was observed of {state.release_id}",
            remedy="Choose a release that had traffic; ./slipway status shows whether the controller runs.",
        )


def _show(
    state: RolloutState, judgements: list[Judgement], began: datetime, seen: list[tuple[datetime, Increment]]
) -> None:
    length = (seen[-1][0] - began).total_seconds()
    console.print(f"{state.release_id}: {len(seen)} observations in {length:,.0f} s; it is {state.phase}.")
    console.print(_limits(judgements))
    console.print(_steps(state, judgements, began))
    for judgement in judgements:
        console.print(Text.assemble((f"{judgement.name}: ", "bold"), _sentence(state, judgement, began)))
    console.print(Text("What a policy would have seen after its own decision was never sent.", style="dim"))


def _limits(judgements: list[Judgement]) -> Table:
    """Only what differs."""
    table = Table(
        "limit", *(judgement.name for judgement in judgements), title="Policies", title_justify="left"
    )
    policies = [asdict(judgement.policy) for judgement in judgements]
    for name in policies[0]:
        values = [policy[name] for policy in policies]
        if values[0] != values[1]:
            table.add_row(name, *(_limit(value) for value in values))
    if not table.row_count:
        table.add_row("all the same", *("" for _ in judgements))
    return table


def _limit(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _steps(state: RolloutState, judgements: list[Judgement], began: datetime) -> Table:
    table = Table(
        "step", *(judgement.name for judgement in judgements), title="Verdicts", title_justify="left"
    )
    for place in sorted({place for judgement in judgements for place in _said(judgement)}):
        cells = (_cell(_said(judgement).get(place), began) for judgement in judgements)
        table.add_row(_place(state, place), *cells)
    return table


def _said(judgement: Judgement) -> dict[int, Judged]:
    """By place: the FAIL, or else the first PASS, or else the last word."""
    found = judgement.found
    last = {found.last.step: found.last} if found.last else {}
    return {**last, **found.passed, **({found.failed.step: found.failed} if found.failed else {})}


def _cell(judged: Judged | None, began: datetime) -> str:
    if judged is None:
        return "not reached"
    outcome = judged.verdict.outcome.name
    return f"{outcome} after {_seconds(judged, began):,.1f} s, {judged.exposure:,} requests"


def _sentence(state: RolloutState, judgement: Judgement, began: datetime) -> str:
    failed = judgement.found.failed
    if failed is None:
        last = judgement.found.last
        doubts = _reasons(last) if last and last.verdict.outcome is not Outcome.PASS else ""
        return "would not have taken it back" + (f"; at the end: {doubts}" if doubts else "")
    return (
        f"takes it back after {_seconds(failed, began):,.1f} s, at {_place(state, failed.step)}, when the "
        f"candidate had answered {failed.exposure:,} requests: {_reasons(failed)}"
    )


def _reasons(judged: Judged) -> str:
    worst = judged.verdict.outcome
    return "; ".join(finding.reason for finding in judged.verdict.findings if finding.outcome is worst)


def _seconds(judged: Judged, began: datetime) -> float:
    return (judged.verdict.at - began).total_seconds()


def _place(state: RolloutState, place: int) -> str:
    steps = state.plan.steps
    if place == 0:
        return "before the first step"
    if place > len(steps):
        return "the watch, 100 %"
    return f"step {place} of {len(steps)}, {steps[place - 1].split.candidate:g} %"


def _to_json(
    state: RolloutState, judgements: list[Judgement], began: datetime, seen: list[tuple[datetime, Increment]]
) -> dict[str, Any]:
    return {
        "release": state.release_id,
        "phase": state.phase,
        "reason": state.reason,
        "observations": len(seen),
        "seconds": (seen[-1][0] - began).total_seconds(),
        "policies": [
            {
                "name": judgement.name,
                "policy": asdict(judgement.policy),
                "failed": _judged(state, judgement.found.failed, began),
                "passed": [_judged(state, each, began) for each in judgement.found.passed.values()],
                "last": _judged(state, judgement.found.last, began),
            }
            for judgement in judgements
        ],
    }


def _judged(state: RolloutState, judged: Judged | None, began: datetime) -> dict[str, Any] | None:
    if judged is None:
        return None
    return {
        "outcome": judged.verdict.outcome.name,
        "at": judged.verdict.at.isoformat(),
        "seconds": _seconds(judged, began),
        "place": _place(state, judged.step),
        "candidate_requests": judged.exposure,
        "reason": _reasons(judged),
    }
