"""What people may do to a rollout under way: pause it, let it go on, skip a hold.

None of it moves traffic. It is written into the release's state, over the generation it was decided on, and
`decide` obeys it: a paused rollout keeps its split, and the controller still takes a failing candidate out; a
skipped hold is only time that need not pass, never a verdict. To stop a rollout for good, roll it back
(`serving.control.rollout.advance.Rollouts.roll_back`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from model_store.errors import Permanent
from serving.control.rollout.journal import Journal, StaleState, TimelineEvent
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.rollout.record import RECORD_EVERY_SECONDS
from serving.types import Outcome

PAUSED, RESUMED, SKIPPED = "paused", "resumed", "hold skipped"
# Kinds of events that are somebody's will, and not a step of the plan.
BY_PEOPLE = (PAUSED, RESUMED, SKIPPED)
_ATTEMPTS = 20

Change = Callable[[RolloutState], RolloutState]


class ActSuperseded(Permanent):
    """Somebody else was faster, or it is too late. The words say who did what, and when."""


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """Who wants it and why. `seen` is the generation they looked at, None: whatever stands now."""

    by: str
    reason: str
    seen: int | None = None

    @property
    def words(self) -> str:
        return f"by {self.by}: {self.reason}"


class Control:
    """What people may do. `now` tells the time, in UTC."""

    def __init__(self, journal: Journal, *, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._now = now

    def pause(self, release_id: str, request: ControlRequest) -> RolloutState:
        """Keep the split as it is until somebody resumes. Raises `ActSuperseded` if it is paused or over."""

        def paused(state: RolloutState) -> RolloutState:
            if state.paused:
                raise ActSuperseded(
                    f"{release_id} is paused already, {self._last(release_id, PAUSED)}", remedy=_LOOK
                )
            return replace(state, paused=request.words)

        return self._change(release_id, request, PAUSED, paused)

    def resume(self, release_id: str, request: ControlRequest) -> RolloutState:
        """Go on with the step, its time limit begun anew. Raises `ActSuperseded` if over or not paused."""

        def resumed(state: RolloutState) -> RolloutState:
            if not state.paused:
                raise ActSuperseded(
                    f"{release_id} is not paused, {self._last(release_id, RESUMED)}", remedy=_LOOK
                )
            return replace(state, paused="", patience_from=self._observed(state))

        return self._change(release_id, request, RESUMED, resumed)

    def skip_hold(self, release_id: str, request: ControlRequest) -> RolloutState:
        """Let this step end as soon as its verdict is a pass, without sitting out its hold (or the watch).

        Raises `ActSuperseded` if skipped, paused or over, or while the verdict is against the candidate.
        """

        def skipped(state: RolloutState) -> RolloutState:
            if state.paused:
                raise ActSuperseded(
                    f"{release_id} is paused, {self._last(release_id, PAUSED)}", remedy="resume it first"
                )
            if state.hold_skipped:
                raise ActSuperseded(
                    f"this hold of {release_id} is skipped already, {self._last(release_id, SKIPPED)}",
                    remedy=_LOOK,
                )
            self._refuse_against_verdict(state)
            return replace(state, hold_skipped=True)

        return self._change(release_id, request, SKIPPED, skipped)

    def _change(self, release_id: str, request: ControlRequest, kind: str, change: Change) -> RolloutState:
        """Steps of the plan may come between; another person's act may not."""
        state = self._journal.load(release_id)
        seen = state.generation if request.seen is None else request.seen
        for _ in range(_ATTEMPTS):
            self._refuse_over(state)
            self._refuse_overtaken(release_id, seen)
            after = change(state)
            try:
                return self._journal.save(after, self._event(after, kind, request))
            except StaleState:
                state = self._journal.load(release_id)
        raise StaleState(f"{release_id} keeps changing", remedy="try again", delay_seconds=1)

    def _observed(self, state: RolloutState) -> float:
        """Seconds of this step so far: as last written down, and what may have passed since."""
        record = self._journal.latest_record(state.release_id)
        if record is None or record.place != state.place:
            return 0.0
        since = (self._now() - record.at).total_seconds()
        return record.step_seconds + min(max(since, 0.0), RECORD_EVERY_SECONDS[Phase.WATCHING])

    def _event(self, state: RolloutState, kind: str, request: ControlRequest) -> TimelineEvent:
        return TimelineEvent(self._now(), kind, request.words, state.split.candidate)

    def _refuse_over(self, state: RolloutState) -> None:
        if state.phase.is_final:
            phase = state.phase.replace("_", " ")
            raise ActSuperseded(
                f"{state.release_id} is over: {phase}, {state.reason}", remedy="release it again"
            )

    def _refuse_overtaken(self, release_id: str, seen: int) -> None:
        """Every save adds one event, so those after the generation seen are the last ones of the timeline."""
        for event in self._journal.timeline(release_id)[seen + 1 :]:
            if event.kind in BY_PEOPLE:
                raise ActSuperseded(f"{release_id} changed meanwhile: {_words(event)}", remedy=_LOOK)

    def _refuse_against_verdict(self, state: RolloutState) -> None:
        record = self._journal.latest_record(state.release_id)
        if record and record.place == state.place and record.verdict.outcome in (Outcome.FAIL, Outcome.ERROR):
            said = "; ".join(f.reason for f in record.verdict.findings if f.outcome > Outcome.PASS)
            raise ActSuperseded(
                f"the verdict on {state.release_id} is {record.verdict.outcome.name}: {said}",
                remedy="a hold is skipped only while nothing speaks against the candidate",
            )

    def _last(self, release_id: str, kind: str) -> str:
        """The last such event in words."""
        events = [event for event in self._journal.timeline(release_id) if event.kind == kind]
        return _words(events[-1]) if events else "and never was"


_LOOK = "look at the release again, then decide"


def _words(event: TimelineEvent) -> str:
    return f"{event.kind} {event.detail} ({event.at:%Y-%m-%d %H:%M:%S} UTC)"
