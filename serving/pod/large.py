"""Calls of more rows than a batch are computed piece by piece, and others have a turn after each piece.

Between two pieces it is seen that the caller has left or the time is up; then nothing more is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from model_store.engines.errors import Abandoned, TooLarge, Unavailable
from model_store.engines.signature import Signature
from model_store.errors import SlipwayError
from serving.pod.call import BatchOutputs, Call, Data
from serving.pod.execution import Executed
from serving.pod.sizes import Sizes

# Of a call's time. Then there is time left to say so before the gateway gives the call up, which would count
# against this version, and ask again.
_STOPS_AT = 0.8
# After that part of a call's time it is seen how many rows can be computed in all of it.
_TELLS_AFTER = 0.2
# Others can wait for twice as long.
_QUICK_SECONDS = 0.0003

Done = Callable[[Call, BatchOutputs | SlipwayError, float], None]


class Piece(Call):
    """Some rows of a large call. `weight` is in rows of warmup's length; others can wait for a short one."""

    __slots__ = ("is_short", "weight")

    def __init__(self, whole: Call, first: int, rows: int, weight: int, signature: Signature) -> None:
        data, shapes = whole.data, whole.shapes
        if rows < whole.rows:
            data = [_cut(part, first, rows, whole.rows) for part in data]
            shapes = [(rows, *shape[1:]) for shape in shapes]
        super().__init__(data, shapes, signature)
        self.weight, self.is_short = weight, True


class LargeCalls:
    """Of one model, one after the other. `done` takes a call's outcome and its seconds on the engine."""

    def __init__(self, signature: Signature, sizes: Sizes, done: Done) -> None:
        self._signature, self._sizes, self._done = signature, sizes, done
        self._waiting: deque[_Large] = deque()
        # What is still to be computed, in rows of warmup's length.
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def takes(self, call: Call) -> bool:
        """Whether the call has more than a batch's rows."""
        return self._sizes.weight(call.shapes) > self._sizes.batch_rows

    def push(self, call: Call) -> None:
        """Queue a call. Raises `TooLarge`, and `Unavailable` (429) where others' rows leave it no time."""
        sizes, weight = self._sizes, self._sizes.weight(call.shapes)
        if weight > sizes.max_rows:
            raise TooLarge(
                f"a request of this model may have {sizes.max_rows} rows", remedy="split it into several"
            )
        if self.rows + weight > sizes.max_rows and self._waiting:
            raise Unavailable(
                f"{self.rows} rows of other large requests are before this one's {weight}",
                remedy="try again later, or send fewer rows at once",
                delay_seconds=self.rows * sizes.row_seconds,
                status=429,
            )
        self._waiting.append(_Large(call, weight, sizes.piece_rows))
        self.rows += weight

    def next(self, now: float) -> Piece | None:
        """The piece to compute now. Calls whose caller has left or whose time is up end here."""
        while self._waiting:
            large = self._waiting[0]
            error = large.ending(now)
            if error is None:
                large.call.started = large.call.started or now
                return large.piece(self._signature)
            self._end(error)
        return None

    def computed(self, piece: Piece, executed: Sequence[Executed], seconds: float) -> None:
        """What became of the piece that `next` gave."""
        large, outcome = self._waiting[0], executed[0].outcome
        self.rows -= large.add(piece, outcome, seconds)
        if isinstance(outcome, SlipwayError):
            self._end(outcome)
        elif large.computed == large.call.rows:
            self._end(large.outputs(self._signature))

    def _end(self, outcome: BatchOutputs | SlipwayError) -> None:
        large = self._waiting.popleft()
        self.rows -= large.weight
        self._done(large.call, outcome, large.seconds)


class _Large:
    """A large call: `computed` of its rows are, `weight` is what is left."""

    def __init__(self, call: Call, weight: int, piece_rows: int) -> None:
        self.call, self.weight = call, weight
        self._least = self._most = piece_rows
        self.computed, self.seconds = 0, 0.0
        self._row_weight = weight / call.rows
        self._stops = call.arrived + _STOPS_AT * call.timeout
        self._parts: list[BatchOutputs] = []

    def ending(self, now: float) -> SlipwayError | None:
        """Why not to go on."""
        call = self.call
        if call.is_abandoned:
            return Abandoned()
        if not self.computed:
            return None if now < self._stops else _no_turn()
        spent = max(now - call.started, 1e-9)
        if now < self._stops and spent < _TELLS_AFTER * call.timeout:
            return None
        per_second = self.computed / spent
        if now < self._stops and (call.rows - self.computed) / per_second <= self._stops - now:
            return None
        in_time = max(int(per_second * _STOPS_AT * call.timeout), 1)
        return TooLarge(
            f"{call.rows} rows are more than can be computed now within the {call.timeout:g} s there are",
            remedy=f"send at most {in_time} rows at once, or allow more time",
        )

    def piece(self, signature: Signature) -> Piece:
        left = self.call.rows - self.computed
        rows = min(max(int(self._most / self._row_weight), 1), left)
        weight = self.weight if rows == left else int(rows * self._row_weight)
        piece = Piece(self.call, self.computed, rows, weight, signature)
        piece.is_short = weight <= self._most
        return piece

    def add(self, piece: Piece, outcome: BatchOutputs | SlipwayError, seconds: float) -> int:
        """The weight that has been computed."""
        self.computed += piece.rows
        self.weight -= piece.weight
        self.seconds += seconds
        # Quick ones grow together: each costs some time of its own.
        if seconds < _QUICK_SECONDS:
            self._most *= 2
        elif seconds > 2 * _QUICK_SECONDS:
            self._most = max(self._most // 2, self._least)
        if isinstance(outcome, BatchOutputs):
            self._parts.append(outcome)
        return piece.weight

    def outputs(self, signature: Signature) -> BatchOutputs:
        if len(self._parts) == 1:
            return self._parts[0]
        columns = zip(*[part.arrays for part in self._parts], strict=True)
        return BatchOutputs([np.concatenate(column) for column in columns], signature)


def _no_turn() -> Unavailable:
    return Unavailable("other large requests took the time of this one", remedy="try again later", status=429)


def _cut(data: Data, first: int, rows: int, all_rows: int) -> Data:
    whole = data if type(data) is list else memoryview(data)  # type: ignore[arg-type]
    each = len(whole) // all_rows
    return whole[first * each : (first + rows) * each]
