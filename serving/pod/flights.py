"""Identical calls in flight are computed once: the first leads, the others wait for its answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from model_store.engines.errors import Abandoned, Expired
from model_store.errors import SlipwayError
from serving.pod.call import BatchOutputs, Call

log = logging.getLogger("slipway.pod")

Fail = Callable[[Call, SlipwayError], None]


class Flights:
    """`relaunch` starts a follower anew when its leader was dropped for reasons of the leader's own; `fail`
    is what becomes of one that gets no answer. Neither raises."""

    def __init__(self, relaunch: Callable[[Call], None], fail: Fail) -> None:
        self._relaunch, self._fail = relaunch, fail
        self._leaders: dict[Hashable, Call] = {}
        self._followers: dict[Call, list[Call]] = {}

    def leads(self, call: Call) -> bool:
        """Whether this call must be computed. False: it follows, and its answer comes with its leader's.

        A call more urgent than the one in flight does not wait behind it.
        """
        leader = self._leaders.get(call.identity)
        if leader is None or leader.priority > call.priority:
            self._leaders[call.identity] = call
            return True
        self._followers.setdefault(leader, []).append(call)
        return False

    def landed(self, leader: Call) -> list[Call]:
        """The leader has its answer or failed; these waited for it."""
        if self._leaders.get(leader.identity) is leader:
            del self._leaders[leader.identity]
        return self._followers.pop(leader, []) if self._followers else _NOBODY

    def answered(self, leader: Call, outputs: BatchOutputs, first: int, now: float) -> int:
        """Give the leader's answer to all who waited for it in time; how many did. Never raises."""
        in_time = 0
        for call in self.landed(leader):
            if _is_late(call, leader, now):
                self._fail(call, Expired())
                continue
            in_time += 1
            call.source = b"x-slipway-cache: shared\r\n"
            try:
                call.answered(outputs, first)
            except Exception:
                log.exception("an answer broke the pod's own code")
        return in_time

    def failed(self, leader: Call, error: SlipwayError) -> None:
        """Followers share the model's failure, but not their leader's deadline or closed connection."""
        for call in self.landed(leader):
            if isinstance(error, Abandoned | Expired):
                self._relaunch(call)
            else:
                self._fail(call, error)


def _is_late(follower: Call, leader: Call, now: float) -> bool:
    """As if it had been computed itself: it started with its leader, or else could only start now."""
    return follower.deadline <= (leader.started if follower.arrived <= leader.started else now)


_NOBODY: list[Call] = []
