"""approve, pause, freeze and the like: what a person, or a pipeline in their name, does over the REST API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from serving.cli.output import console, print_json
from serving.home import Home
from serving.local_stack.airflow_api import airflow_api
from serving.local_stack.slipway_api import slipway_api

# Those that no model has for itself.
SHARED_DAGS = ("model_rollback", "registry_reconcile", "deliver_notifications", "store_upkeep")


def act(
    home: Home, name: str, release: str, reason: str, *, as_json: bool, bundle: str | None = None
) -> None:
    """approve, reject, pause, resume, skip, abort or override a release. `bundle`: what is answered about."""
    with slipway_api(home) as api:
        said = api.post(f"/releases/{release}/{name}", reason=reason, bundle=bundle)
    _tell(said, _describe(name, said), as_json=as_json)


def preview(home: Home, model: str, version: str | None, *, as_json: bool) -> None:
    """What would run."""
    with slipway_api(home) as api:
        said = api.get("/releases/preview", model=model, version=version)
    steps = ", ".join(f"{step['weight']:g} % for {step['hold_seconds']:g} s" for step in said["steps"])
    lines = [f"{model} version {said['version']} would roll out: {steps}."]
    if approval := said["approval"]:
        lines.append(f"{approval['required']} of {', '.join(approval['approvers'])} have to approve.")
    _tell(said, "\n".join([*lines, *(f"! {warning}" for warning in said["warnings"])]), as_json=as_json)


def freeze(home: Home, model: str | None, hours: float | None, reason: str, *, as_json: bool) -> None:
    """Nothing of the model (or of all) rolls out from now on."""
    with slipway_api(home) as api:
        said = api.post("/freezes", model=model, hours=hours, reason=reason)
    _tell(said, f"{model or 'Every model'} is {said['words']}. Lift it: {said['id']}", as_json=as_json)


def unfreeze(home: Home, freeze_id: str, reason: str, *, as_json: bool) -> None:
    """End a freeze."""
    with slipway_api(home) as api:
        said = api.post(f"/freezes/{freeze_id}/lift", reason=reason)
    _tell(said, f"The freeze of {said['model'] or 'every model'} is lifted.", as_json=as_json)


def freezes(home: Home, model: str | None, *, as_json: bool) -> None:
    """What is frozen now."""
    with slipway_api(home) as api:
        said = api.get("/freezes", model=model)
    rows = ((one["id"], one["model"] or "every model", one["words"]) for one in said)
    _table(said, ("id", "model", "until when, and why"), rows, as_json=as_json)


def unpause(home: Home, name: str, *, as_json: bool) -> None:
    """Let the DAG of a model (or one of Slipway's own) go on. It is Airflow's act, and in Airflow's log."""
    with airflow_api(home) as api:
        dag_id = name if name in SHARED_DAGS else f"release_{name}"
        was_paused = api.unpause(dag_id)
    words = f"{dag_id} goes on." if was_paused else f"{dag_id} was not paused."
    _tell({"dag_id": dag_id, "was_paused": was_paused}, words, as_json=as_json)


def audit(home: Home, model: str | None, limit: int, *, as_json: bool) -> None:
    """Who did what."""
    with slipway_api(home) as api:
        said = api.get("/audit", model=model, limit=limit)
    rows = (
        (
            one["at"][:19],
            one["who"],
            one["action"],
            one["model"] or "",
            one["release_id"] or "",
            one["reason"],
        )
        for one in said
    )
    _table(said, ("when (UTC)", "who", "what", "model", "release", "why"), rows, as_json=as_json)


def _describe(name: str, said: Mapping[str, Any]) -> str:
    release = said["release_id"]
    match name:
        case "approve" | "reject":
            more = f", {said['still_needed']} more must approve" if said["still_needed"] else ""
            return f"{release} is {said['answer']}{more}."
        case "override":
            return f"No freeze holds {release} any more."
        case _:
            state = "paused, " if said["paused"] else ""
            return f"{release} is {state}{said['phase']}, {said['candidate_weight']:g} % on the candidate."


def _tell(said: Any, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(said)
    else:
        console.print(Text(words))


def _table(said: Any, head: Iterable[str], rows: Iterable[Iterable[str]], *, as_json: bool) -> None:
    if as_json:
        print_json(said)
        return
    table = Table(*head, box=None, header_style="bold")
    for row in rows:
        # As text: what people wrote is no markup.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
