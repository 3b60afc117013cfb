"""Rollbacks of models, carried out: traffic that is back already is noted, other versions are started again.

Each has a thread of its own while it lasts, so that a platform that takes its time keeps no other waiting.
How far it has come is in the rollback's row, from which a controller that was restarted goes on. What was
asked for while the ledger could not be reached is written down, and carried out, when it can be.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from model_store.errors import Permanent, Retryable
from serving.control import rollbacks
from serving.control.release_deployment import status_of
from serving.control.rollbacks import RequestedRollback, RollbackRequest
from serving.control.traffic import RollbackPhase, RollbackProgress
from serving.control.wiring import Services

log = logging.getLogger("slipway.controller")

# Of a bundle that does not say how long its pods may take.
READY_SECONDS = 60.0
LOOK_SECONDS = 0.1
# For the lock, which another rollback may have, and for what may succeed later.
PATIENCE_SECONDS = 120.0
# The gateway reads a route a moment after it is written, and what began on the version that leaves shall end.
LINGER_SECONDS = 5.0


class RollbackJobs:
    """Those under way in this process."""

    def __init__(self, services: Callable[[], Services], *, linger_seconds: float = LINGER_SECONDS) -> None:
        self._services, self._linger_seconds = services, linger_seconds
        self._running: dict[str, threading.Thread] = {}
        self._owed: dict[str, tuple[RollbackRequest, tuple[int, int]]] = {}
        self._one_at_a_time = threading.Lock()

    def carry_out(self, rollback: RequestedRollback) -> RollbackProgress:
        """Begin, unless it is under way or over. Returns how far it has come."""
        services = self._services()
        if rollbacks.progress_of(services, rollback.id).phase.is_final:
            return rollbacks.progress_of(services, rollback.id)
        if rollbacks.serving_again(services, rollback):
            rollbacks.note_returned(services, rollback)
        self._begin(rollback)
        return rollbacks.progress_of(services, rollback.id)

    def owe(self, request: RollbackRequest, between: tuple[int, int]) -> RollbackProgress:
        """It could not be written down; `between`: from which version to which it goes all the same."""
        self._owed.setdefault(request.run_id, (request, between))
        return self._progress(request, between)

    def owed(self, rollback_id: str) -> RollbackProgress | None:
        """How far one has come that is not written down; None of all others."""
        found = (self._progress(*each) for each in list(self._owed.values()))
        return next((one for one in found if one.id == rollback_id), None)

    def _progress(self, request: RollbackRequest, between: tuple[int, int]) -> RollbackProgress:
        services, (leaves, returns) = self._services(), between
        rollback = rollbacks.named(request, leaves=leaves, returns=returns)
        is_back = rollbacks.serving_again(services, rollback) is not None
        words = (
            f"version {returns} has all traffic, which is written down when the ledger can be written"
            if is_back
            else f"version {leaves} has no traffic any more; version {returns} is started again when the "
            "ledger can be written"
        )
        # Whoever waits for its end reads it in the ledger afterwards.
        starting = RollbackPhase.STARTING
        return RollbackProgress(rollback.id, request.model, leaves, returns, starting, words)

    def resume(self) -> None:
        """What a controller before, or this one, began and did not end, or ended and did not clear away.

        To be called once in a while: a ledger that is away for a moment leaves things like that behind.
        """
        services = self._services()
        for request, between in list(self._owed.values()):
            try:
                self._begin(rollbacks.write_down(services, request, between))
            except Permanent as problem:
                log.warning("%s of %s is not carried out: %s", request.run_id, request.model, problem)
            self._owed.pop(request.run_id, None)
        for rollback in [*rollbacks.under_way(services), *rollbacks.not_cleared_away(services)]:
            self._begin(rollback)

    def _begin(self, rollback: RequestedRollback) -> None:
        with self._one_at_a_time:
            if rollback.id not in self._running:
                name = f"rollback {rollback.id}"
                job = threading.Thread(target=self._run, args=(rollback,), daemon=True, name=name)
                self._running[rollback.id] = job
                log.info("%s is carried out", rollback.id)
                job.start()

    def join(self, timeout_seconds: float) -> None:
        """Wait for those under way."""
        for job in list(self._running.values()):
            job.join(timeout_seconds)

    def _run(self, rollback: RequestedRollback) -> None:
        services = self._services()
        try:
            if not rollbacks.progress_of(services, rollback.id).phase.is_final:
                self._return(services, rollback)
        except Permanent as problem:
            self._fail(services, rollback, str(problem.problem))
        except Exception as problem:
            log.exception("%s", rollback.id)
            self._fail(services, rollback, str(problem) or type(problem).__name__)
        finally:
            self._let_go(services, rollback)
            self._running.pop(rollback.id, None)

    def _return(self, services: Services, rollback: RequestedRollback) -> None:
        """Try what may succeed later again for a while."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._start_and_switch(services, rollback)
            except (Retryable, OSError) as problem:
                if time.monotonic() > until:
                    raise
                log.warning("%s: trying again: %s", rollback.id, problem)
                time.sleep(LOOK_SECONDS)

    def _start_and_switch(self, services: Services, rollback: RequestedRollback) -> None:
        # A controller before may have come no further than to write down what was asked for.
        rollbacks.begin(services, rollback.request)
        if rollbacks.serving_again(services, rollback):
            rollbacks.note_returned(services, rollback)
            return
        self._take_lock(services, rollback)
        # Where another rollback went there too, or this one could not write down that it has, it is done.
        if not rollbacks.serving_again(services, rollback):
            rollbacks.switch_traffic(services, rollback, self._started(services, rollback))
        rollbacks.note_returned(services, rollback)
        log.warning("%s: version %d has all traffic", rollback.id, rollback.returns)
        time.sleep(self._linger_seconds)

    def _take_lock(self, services: Services, rollback: RequestedRollback) -> None:
        """From whoever has no use for it any more, too: of rollbacks only this process knows which last."""
        holder = services.lock.read(rollback.model).holder
        if (
            holder
            and rollbacks.is_rollback_id(rollback.model, holder.release_id)
            and holder.release_id not in self._running
            and rollbacks.is_carried_out(services, holder.release_id)
        ):
            services.lock.release(rollback.model, holder.release_id)
        rollbacks.return_who_began_since(services, rollback)
        if not rollbacks.acquire_lock(services, rollback):
            holder = services.lock.read(rollback.model).holder
            raise Retryable(
                f"{holder.release_id if holder else 'another one'} has the release lock of {rollback.model}",
                remedy="wait for it",
            )

    def _started(self, services: Services, rollback: RequestedRollback) -> str:
        """The id of the version's deployment, once its pods are ready."""
        deployment = rollbacks.deploy(services, rollback)
        until = time.monotonic() + rollbacks.ready_seconds(services, deployment, usually=READY_SECONDS)
        while not (status := status_of(services, rollback.model, deployment.id)).is_ready:
            if time.monotonic() > until:
                raise Permanent(
                    f"the pods of version {rollback.returns} were not ready in time: {status.reason}",
                    remedy="look at their log (`slipway status`)",
                )
            time.sleep(LOOK_SECONDS)
        return deployment.id

    def _fail(self, services: Services, rollback: RequestedRollback, why: str) -> None:
        try:
            rollbacks.note_failed(services, rollback, why)
        except (OSError, Retryable):
            # It stays open, and is tried again by `resume`.
            log.exception("%s failed, and that cannot be written down: %s", rollback.id, why)

    def _let_go(self, services: Services, rollback: RequestedRollback) -> None:
        """Pods nobody needs, and the lock: trouble with them is the next release's to meet."""
        try:
            rollbacks.finalize(services, rollback)
        except Exception:
            log.exception("%s: what it leaves behind could not be cleared away", rollback.id)
