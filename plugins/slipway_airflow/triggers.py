"""Waits that hold no worker slot. Each looks again and again from the triggerer and then wakes its task.

The event only says that looking is worthwhile: the task reads for itself where things stand. So a trigger may
run twice, or start again in another triggerer, without harm. Looks block (files, sockets), hence the threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

from model_store.errors import Retryable

if TYPE_CHECKING:
    from serving.control.traffic import RolloutProgress
    from serving.control.wiring import Services
    from serving.platforms.kubernetes.stage_pods import StageCluster

log = logging.getLogger(__name__)

PACKAGE = "slipway_airflow.triggers"
# Of looking for missed versions: a request to MLflow.
SECONDS_PER_SPEC = 0.1
TELL_AGAIN_SECONDS = 60.0
# So seldom is Airflow asked whether those who are waited for are still on their way.
DEAD_LOOK_SECONDS = 30.0


class PollingTrigger(BaseTrigger):
    """Calls `look` every `seconds` until it returns words. A `Retryable` failure is looked at again."""

    seconds = 1.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kwargs = kwargs

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{PACKAGE}.{type(self).__name__}", self.kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while True:
            if words := await self._looked():
                yield TriggerEvent(words)  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(self.seconds)

    async def _looked(self) -> str | None:
        try:
            return await asyncio.to_thread(self.look)
        except Retryable as problem:
            self.log.warning("looking again: %s", problem)
            return None
        except Exception as problem:
            # The task will meet the same problem, and can say it where people look.
            return f"{type(problem).__name__}: {problem}"

    @abstractmethod
    def look(self) -> str | None:
        """What there is to wake up for, or None."""


class LockTrigger(PollingTrigger):
    """Waits for the release lock of a model, and for nobody who cannot give it up any more."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._asked = time.monotonic()

    def pass_over_the_dead(self, services: Services, model: str) -> None:
        """Every so often. The task did when it began to wait."""
        from serving.control import release_queue
        from slipway_airflow import run_states

        if time.monotonic() - self._asked >= DEAD_LOOK_SECONDS:
            release_queue.drop_ended(services, model, run_states.is_over)
            self._asked = time.monotonic()


class ReleaseLockTrigger(LockTrigger):
    """Waits for the turn of a release. Looking is also what keeps the place in the queue."""

    def __init__(self, release: str) -> None:
        super().__init__(release=release)

    def look(self) -> str | None:
        from serving.composition import wire
        from serving.control.release_queue import QueueState, acquire

        services = wire()
        release = services.releases.load(self.kwargs["release"])
        self.pass_over_the_dead(services, release.model)
        place = acquire(services, release)
        return None if place.turn is QueueState.WAITING else place.words

    async def on_kill(self) -> None:
        """Somebody ended the task: nobody waits here any more."""
        await asyncio.to_thread(self._give_up)

    def _give_up(self) -> None:
        from serving.composition import wire
        from serving.control.release_queue import release_lock

        services = wire()
        release_lock(services, services.releases.load(self.kwargs["release"]))


class RollbackTrigger(PollingTrigger):
    """Waits until the controller has carried a rollback out, or given it up."""

    seconds = 0.5

    def __init__(self, rollback: str) -> None:
        super().__init__(rollback=rollback)

    def look(self) -> str | None:
        from serving.composition import wire

        progress = wire().rollouts.rollback(self.kwargs["rollback"])
        return progress.words if progress.phase.is_final else None


class CooldownTrigger(PollingTrigger):
    """Waits until a moment (seconds since the epoch) has passed."""

    def __init__(self, until: float) -> None:
        super().__init__(until=until)

    def look(self) -> str | None:
        return "cooled down" if time.time() >= self.kwargs["until"] else None


class RolloutTrigger(BaseTrigger):
    """Waits until the rollout of a release is promoted, over, or not to be begun. The controller moves it.

    All those of a process ask together, by one request each half second.
    """

    def __init__(self, release: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.release = release

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{PACKAGE}.{type(self).__name__}", {"release": self.release}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        said = ""
        async with ROLLOUTS.told_of(self.release) as told:
            while True:
                rollout = await told.get()
                if rollout.words != said:
                    said = rollout.words
                    self.log.info("%s", said)
                if not rollout.phase.goes_on:
                    yield TriggerEvent(f"{rollout.phase}: {rollout.words}")  # type: ignore[no-untyped-call]
                    return


class RolloutNews:
    """Asks the controller how the rollouts stand that triggers of this process wait for, all at once."""

    seconds = 0.5

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Queue[RolloutProgress]]] = {}
        self._asking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def told_of(self, release: str) -> AsyncIterator[asyncio.Queue[RolloutProgress]]:
        """A queue of how it stands, again and again."""
        queue: asyncio.Queue[RolloutProgress] = asyncio.Queue()
        self._waiting.setdefault(release, []).append(queue)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            yield queue
        finally:
            self._waiting[release].remove(queue)
            if not self._waiting[release]:
                del self._waiting[release]

    async def _ask(self) -> None:
        while self._waiting:
            try:
                found = await asyncio.to_thread(_progress_of, list(self._waiting))
            except Exception as problem:
                # The controller is down, or busy: what is waited for goes on behind it.
                log.warning("asking again: %s", problem)
                found = {}
            for release, rollout in found.items():
                for queue in self._waiting.get(release, ()):
                    queue.put_nowait(rollout)
            await asyncio.sleep(self.seconds)


def _progress_of(releases: list[str]) -> dict[str, RolloutProgress]:
    from serving.composition import wire

    return wire().rollouts.progress(releases)


ROLLOUTS = RolloutNews()


class StageTrigger(PollingTrigger):
    """Waits until the pod of a stage is no longer under way; until `until` (seconds since the epoch) it may
    wait for room. Tells meanwhile why it waits, and what it writes.
    """

    seconds = 2.0

    def __init__(self, namespace: str, name: str, uid: str, until: float) -> None:
        super().__init__(namespace=namespace, name=name, uid=uid, until=until)
        self._said = self._heard = ""
        self._cluster: StageCluster | None = None

    def look(self) -> str | None:
        pod = (self.kwargs["namespace"], self.kwargs["name"])
        cluster = self._opened()
        state = cluster.state(*pod, self.kwargs["uid"], self.kwargs["until"] - time.time())
        self._hear(cluster.log(*pod, since=self._heard))
        if not state.is_running:
            return state.words
        if state.words != self._said:
            self._said = state.words
            self.log.info("%s", state.words)
        return None

    def _hear(self, text: str) -> None:
        """Each line once. They come behind their times, from the second on that was asked for."""
        for line in text.splitlines():
            at, _, words = line.partition(" ")
            if at > self._heard:
                self._heard = at
                self.log.info("| %s", words)

    async def on_kill(self) -> None:
        """Somebody ended the task: its pod ends too."""
        named = (self.kwargs["namespace"], self.kwargs["name"], self.kwargs["uid"])
        await asyncio.to_thread(lambda: self._opened().end(*named))

    def _opened(self) -> StageCluster:
        from serving.composition import stage_cluster_of
        from serving.home import Home

        if self._cluster is None:
            self._cluster = stage_cluster_of(Home.locate())
        return self._cluster


class MissedVersionsTrigger(BaseEventTrigger):
    """Tells of every version in the registry that should be on its way and is not, and of rollbacks that no
    run has recorded. Never ends.

    Looks at the specs in `folder` every `seconds`; more seldom if there are many, as each costs MLflow a
    request. What is still missed a while after it was told is told again.
    """

    def __init__(self, folder: str, seconds: float = 5.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder = folder
        self.seconds = seconds
        self._services: Services | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path = f"{PACKAGE}.{type(self).__name__}"
        return path, {"folder": self.folder, "seconds": self.seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        told: dict[str, float] = {}
        while True:
            specs, missed = await asyncio.to_thread(self._looked)
            at = time.monotonic()
            if new := [name for name in missed if name not in told or at > told[name] + TELL_AGAIN_SECONDS]:
                told |= dict.fromkeys(new, at)
                yield TriggerEvent(new)  # type: ignore[no-untyped-call]
            await asyncio.sleep(max(self.seconds, specs * SECONDS_PER_SPEC))

    def _looked(self) -> tuple[int, list[str]]:
        """How many specs there are, and the run ids of what was missed."""
        from model_store.release_spec import load_all
        from serving import composition
        from serving.control import reconciliation, wiring

        try:
            specs = load_all(Path(self.folder)).specs
            # Kept: a connection to MLflow anew each time is most of what a look costs.
            self._services = services = self._services or composition.wire()
            found = reconciliation.missed(services, specs, at=wiring.now())
            missed = [reconciliation.run_id_of(ref, services.attempts.withdrawn(ref)) for ref in found]
            back = reconciliation.unrecorded_rollbacks(services, at=wiring.now())
            return len(specs), [*missed, *(one.request.run_id for one in back)]
        except Exception as problem:
            # MLflow is down, or a file is being written: this loop has to outlive both.
            self.log.warning("looking again: %s", problem)
            return 0, []


# Tasks that were deferred before an upgrade name their trigger so.
TurnTrigger = ReleaseLockTrigger
RollbackLockTrigger = RollbackTurnTrigger = RollbackTrigger
CooledDownTrigger = CooldownTrigger
