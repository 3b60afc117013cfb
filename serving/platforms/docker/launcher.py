"""The launcher: `python -m serving.platforms.docker`. It alone holds Docker's socket.

What it was asked for is written down first; a loop then brings Docker to it, so an ask returns at once, and
whatever was stopped, killed or removed comes back at its address. Docker itself restarts a pod that crashes,
also while the launcher is down.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from serving.platforms.docker.engine import DockerEngine, FoundContainer, NotMadeError
from serving.platforms.docker.records import DeploymentRecord, DeploymentRecords
from serving.platforms.docker.wanted import Death, Listing, PodContainer, PodsRequest, Ref, Standing

LOOK_SECONDS = 5.0

log = logging.getLogger("slipway.launcher")

# Docker's states of a container that somebody stopped, or that was made and not started.
_STOPPED = ("created", "exited", "dead")


class Launcher:
    """Asked by several at once. `run` is its loop, until `stop`."""

    def __init__(self, engine: DockerEngine, records: DeploymentRecords) -> None:
        self._engine, self._records = engine, records
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._ending: set[str] = set()
        self._troubles: dict[str, NotMadeError] = {}
        self._memory_deaths: set[str] = set()
        self._words: dict[tuple[str, int], tuple[str, ...]] = {}
        self._last_address = ""
        self._leaving = ThreadPoolExecutor(8, thread_name_prefix="leaving")
        self._is_over = False

    def apply(self, wanted: PodsRequest) -> None:
        """Raises `Permanent` where the network has no room."""
        with self._lock:
            before = self._records.find(wanted.ref)
            if before is None or before.wanted != wanted:
                self._records.write(self._record(wanted, before))
                self._troubles.pop(_key(wanted.ref), None)
        self._wake.set()

    def retire(self, ref: Ref) -> None:
        """Of what was replaced, nothing."""
        with self._lock:
            record = self._records.find(ref)
            if record is not None and record.wanted.ref == ref:
                self._records.remove(ref)
        self._wake.set()

    def note_served(self, ref: Ref, address: str) -> None:
        with self._lock:
            record = self._records.find(ref)
            if record and record.wanted.ref == ref and address in record.addresses:
                self._records.write(record.having_served(address))

    def listing(self) -> Listing:
        with self._lock:
            records = self._records.all()
        pods = self._engine.pods()
        died = {_nth_death(pod) for pod in pods}
        self._words = {death: words for death, words in self._words.items() if death in died}
        return Listing(standing=tuple(self._standing(record, pods) for record in records))

    def run(self) -> None:
        """Bring Docker to what was asked, when asked and every few seconds."""
        while not self._is_over:
            try:
                self.look()
            except Exception:
                # Docker is away, or a record is no record: the next look may do better.
                log.exception("the pods were not looked after")
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()

    def look(self) -> None:
        """Once. What has no record, or another's options, is ended in the background."""
        with self._lock:
            records = self._records.all()
        there, kept = self._engine.pods(), set[str]()
        for record in records:
            kept |= self._bring_about(record, there)
        for pod in there:
            if pod.id not in kept:
                self._end(pod)

    def follow_deaths(self) -> None:
        """Docker forgets with the next start that memory was the reason."""
        while not self._is_over:
            with suppress(Exception):
                for event in self._engine.deaths():
                    if event.get("Action") == "oom":
                        self._memory_deaths.add(str(event["Actor"]["ID"]))
            threading.Event().wait(1)

    def stop(self, *, with_pods: bool) -> None:
        """`with_pods`: nobody is left who would route to them. They are asked for again by their records."""
        self._is_over = True
        self._wake.set()
        if with_pods:
            for pod in self._engine.pods():
                self._end(pod)
        self._leaving.shutdown(wait=with_pods)

    def _record(self, wanted: PodsRequest, before: DeploymentRecord | None) -> DeploymentRecord:
        """With an address for each pod: those it has, as long as it is the same deployment."""
        own = before.addresses if before and before.wanted.ref == wanted.ref else ()
        kept = own[: wanted.replicas]
        if more := wanted.replicas - len(kept):
            kept = (*kept, *self._new_addresses(more))
        if before and before.wanted.ref == wanted.ref:
            return before.scaled(wanted, kept)
        return DeploymentRecord(wanted=wanted, addresses=kept)

    def _within_reach(self, record: DeploymentRecord) -> DeploymentRecord:
        """At addresses of this network: those of a backup from another project, or of before the network got
        another subnet, are none.
        """
        if self._engine.can_give(record.addresses):
            return record
        log.warning("%s: its addresses are not of this network", record.wanted.ref.deployment.id)
        with self._lock:
            # Somebody may have asked for something else meanwhile: the next look is about that.
            if self._records.find(record.wanted.ref) != record:
                return record
            moved = record.scaled(record.wanted, self._new_addresses(len(record.addresses)))
            self._records.write(moved)
        return moved

    def _new_addresses(self, count: int) -> tuple[str, ...]:
        named = {each for record in self._records.all() for each in record.addresses}
        standing = {pod.address for pod in self._engine.pods()}
        new = self._engine.free_addresses({*named, *standing}, count, after=self._last_address)
        self._last_address = new[-1]
        return new

    def _bring_about(self, record: DeploymentRecord, there: list[FoundContainer]) -> set[str]:
        """The containers that belong to it, of those there were."""
        own = {pod.number: pod for pod in _of(record, there, self._engine)}
        # What runs has an address that it can have: the network matters only where something is to start.
        running = [number for number, pod in own.items() if pod.state not in _STOPPED]
        if len(running) < len(record.addresses):
            record = self._within_reach(record)
            own = {pod.number: pod for pod in _of(record, there, self._engine)}
        try:
            for number, address in enumerate(record.addresses):
                pod = own.get(number)
                if pod is None:
                    self._engine.start(record.wanted, number, address)
                elif pod.state in _STOPPED:
                    self._engine.start_again(pod)
            self._troubles.pop(_key(record.wanted.ref), None)
        except NotMadeError as trouble:
            log.warning("%s: %s", record.wanted.ref.deployment.id, trouble.problem)
            self._troubles[_key(record.wanted.ref)] = trouble
        return {pod.id for pod in own.values()}

    def _end(self, pod: FoundContainer) -> None:
        if pod.id not in self._ending:
            self._ending.add(pod.id)
            self._leaving.submit(self._ended, pod)

    def _ended(self, pod: FoundContainer) -> None:
        try:
            self._engine.end(pod)
        except Exception:
            log.exception("%s was not ended", pod.name)
        finally:
            self._ending.discard(pod.id)

    def _standing(self, record: DeploymentRecord, there: list[FoundContainer]) -> Standing:
        trouble = self._troubles.get(_key(record.wanted.ref))
        pods = sorted(_of(record, there, self._engine), key=lambda pod: pod.number)
        memory = self._engine.memory_mebi(record.wanted)
        return Standing(
            ref=record.wanted.ref,
            replicas=record.wanted.replicas,
            served=record.served,
            pods=tuple(self._pod(pod, memory) for pod in pods),
            problem=trouble.problem if trouble else "",
            remedy=trouble.remedy if trouble else "",
            is_final=bool(trouble and trouble.is_final),
        )

    def _pod(self, pod: FoundContainer, memory: int) -> PodContainer:
        return PodContainer(
            number=pod.number,
            address=pod.address,
            state=pod.state,
            memory_mebi=memory,
            death=self._death(pod),
        )

    def _death(self, pod: FoundContainer) -> Death | None:
        if not pod.restarts and pod.state != "exited":
            return None
        was_memory = pod.was_out_of_memory or pod.id in self._memory_deaths
        # Docker reads a log from its end for it: once for each death.
        if (death := _nth_death(pod)) not in self._words:
            self._words[death] = self._engine.last_words(pod)
        return Death(
            times=max(pod.restarts, 1),
            exit_code=pod.exit_code,
            was_out_of_memory=was_memory,
            words=self._words[death],
        )


def _of(record: DeploymentRecord, there: list[FoundContainer], engine: DockerEngine) -> list[FoundContainer]:
    digest = engine.digest(record.wanted)
    own = [pod for pod in there if pod.what == digest and pod.number < len(record.addresses)]
    return [pod for pod in own if pod.address == record.addresses[pod.number]]


def _nth_death(pod: FoundContainer) -> tuple[str, int]:
    """Docker counts one that it does not start again with the next."""
    return pod.id, pod.restarts + (pod.state == "exited")


def _key(ref: Ref) -> str:
    return f"{ref.service}/{ref.slot}"
