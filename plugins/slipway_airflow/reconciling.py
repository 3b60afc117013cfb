"""Which versions should be on their way and are not: their webhook was lost, or nobody listened."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from model_store.errors import Permanent
from model_store.spec import ReleaseSpec
from model_store.types import ModelRef
from slipway_airflow.rolling import route_of
from slipway_airflow.settling import STATUS
from slipway_airflow.wiring import Services

log = logging.getLogger(__name__)

# Training registers a version, sets its alias and tags, and perhaps asks for its release: give it the time.
GRACE = timedelta(seconds=10)


def missed(services: Services, specs: Iterable[ReleaseSpec], *, at: datetime) -> Iterator[ModelRef]:
    """Versions that the spec's alias points to, and that neither serve nor were ever tried.

    Raises `Retryable` while MLflow does not answer. A model that is not registered yet is passed over.
    """
    for spec in specs:
        try:
            ref = _candidate(services, spec)
        except Permanent as problem:
            log.info("%s is passed over: %s", spec.model, problem.problem)
            continue
        if ref and _is_missed(services, ref, at=at):
            yield ref


def _candidate(services: Services, spec: ReleaseSpec) -> ModelRef | None:
    number = services.registry.aliases(spec.model).get(spec.source.alias)
    return ModelRef(spec.model, number) if number is not None else None


def _is_missed(services: Services, ref: ModelRef, *, at: datetime) -> bool:
    registered = services.registry.describe(ref)
    if STATUS in registered.tags or at - registered.created_at < GRACE:
        return False
    if any(release.version == ref.version for release in services.releases.of_model(ref.name)):
        return False
    route = route_of(services, ref.name)
    serving = {arm.version for arm in (route.stable, route.candidate) if arm} if route else set()
    return ref.version not in serving


def run_id_of(ref: ModelRef) -> str:
    """The name of the one run that makes up for a lost event: Airflow takes a name only once."""
    return f"reconcile__{ref.name}-v{ref.version}"
