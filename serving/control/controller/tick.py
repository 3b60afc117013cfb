"""One tick over all releases: observe, judge, write down, decide, apply. What fails goes back first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from model_store.errors import Retryable, SlipwayError
from serving.control.analysis import AnalysisPolicy, Increment, JudgeState, observe_all
from serving.control.analysis.rules import needed
from serving.control.analysis.state import PLACES
from serving.control.controller.holds import Holds
from serving.control.controller.pods import PodWatch
from serving.control.controller.timing import Timing
from serving.control.controller.watch import ReleaseWatch, missing
from serving.control.rollout import apply
from serving.control.rollout.advance import Rollouts, is_in_force
from serving.control.rollout.decide import Observation, decide
from serving.control.rollout.journal import KeptJournal, StaleState
from serving.control.rollout.observe import look
from serving.control.rollout.plan import Action, Finish, Hold, Phase, Promote, Rollback, RolloutState, Shift
from serving.control.shadow import Shadow
from serving.gateway.router.base import StaleRoute, TrafficRouter
from serving.metrics.base import EndpointCounters, MetricsSource
from serving.types import Endpoint, Finding, Outcome, Route, Verdict

log = logging.getLogger("slipway.controller")

# 500 releases get a full verdict every 2 s.
_SECONDS_PER_RELEASE = 0.004
# Steps of the plan are written to the disk, and so many at once would keep the next look waiting.
_STEPS_SECONDS = 0.1
# Read with every look, counters that nobody judges were most of what controller and Envoys take at rest.
_IDLE_READ_SECONDS = 2.0

Counters = Mapping[str, dict[Endpoint, EndpointCounters]]
_Seen = tuple[RolloutState, Route, ReleaseWatch, Increment]


@dataclass(frozen=True, slots=True)
class ControllerLimits:
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
class ControllerCounters:
    """What the controller did since it started, for its own metrics."""

    ticks: int = 0
    tick_seconds: float = 0.0
    last_tick_at: float = 0.0
    unreadable: int = 0
    errors: int = 0


class Controller:
    """`now` tells the time, in UTC; `monotonic` the machine's uptime in seconds, which no clock change moves.

    `shadow` compares answers, `timing` tells how long they took, `pods` how the candidate's pods are, and
    `holds` what keeps a rollout from its next step although nothing speaks against the candidate.
    `writes_beside`: somebody else writes observations down as well, so that a look waits for it only before
    it takes a step.
    """

    def __init__(
        self,
        journal: KeptJournal,
        router: TrafficRouter,
        metrics: MetricsSource,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        limits: ControllerLimits = ControllerLimits(),
        shadow: Shadow | None = None,
        timing: Timing | None = None,
        pods: PodWatch | None = None,
        holds: Holds | None = None,
        writes_beside: bool = False,
    ) -> None:
        self._journal, self._router, self._metrics = journal, router, metrics
        self._now, self._monotonic, self._limits = now, monotonic, limits
        self.rollouts = Rollouts(journal, router, now=now)
        self._shadow, self._timing, self._pods, self._holds = shadow, timing, pods, holds
        self._writes_beside = writes_beside
        self.watches: dict[str, ReleaseWatch] = {}
        self.active: list[tuple[RolloutState, Route]] = []
        self.latest: Mapping[str, RolloutState] = {}
        self.rollbacks: dict[str, int] = {}
        self.pending: dict[str, PendingRollback] = {}
        self.actions: dict[str, Action] = {}
        self._steps: list[tuple[RolloutState, Route, Action]] = []
        self._read_at = -_IDLE_READ_SECONDS
        self.done = ControllerCounters()

    def tick(self) -> None:
        """Look once at everything. One release's trouble never keeps the others from being looked at."""
        began = self._monotonic()
        every = {service: self._journal.releases(service) for service in self._journal.services()}
        self.latest = {service: states[-1] for service, states in every.items() if states}
        self.active = self._active(every)
        self._forget_others()
        problem, counters = self._read() if self._is_to_be_read() else ("", {})
        self._steps = []
        self._look_at_all(problem, counters)
        self._roll_back_all()
        if self._write_down():
            self._take_steps()
        for service, states in every.items():
            with self.apart(service):
                self._return_orphaned_traffic(states)
        if self._holds:
            self._holds.look([state for state, _ in self.active], self.actions, self.apart)
        if self._timing:
            with self.apart("latencies"):
                self._timing.look(self.active, self.watches)
        self.done.ticks += 1
        self.done.last_tick_at = self._monotonic()
        self.done.tick_seconds = self.done.last_tick_at - began

    def _write_down(self) -> bool:
        """What was seen, before anything is done because of it. Without, no step is taken."""
        is_due = any(not isinstance(action, Hold) for *_, action in self._steps)
        if is_due or not self._writes_beside:
            try:
                self._journal.flush()
            except Retryable as problem:
                log.warning("no step is taken: %s", problem.problem)
                return False
        return True

    def stand_by(self) -> None:
        """What a look is while another controller has the lease.

        Rollbacks that were owed here are its to decide: what failed then may have all traffic by now.
        """
        self.active, self.latest = [], {}
        self.pending.clear()
        self.done.ticks += 1
        self.done.last_tick_at = self._monotonic()

    def forget(self) -> None:
        """What was counted here: another controller may have gone on since, from whose records it begins."""
        self.watches.clear()
        self.actions.clear()

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
            self.actions.pop(gone, None)
            if self._shadow:
                self._shadow.end(gone)
        for state, _ in self.active:
            if state.release_id not in self.watches:
                with self.apart(state.release_id):
                    self.watches[state.release_id] = ReleaseWatch.resume(self._journal, state)
        # Without what was counted before there is nothing to go on from: it is tried again with every look.
        self.active = [(state, route) for state, route in self.active if state.release_id in self.watches]

    def _is_to_be_read(self) -> bool:
        """With no release under way counters are read now and then, so that Envoys' restarts are noticed."""
        return bool(self.active) or self._monotonic() - self._read_at >= _IDLE_READ_SECONDS

    def _read(self) -> tuple[str, Counters]:
        self._read_at = self._monotonic()
        try:
            return "", self._metrics.counters()
        except SlipwayError as problem:
            self.done.unreadable += 1
            return problem.problem, {}
        except Exception as problem:
            # Whatever it is, nothing was counted, and that is what every release has to be told.
            self.done.unreadable += 1
            log.exception("no counters")
            return f"no counters: {type(problem).__name__}: {problem}", {}

    def _look_at_all(self, problem: str, counters: Counters) -> None:
        seen: list[_Seen] = []
        for state, route in self.active:
            watch, mine = self.watches[state.release_id], counters.get(state.service)
            with self.apart(state.release_id):
                try:
                    if why := problem or missing(route, mine):
                        self._miss(state, route, watch, why)
                    elif mine is not None:
                        seen.append((state, route, watch, self._count(state, route, watch, mine)))
                except Exception as problem_with_it:
                    self._miss(state, route, watch, f"its counters make no sense: {problem_with_it!r}")
                    raise
        for state, route, watch, belief in self._believe(seen):
            with self.apart(state.release_id):
                stirred = bool(watch.tally.doubt or belief.problem) or _may_fail(state.plan.policy, belief)
                watch.belief = belief
                self._judge(state, route, watch, stirred)

    def _believe(self, seen: list[_Seen]) -> Iterator[tuple[RolloutState, Route, ReleaseWatch, JudgeState]]:
        """All at once, which is quick; one by one where one of them makes no sense."""
        try:
            beliefs = _observed(seen)
        except Exception:
            for one in seen:
                with self.apart(one[0].release_id):
                    yield (*one[:3], _observed([one])[0])
        else:
            yield from ((*one[:3], belief) for one, belief in zip(seen, beliefs, strict=True))

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
            self._decide(state, route, watch, verdict, is_new=True)
        else:
            self._decide(state, route, watch, watch.verdict)

    def _decide(
        self,
        state: RolloutState,
        route: Route,
        watch: ReleaseWatch,
        verdict: Verdict,
        *,
        is_new: bool = False,
    ) -> None:
        """What is to be done, and the line that says why. A rollback is owed even without that line."""
        action = decide(state, Observation(verdict, watch.seconds_in(state)))
        self.actions[state.release_id] = action
        if isinstance(action, Rollback):
            self._add_pending(state, action.findings)
        if is_new or not isinstance(action, Hold):
            self._write(state, route, watch, is_acted_on=not isinstance(action, Hold))
        if state.release_id not in self.pending:
            self._steps.append((state, route, action))

    def _take_steps(self) -> None:
        """Shifts, promotions and ends of watches, those that wait for longest first; the rest next time."""
        began = self._monotonic()
        for state, route, action in sorted(self._steps, key=lambda each: each[0].step_started_at):
            if self._monotonic() - began > _STEPS_SECONDS:
                return
            with self.apart(state.release_id), suppress(StaleState, StaleRoute):
                self._step(state, route, action)

    def _step(self, state: RolloutState, route: Route, action: Action) -> None:
        """Somebody who was faster is no trouble: the next look decides anew."""
        if not is_in_force(state, route):
            self.rollouts.mend(state.release_id)
        elif isinstance(action, Shift | Promote) and self._is_held(state, route):
            return
        elif isinstance(action, Finish) and self._holds and self._holds.is_unrecorded(state):
            self.actions[state.release_id] = Hold("watched until its promotion is recorded")
        elif not isinstance(action, Hold):
            self.rollouts.carry_out(action, state, route)
            log.info("%s: %s", state.release_id, type(action).__name__.lower())

    def _is_held(self, state: RolloutState, route: Route) -> bool:
        """By people, or by a proxy that has not taken the step before."""
        return bool(self._holds and self._holds.enforce(state)) or self._waits_for_proxies(state, route)

    def _waits_for_proxies(self, state: RolloutState, route: Route) -> bool:
        lacking = self._router.unacknowledged(route)
        watch = self.watches.get(state.release_id)
        if not lacking or watch is None or watch.verdict is None:
            return False
        action = decide(state, Observation(watch.verdict, watch.seconds_in(state), lacking))
        self.actions[state.release_id] = action
        if isinstance(action, Rollback):
            self._add_pending(state, action.findings)
        return True

    def _miss(self, state: RolloutState, route: Route, watch: ReleaseWatch, why: str) -> None:
        blind = watch.go_blind(why, at=self._now(), monotonic=self._monotonic())
        has_traffic = state.phase is Phase.PROGRESSING and route.split.candidate > 0
        if has_traffic and blind > self._limits.blind_seconds and not state.is_first:
            reason = f"nobody could count its requests for {blind:.0f} s: {why}"
            self._add_pending(state, (Finding("observation", Outcome.ERROR, reason),))
        if watch.verdict:
            self._decide(state, route, watch, watch.verdict, is_new=True)

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

    def _write(
        self, state: RolloutState, route: Route, watch: ReleaseWatch, *, is_acted_on: bool = False
    ) -> None:
        record = watch.record_due(
            state, route, at=self._now(), monotonic=self._monotonic(), is_acted_on=is_acted_on
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
            log.exception("%s: the controller could not finish its look", what)


def _observed(seen: list[_Seen]) -> list[JudgeState]:
    return observe_all(
        [state.plan.policy for state, *_ in seen],
        [watch.belief for _, _, watch, _ in seen],
        [increment for *_, increment in seen],
    )


@lru_cache(maxsize=1024)
def _least_needed(policy: AnalysisPolicy) -> float:
    return min(needed(policy).values())


def _may_fail(policy: AnalysisPolicy, belief: JudgeState) -> bool:
    """Whether a full verdict, which is dear, may be a FAIL: it never is below the least e-value needed."""
    return bool(belief.values[PLACES["peak"]].max() >= _least_needed(policy))
