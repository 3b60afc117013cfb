"""What the controller remembers of one release."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from serving.control.analysis import JudgeState, begin, observe, verdict
from serving.control.rollout.decide import PODS
from serving.control.rollout.journal import Journal
from serving.control.rollout.observe import ObservedCounts, between, repeats_on_stable
from serving.control.rollout.plan import RolloutState
from serving.control.rollout.record import RECORD_EVERY_SECONDS, Record
from serving.metrics.base import EndpointCounters
from serving.metrics.latency import Buckets, Latencies
from serving.platforms.base import DeploymentPhase, DeploymentStatus
from serving.types import Deployment, Endpoint, Finding, Outcome, Route, Verdict


@dataclass(slots=True)
class ReleaseWatch:
    """One release: what was counted, what the judge believes, and what was written last.

    `judged_at`, `blind_since` and `unwell_since` are uptime in seconds.
    """

    tally: ObservedCounts = field(default_factory=ObservedCounts)
    belief: JudgeState = field(default_factory=begin)
    verdict: Verdict | None = None
    judged_at: float = 0.0
    written: Record | None = None
    blind_since: float | None = None
    unwell_since: float | None = None
    latencies: Latencies = field(default_factory=Latencies)
    latencies_written: tuple[Buckets, Buckets] = field(default=({}, {}))

    @classmethod
    def resume(cls, journal: Journal, state: RolloutState) -> ReleaseWatch:
        """From the records of a controller that ran before: the judge is fed the same counts again."""
        watch = cls()
        for record in journal.records(state.release_id):
            watch.belief = observe(state.plan.policy, watch.belief, between(watch.written, record))
            watch.written = record
            watch.tally = ObservedCounts.of(record)
            if record.latency:
                watch.latencies = Latencies(*record.latency)
        return watch

    def seconds_in(self, state: RolloutState) -> float:
        """For how long the step that the release stands at has been watched."""
        return self.tally.step_seconds if self.tally.place == state.place else 0.0

    def note_health(
        self, route: Route, counters: dict[Endpoint, EndpointCounters], *, monotonic: float
    ) -> None:
        """Since when the candidate has had weight but no healthy endpoint, while stable has one."""
        has_weight = route.split.candidate > 0
        if not has_weight or _is_well(route.candidate, counters) or not _is_well(route.stable, counters):
            self.unwell_since = None
        elif self.unwell_since is None:
            self.unwell_since = monotonic

    def judge(
        self,
        state: RolloutState,
        *,
        at: datetime,
        monotonic: float,
        unwell_limit: float,
        pods: DeploymentStatus | None = None,
    ) -> Verdict:
        """The verdict on what was counted so far, and on the candidate's health.

        `pods`: what the platform says of the candidate; None where it says nothing.
        """
        counted = verdict(state.plan.policy, self.belief, at=at)
        unwell = 0.0 if self.unwell_since is None else monotonic - self.unwell_since
        why = pods.reason if pods else ""
        beside = [*_health_finding(unwell, unwell_limit, why), *_counter_finding(self.tally)]
        self.verdict = Verdict.of([*_pods_finding(pods), *counted.findings, *beside], at=at)
        self.judged_at = monotonic
        self.blind_since = None
        return self.verdict

    def go_blind(self, reason: str, *, at: datetime, monotonic: float) -> float:
        """Nothing could be counted. Returns for how many seconds that has been so."""
        self.blind_since = monotonic if self.blind_since is None else self.blind_since
        self.verdict = Verdict.of([Finding("observation", Outcome.ERROR, reason)], at=at)
        return monotonic - self.blind_since

    def record_due(
        self, state: RolloutState, route: Route, *, at: datetime, monotonic: float, is_acted_on: bool = False
    ) -> Record | None:
        """The line to write now: if the last one is old or no longer true, or what it says `is_acted_on`."""
        if self.verdict is None:
            return None
        before = self.written
        if (
            not is_acted_on
            and before is not None
            and before.place == state.place
            and (before.share, before.settled) == (self.tally.share, self.tally.settled)
            and before.verdict.outcome is self.verdict.outcome
            and 0 <= monotonic - before.monotonic < RECORD_EVERY_SECONDS[state.pace]
        ):
            return None
        self.written = Record(
            at=at,
            monotonic=monotonic,
            place=state.place,
            share=self.tally.share,
            settled=self.tally.settled,
            retries_on_stable=repeats_on_stable(route) and self.tally.repeated,
            step_seconds=self.seconds_in(state),
            stable=self.tally.stable,
            candidate=self.tally.candidate,
            raw=self.tally.raw,
            verdict=self.verdict,
            answers=self.tally.answers,
            least_share=min(self.tally.least_share, self.tally.share),
            latency=self._latency_due(),
        )
        self.tally = replace(self.tally, least_share=1.0, repeated=True)
        return self.written

    def _latency_due(self) -> tuple[Buckets, Buckets] | None:
        """Of both arms, if more is known than was written."""
        now = self.latencies.stable, self.latencies.candidate
        is_new = now != self.latencies_written and any(now)
        self.latencies_written = now
        return now if is_new else None


def _is_well(deployment: Deployment | None, counters: dict[Endpoint, EndpointCounters]) -> bool:
    endpoints = deployment.endpoints if deployment else ()
    return any(counters[endpoint].healthy for endpoint in endpoints if endpoint in counters)


def _pods_finding(pods: DeploymentStatus | None) -> list[Finding]:
    """What will not heal fails the candidate now, before its users notice; what may is waited for."""
    if pods is None or pods.is_ready:
        return []
    outcome = Outcome.FAIL if pods.phase is DeploymentPhase.FAILED else Outcome.INCONCLUSIVE
    return [Finding(PODS, outcome, f"the candidate's pods: {pods.reason}")]


def _health_finding(seconds: float, limit: float, why: str) -> list[Finding]:
    """An endpoint that nobody can reach fails no requests, so counts alone say too little about it.

    `why` is what the platform says of it, if anything.
    """
    if seconds <= 0:
        return []
    reason = f"no endpoint of the candidate has been healthy for {seconds:.1f} s, while stable's are"
    reason += f": {why}" if why else ""
    outcome = Outcome.FAIL if seconds > limit else Outcome.INCONCLUSIVE
    return [Finding("health", outcome, reason, (("seconds", seconds), ("limit", limit)))]


def _counter_finding(tally: ObservedCounts) -> list[Finding]:
    return [Finding("counters", Outcome.ERROR, f"Envoy: {tally.doubt}")] if tally.doubt else []


def missing(route: Route, counters: dict[Endpoint, EndpointCounters] | None) -> str:
    """Which endpoint that should be counted is not, in words; "" if all are."""
    if counters is None:
        return f"Envoy knows no service {route.service}"
    expected = [route.stable] if route.stable else []
    if route.candidate and route.split.candidate > 0:
        expected.append(route.candidate)
    known = {endpoint for endpoint, each in counters.items() if each.weight}
    absent = [str(endpoint) for arm in expected for endpoint in arm.endpoints if endpoint not in known]
    return f"Envoy has no counters for {', '.join(absent)}" if absent else ""
