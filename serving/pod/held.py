"""What callers have the pod hold of requests: one number for all connections and protocols together."""

from __future__ import annotations

from model_store.engines.errors import Refused

# Of the largest body there may be.
BODIES = 4


class HeldBytes:
    """`now`: bytes of bodies that are arriving, wait for their turn, or are being answered.

    A limit of each body says nothing of how many there are.
    """

    __slots__ = ("limit", "now")

    def __init__(self, max_body_bytes: int, limit: int = 0) -> None:
        self.limit, self.now = limit or BODIES * max_body_bytes, 0

    def refusal(self) -> Refused:
        """For who sends more while there is no room."""
        return Refused(
            f"{self.limit >> 20} MB of requests are on their way to this pod already",
            remedy="send less at once, or try again later",
            status=429,
        )
