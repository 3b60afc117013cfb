"""How many requests are taken: a burst at once, and then a steady rate (a token bucket)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Pace:
    """At most `burst` at once and `per_second` in the long run. `at` is a monotonic time in seconds."""

    burst: float
    per_second: float
    _left: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._left = self.burst

    def allows(self, *, at: float) -> bool:
        """Whether one more is taken now; if so, it counts."""
        if not self.has_room(at=at):
            return False
        self._left -= 1
        return True

    def has_room(self, *, at: float) -> bool:
        """Whether one more would be taken now; none is counted."""
        since = max(0.0, at - self._at) if self._at is not None else 0.0
        self._at = at
        self._left = min(self.burst, self._left + since * self.per_second)
        return self._left >= 1
