"""Before anybody is sent to a first version: does it answer through the gateway as it did in the gates?

A first version has no stable one beside it that would answer in its place, and nobody to compare it with. So
the evaluation rows that the gates kept are sent to it at weight 0, the way its callers will come, and what
comes back is compared. A wrong or failed answer ends the release.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from model_store.errors import Permanent, Retryable
from serving.control.releases import Release
from serving.control.wiring import Services
from serving.gateway.router.base import Candidate, Rows, TooManyRequests, TooManyRows
from serving.home import Home
from serving.types import Route

if TYPE_CHECKING:
    from model_store.stages.sample import Sample

# The first rows are asked one by one, as most callers ask, and the others in small batches.
SINGLY = 16
BATCH = 8
SECONDS = 60.0


class NotAsInTheGates(Permanent):
    """The version answers otherwise through the gateway than it did when it was judged."""


def is_kept(release: Release, bundle_id: str) -> bool:
    """Whether the gates kept rows and answers of this bundle."""
    return bool(_kept(release, bundle_id))


def _kept(release: Release, bundle_id: str) -> str:
    return next((one.sample for one in reversed(release.bundles) if one.bundle_id == bundle_id), "")


def prove(
    services: Services,
    release: Release,
    candidate_of: Callable[[Home, Route], Candidate],
    *,
    seconds: float = SECONDS,
) -> str:
    """Ask the candidate what the gates asked; returns in words what came of it. May be repeated.

    Raises `NotAsInTheGates` after the release was rolled back, and `Retryable` when nobody could be asked.
    """
    from model_store.stages.sample import Sample

    route = services.router.read(release.model)
    if route.candidate is None:
        raise Retryable(f"{release.model} has no candidate now", remedy="wait", delay_seconds=1)
    kept = services.store.get_bytes(_kept(release, route.candidate.bundle_id))
    sample, candidate = Sample.from_bytes(kept), candidate_of(services.home, route)
    try:
        with candidate.opened() as asked:
            count = _compare(asked, sample, release, until=time.monotonic() + seconds)
    except Permanent as problem:
        reason = f"it was sent to nobody: {problem.problem}"
        services.rollouts.roll_back(release.id, reason=reason)
        raise
    return f"{count} evaluation rows were answered through the gateway as in the gates"


def _compare(candidate: Candidate, sample: Sample, release: Release, *, until: float) -> int:
    """How many rows were compared: as many as there is time for, and one at least."""
    done = 0
    try:
        for rows, answers in _answered(candidate, sample, until=until):
            _require_same(rows, answers, release)
            done += len(rows)
    except TooManyRequests:
        # Those that the limit let pass stand for all.
        if not done:
            raise
    return done


def _answered(candidate: Candidate, sample: Sample, *, until: float) -> Iterator[tuple[Sample, Rows]]:
    for part in _parts(sample):
        yield from _within_limits(candidate, part, until=until)


def _parts(sample: Sample) -> Iterator[Sample]:
    first = 0
    while first < len(sample):
        count = 1 if first < SINGLY else BATCH
        yield sample.part(first, count)
        first += count


def _within_limits(candidate: Candidate, part: Sample, *, until: float) -> Iterator[tuple[Sample, Rows]]:
    """These rows with their answers, in fewer at a time where the model may not be sent so many."""
    try:
        yield part, candidate.answer(part.inputs, until=until)
    except TooManyRows:
        if len(part) == 1:
            raise
        for place in range(len(part)):
            one = part.part(place, 1)
            yield one, candidate.answer(one.inputs, until=until)


def _require_same(part: Sample, answers: Rows, release: Release) -> None:
    try:
        differing = 0 if release.spec.serving.stochastic else part.differing(answers)
    except ValueError as problem:
        raise NotAsInTheGates(f"through the gateway {release.ref} gives {problem}", remedy=_REMEDY) from None
    if differing:
        raise NotAsInTheGates(
            f"through the gateway {release.ref} answers {differing} of {len(part)} evaluation rows otherwise "
            "than in the gates",
            remedy=_REMEDY,
        )


_REMEDY = "see whether the pods run another engine or machine than the gates, and release it again"
