"""replay: what another policy would have said of the traffic a release had, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from model_store.errors import Permanent
from model_store.release_spec import Analysis, InvalidSpec, load
from model_store.release_spec.document import Document, read_document
from model_store.release_spec.pydantic_complaints import complaints
from serving import composition
from serving.cli.output import console, print_json
from serving.control.analysis import AnalysisPolicy, Increment
from serving.control.analysis.replay import Judged, Replay, replay
from serving.control.rollout.from_spec import policy_of
from serving.control.rollout.journal import Journal
from serving.control.rollout.observe import between
from serving.control.rollout.plan import RolloutState
from serving.home import Home
from serving.types import Outcome

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
