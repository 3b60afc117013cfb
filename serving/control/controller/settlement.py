"""What a rollout leaves behind once it is over, cleared away without Airflow: candidate, warm pods, lock.

A candidate that was rolled back leaves the route, pods that no route names are retired, and the release lock
is given back. A version that was promoted and then taken back within its watch has no run of Airflow's any
more: people are told, and the rollback is written down, for a run of `model_rollback` to tell MLflow of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from model_store.errors import Permanent
from serving.control import finalization, notifications, rollbacks
from serving.control.finalization import ReleaseEnd, VersionStatus
from serving.control.releases import Release
from serving.control.rollout.lock import Claim, LockOutcome
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.wiring import Services, now

log = logging.getLogger("slipway.controller")

LOOK_SECONDS = 0.5
# The gateway reads a route a moment after it is written, and what began on the version that leaves shall end.
LINGER_SECONDS = 5.0
# What could not be cleared away is tried again so often.
AGAIN_SECONDS = 5.0
# At the same time: each asks a platform, which may hang.
MOST_AT_ONCE = 32

_Over = tuple[str, int]


class Settlement:
    """Of all models. `latest`, which the controller sets: by model, the state of its newest rollout.

    Each model has a thread of its own while it is cleared up after, so that one whose platform hangs keeps no
    other waiting.
    """

    def __init__(
        self,
        services: Callable[[], Services],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._services = services
        self.latest: Mapping[str, RolloutState] = {}
        self._monotonic, self._linger_seconds = monotonic, linger_seconds
        self._asked: dict[str, Release] = {}
        self._due: dict[str, tuple[_Over, float]] = {}
        self._settled: dict[str, _Over] = {}
        self._under_way: set[str] = set()

    def clear(self, release: Release) -> None:
        """A release is over before any rollout of it began: end the pods that were started for one."""
        self._asked[release.model] = release

    def run(self, ending: threading.Event, *, every_seconds: float = LOOK_SECONDS) -> None:
        """Look again and again until the event is set."""
        while not ending.wait(every_seconds):
            for service, work in self._works():
                if len(self._under_way) < MOST_AT_ONCE:
                    self._under_way.add(service)
                    threading.Thread(target=work, daemon=True, name=f"settle {service}").start()

    def look(self) -> None:
        """Clear up after all of them, one after the other."""
        for _, work in self._works():
            work()

    def _works(self) -> list[tuple[str, Callable[[], None]]]:
        asked = [release for release in self._asked.values() if release.model not in self._under_way]
        before_traffic = [(release.model, partial(self._clear, release)) for release in asked]
        over = [(state.service, partial(self._settle, state)) for state in self._of_those_due()]
        # Of one model only one at a time: what is left comes with the next look.
        return list(dict([*over, *before_traffic]).items())

    def _clear(self, release: Release) -> None:
        try:
            for gone in finalization.retire_unrouted(self._services(), release):
                log.info("%s: the pods of %s are retired", release.id, gone)
            self._services().lock.release(release.model, release.id)
            if self._asked.get(release.model) is release:
                del self._asked[release.model]
        except Exception:
            log.exception("%s: the pods that were started for it could not be ended", release.id)
        finally:
            self._under_way.discard(release.model)

    def _of_those_due(self) -> list[RolloutState]:
        at, found = self._monotonic(), []
        for service, state in self.latest.items():
            over = (state.release_id, state.generation)
            if not state.phase.is_final or self._settled.get(service) == over or service in self._under_way:
                continue
            known = self._due.get(service)
            if known is None or known[0] != over:
                known = self._due[service] = (over, at + self._linger_seconds)
            if at >= known[1]:
                found.append(state)
        return found

    def _settle(self, state: RolloutState) -> None:
        over = (state.release_id, state.generation)
        try:
            if settle(self._services(), state):
                self._settled[state.service] = over
            else:
                self._due[state.service] = (over, self._monotonic() + LOOK_SECONDS)
        except Exception:
            # Whatever it is: nothing of it moves traffic, and it is tried again.
            log.exception("%s: what it leaves behind could not be cleared away", state.release_id)
            self._due[state.service] = (over, self._monotonic() + AGAIN_SECONDS)
        finally:
            self._under_way.discard(state.service)


def settle(services: Services, state: RolloutState) -> bool:
    """Clear up after a rollout that is over. False while another has the model's lock. May be repeated."""
    holder = services.lock.read(state.service).holder
    is_mine = holder is not None and holder.release_id == state.release_id
    if state.phase is Phase.ROLLED_BACK and not is_mine:
        _write_down_way_back(services, state)
    if holder is not None and not is_mine:
        return False
    claim = holder or _claim(services, state)
    if services.lock.acquire(state.service, claim) is not LockOutcome.HELD:
        services.lock.release(state.service, state.release_id)
        return False
    if state.phase is Phase.ROLLED_BACK:
        services.rollouts.withdraw(state.release_id)
    for gone in finalization.retire_unnamed(services, state.service, state.release_id):
        log.info("%s: the pods of %s are retired", state.release_id, gone)
    services.lock.release(state.service, state.release_id)
    return True


def _claim(services: Services, state: RolloutState) -> Claim:
    """As old as the release's request: whoever asked later goes before it."""
    try:
        return Claim(services.releases.load(state.release_id).request.at, state.release_id)
    except Permanent:
        return Claim(state.started_at, state.release_id)


def _write_down_way_back(services: Services, state: RolloutState) -> None:
    """Of a version that was promoted and gave its lock back: its run writes down nothing more."""
    if not finalization.is_recorded_as_promoted(services, state):
        return
    rollbacks.note_way_back(services, state)
    release = services.releases.load(state.release_id)
    ending = ReleaseEnd(VersionStatus.ROLLED_BACK, state.reason)
    notifications.notify_of_outcome(services, release, ending, at=now())
