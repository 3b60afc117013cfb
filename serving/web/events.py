"""What follows from what programs tell: an alert may take a version back, and news of MLflow's registry may
let a release DAG begin.

Deliveries come twice, late and in the wrong order, so none of the registry's is believed on what happened:
each is only a reason to look at what the registry says now. However many come while somebody looks, one more
look follows.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from model_store.errors import Retryable, SlipwayError
from serving import composition
from serving.control import alerts, aliases, cooldowns, notifications, wiring
from serving.control.alerts import AlertDecision, AlertReply
from serving.control.rollbacks import ALERT_RUN, DAG_ID, RollbackRequest
from serving.monitoring.incidents import Incident, incidents
from serving.web.ports import Dags
from serving.web.problems import Conflict

if TYPE_CHECKING:
    from model_store.release_spec import ReleaseSpec
    from serving.control.wiring import Services

log = logging.getLogger(__name__)
BY = "alertmanager"
LONGEST_REASON = 500


def answer_alerts(dags: Dags, body: bytes, at: datetime) -> list[str]:
    """What was done about each alert that asks for a rollback. Raises `RefusedAlert`.

    When this returns, the rollbacks are asked for and kept: a delivery that is not answered comes again.
    """
    told = incidents(body, models=dags.released_models())
    for words in told.left_out:
        log.warning("left out: %s", words)
    return [_answer_alert(dags, incident, at) for incident in told.incidents] + [
        f"left out: {w}" for w in told.left_out
    ]


def _answer_alert(dags: Dags, incident: Incident, at: datetime) -> str:
    services = composition.wire()
    # Two alerts of one failure may come at the same time, and must not go back two versions.
    with _one_at_a_time(services, incident.model):
        spec = services.releases.spec_of(incident.model)
        cooldown = cooldowns.cooldown_of(spec) if spec else cooldowns.DEFAULT_COOLDOWN
        decision = alerts.decide(services, incident, cooldown=cooldown, at=at)
        words = f"{incident.model}: {incident.alert}: {decision.reply.value}: {decision.words}"
        log.info("%s (incident %s)", words, incident.key)
        _act(services, dags, incident, decision, spec, at)
    return words


def _act(
    services: Services,
    dags: Dags,
    incident: Incident,
    decision: AlertDecision,
    spec: ReleaseSpec | None,
    at: datetime,
) -> None:
    match decision.reply:
        case AlertReply.ROLL_BACK:
            roll_back(services, dags, incident, at)
            cooldowns.note_rollback_requested(services, incident.model, at=at)
        case AlertReply.HOLD:
            cooldowns.hold(services, incident.model, decision.words, at=at)
            notifications.notify_of_alert(services, spec, incident, decision.words, occasion="held", at=at)
        case AlertReply.TELL:
            notifications.notify_of_alert(services, spec, incident, decision.words, occasion="alert", at=at)
        case AlertReply.NOTHING:
            pass


def roll_back(services: Services, dags: Dags, incident: Incident, at: datetime) -> bool:
    """By the controller now, then a run of `model_rollback` named by the incident. False: there was one.

    The run asks the controller again, so where it is down now, traffic goes back later.
    """
    reason = (f"{incident.alert}: {incident.summary}".strip() or "an alert")[:LONGEST_REASON]
    run_id = ALERT_RUN + incident.key
    try:
        services.rollouts.roll_model_back(
            RollbackRequest(incident.model, None, reason, incident.key, BY, run_id, at)
        )
    except SlipwayError as problem:
        log.warning("%s of %s is left to its run: %s", run_id, incident.model, problem)
    said = {"model": incident.model, "reason": reason, "incident": incident.key}
    try:
        started = dags.start(DAG_ID, run_id, said, by=BY, at=at, before=lambda: None)
    except Conflict as not_yet:
        # A delivery that is refused does not come again.
        raise Retryable(not_yet.problem, remedy=not_yet.remedy) from not_yet
    return not started.again


@contextmanager
def _one_at_a_time(services: Services, model: str) -> Iterator[None]:
    path = services.home.run / "alerts" / model
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


Tell = Callable[[str], None]


class AssetEventQueue:
    """Calls `look(model, kind)` in a thread of its own, for one model after the other.

    `look` returns what came of it in words, which everybody is told who asked for it.
    """

    def __init__(self, look: Callable[[str, str], str]) -> None:
        self._look = look
        # In the order of asking, each once; the newest kind of event is kept for the record.
        self._asked: dict[str, tuple[str, list[Tell]]] = {}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_looking = False

    def ask(self, model: str, kind: str, tell: Tell = lambda words: None) -> None:
        """Look at this model soon, and `tell` what came of it."""
        with self._change:
            _, others = self._asked.get(model, (kind, []))
            self._asked[model] = kind, [*others, tell]
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="slipway-looks", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def wait(self, *, seconds: float) -> bool:
        """Whether everything asked for was looked at within this time."""
        with self._change:
            return self._change.wait_for(lambda: not self._asked and not self._is_looking, seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._asked))
                model = next(iter(self._asked))
                (kind, asked), self._is_looking = self._asked.pop(model), True
            words = self._look_once(model, kind)
            log.info("%s of %s: %s", kind, model, words)
            for tell in asked:
                _tell(tell, words)
            with self._change:
                self._is_looking = False
                self._change.notify_all()

    def _look_once(self, model: str, kind: str) -> str:
        try:
            return self._look(model, kind)
        except SlipwayError as problem:
            # The reconciler looks, too, and again and again.
            return f"came to nothing for now, the reconciler looks again: {problem}"
        except Exception as problem:
            log.exception("%s of %s came to nothing for now", kind, model)
            return f"came to nothing for now, the reconciler looks again: {type(problem).__name__}"


def _tell(tell: Tell, words: str) -> None:
    try:
        tell(words)
    except (OSError, Retryable) as problem:
        log.warning("what came of a delivery is not written down: %s", problem)


def announce_if_new(dags: Dags, model: str, kind: str) -> str:
    """Let the release DAG begin of the version that the model's alias names, if nobody tried it or asked for
    it yet.

    Returns what came of it, in words.

    Raises `Retryable` while MLflow does not answer, and `Permanent` when it knows no such model.
    """
    services, at = composition.wire(), wiring.now()
    alias = dags.alias_of(model)
    if alias is None:
        return f"no spec releases {model}"
    found = aliases.examine(services, model, alias, told_by=kind, at=at)
    if found.note:
        return found.note.words
    if found.ref is None:
        return f"the version that {alias} names serves, or is on its way"
    if not services.attempts.ask(found.ref, at=at):
        return f"Airflow was asked for {found.ref} a moment ago"
    dags.announce(found.ref, kind)
    return f"asked Airflow for {found.ref}"
