"""Identical calls in flight are computed once: the first leads, the others wait for its answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from model_store.errors import SlipwayError
from serving.runtime.call import Call, Outputs
from serving.runtime.errors import Abandoned, Expired


class Flights:
    """`relaunch` starts a follower anew when its leader was dropped for reasons of the leader's own."""

    def __init__(self, relaunch: Callable[[Call], None]) -> None:
        self._relaunch = relaunch
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

    def answered(self, leader: Call, outputs: Outputs, first: int) -> int:
        """Give the leader's answer to all who waited for it; how many did."""
        followers = self.landed(leader)
        for call in followers:
            call.source = b"x-slipway-cache: shared\r\n"
            call.answered(outputs, first)
        return len(followers)

    def failed(self, leader: Call, error: SlipwayError) -> None:
        """Followers share the model's failure, but not their leader's deadline or closed connection."""
        for call in self.landed(leader):
            if isinstance(error, Abandoned | Expired):
                self._relaunch(call)
            else:
                call.failed(error)


_NOBODY: list[Call] = []
