"""One tick over all releases: count, judge, write down, and roll back what fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from model_store.errors import SlipwayError
from serving.control.analysis import AnalysisPolicy, Increment, JudgeState, observe_all
from serving.control.analysis.rules import needed
from serving.control.analysis.state import PLACES
from serving.control.guard.pods import PodWatch
from serving.control.guard.releases import JournalView
from serving.control.guard.timing import Timing
from serving.control.guard.watch import ReleaseWatch, missing
from serving.control.rollout import apply
from serving.control.rollout.decide import Observation, decide
from serving.control.rollout.instant import boot_id
from serving.control.rollout.journal import Journal
from serving.control.rollout.observe import look
from serving.control.rollout.plan import Phase, Rollback, RolloutState
from serving.control.shadow import Shadow
from serving.gateway.router.base import TrafficRouter
from serving.metrics.base import EndpointCounters, MetricsSource
from serving.types import Endpoint, Finding, Outcome, Route, Verdict

log = logging.getLogger("slipway.guard")

# 500 releases get a full verdict every 2 s, well within what `advance` takes for fresh.
_SECONDS_PER_RELEASE = 0.004

Counters = Mapping[str, dict[Endpoint, EndpointCounters]]


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """`blind_seconds`: how long a candidate may have traffic that nobody can count.

    `unwell_seconds`: how long none of a candidate's endpoints may be healthy while one of stable's is.
    `judge_every_seconds`: a full verdict at least so often; sooner whenever the evidence grew.
    """

    blind_seconds: float = 15.0
    unwell_seconds: float = 5.0
    judge_every_seconds: float = 1.0


@dataclass(slots=True)
class PendingRollback:
    """A rollback that is not carried out yet. `is_returned`: users are at stable, the state is to follow."""

    state: RolloutState
    findings: tuple[Finding, ...]
    is_returned: bool = False


@dataclass(slots=True)
class GuardCounters:
    """What the guard did since it started, for its own metrics."""

    ticks: int = 0
    tick_seconds: float = 0.0
    last_tick_at: float = 0.0
    unreadable: int = 0
    errors: int = 0


class Guard:
    """The clocks are those of `serving.control.rollout.advance.Rollouts`.

    `shadow` compares answers, `timing` tells how long they took, `pods` how the candidate's pods are.
    """

    def __init__(
        self,
        journal: Journal,
        router: TrafficRouter,
        metrics: MetricsSource,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        boot: Callable[[], str] = boot_id,
        limits: GuardLimits = GuardLimits(),
        shadow: Shadow | None = None,
        timing: Timing | None = None,
        pods: PodWatch | None = None,
    ) -> None:
        self._journal, self._router, self._metrics = journal, router, metrics
        self._now, self._monotonic, self._boot, self._limits = now, monotonic, boot, limits
        self._releases = JournalView(journal, self.apart)
        self._shadow, self._timing, self._pods = shadow, timing, pods
        self.watches: dict[str, ReleaseWatch] = {}
        self.active: list[tuple[RolloutState, Route]] = []
        self.rollbacks: dict[str, int] = {}
        self.pending: dict[str, PendingRollback] = {}
        self.done = GuardCounters()

    def tick(self) -> None:
        """Look once at everything. One release's trouble never keeps the others from being looked at."""
        began = self._monotonic()
        every = self._read_journal()
        self.active = self._active(every)
        self._forget_others()
        problem, counters = self._read()
        self._look_at_all(problem, counters)
        self._roll_back_all()
        for service, states in every.items():
            with self.apart(service):
                self._return_orphaned_traffic(states)
        if self._timing:
            with self.apart("latencies"):
                self._timing.look(self.active, self.watches)
        self.done.ticks += 1
        self.done.last_tick_at = self._monotonic()
        self.done.tick_seconds = self.done.last_tick_at - began

    def _read_journal(self) -> dict[str, list[RolloutState]]:
        every: dict[str, list[RolloutState]] = {}
        for service in self._journal.services():
            with self.apart(service):
                every[service] = self._releases.of(service)
        return every

    def _active(self, every: dict[str, list[RolloutState]]) -> list[tuple[RolloutState, Route]]:
        found: list[tuple[RolloutState, Route]] = []
        for state in (state for states in every.values() for state in states if not state.phase.is_final):
            with self.apart(state.release_id):
                found.append((state, self._router.read(state.service)))
        return found

    def _forget_others(self) -> None:
        known = {state.release_id for state, _ in self.active}
        for gone in self.watches.keys() - known:
            del self.watches[gone]
            if self._shadow:
                self._shadow.end(gone)
        for state, _ in self.active:
            if state.release_id not in self.watches:
                with self.apart(state.release_id):
                    self.watches[state.release_id] = ReleaseWatch.resume(self._journal, state)
        # Without what was counted before there is nothing to go on from: it is tried again with every look.
        self.active = [(state, route) for state, route in self.active if state.release_id in self.watches]

    def _read(self) -> tuple[str, Counters]:
        try:
            return "", self._metrics.counters()
        except SlipwayError as problem:
            self.done.unreadable += 1
            return problem.problem, {}

    def _look_at_all(self, problem: str, counters: Counters) -> None:
        seen: list[tuple[RolloutState, Route, ReleaseWatch, Increment]] = []
        for state, route in self.active:
            watch, mine = self.watches[state.release_id], counters.get(state.service)
            if why := problem or missing(route, mine):
                with self.apart(state.release_id):
                    self._miss(state, route, watch, why)
            elif mine is not None:
                with self.apart(state.release_id):
                    seen.append((state, route, watch, self._count(state, route, watch, mine)))
        beliefs = observe_all(
            [state.plan.policy for state, *_ in seen],
            [watch.belief for _, _, watch, _ in seen],
            [increment for *_, increment in seen],
        )
        for (state, route, watch, _), belief in zip(seen, beliefs, strict=True):
            stirred = bool(watch.tally.doubt or belief.problem) or _may_fail(state.plan.policy, belief)
            watch.belief = belief
            with self.apart(state.release_id):
                self._judge(state, route, watch, stirred)

    def _count(
        self, state: RolloutState, route: Route, watch: ReleaseWatch, mine: dict[Endpoint, EndpointCounters]
    ) -> Increment:
        watch.note_health(route, mine, monotonic=self._monotonic())
        answers = self._answers(state, route, watch)
        watch.tally, increment = look(
            watch.tally, state, route, mine, monotonic=self._monotonic(), answers=answers
        )
        return increment

    def _answers(self, state: RolloutState, route: Route, watch: ReleaseWatch) -> tuple[int, int]:
        """Never worth the look at the traffic itself: what was compared meanwhile is taken with the next."""
        if self._shadow:
            with self.apart(f"{state.release_id}: comparing answers"):
                return self._shadow.take(state, route, watch.tally.answers[0])
        return 0, 0

    def _judge(self, state: RolloutState, route: Route, watch: ReleaseWatch, stirred: bool) -> None:
        now, monotonic = self._now(), self._monotonic()
        # With hundreds of releases the words of all verdicts would take most of the time.
        pause = max(self._limits.judge_every_seconds, len(self.active) * _SECONDS_PER_RELEASE)
        is_due = not 0 <= monotonic - watch.judged_at < pause
        is_elsewhere = watch.written is None or watch.written.place != state.place
        if stirred or is_due or is_elsewhere or watch.verdict is None or watch.blind_since is not None:
            limit = self._limits.unwell_seconds
            pods = self._pods.status(route.candidate.ref) if self._pods and route.candidate else None
            verdict = watch.judge(state, at=now, monotonic=monotonic, unwell_limit=limit, pods=pods)
            self._act(state, watch, verdict)
            self._write(state, route, watch)

    def _act(self, state: RolloutState, watch: ReleaseWatch, verdict: Verdict) -> None:
        """Roll back what `decide` says must be. Whatever else it says is not the guard's business."""
        seconds = watch.tally.step_seconds
        match decide(state, Observation(verdict, seconds, waited_seconds=seconds)):
            case Rollback(findings):
                self._add_pending(state, findings)

    def _miss(self, state: RolloutState, route: Route, watch: ReleaseWatch, why: str) -> None:
        blind = watch.go_blind(why, at=self._now(), monotonic=self._monotonic())
        has_traffic = state.phase is Phase.PROGRESSING and route.split.candidate > 0
        if has_traffic and blind > self._limits.blind_seconds and not state.is_first:
            reason = f"nobody could count its requests for {blind:.0f} s: {why}"
            self._add_pending(state, (Finding("observation", Outcome.ERROR, reason),))
        self._write(state, route, watch)

    def _add_pending(self, state: RolloutState, findings: tuple[Finding, ...]) -> None:
        """What was seen once is owed until it is done: without traffic it may never be seen again."""
        self.pending.setdefault(state.release_id, PendingRollback(state, findings))

    def _roll_back_all(self) -> None:
        """Traffic first, of all of them: the bookkeeping of one must not make the next one wait."""
        returned: list[tuple[PendingRollback, Route]] = []
        for release, pending in self.pending.items():
            with self.apart(release):
                returned.append((pending, self._return(pending)))
        for pending, route in returned:
            with self.apart(pending.state.release_id):
                self._book(pending.state, pending.findings, route)
                del self.pending[pending.state.release_id]

    def _return(self, pending: PendingRollback) -> Route:
        route = self._router.read(pending.state.service)
        has_traffic = apply.holds_candidate(pending.state, route) and route.split.candidate > 0
        if has_traffic or not pending.is_returned:
            route = apply.return_traffic(pending.state, self._router)
            pending.is_returned = True
        return route

    def _book(self, state: RolloutState, findings: tuple[Finding, ...], route: Route) -> None:
        reason = "; ".join(finding.reason for finding in findings)
        over = apply.record_rollback(
            state, route, self._journal, self._router, at=self._now(), reason=reason, findings=findings
        )
        if over.phase is Phase.ROLLED_BACK:
            self.rollbacks[state.service] = self.rollbacks.get(state.service, 0) + 1
            log.warning("rolled back %s: %s", state.release_id, reason)

    def _return_orphaned_traffic(self, states: list[RolloutState]) -> None:
        """A crash may have left weight on a candidate whose release is rolled back (see `apply`).

        Not while another release is under way, which may be of the same deployment and, by a clock that was
        set back, look older.
        """
        if not states or states[-1].phase is not Phase.ROLLED_BACK:
            return
        if not all(state.phase.is_final for state in states):
            return
        route = self._router.read(states[-1].service)
        if route.split.candidate > 0 and apply.holds_candidate(states[-1], route):
            log.warning("%s was rolled back but had traffic", states[-1].release_id)
            apply.return_traffic(states[-1], self._router)

    def _write(self, state: RolloutState, route: Route, watch: ReleaseWatch) -> None:
        record = watch.record_due(
            state, route, at=self._now(), monotonic=self._monotonic(), boot=self._boot()
        )
        if record:
            self._journal.append(state.release_id, record)

    @contextmanager
    def apart(self, what: str) -> Iterator[None]:
        """Keeps trouble with one thing from the others: it is logged and counted."""
        try:
            yield
        except Exception:
            self.done.errors += 1
            log.exception("%s: the guard could not finish its look", what)


@lru_cache(maxsize=1024)
def _least_needed(policy: AnalysisPolicy) -> float:
    return min(needed(policy).values())


def _may_fail(policy: AnalysisPolicy, belief: JudgeState) -> bool:
    """Whether a full verdict, which is dear, may be a FAIL: it never is below the least e-value needed."""
    return bool(belief.values[PLACES["peak"]].max() >= _least_needed(policy))
