"""Why a release, a model or the installation does not go on, and what ends that: for page, API and CLI alike.

One place, so that no state is without words: whoever shows how something stands asks here. Nothing is read
here; `serving.control.queries.rows` and `.models` gather what is known. `docs/fail-safe.md` has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from serving.control import paused_dags
from serving.control.queries.runs import RunKey, Situation
from serving.control.queries.statuses import ReleaseStatus
from serving.control.rollout.plan import Action, Hold, Phase, RolloutState
from serving.control.specs import PREFIX

# How long evidence may be wanting after the time of a step before somebody should know.
PATIENCE = timedelta(minutes=1)
RELEASES_FILE = "model_release.py"
ROLLBACK = "model_rollback"
# What does not happen while one of these is paused.
_WHILE_PAUSED = {
    ROLLBACK: "rollbacks are carried out, and not recorded in MLflow",
    "registry_reconcile": "a version whose webhook was lost is not found",
    "deliver_notifications": "messages that were not delivered at once are not tried again",
    "store_upkeep": "nothing is cleared out of the store",
}
_WHILE_SILENT = {
    "scheduler": "no release begins, and none gets further than its rollout",
    "triggerer": "what waits is not woken; rollouts go on, and a failing version is taken out",
    "dag-processor": "new and changed specs are not read",
}


class BlockerKind(StrEnum):
    """What something waits for."""

    DAG_PAUSED = "dag_paused"
    DAG_MISSING = "dag_missing"
    DAG_UNREADABLE = "dag_unreadable"
    AIRFLOW_DOWN = "airflow_down"
    RUN_QUEUED = "run_queued"
    POOL_FULL = "pool_full"
    WORKER = "worker"
    RETRY = "retry"
    TURN = "turn"
    APPROVAL = "approval"
    FREEZE = "freeze"
    PAUSED = "paused"
    CONTROLLER_SILENT = "controller_silent"
    EVIDENCE = "evidence"
    PODS = "pods"
    ALIAS = "alias"
    HELD = "held"
    COOLDOWN = "cooldown"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Blocker:
    """`words`: what stands still and why; `way_out`: what a person can do about it."""

    kind: BlockerKind
    words: str
    way_out: str


@dataclass(frozen=True, slots=True)
class ControllerReport:
    """What the controller's last record says. `silent_seconds`: since when it wrote none."""

    silent_seconds: float
    is_silent: bool
    overdue: timedelta
    open_points: str


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What is known of one release. `run` is None if Airflow never had one of it; `seen` if it does not roll
    out; `why` is what its files say it waits for."""

    release_id: str
    model: str
    status: ReleaseStatus
    why: str
    run: RunKey | None
    situation: Situation
    seen: ControllerReport | None = None


def of_release(facts: ReleaseFacts) -> Blocker | None:
    """None while it goes on by itself, and once it is over."""
    if not facts.status.is_under_way:
        return None
    return _of_airflow(facts) or _of_people(facts) or _of_tasks(facts) or _of_rollout(facts)


def of_model(
    model: str,
    situation: Situation,
    *,
    held_since: datetime | None = None,
    held_why: str = "",
    cools_until: datetime | None = None,
) -> Iterator[Blocker]:
    """What keeps every release of the model from beginning.

    `held_since`: nothing is released by itself since then; `cools_until`: a run that nobody asked for waits.
    """
    dag_id = PREFIX + model
    if held_since:
        words = f"nothing of {model} is released by itself since {_time(held_since)}: {held_why}"
        way_out = f"`./slipway release {model} VERSION --reason ...`, or roll back; either ends the hold"
        yield Blocker(BlockerKind.HELD, words, way_out)
    if cools_until:
        words = f"{model} was rolled back, and what nobody asked for waits until {_time(cools_until)}"
        yield Blocker(BlockerKind.COOLDOWN, words, f"`./slipway release {model} --reason ...` does not wait")
    if situation.dags.get(dag_id):
        words = f"{paused_dags.describe(dag_id)}: no release of {model} begins or goes on"
        yield Blocker(BlockerKind.DAG_PAUSED, words, paused_dags.remedy_for(dag_id))


def of_installation(situation: Situation) -> Iterator[Blocker]:
    """What keeps all models."""
    for part, seen in situation.silent.items():
        since = f"was last heard of at {seen} UTC" if seen else "was never heard of"
        words = f"Airflow's {part} {since}: {_WHILE_SILENT[part]}"
        yield Blocker(
            BlockerKind.AIRFLOW_DOWN, words, f"start it: `./slipway up`; its log is airflow-{part}.log"
        )
    for dag_id, effect in _WHILE_PAUSED.items():
        if situation.dags.get(dag_id):
            way_out = f"unpause it: `./slipway unpause {dag_id}`, or the switch on its page in Airflow"
            yield Blocker(BlockerKind.DAG_PAUSED, f"{paused_dags.describe(dag_id)}: {effect}", way_out)
    for name, line in situation.unreadable.items():
        words = f"Airflow cannot read {name}: {line}"
        yield Blocker(
            BlockerKind.DAG_UNREADABLE, words, "mend the file; Airflow reads it again within a minute"
        )


def reason_to_hold(state: RolloutState, action: Action, *, at: datetime) -> str:
    """Why a rollout that is held is worth telling people; empty while it only waits for its time."""
    if not isinstance(action, Hold) or state.phase.is_final:
        return ""
    if action.reason.startswith(("paused", "failing")):
        return action.reason
    if state.phase is Phase.WATCHING:
        return ""
    hold = state.plan.steps[state.step].hold_seconds if state.step >= 0 else 0.0
    return action.reason if overdue(state.step_started_at, hold, at=at) > PATIENCE else ""


def overdue(since: datetime, hold_seconds: float, *, at: datetime) -> timedelta:
    """How long a step has lasted beyond its time."""
    return at - since - timedelta(seconds=hold_seconds)


def _of_airflow(facts: ReleaseFacts) -> Blocker | None:
    """What keeps Airflow from starting any task of the release."""
    if facts.run is None or (state := facts.situation.runs.get(facts.run)) is None:
        return None
    situation, (dag_id, _), end = facts.situation, facts.run, _how_to_end(facts)
    if RELEASES_FILE in situation.unreadable:
        words = f"Airflow cannot read {RELEASES_FILE}: {situation.unreadable[RELEASES_FILE]}"
        return Blocker(BlockerKind.DAG_UNREADABLE, words, f"mend the file, or {end}")
    if dag_id not in situation.dags:
        words = f"Airflow has no DAG {dag_id} any more: its spec is gone"
        return Blocker(BlockerKind.DAG_MISSING, words, f"put the spec back into dags/releases/, or {end}")
    if situation.dags[dag_id]:
        words = f"{paused_dags.describe(dag_id)}{_unfinished(facts)}"
        return Blocker(BlockerKind.DAG_PAUSED, words, f"{paused_dags.remedy_for(dag_id)}; or {end}")
    if part := _missing_part(facts, state):
        words = f"Airflow's {part} is down: {_WHILE_SILENT[part]}"
        return Blocker(
            BlockerKind.AIRFLOW_DOWN,
            words,
            f"`./slipway status` shows it, `./slipway up` starts it; or {end}",
        )
    if state == "queued":
        words = "Airflow has not begun its run yet"
        return Blocker(
            BlockerKind.RUN_QUEUED, words, f"it begins by itself; while other runs take all places, {end}"
        )
    return None


def _unfinished(facts: ReleaseFacts) -> str:
    """What has happened already and what of it is wanting."""
    if facts.status is ReleaseStatus.WATCHING:
        return ": the version has all requests, and what follows (alias, evidence, the next release) waits"
    if facts.status in (ReleaseStatus.ROLLING_OUT, ReleaseStatus.PAUSED):
        return ": the split stays as it is"
    return ""


def _missing_part(facts: ReleaseFacts, state: str) -> str:
    """The part of Airflow that is needed next and is down. The controller needs none of it."""
    if facts.status is ReleaseStatus.ROLLING_OUT:
        return ""
    waiting = facts.situation.waiting.get(facts.run, ()) if facts.run else ()
    is_deferred = bool(waiting) and all(task.state == "deferred" for task in waiting)
    needed = "triggerer" if state == "running" and is_deferred else "scheduler"
    return needed if needed in facts.situation.silent else ""


def _of_people(facts: ReleaseFacts) -> Blocker | None:
    """What a person, a freeze or another release holds."""
    name = facts.release_id
    match facts.status:
        case ReleaseStatus.QUEUED if facts.why.startswith("waits for"):
            way_out = f"its turn comes by itself; `./slipway abort {name}` if it is not wanted any more"
            return Blocker(BlockerKind.TURN, facts.why, way_out)
        case ReleaseStatus.WAITING:
            way_out = f"`./slipway approve {name} --reason ...`, or reject it; no answer in time is a no"
            return Blocker(BlockerKind.APPROVAL, facts.why, way_out)
        case ReleaseStatus.FROZEN:
            way_out = (
                f"it goes on by itself; or an admin lets it pass: `./slipway override {name} --reason ...`"
            )
            return Blocker(BlockerKind.FREEZE, facts.why, way_out)
        case ReleaseStatus.PAUSED:
            return Blocker(
                BlockerKind.PAUSED,
                facts.why,
                f"`./slipway resume {name} --reason ...`, or {_how_to_end(facts)}",
            )
    return None


def _of_tasks(facts: ReleaseFacts) -> Blocker | None:
    """What its next task waits for."""
    if facts.status not in (ReleaseStatus.PREPARING, ReleaseStatus.QUEUED) or facts.run is None:
        return None
    for task in facts.situation.waiting.get(facts.run, ()):
        name, slots = task.task_id.rpartition(".")[2], facts.situation.full_pools.get(task.pool)
        if task.state == "up_for_retry":
            words = f"{name} failed and is tried again in some seconds: {task.failure or 'its log says why'}"
            return Blocker(BlockerKind.RETRY, words, f"mend what it says; or {_how_to_end(facts)}")
        if task.state == "scheduled" and slots is not None:
            words = f"{name} waits for one of the {slots} slots of Airflow's pool {task.pool}"
            return Blocker(
                BlockerKind.POOL_FULL, words, "wait for the others, or give the pool more slots in Airflow"
            )
        if task.state == "queued":
            return Blocker(
                BlockerKind.WORKER, f"{name} waits for a free worker of Airflow's", "it begins by itself"
            )
        if task.state == "deferred" and name == "roll_out":
            words = "the pods of its bundle are not ready yet"
            return Blocker(
                BlockerKind.PODS,
                words,
                f"`./slipway status` shows them and their logs; or {_how_to_end(facts)}",
            )
    return None


def _of_rollout(facts: ReleaseFacts) -> Blocker | None:
    """What the verdict waits for."""
    seen = facts.seen
    if seen is None:
        return None
    if seen.is_silent:
        words = f"the controller has written nothing for {seen.silent_seconds:.0f} s: nothing moves on"
        return Blocker(
            BlockerKind.CONTROLLER_SILENT, words, f"`./slipway status` shows it; or {_how_to_end(facts)}"
        )
    if facts.status is ReleaseStatus.ROLLING_OUT and seen.overdue > PATIENCE and seen.open_points:
        way_out = (
            f"send it requests, or {_how_to_end(facts)}; when the step's time limit is over it is rolled back"
        )
        return Blocker(BlockerKind.EVIDENCE, f"the verdict is not clear yet: {seen.open_points}", way_out)
    return None


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _how_to_end(facts: ReleaseFacts) -> str:
    has_traffic = facts.status in (ReleaseStatus.ROLLING_OUT, ReleaseStatus.PAUSED, ReleaseStatus.WATCHING)
    if has_traffic:
        return f"roll back: `./slipway rollback {facts.model} --reason ...`"
    return f"end it: `./slipway abort {facts.release_id} --reason ...`"
