"""Which versions should be on their way and are not: their webhook was lost, or nobody listened."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from model_store.errors import Permanent
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef
from serving.control import aliases, rollbacks
from serving.control.rollbacks import RequestedRollback
from serving.control.wiring import Services

log = logging.getLogger(__name__)
BY = "the reconciler"

# Training registers a version, sets its alias and tags, and perhaps asks for its release: give it the time.
GRACE = timedelta(seconds=10)
# Who asked for a rollback starts its run, and that takes a while to begin and to end.
ROLLBACK_GRACE = timedelta(seconds=20)


def missed(services: Services, specs: Iterable[ReleaseSpec], *, at: datetime) -> Iterator[ModelRef]:
    """Versions that the spec's alias points to, and that neither serve nor were ever tried.

    Raises `Retryable` while MLflow does not answer. A model that is not registered yet is passed over.
    """
    for spec in specs:
        try:
            ref = aliases.examine(services, spec.model, spec.source.alias, told_by=BY, at=at).ref
        except Permanent as problem:
            log.info("%s is passed over: %s", spec.model, problem.problem)
            continue
        if ref and not services.attempts.was_requested(ref, at=at) and not _is_young(services, ref, at=at):
            yield ref


def _is_young(services: Services, ref: ModelRef, *, at: datetime) -> bool:
    return at - services.registry.describe(ref).created_at < GRACE


def unrecorded_rollbacks(services: Services, *, at: datetime) -> list[RequestedRollback]:
    """Rollbacks that the controller carried out and no run of `model_rollback` has recorded: asked for while
    Airflow was down, or its run could not be started."""
    return list(rollbacks.unrecorded(services, before=at - ROLLBACK_GRACE))


def run_id_of(ref: ModelRef, again: int = 0) -> str:
    """The name of the one run that makes up for a lost event: Airflow takes a name only once.

    `again`: how often such a run did not get to begin.
    """
    return f"reconcile__{ref.name}-v{ref.version}" + (f"-{again + 1}" if again else "")
